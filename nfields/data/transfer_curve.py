"""The sRGB transfer curve (IEC 61966-2-1): between light and the values that screens are given.

Beyond [0, 1] both directions go on with the same formula, and below 0 with its mirror image, so
that high dynamic range has a place and every number comes back.
"""

import numpy as np
from jaxtyping import Float


def srgb_from_linear(light: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The value of a screen that shows this light: 0.2140 -> 0.5, 1 -> 1, 4.9538 -> 2."""
    size = np.abs(light)
    curve = 1.055 * np.maximum(size, 0.0031308) ** (1 / 2.4) - 0.055
    return np.copysign(np.where(size <= 0.0031308, 12.92 * size, curve), light).astype(light.dtype)


def linear_from_srgb(value: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """The light that a screen shows for this value: 0.5 -> 0.2140."""
    size = np.abs(value)
    curve = ((np.maximum(size, 0.04045) + 0.055) / 1.055) ** 2.4
    return np.copysign(np.where(size <= 0.04045, size / 12.92, curve), value).astype(value.dtype)

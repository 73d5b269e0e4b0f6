"""Colour maps: numbers in [0, 1] to 8-bit sRGB.

`magma` (by Smith and van der Walt, CC0) has a perceptually even, rising lightness: for magnitudes
such as errors. `turbo` (by Mikhailov, Apache-2.0) shows small differences best: for depths. Each is
kept as 33 of its 256 colours; linear interpolation is within 2.3 of 255 of the full table.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8

ColorMap = Literal["magma", "turbo"]

_KNOTS: dict[str, str] = {
    "magma": (
        "0000040303120a0822130d341d114729115a36106b440f7650127c5d177f691c817621818226818f2a819c2e7fa9337d"
        "b6367ac33b75cf4070db476ae65164ee5c5ef46a5cf9785dfb8861fd9668fea571feb47bfec287fed194fde0a1fceeb0"
        "fcfdbf"
    ),
    "turbo": (
        "30123b392a734040a24456c7466be34680f64293ff37a7fa28bbec1dccd918dcc31ee8b031f2994cf97e6bfe648aff4c"
        "a2fc3cb8f735cced34dee037edd03af7c03afdad35fe982cfb8022f56818ec520fe14109d23105c12302ac1701950d01"
        "7a0403"
    ),
}


def colorize(values: Float[np.ndarray, "*shape"], name: ColorMap) -> UInt8[np.ndarray, "*shape 3"]:
    """The colours of values in [0, 1]; what is outside takes the end colours, NaN the first."""
    knots = np.frombuffer(bytes.fromhex(_KNOTS[name]), np.uint8).reshape(-1, 3).astype(np.float64)
    table_size = 1024  # finer than 8 bits a channel, so the look-up adds nothing to the rounding
    position = np.linspace(0.0, len(knots) - 1, table_size)
    table = np.stack(
        [np.interp(position, np.arange(len(knots)), channel) for channel in knots.T], axis=1
    )
    index = np.clip(np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0) * (
        table_size - 1
    )
    return np.rint(table[np.rint(index).astype(np.int64)]).astype(np.uint8)

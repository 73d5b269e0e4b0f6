"""Image metrics: PSNR, SSIM and FLIP of one prediction against one truth.

Both images are (height, width, 3), display-referred sRGB in [0, 1], as tensors or arrays of floats.
A set of images is scored per image and then averaged; the PSNR of the mean squared error of the set
is another, higher or lower, number and is not what papers report.
"""

import math
from typing import Any

import flip_evaluator
import numpy as np
from jaxtyping import Bool, Float, Shaped
from skimage.metrics import structural_similarity
from torch import Tensor

# Shapes are checked in _image, with messages for people: a wrong image is a user's error.
Image = Shaped[Tensor, "..."] | Shaped[np.ndarray, "..."]
# True where a pixel is measured; None: everywhere.
Mask = Bool[np.ndarray, "height width"] | None

PSNR_CAP = 100.0
"""What an infinite PSNR is stored as (dB): JSON has no infinity, and a mean must survive one equal
pair. 100 dB is a mean squared error of 1e-10, the square of a few roundings of float32.
"""

SSIM_SIGMA = 1.5  # pixels; with the window of 11 this is the setting of Wang et al. 2004
SSIM_WINDOW = 11
SSIM_OPTIONS: dict[str, Any] = {
    "channel_axis": 2,
    "data_range": 1.0,
    "gaussian_weights": True,
    "sigma": SSIM_SIGMA,
    "use_sample_covariance": False,
}

FLIP_PIXELS_PER_DEGREE = 67.02
"""The viewing conditions of the FLIP paper: a 0.7 m wide screen of 3840 pixels, seen from 0.7 m."""

# Float rounding of a composite may leave [0, 1] by this much; more is an image on another scale.
_RANGE_SLACK = 1e-5


def psnr(prediction: Image, truth: Image, mask: Mask = None) -> float:
    """Peak signal-to-noise ratio in dB: -10 log10(MSE), the mean over all pixels (of the mask) and
    channels.

    The peak is 1. Equal images give infinity (store it with `finite_psnr`). No border is cut,
    nothing is rounded to 8 bits. An error of 0.1 everywhere gives 20 dB.
    """
    prediction, truth = checked_pair(prediction, truth)
    error = np.square(prediction.astype(np.float64) - truth)
    mse = float(np.mean(error if mask is None else error[mask]))
    return math.inf if mse == 0 else -10.0 * math.log10(mse)


def finite_psnr(value: float) -> float:
    """The PSNR, at most PSNR_CAP: what is averaged and written to JSON."""
    return min(value, PSNR_CAP)


def ssim(prediction: Image, truth: Image, mask: Mask = None) -> float:
    """Structural similarity in [-1, 1], 1 for equal images (Wang et al. 2004, by scikit-image).

    Gaussian window of 11 x 11 taps with sigma 1.5, K1 = 0.01, K2 = 0.03, data range 1, population
    covariance; computed for each of R, G, B and averaged; the border of five pixels, where the
    window does not fit, is cut. With a mask, what it leaves out counts as equal in both pictures,
    and the mean is over the windows around the rest.
    """
    prediction, truth = checked_pair(prediction, truth)
    if min(prediction.shape[:2]) < SSIM_WINDOW:
        height, width = prediction.shape[:2]
        raise ValueError(
            f"SSIM needs images of at least {SSIM_WINDOW} x {SSIM_WINDOW} pixels, "
            f"these have {width} x {height}; use a larger image or a smaller data.downscale"
        )
    if mask is None:
        value = structural_similarity(prediction, truth, **SSIM_OPTIONS)
        return float(value)  # pyright: ignore[reportArgumentType]  (a tuple only with full=True)
    prediction = np.where(mask[..., None], prediction, truth)
    _, values = structural_similarity(prediction, truth, full=True, **SSIM_OPTIONS)  # pyright: ignore[reportAssignmentType]
    border = SSIM_WINDOW // 2
    inside = (slice(border, -border),) * 2
    return float(values[inside][mask[inside]].mean(dtype=np.float64)) if mask[inside].any() else 1.0


def flip(
    prediction: Image, truth: Image, mask: Mask = None
) -> tuple[float, Float[np.ndarray, "height width"]]:
    """The mean LDR-FLIP error in [0, 1] (0 for equal images) and its map.

    The difference a viewer sees when flipping between the two (Andersson et al. 2020), by NVIDIA's
    flip-evaluator at 67.02 pixels per degree, sRGB inputs. The mean is over all pixels, or those of
    the mask; what it leaves out counts as equal in both pictures. About 2 us
    a pixel; it holds the interpreter's lock, so threads do not help.
    """
    prediction, truth = checked_pair(prediction, truth)
    if mask is not None:
        prediction = np.where(mask[..., None], prediction, truth)
    parameters = {"ppd": FLIP_PIXELS_PER_DEGREE}
    error, _, _ = flip_evaluator.evaluate(
        truth, prediction, "LDR", applyMagma=False, computeMeanError=False, parameters=parameters
    )
    error = error[:, :, 0]
    measured = error if mask is None else error[mask]
    return float(measured.mean(dtype=np.float64)), error


def definitions(with_flip: bool) -> dict[str, str]:
    """The exact setting of each metric, one line each: part of the protocol a result is stored
    with.
    """
    lines = {
        "psnr": f"-10 log10(MSE), peak 1, per image, then their mean; at most {PSNR_CAP:g}",
        "ssim": "Gaussian window 11 x 11, sigma 1.5, data range 1, mean of R, G, B (scikit-image)",
    }
    if with_flip:
        lines["flip"] = f"LDR-FLIP, mean over pixels, {FLIP_PIXELS_PER_DEGREE} pixels per degree"
    # Said in every result: tables elsewhere have LPIPS, and none of our figures is one.
    lines["perceptual"] = f"{'FLIP' if with_flip else 'none'}; no LPIPS, which needs weights"
    return lines


def checked_pair(prediction: Image, truth: Image) -> tuple[np.ndarray, np.ndarray]:
    """Both as float32 arrays in [0, 1]; an error in the user's terms for anything else."""
    first, second = _image(prediction, "prediction"), _image(truth, "truth")
    if first.shape != second.shape:
        raise ValueError(
            f"prediction is {first.shape}, truth is {second.shape}; they must have the same size"
        )
    return first, second


def _image(image: Image, name: str) -> np.ndarray:
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else image
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        raise ValueError(
            f"{name} has the shape {tuple(array.shape)}; a metric takes one (height, width, 3) "
            "image. Composite alpha over a background first; repeat a grey channel three times"
        )
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"{name} is {array.dtype}; a metric takes floats in [0, 1] (divide 8-bit values by 255)"
        )
    low, high = float(array.min()), float(array.max())
    if not (low >= -_RANGE_SLACK and high <= 1.0 + _RANGE_SLACK):  # also true for NaN
        raise ValueError(
            f"{name} has values from {low:g} to {high:g}; a metric takes [0, 1]: clamp it first"
        )
    return np.ascontiguousarray(np.clip(array, 0.0, 1.0), dtype=np.float32)

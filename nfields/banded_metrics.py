"""PSNR, SSIM and FLIP of a picture too large to be held as floats: it comes in bands of rows.

The values are those of the whole picture at once (nfields/metrics.py) but for rounding: PSNR is a
sum over pixels, and SSIM and FLIP look at most HALO rows away, so each band is measured together
with HALO rows above and below it.
"""

import math
from typing import Any

import numpy as np
from jaxtyping import Float
from skimage.metrics import structural_similarity

from nfields import metrics

# SSIM's window reaches 5 rows; at 67.02 pixels per degree FLIP's widest filter (contrast
# sensitivity, blue and yellow) has a radius of ceil(3 sqrt(0.04 / (2 pi^2)) 67.02) = 10 pixels, and
# its edge and point detectors 9. Measured: with 10 rows the map is that of the whole picture.
HALO = 10
_BORDER = metrics.SSIM_WINDOW // 2

Rows = Float[np.ndarray, "rows width 3"]


class BandedMetrics:
    """Takes a prediction and the truth, sRGB in [0, 1], band by band from the top.

    It keeps the last rows only; the memory is that of measuring one band.
    """

    def __init__(self, height: int, width: int, *, with_flip: bool) -> None:
        self.height, self.width, self.with_flip = height, width, with_flip
        self.has_ssim = min(height, width) >= metrics.SSIM_WINDOW
        self._prediction = np.zeros((0, width, 3), np.float32)
        self._truth = np.zeros((0, width, 3), np.float32)
        self._first = 0  # the row of the picture that is first in the two above
        self._done = 0  # rows that are measured
        self._squares = self._ssim = self._flip = 0.0

    def add(self, prediction: Rows, truth: Rows) -> tuple[int, Float[np.ndarray, "ready width"]]:
        """The error of the rows that can now be measured, and the number of the first of them.

        The error is FLIP's, or the mean absolute one of the channels. It comes HALO rows late.
        """
        prediction, truth = metrics.checked_pair(prediction, truth)
        difference = prediction - truth
        self._squares += float(np.square(difference, dtype=np.float64).sum())
        self._prediction = np.concatenate([self._prediction, prediction])
        self._truth = np.concatenate([self._truth, truth])
        seen = self._first + len(self._truth)
        assert seen <= self.height, f"{seen} rows of a picture of {self.height}"
        start, stop = self._done, self.height if seen == self.height else seen - HALO
        if stop <= start:
            return start, np.zeros((0, self.width), np.float32)
        if self.has_ssim:
            self._ssim += self._sum_ssim(start, stop)
        rows = slice(start - self._first, stop - self._first)
        if self.with_flip:
            error = metrics.flip(self._prediction, self._truth)[1][rows]
            self._flip += float(error.sum(dtype=np.float64))
        else:
            error = np.abs(self._prediction[rows] - self._truth[rows]).mean(axis=2)
        keep = max(0, stop - HALO) - self._first
        self._prediction, self._truth = self._prediction[keep:].copy(), self._truth[keep:].copy()
        self._first, self._done = self._first + keep, stop
        return start, error

    def result(self) -> dict[str, float | None]:
        """psnr (dB, at most the cap), ssim (None for pictures smaller than its window), flip."""
        assert self._done == self.height, f"{self._done} of {self.height} rows were given"
        num_values = 3 * self.height * self.width
        mean_square = self._squares / num_values
        psnr = math.inf if mean_square == 0 else -10 * math.log10(mean_square)
        row: dict[str, float | None] = {"psnr": metrics.finite_psnr(psnr), "ssim": None}
        if self.has_ssim:
            inner = (self.height - 2 * _BORDER) * (self.width - 2 * _BORDER)
            row["ssim"] = self._ssim / (3 * inner)
        if self.with_flip:
            row["flip"] = self._flip / (self.height * self.width)
        return row

    def _sum_ssim(self, start: int, stop: int) -> float:
        """The sum of SSIM over the rows start .. stop - 1, without the border of the picture."""
        start, stop = max(start, _BORDER), min(stop, self.height - _BORDER)
        if stop <= start:
            return 0.0
        # Exactly the rows that these need; fewer than a window can be left at the end.
        rows = slice(start - _BORDER - self._first, stop + _BORDER - self._first)
        full: Any = structural_similarity(
            self._prediction[rows], self._truth[rows], full=True, **metrics.SSIM_OPTIONS
        )
        inner = full[1][_BORDER:-_BORDER, _BORDER:-_BORDER]
        return float(inner.sum(dtype=np.float64))

"""A picture in memory as its file stored it, and as the floats that a model is fitted to.

8 and 16 bits a channel, and half floats, stay as they are: their values are looked up in a table
when they are needed, a batch or a few rows at a time. A 15-megapixel photograph takes 44 MB, not
the 175 MB of its floats.
"""

from typing import Literal

import numpy as np
from jaxtyping import Float, Int, Shaped

from nfields.data.pixels_cpu import gather, look_up
from nfields.data.transfer_curve import linear_from_srgb, srgb_from_linear

Transfer = Literal["srgb", "linear"]
_CHUNK = 1 << 20  # values converted at once


class Pixels:
    """`codes` (height, width, channels) and what they mean: uint8, uint16, float16 or float32.

    Integers are sRGB values from 0 to 1; floats hold linear light if `is_linear`, else sRGB values.
    The floats it gives are under `transfer`: sRGB values, or linear light. The fourth channel is
    alpha, under no curve. Float32 is converted at once and `codes` then must not be used again.
    """

    def __init__(
        self, codes: Shaped[np.ndarray, "h w c"], *, is_linear: bool, transfer: Transfer
    ) -> None:
        self.height, self.width, self.num_channels = codes.shape
        flat = np.ascontiguousarray(codes).reshape(-1, self.num_channels)
        is_float = codes.dtype.kind == "f"
        convert = None
        if is_float and is_linear and transfer == "srgb":
            convert = srgb_from_linear
        elif not (is_float and is_linear) and transfer == "linear":
            convert = linear_from_srgb
        self.tables: Float[np.ndarray, "c codes"] | None = None
        if codes.dtype == np.float32:
            num_colors = min(self.num_channels, 3)
            if convert is not None:
                flat = flat if flat.flags.writeable else flat.copy()
                for first in range(0, len(flat), _CHUNK):
                    part = flat[first : first + _CHUNK, :num_colors]
                    part[...] = convert(part)
        else:
            if is_float:
                plain = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
                plain[~np.isfinite(plain)] = 0  # no finite picture has these codes
                flat = flat.view(np.uint16)
            else:
                top = np.iinfo(codes.dtype).max
                plain = np.arange(top + 1, dtype=np.float32) / np.float32(top)
            color = plain if convert is None else convert(plain)
            self.tables = np.stack(
                [color] * min(self.num_channels, 3) + [plain] * (codes.shape[2] == 4)
            )
        self._flat = flat

    def __getitem__(self, index: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n c"]:
        """The values of pixels given by their number, row by row."""
        values = np.empty((len(index), self.num_channels), np.float32)
        if self.tables is None:
            gather(self._flat, index, values)
        else:
            look_up(self._flat, self.tables, index, values)
        return values

    def rows(self, start: int, stop: int) -> Float[np.ndarray, "rows width c"]:
        """The values of the rows start .. stop - 1."""
        pixels = self[np.arange(start * self.width, stop * self.width)]
        return pixels.reshape(stop - start, self.width, self.num_channels)

    def averaged(self, factor: int) -> "Pixels":
        """The picture averaged over factor x factor blocks, colours of RGBA weighted by alpha.

        Rows and columns that do not fill a block are cut from the right and the bottom. The result
        keeps float32, as averages have more digits than codes.
        """
        height, width = self.height // factor, self.width // factor
        result = np.zeros((height, width, self.num_channels), np.float32)
        for row in range(height):
            values = self.rows(row * factor, (row + 1) * factor)[:, : width * factor]
            if self.num_channels == 4:
                values[..., :3] *= values[..., 3:]
            blocks = values.reshape(factor, width, factor, -1)
            result[row] = blocks.mean(axis=(0, 2), dtype=np.float32)
        if self.num_channels == 4:
            result[..., :3] /= np.maximum(result[..., 3:], 1e-6)
        same = Pixels(result, is_linear=False, transfer="srgb")  # under the same curve already
        return same

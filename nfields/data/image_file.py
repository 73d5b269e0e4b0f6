"""A picture as a function of two coordinates: the data of task=image."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.data.picture_file import StoredPicture, read_picture
from nfields.data.pixels import Pixels, Transfer
from nfields.data.pixels_cpu import draw_pixels
from nfields.data.transfer_curve import srgb_from_linear
from nfields.errors import ConfigError, DataError

_CHUNK = 1 << 15  # pixels whose neighbours are looked at together


class ValueBatch(NamedTuple):
    """Points of [-1, 1]^2 (x right, y down) and the picture's values there."""

    coords: Float[Tensor, "n 2"]
    values: Float[Tensor, "n c"]


class ImageData:
    """A picture of 1, 3 or 4 channels (grey, RGB, RGBA with straight alpha), values in [0, 1].

    Values are sRGB (transfer=srgb), or linear light; pictures of floats (EXR, HDR) are linear light
    in their files and may go beyond [0, 1]. Each side spans [-1, 1]: the centre of pixel (column,
    row) is at x = (2 column + 1) / width - 1, y = (2 row + 1) / height - 1. path=null is a
    photograph inside scikit-image. Restored from a card, `pixels` is None.
    """

    def __init__(self, *, path: str | None, downscale: int, transfer: Transfer) -> None:
        if downscale < 1:
            raise ConfigError(f"data.downscale={downscale} must be a whole number >= 1.")
        if path is None:
            from skimage.data import astronaut

            self.source, stored = "photograph astronaut of scikit-image", StoredPicture(astronaut())
        else:
            self.source, stored = f"picture {Path(path).name}", read_picture(Path(path))
        self.notes, self.transfer = list(stored.notes), transfer
        self.precision: Literal["uint8", "uint16", "float"] = (
            "float" if stored.is_linear else "uint8" if stored.codes.dtype == np.uint8 else "uint16"
        )
        pixels = Pixels(stored.codes, is_linear=stored.is_linear, transfer=transfer)
        if min(pixels.width, pixels.height) < downscale:
            raise ConfigError(
                f"data.downscale={downscale} leaves nothing of {pixels.width} x {pixels.height} "
                f"pixels; lower it to at most {min(pixels.width, pixels.height)}."
            )
        self.pixels: Pixels | None = pixels if downscale == 1 else pixels.averaged(downscale)
        self.width, self.height = self.pixels.width, self.pixels.height
        self.num_channels = self.pixels.num_channels

    def require_pixels(self) -> Pixels:
        """The picture; an error if this was restored from a card."""
        if self.pixels is None:
            raise DataError(
                f"the pixels of the {self.source} are not at hand: a run folder keeps the size "
                "only; say where the file is with data.path=<file>."
            )
        return self.pixels

    def sample_pixels(self, num: int, generator: torch.Generator) -> ValueBatch:
        """Pixel centres and values, one from each of `num` equal parts of the picture.

        The parts are about square, so every region gets its share in every batch; each pixel is
        equally likely. 16,384 of 15 million pixels take 0.5 ms on one core.
        """
        index, coords = self.draw(num, generator)
        values = self.require_pixels()[index]
        return ValueBatch(torch.from_numpy(coords), torch.from_numpy(values))

    def draw(
        self, num: int, generator: torch.Generator
    ) -> tuple[Int[np.ndarray, " num"], Float[np.ndarray, "num 2"]]:
        """Numbers (row by row) and coordinates of pixels, one from each of `num` equal parts."""
        index, coords = np.empty(num, np.int64), np.empty((num, 2), np.float32)
        seed = torch.randint(1 << 62, (), generator=generator).item()
        # Parts of side^2 pixels; where the number does not come out, they stay equal, less square.
        side = max(1, round((self.width * self.height / num) ** 0.5))
        draw_pixels(np.uint64(seed), self.width, self.height, side, index, coords)
        return index, coords

    def pixel_coords(self, index: Int[Tensor, " n"]) -> Float[Tensor, "n 2"]:
        """Coordinates of the centres of pixels given by their number, row by row."""
        row = index.div(self.width, rounding_mode="floor")
        column = index - row * self.width
        x = (2 * column + 1).to(torch.float32) / self.width - 1
        y = (2 * row + 1).to(torch.float32) / self.height - 1
        return torch.stack([x, y], dim=1)

    def slopes(self, index: Int[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """The Sobel gradient magnitude at pixels given by their number, over all channels.

        sqrt(sum over channels of g_x^2 + g_y^2) with g_x = [1 2 1]^T [-1 0 1]; the border is
        repeated outwards. 1 a channel and step of height 1/4.
        """
        pixels = self.require_pixels()
        result = np.zeros(len(index), np.float32)
        for first in range(0, len(index), _CHUNK):
            part = index[first : first + _CHUNK]
            row, column = part // self.width, part % self.width
            rows = np.clip(row + np.arange(-1, 2)[:, None], 0, self.height - 1)
            columns = np.clip(column + np.arange(-1, 2)[:, None], 0, self.width - 1)
            around = (rows[:, None] * self.width + columns[None]).ravel()
            values = pixels[around].reshape(3, 3, len(part), -1)
            smooth_y = values[0] + 2 * values[1] + values[2]
            smooth_x = values[:, 0] + 2 * values[:, 1] + values[:, 2]
            squares = (smooth_y[2] - smooth_y[0]) ** 2 + (smooth_x[2] - smooth_x[0]) ** 2
            result[first : first + _CHUNK] = np.sqrt(squares.sum(axis=1))
        return result

    def displayed(self, values: Float[np.ndarray, "*shape c"]) -> Float[np.ndarray, "*shape 3"]:
        """What a screen shows: sRGB in [0, 1], grey repeated, alpha over white."""
        color = values[..., :3]
        if self.transfer == "linear":
            color = srgb_from_linear(color)
        color = np.clip(color, 0, 1)
        if self.num_channels == 4:
            alpha = np.clip(values[..., 3:], 0, 1)
            color = color * alpha + (1 - alpha)
        return np.ascontiguousarray(np.broadcast_to(color, (*values.shape[:-1], 3)))

    def card(self) -> dict[str, Any]:
        """All but the pixels, for json."""
        return {
            "class": "nfields.data.image_file.ImageData",
            "width": self.width,
            "height": self.height,
            "num_channels": self.num_channels,
            "precision": self.precision,
            "transfer": self.transfer,
            "source": self.source,
            "notes": self.notes,
        }

    @staticmethod
    def from_card(card: dict[str, Any]) -> "ImageData":
        """The data set a card describes, without pixels."""
        data = object.__new__(ImageData)
        try:
            data.width, data.height = int(card["width"]), int(card["height"])
            data.num_channels = int(card["num_channels"])
            data.precision, data.transfer = card["precision"], card["transfer"]
            data.source, data.notes = str(card["source"]), list(card["notes"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the data card is incomplete or damaged ({type(error).__name__}: {error}); it "
                "must be the data.json that ImageData.card() wrote."
            ) from error
        if data.precision not in ("uint8", "uint16", "float") or data.transfer not in (
            "srgb",
            "linear",
        ):
            raise DataError(
                f"the data card says precision={data.precision!r}, transfer={data.transfer!r}; "
                "allowed are uint8, uint16, float and srgb, linear; restore data.json."
            )
        data.pixels = None
        return data

"""A picture as a function of two coordinates: the data of task=image."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from nfields.data.image_reader import open_image, sixteen_bit
from nfields.errors import ConfigError, DataError


class ValueBatch(NamedTuple):
    """Points of [-1, 1]^2 (x right, y down) and the picture's values there, in [0, 1]."""

    coords: Float[Tensor, "n 2"]
    values: Float[Tensor, "n c"]


class ImageData:
    """A picture: `image` (height, width, channels) in [0, 1] as stored, 1, 3 or 4 channels.

    Each side spans [-1, 1]: the centre of pixel (column, row) is at
    x = (2 column + 1) / width - 1, y = (2 row + 1) / height - 1. path=null is a photograph inside
    scikit-image. Restored from a card, `image` is None.
    """

    def __init__(self, *, path: str | None, downscale: int) -> None:
        if downscale < 1:
            raise ConfigError(f"data.downscale={downscale} must be a whole number >= 1.")
        self.notes: list[str] = []
        if path is None:
            from skimage.data import astronaut

            self.source = "photograph astronaut of scikit-image"
            pixels = astronaut().astype(np.float32) / 255
        else:
            self.source = f"picture {Path(path).name}"
            pixels = self._read(Path(path))
        height, width = pixels.shape[0] // downscale, pixels.shape[1] // downscale
        if height < 1 or width < 1:
            raise ConfigError(
                f"data.downscale={downscale} leaves nothing of {pixels.shape[1]} x "
                f"{pixels.shape[0]} pixels; lower it to at most {min(pixels.shape[:2])}."
            )
        self.width, self.height, self.num_channels = width, height, pixels.shape[2]
        self.image: Float[Tensor, "height width channels"] | None = torch.from_numpy(
            _average(pixels, downscale)
        )

    def require_image(self) -> Float[Tensor, "height width channels"]:
        """The picture; an error if this was restored from a card."""
        if self.image is None:
            raise DataError(
                f"the pixels of the {self.source} are not at hand: a run folder keeps the size "
                "only; say where the file is with data.path=<file>."
            )
        return self.image

    def sample_pixels(self, num: int, generator: torch.Generator) -> ValueBatch:
        """Pixel centres and values, one from each of `num` equal parts of the picture.

        The parts follow the rows, so every region gets its share in every batch; each pixel is
        equally likely.
        """
        image = self.require_image()
        total = self.width * self.height
        uniform = torch.rand(num, generator=generator, dtype=torch.float64)
        strata = torch.arange(num, dtype=torch.float64)
        index = ((strata + uniform) * (total / num)).long().clamp_max_(total - 1)
        coords = self.pixel_coords(index)
        return ValueBatch(coords, image.view(total, -1).index_select(0, index))

    def pixel_coords(self, index: Tensor) -> Float[Tensor, "n 2"]:
        """Coordinates of the centres of pixels given by their number, row by row."""
        row = index.div(self.width, rounding_mode="floor")
        column = index - row * self.width
        x = (2 * column + 1).to(torch.float32) / self.width - 1
        y = (2 * row + 1).to(torch.float32) / self.height - 1
        return torch.stack([x, y], dim=1)

    def card(self) -> dict[str, Any]:
        """All but the pixels, for json."""
        return {
            "class": "nfields.data.image_file.ImageData",
            "width": self.width,
            "height": self.height,
            "num_channels": self.num_channels,
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
            data.source, data.notes = str(card["source"]), list(card["notes"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the data card is incomplete or damaged ({type(error).__name__}: {error}); it "
                "must be the data.json that ImageData.card() wrote."
            ) from error
        data.image = None
        return data

    def _read(self, path: Path) -> np.ndarray:
        if not path.is_file():
            raise DataError(f"data.path={path} is no file; give a picture (PNG, JPEG, TIFF, ...).")
        with open_image(path) as image:
            try:
                image.load()
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"{path} cannot be decoded ({error}); copy it again.") from error
            is_grey_16 = image.mode.startswith("I")
            if sixteen_bit(image) and not is_grey_16:
                self.notes.append(f"{path.name} has 16 bits a channel: the upper 8 are used")
            image = ImageOps.exif_transpose(image)
            if is_grey_16:
                return np.asarray(image)[..., None].astype(np.float32) / 65535
            if image.mode == "F":
                raise DataError(f"{path} holds floating-point numbers; 8 and 16 bit are read.")
            mode = _target_mode(image)
            pixels = np.asarray(image if image.mode == mode else image.convert(mode))
        return pixels.reshape(*pixels.shape[:2], -1).astype(np.float32) / 255


def _target_mode(image: Image.Image) -> str:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return "RGBA"
    return "L" if image.mode in ("1", "L") else "RGB"


def _average(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The picture averaged over factor x factor blocks, colours of RGBA weighted by alpha."""
    if factor == 1:
        return pixels
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    pixels = pixels[: height * factor, : width * factor]
    if pixels.shape[2] == 4:
        pixels = np.concatenate([pixels[..., :3] * pixels[..., 3:], pixels[..., 3:]], axis=2)
    total = np.zeros((height, width, pixels.shape[2]), dtype=np.float32)
    for i in range(factor):
        for j in range(factor):
            total += pixels[i::factor, j::factor]
    total /= factor * factor
    if pixels.shape[2] == 4:
        total[..., :3] /= np.maximum(total[..., 3:], 1e-6)
    return total

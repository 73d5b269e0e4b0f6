"""image: a picture as a function of two coordinates.

The field's values are the channels of a pixel (see nfields/data/image_file.py); pixels are drawn
one from each of equal parts of the picture. Metrics are those of the whole picture, as a screen
shows it: sRGB, clipped to [0, 1], alpha over white.
"""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from nfields.data.image_file import ImageData, ValueBatch
from nfields.errors import ConfigError
from nfields.export.kernel_picture import write_kernels
from nfields.export.picture import to_uint8
from nfields.export.whole_picture import compare_picture
from nfields.model.field import Field, Samples
from nfields.optimizer import ParameterGroup
from nfields.task.task import StepResult, Task, measure
from nfields.transfer import send

# Pixels evaluated at once: a picture of any size is reconstructed in bounded memory.
_CHUNK = 1 << 16
# Pixels that the model is initialised from: enough to place 10^5 kernels, seconds of k-means.
_NUM_SAMPLES = 1 << 18
_SNAPSHOT_SIDE = 512  # of a picture of the film, at most


class ImageTask(Task):
    """Picture; options are explained in configs/task/image.yaml."""

    in_dim = 2
    data: ImageData

    def __init__(
        self,
        *,
        data: ImageData,
        loss: Literal["l2", "l1", "huber"],
        pixels_per_step: int,
        num_pictures: int,
    ):
        super().__init__()
        if pixels_per_step < 1:
            raise ConfigError(f"task.pixels_per_step={pixels_per_step} must be at least 1")
        self.data, self.out_dim = data, data.num_channels
        self.loss, self.num_pictures = loss, num_pictures
        self.pixels_per_step = min(pixels_per_step, data.width * data.height)
        self.anchor: Tensor  # tells the device; the task has no other state
        self.register_buffer("anchor", torch.zeros(()), persistent=False)

    def prepare(self, model: Field, generator: torch.Generator) -> None:
        """Initialises the model from pixels, weighted by the gradient of the picture."""
        num = min(_NUM_SAMPLES, self.data.width * self.data.height)
        index, coords = self.data.draw(num, generator)
        slopes = torch.from_numpy(self.data.slopes(index))
        mean = slopes.mean()
        # A constant picture says nothing about where kernels should be.
        weights = slopes / mean if mean > 0 else torch.ones_like(slopes)
        device = self.anchor.device
        samples = Samples(torch.from_numpy(coords).to(device), weights.to(device))
        model.initialize(samples, generator)

    def before_step(self, model: Field, step: int, generator: torch.Generator) -> None:
        pass  # nothing to prepare

    def batch(self, generator: torch.Generator) -> ValueBatch:
        drawn = self.data.sample_pixels(self.pixels_per_step, generator)
        return ValueBatch(*(send(tensor, self.anchor.device) for tensor in drawn))

    def losses(self, model: Field, batch: ValueBatch) -> StepResult:
        values = model(batch.coords)
        mean_square = mse_loss(values, batch.values)
        if self.loss == "l2":
            loss = mean_square
        elif self.loss == "l1":
            loss = l1_loss(values, batch.values)
        else:
            loss = huber_loss(values, batch.values, delta=0.1)
        psnr = -10 * torch.log10(mean_square.detach().clamp(min=1e-10))
        num = len(batch.coords)
        return StepResult({"value": loss}, {"psnr": measure(psnr)}, num, num)

    def after_step(self, model: Field, result: StepResult, step: int) -> None:
        pass  # nothing adapts

    def halve_step(self) -> str | None:
        if self.pixels_per_step < 2:
            return None
        self.pixels_per_step //= 2
        return f"task.pixels_per_step={self.pixels_per_step}"

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    @torch.no_grad()
    def render_rows(
        self, model: Field, first: int, last: int, width: int, height: int
    ) -> Float[np.ndarray, "rows width c"]:
        """Rows first .. last - 1 of the picture at any size; values as the model gives them."""
        values = np.empty(((last - first) * width, self.out_dim), np.float32)
        for start in range(0, len(values), _CHUNK):
            index = torch.arange(start, min(start + _CHUNK, len(values)))
            row = index.div(width, rounding_mode="floor")
            x = (2 * (index - row * width) + 1).float() / width - 1
            y = (2 * (row + first) + 1).float() / height - 1
            coords = torch.stack([x, y], dim=1).to(self.anchor.device)
            values[start : start + _CHUNK] = model(coords).cpu().numpy()
        return values.reshape(last - first, width, self.out_dim)

    def render(
        self, model: Field, width: int | None = None, height: int | None = None
    ) -> Float[Tensor, "h w c"]:
        """The whole picture, not clamped, at any size (null: its own)."""
        columns = self.data.width if width is None else width
        rows = self.data.height if height is None else height
        return torch.from_numpy(self.render_rows(model, 0, rows, columns, rows))

    def snapshot(self, model: Field) -> UInt8[np.ndarray, "h w 3"]:
        """The picture as it is now, small: a frame of the film of the fit."""
        width, height = self._small_size(_SNAPSHOT_SIDE)
        return to_uint8(self.data.displayed(self.render_rows(model, 0, height, width, height)))

    def validate(self, model: Field, generator: torch.Generator | None) -> dict[str, float]:
        """PSNR over the whole picture (every 64th pixel of those above 4 megapixels)."""
        pixels = self.data.require_pixels()
        total = self.data.width * self.data.height
        index = torch.arange(0, total, 1 if total <= 1 << 22 else 64)
        squares = 0.0
        with torch.no_grad():
            for part in index.split(_CHUNK):
                coords = self.data.pixel_coords(part).to(self.anchor.device)
                seen = self.data.displayed(model(coords).cpu().numpy())
                difference = seen - self.data.displayed(pixels[part.numpy()])
                squares += float(np.square(difference, dtype=np.float64).sum())
        return {"psnr": -10 * math.log10(max(squares / (3 * len(index)), 1e-10))}

    def evaluate(
        self,
        model: Field,
        folder: Path,
        limit: int | None,
        *,
        num_pictures: int | None = None,
        flip: bool = True,
    ) -> dict[str, Any]:
        """Metrics of the whole picture, with the reconstruction, its error and the kernels."""
        data, pixels = self.data, self.data.require_pixels()
        width, height = data.width, data.height
        with_pictures = (self.num_pictures if num_pictures is None else num_pictures) > 0
        measured = compare_picture(
            lambda first, last: data.displayed(self.render_rows(model, first, last, width, height)),
            lambda first, last: data.displayed(pixels.rows(first, last)),
            width,
            height,
            folder=folder if with_pictures else None,
            protocol={
                "split": "all pixels",
                "background": "white" if data.num_channels == 4 else "none",
                "color_space": "sRGB",
                "range": "both clipped to [0, 1]",
            },
            with_flip=flip,
        )
        if with_pictures:
            write_kernels(model, lambda w, h: self._shown(model, w, h), width, height, folder)
        return measured

    def _shown(self, model: Field, width: int, height: int) -> UInt8[np.ndarray, "h w 3"]:
        return to_uint8(self.data.displayed(self.render_rows(model, 0, height, width, height)))

    def _small_size(self, side: int) -> tuple[int, int]:
        factor = min(1.0, side / max(self.data.width, self.data.height))
        return max(1, round(self.data.width * factor)), max(1, round(self.data.height * factor))

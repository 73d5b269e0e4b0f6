"""image: a picture as a function of two coordinates.

The field's values are the channels of a pixel in [0, 1], as stored (sRGB); pixels are drawn one
from each of equal parts of the picture. Metrics are those of the whole picture.
"""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import huber_loss, l1_loss, mse_loss

from nfields.data.image_file import ImageData, ValueBatch
from nfields.errors import ConfigError
from nfields.export.comparison import ComparedImage, compare_images
from nfields.model.field import Field, Samples
from nfields.optimizer import ParameterGroup
from nfields.task.task import StepResult, Task

# Pixels evaluated at once: a picture of any size is reconstructed in bounded memory.
_CHUNK = 1 << 16


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
        model.initialize(Samples.uniform(self.batch(generator).coords), generator)

    def before_step(self, model: Field, step: int, generator: torch.Generator) -> None:
        pass  # nothing to prepare

    def batch(self, generator: torch.Generator) -> ValueBatch:
        drawn = self.data.sample_pixels(self.pixels_per_step, generator)
        return ValueBatch(*(tensor.to(self.anchor.device) for tensor in drawn))

    def losses(self, model: Field, batch: ValueBatch) -> StepResult:
        values = model(batch.coords)
        mean_square = mse_loss(values, batch.values)
        if self.loss == "l2":
            loss = mean_square
        elif self.loss == "l1":
            loss = l1_loss(values, batch.values)
        else:
            loss = huber_loss(values, batch.values, delta=0.1)
        psnr = -10 * torch.log10(mean_square.detach().clamp(min=1e-10)).item()
        num = len(batch.coords)
        return StepResult({"value": loss}, {"psnr": psnr}, num, num)

    def after_step(self, model: Field, result: StepResult, step: int) -> None:
        pass  # nothing adapts

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    @torch.no_grad()
    def render(
        self, model: Field, width: int | None = None, height: int | None = None
    ) -> Float[Tensor, "h w c"]:
        """The picture, not clamped, at any size (null: its own)."""
        columns = self.data.width if width is None else width
        rows = self.data.height if height is None else height
        parts = []
        for index in torch.arange(columns * rows).split(_CHUNK):
            row = index.div(columns, rounding_mode="floor")
            x = (2 * (index - row * columns) + 1).float() / columns - 1
            y = (2 * row + 1).float() / rows - 1
            coords = torch.stack([x, y], dim=1).to(self.anchor.device)
            parts.append(model(coords).cpu())
        return torch.cat(parts).view(rows, columns, -1)

    def validate(self, model: Field, generator: torch.Generator | None) -> dict[str, float]:
        """PSNR over the whole picture (every 64th pixel of those above 4 megapixels)."""
        image = self.data.require_image()
        total = self.data.width * self.data.height
        index = torch.arange(0, total, 1 if total <= 1 << 22 else 64)
        squares = 0.0
        with torch.no_grad():
            for part in index.split(_CHUNK):
                coords = self.data.pixel_coords(part).to(self.anchor.device)
                truth = image.reshape(total, -1)[part]
                squares += (model(coords).cpu().clamp(0, 1) - truth).square().sum().item()
        error = squares / (len(index) * self.data.num_channels)
        return {"psnr": -10 * torch.log10(torch.tensor(max(error, 1e-10))).item()}

    def evaluate(
        self,
        model: Field,
        folder: Path,
        limit: int | None,
        *,
        num_pictures: int | None = None,
        flip: bool = True,
    ) -> dict[str, Any]:
        """Metrics of the whole picture, with the reconstruction and its error."""
        truth = self.data.require_image()

        def compared() -> Iterator[ComparedImage]:
            started = perf_counter()
            seen = self.render(model)
            yield ComparedImage(
                name="image",
                prediction=_three_channels(seen.clamp(0, 1)),
                truth=_three_channels(truth),
                seconds=perf_counter() - started,
            )

        has_alpha = self.data.num_channels == 4
        return compare_images(
            compared(),
            folder=folder,
            protocol={
                "split": "all pixels",
                "background": "white" if has_alpha else "none",
                "color_space": "sRGB",
            },
            total=1,
            num_pictures=self.num_pictures if num_pictures is None else num_pictures,
            with_flip=flip,
        )


def _three_channels(image: Float[Tensor, "h w c"]) -> Float[Tensor, "h w 3"]:
    """Grey repeated, alpha over white."""
    if image.shape[2] == 4:
        return image[..., :3] * image[..., 3:] + 1 - image[..., 3:]
    return image.expand(*image.shape[:2], 3) if image.shape[2] == 1 else image

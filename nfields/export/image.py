"""The export what=image: the picture a field learned, at any size, written row by row."""

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float

from nfields.data.transfer_curve import linear_from_srgb, srgb_from_linear
from nfields.errors import ConfigError
from nfields.export.export import Export, RendersPicture
from nfields.export.picture_writer import Kind, write_picture
from nfields.stored_run import StoredRun

_BITS: dict[str, tuple[int, ...]] = {
    ".png": (8, 16),
    ".tif": (8, 16),
    ".tiff": (8, 16),
    ".jpg": (8,),
    ".jpeg": (8,),
    ".exr": (16, 32),
}
_BAND = 1 << 20  # pixels rendered and written at once


class ImageExport(Export):
    """what=image; every option is explained in image.yaml."""

    def __init__(
        self,
        *,
        width: int | None,
        height: int | None,
        bits: Literal[8, 16, 32] | None,
        out: str | None,
    ):
        for key, value in {"width": width, "height": height}.items():
            if value is not None and value < 1:
                raise ConfigError(f"{key}={value} must be at least 1")
        suffix = None if out is None else Path(out).suffix.lower()
        if suffix is not None and suffix not in _BITS:
            raise ConfigError(f"out={out} must end in .png, .tif, .jpg or .exr")
        if suffix is not None and bits is not None and bits not in _BITS[suffix]:
            allowed = " or ".join(str(number) for number in _BITS[suffix])
            raise ConfigError(f"bits={bits}: {suffix} holds {allowed} bits a channel")
        self.width, self.height, self.bits, self.out = width, height, bits, out

    def export(self, run: StoredRun) -> list[Path]:
        """Renders the picture and returns its file."""
        task, data = run.task, run.data
        if not isinstance(task, RendersPicture):
            raise ConfigError(
                f"what=image needs a task with a picture, such as task=image; {run.folder.path} is "
                f"of task={run.config.choices.task}"
            )
        width, height = fitted_size(self.width, self.height, data.width, data.height)
        file = self._file(run.folder.path, width, height, data.precision)
        suffix = file.suffix.lower()
        is_light = suffix == ".exr"
        has_alpha = data.num_channels == 4 and suffix not in (".jpg", ".jpeg")
        bits = self.bits
        if bits is None or bits not in _BITS[suffix]:
            is_deep = data.precision != "uint8" and 16 in _BITS[suffix]
            bits = 16 if is_light or is_deep else 8
        kinds: dict[tuple[bool, int], Kind] = {
            (False, 8): "uint8", (False, 16): "uint16", (True, 16): "half", (True, 32): "float",
        }  # fmt: skip
        kind = kinds[is_light, bits]
        run.task.eval()
        run.model.eval()

        def rows(first: int, last: int) -> Float[np.ndarray, "rows width c"]:
            values = task.render_rows(run.model, first, last, width, height)
            if data.num_channels == 4 and not has_alpha:
                return data.displayed(values)
            color, alpha = values[..., :3], np.clip(values[..., 3:], 0, 1)
            if is_light:
                color = linear_from_srgb(color) if data.transfer == "srgb" else color
                color = color * alpha if has_alpha else color  # the custom of EXR
            else:
                color = srgb_from_linear(color) if data.transfer == "linear" else color
            return np.concatenate([color, alpha], axis=2) if has_alpha else color

        num_channels = data.num_channels if data.num_channels < 4 or has_alpha else 3
        band = max(1, _BAND // width)
        write_picture(file, rows, width, height, num_channels, kind, band)
        return [file]

    def _file(self, folder: Path, width: int, height: int, precision: str) -> Path:
        if self.out is not None:
            return Path(self.out)
        is_light = (precision == "float" and self.bits != 8) or self.bits == 32
        return folder / "image" / f"{width}x{height}{'.exr' if is_light else '.png'}"


def fitted_size(
    width: int | None, height: int | None, own_width: int, own_height: int
) -> tuple[int, int]:
    """The size wanted; what is not given follows from the shape of the picture."""
    if width is None and height is None:
        return own_width, own_height
    if width is None:
        assert height is not None
        return max(1, round(own_width * height / own_height)), height
    if height is None:
        return width, max(1, round(own_height * width / own_width))
    return width, height

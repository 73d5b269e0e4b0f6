"""Pictures: PNG files, comparisons with the truth, depth maps, contact sheets.

Colours are display-referred sRGB, floats in [0, 1] or 8 bit; arrays are (height, width, channels),
row 0 on top.
"""

import errno
import io
import math
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nfields.errors import DataError
from nfields.export.color_map import colorize
from nfields.run_folder import write_json

Array = np.ndarray
GAP = 4  # pixels between pictures side by side
PAPER, INK = (255, 255, 255), (40, 40, 40)


def to_array(values: Num[Tensor, "..."] | Num[np.ndarray, "..."]) -> Array:
    """The values as an array on the CPU, without gradient; integers stay as they are."""
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else values


def to_uint8(rgb: Num[Tensor, "..."] | Num[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """8-bit colours: floats in [0, 1] are clipped and rounded to the nearest of 256 levels."""
    array = to_array(rgb)
    if array.dtype == np.uint8:
        return array
    clipped = np.clip(np.nan_to_num(array.astype(np.float32)), 0.0, 1.0)
    return np.rint(clipped * 255).astype(np.uint8)


def save_png(file: Path, pixels: Num[Tensor, "..."] | Num[np.ndarray, "..."]) -> None:
    """Writes (h, w) grey, (h, w, 3) colours, (h, w, 4) with straight alpha, or 16-bit (h, w) codes.

    Makes missing folders. The file is complete or absent, whatever interrupts the writing.
    """
    array = to_array(pixels)
    if array.dtype != np.uint16:
        array = to_uint8(array)
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, "PNG", compress_level=3)
    write_file(file, buffer.getvalue())


def save_palette_png(
    file: Path, index: UInt8[np.ndarray, "h w"], palette: UInt8[np.ndarray, "256 3"]
) -> None:
    """Writes palette[index] in a third of the memory of its colours."""
    picture = Image.fromarray(index)
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=3)
    write_file(file, buffer.getvalue())


def write_file(file: Path, content: bytes) -> None:
    """Writes a file so that it is either the old or the new one, never half of it; makes missing
    folders."""
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            temporary.write_bytes(content)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = f"free {math.ceil(len(content) / 1e6)} MB" if is_full else "mend that"
        raise DataError(
            f"{file} cannot be written: {error.strerror}; {advice} and run the same command again "
            "(what was written before is kept)"
        ) from error


def side_by_side(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
) -> UInt8[np.ndarray, "height width 3"]:
    """The pictures in a row, tops aligned, with a white gap between."""
    height = max(len(picture) for picture in pictures)
    padded = []
    for picture in pictures:
        below = height - len(picture)
        padded.append(np.pad(picture, ((0, below), (0, GAP), (0, 0)), constant_values=255))
    return np.concatenate(padded, axis=1)[:, :-GAP]


def labelled(picture: UInt8[np.ndarray, "h w 3"], text: str) -> UInt8[np.ndarray, "taller w 3"]:
    """The picture under a white strip with the text, which shrinks to fit the width."""
    width = picture.shape[1]
    size = float(np.clip(width / 22, 9, 22))
    strip = Image.new("RGB", (width, round(size * 1.6)), PAPER)
    font = ImageFont.load_default(size)
    while size > 6 and font.getlength(text) > width - 4:
        size -= 0.5
        font = ImageFont.load_default(size)
    ImageDraw.Draw(strip).text(
        (width / 2, strip.height / 2), text, fill=INK, font=font, anchor="mm"
    )
    return np.concatenate([np.asarray(strip), picture], axis=0)


@dataclass(frozen=True)
class ErrorScale:
    """How an error map becomes a picture: its name and the error that takes the brightest
    colour."""

    name: str
    top: float


def comparison(
    truth: Num[Tensor, "h w 3"] | Num[np.ndarray, "h w 3"],
    prediction: Num[Tensor, "h w 3"] | Num[np.ndarray, "h w 3"],
    error: Float[np.ndarray, "h w"],
    scale: ErrorScale,
    caption: str = "",
) -> UInt8[np.ndarray, "height width 3"]:
    """A strip truth | prediction | error, each under its label; the error in magma, black where
    equal.

    The scale of the error is fixed and written on it, so that strips of two runs can be compared by
    eye.
    """
    colors = colorize(error / scale.top, "magma")
    label = f"prediction  {caption}" if caption else "prediction"
    return side_by_side(
        [
            labelled(to_uint8(truth), "truth"),
            labelled(to_uint8(prediction), label),
            labelled(colors, f"{scale.name}, 0 to {scale.top:g}"),
        ]
    )


def contact_sheet(
    pictures: Sequence[UInt8[np.ndarray, "_ _ 3"]],
    labels: Sequence[str],
    columns: int,
    cell_width: int,
) -> UInt8[np.ndarray, "height width 3"]:
    """All pictures as labelled thumbnails of one width, row by row."""
    rows = []
    for first in range(0, len(pictures), columns):
        cells = []
        for picture, label in zip(
            pictures[first : first + columns], labels[first : first + columns], strict=True
        ):
            height = max(1, round(len(picture) * cell_width / picture.shape[1]))
            small = Image.fromarray(picture).resize((cell_width, height), Image.Resampling.BOX)
            cells.append(labelled(np.asarray(small), label))
        rows.append(side_by_side(cells))
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, GAP), (0, width - row.shape[1]), (0, 0)), constant_values=255)
        for row in rows
    ]
    return np.concatenate(padded, axis=0)[:-GAP]


def depth_range(
    depth: Float[np.ndarray, "h w"], opacity: Float[np.ndarray, "h w"] | None
) -> tuple[float, float]:
    """Nearest and farthest depth worth a colour: the 1st and 99th percentile of what is opaque and
    finite."""
    seen = depth[_is_seen(depth, opacity)]
    if seen.size == 0:
        return 0.0, 1.0
    near, far = (float(value) for value in np.percentile(seen, [1, 99]))
    return (near, far) if far > near else (near, near + max(1e-3, abs(near) * 1e-3))


def depth_colors(
    depth: Float[np.ndarray, "h w"],
    opacity: Float[np.ndarray, "h w"] | None,
    near: float,
    far: float,
) -> UInt8[np.ndarray, "h w 4"]:
    """The depth map in turbo (red near, blue far) with the opacity as alpha; transparent where
    nothing is."""
    colors = colorize((far - depth) / (far - near), "turbo")
    alpha = _is_seen(depth, None).astype(np.float32)
    if opacity is not None:
        alpha *= opacity
    return np.concatenate([colors, to_uint8(alpha)[:, :, None]], axis=2)


def save_depth(
    folder: Path,
    name: str,
    depth: Float[Tensor, "h w"] | Float[np.ndarray, "h w"],
    opacity: Float[Tensor, "h w"] | Float[np.ndarray, "h w"] | None,
) -> None:
    """Writes NAME_depth.png to look at, NAME_depth16.png to measure with, NAME_depth.json with
    their ranges.

    In the 16-bit file 0 means that the ray met nothing (opacity below one half); any other code c
    is the distance near + (far - near) (c - 1) / 65534 along the ray, in units of the trained
    scene.
    """
    z = to_array(depth).astype(np.float32)
    alpha = None if opacity is None else to_array(opacity).astype(np.float32)
    near, far = depth_range(z, alpha)
    save_png(folder / f"{name}_depth.png", depth_colors(z, alpha, near, far))
    is_seen = _is_seen(z, alpha)
    low, high = (float(z[is_seen].min()), float(z[is_seen].max())) if is_seen.any() else (0.0, 1.0)
    fraction = np.where(is_seen, (z - low) / max(high - low, 1e-12), 0.0)
    codes = np.where(is_seen, 1 + np.rint(np.clip(fraction, 0, 1) * 65534), 0)
    save_png(folder / f"{name}_depth16.png", codes.astype(np.uint16))
    write_json(
        folder / f"{name}_depth.json",
        {
            "depth": "distance along the unit ray, in units of the trained scene",
            "picture": {"near": near, "far": far, "colors": "turbo, red near, blue far"},
            "codes16": {
                "near": low,
                "far": high,
                "formula": "near + (far - near) * (code - 1) / 65534; 0 = nothing",
            },
        },
    )


def _is_seen(depth: Array, opacity: Array | None) -> Array:
    is_seen = np.isfinite(depth)
    return is_seen if opacity is None else is_seen & (opacity >= 0.5)

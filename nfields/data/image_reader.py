"""Pictures from files as 8-bit tensors: what a file holds, how it was converted, area filtering."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from nfields.errors import DataError

_SIXTEEN_BIT = "16 bits a channel: the upper 8 are used"
_GREY = "grey: the value is repeated for red, green and blue"
_PALETTE = "palette: replaced by its colours"


@dataclass(frozen=True)
class ImageHeader:
    """What the head of an image file says, before its pixels are read."""

    path: Path
    width: int
    height: int
    has_alpha: bool
    conversions: tuple[str, ...]


def read_header(path: Path) -> ImageHeader:
    """Size, alpha and needed conversions of an image file; a clear error if it is not one."""
    with open_image(path) as image:
        mode = image.mode
        has_alpha = mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info
        conversions = []
        if sixteen_bit(image):
            conversions.append(_SIXTEEN_BIT)
        if mode in ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F"):
            conversions.append(_GREY)
        if mode in ("P", "PA"):
            conversions.append(_PALETTE)
        return ImageHeader(path, image.width, image.height, has_alpha, tuple(conversions))


def open_image(path: Path) -> Image.Image:
    """The opened file, pixels not yet read; a DataError for everything that is not a picture."""
    try:
        return Image.open(path)
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: {error}; make the picture smaller before reading it.") from error
    except Exception as error:  # decoders raise anything on a damaged head
        if isinstance(error, OSError) and not isinstance(error, UnidentifiedImageError):
            raise DataError(f"{path} cannot be opened: {error}.") from error
        size = path.stat().st_size
        raise DataError(
            f"{path} is not an image that can be read ({size} bytes); allowed are PNG, JPEG and "
            "the other formats of Pillow. Copy the file again, or take its frame out."
        ) from error


def sixteen_bit(image: Image.Image) -> bool:
    """True if the file has 16 bits a channel; Pillow opens colour ones as if they had 8."""
    if image.mode.startswith("I"):
        return True
    raw_modes = [tile[3] for tile in getattr(image, "tile", ())]
    return any(str(raw).endswith((";16B", ";16L", ";16N")) for raw in raw_modes)


def read_pixels(path: Path, num_channels: int) -> np.ndarray:
    """The picture as uint8 (height, width, num_channels); 4 channels are straight RGBA, 3 RGB."""
    with open_image(path) as image:
        try:
            image.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise DataError(
                f"{path} begins like an image but cannot be decoded ({error}); it is probably cut "
                "off. Copy the file again, or take its frame out."
            ) from error
        if image.mode == "F":
            raise DataError(f"{path} holds floating-point numbers; posed images must be 8 bit.")
        if image.mode.startswith("I"):
            # Pillow's own conversion to 8 bit clips instead of scaling.
            upper = (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
            image = Image.fromarray(upper)
        return np.asarray(image.convert("RGBA" if num_channels == 4 else "RGB"))


def area_filter(pixels: np.ndarray, factor: int) -> np.ndarray:
    """The uint8 picture averaged over factor x factor blocks, rounded to nearest.

    Values are averaged as stored; colours of RGBA are weighted by their alpha, so that the colour
    of transparent pixels, which nobody sees, does not leak. Rows and columns that do not fill a
    block are cut from the right and the bottom.
    """
    if factor == 1:
        return pixels
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    pixels = pixels[: height * factor, : width * factor]
    offsets = [(i, j) for i in range(factor) for j in range(factor)]
    num_channels = pixels.shape[2]
    if num_channels == 4:
        weighted = pixels.astype(np.uint32)
        weighted[..., :3] *= weighted[..., 3:]
        pixels = weighted
    total = np.zeros((height, width, num_channels), dtype=np.uint32)
    for i, j in offsets:
        total += pixels[i::factor, j::factor]
    count = len(offsets)
    if num_channels == 4:
        alpha = total[..., 3:]
        color = (2 * total[..., :3] + alpha) // np.maximum(2 * alpha, 1)
        total = np.concatenate([color, (2 * alpha + count) // (2 * count)], axis=2)
    else:
        total = (2 * total + count) // (2 * count)
    return total.astype(np.uint8)


def read_images(
    headers: Sequence[ImageHeader], num_channels: int, downscale: int
) -> list[UInt8[Tensor, "height width channels"]]:
    """The pictures of files, area-filtered, decoded in threads into one block of memory."""
    sizes = [(header.height // downscale, header.width // downscale) for header in headers]
    for header, (height, width) in zip(headers, sizes, strict=True):
        if height < 1 or width < 1:
            raise DataError(
                f"{header.path} has {header.width} x {header.height} pixels, nothing is left with "
                f"data.downscale={downscale}; lower it to at most "
                f"{min(header.width, header.height)}."
            )
    counts = [height * width for height, width in sizes]
    block = torch.zeros(sum(counts), num_channels, dtype=torch.uint8)
    images = [
        part.view(height, width, num_channels)
        for part, (height, width) in zip(block.split(counts), sizes, strict=True)
    ]

    def decode(header: ImageHeader, image: Tensor) -> None:
        image.numpy()[...] = area_filter(read_pixels(header.path, num_channels), downscale)

    # Pillow decodes without the interpreter lock; more threads than cores only cost memory.
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(decode, headers, images):
            pass
    return images


def conversion_notes(headers: Sequence[ImageHeader]) -> list[str]:
    """One sentence for each kind of conversion: how many pictures, and the first one's name."""
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for header in headers:
        for conversion in header.conversions:
            counts[conversion] += 1
            first.setdefault(conversion, header.path.name)
    return [
        f"{counts[conversion]} of {len(headers)} pictures are {conversion} (first: {name})"
        for conversion, name in first.items()
    ]

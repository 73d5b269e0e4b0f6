"""One picture of any kind from its file, with all the bits it has.

OpenImageIO says how deep a file is. 8-bit pictures are decoded by Pillow, as everywhere here;
16-bit and floating-point ones (PNG, TIFF, EXR, HDR, ...) by OpenImageIO, since Pillow halves the
bits of the former and knows few of the latter; what neither opens goes to imageio, which finds the
plugin that does.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import imageio.v3 as imageio
import numpy as np
import OpenImageIO as oiio
from jaxtyping import Shaped
from PIL import Image, ImageOps, UnidentifiedImageError

from nfields.data.image_reader import sixteen_bit
from nfields.errors import DataError

_ALLOWED = (
    "allowed are pictures with 8 or 16 bits or floats a channel: PNG, JPEG, TIFF, EXR, HDR and "
    "what else Pillow, OpenImageIO or imageio read"
)
# What has to be done to the stored rows and columns to see the picture upright (EXIF orientation):
# transpose, then flip rows, then flip columns.
_TURNS = {
    1: (False, False, False), 2: (False, False, True), 3: (False, True, True),
    4: (False, True, False), 5: (True, False, False), 6: (True, False, True),
    7: (True, True, True), 8: (True, True, False),
}  # fmt: skip


@dataclass(frozen=True)
class StoredPicture:
    """The codes of a file: 1 (grey), 3 (RGB) or 4 (RGBA, straight alpha) channels.

    uint8 and uint16 are sRGB values, float16 and float32 linear light, finite.
    """

    codes: Shaped[np.ndarray, "height width channels"]
    notes: list[str] = field(default_factory=list)

    @property
    def is_linear(self) -> bool:
        return self.codes.dtype.kind == "f"


def read_picture(path: Path) -> StoredPicture:
    """The picture in a file; a DataError that names the file for everything that is none."""
    if not path.is_file():
        raise DataError(f"data.path={path} is no file; give a picture (PNG, JPEG, TIFF, EXR, ...).")
    with _opened(path) as source:
        is_deep = source is not None and str(source.spec().format) != "uint8"
        # Pillow would open a deep picture too, and halve its bits without a word.
        picture = None if is_deep else _with_pillow(path)
        if picture is None and source is not None:
            try:
                picture = _with_openimageio(path, source)
            except UnicodeDecodeError as error:  # names in a damaged head
                _damaged(path, error)
    picture = picture or _with_imageio(path)
    height, width, num_channels = picture.codes.shape
    if picture.codes.size == 0:
        raise DataError(f"{path} has {width} x {height} pixels; there must be at least one.")
    assert num_channels in (1, 3, 4)
    _check_finite(picture.codes, path)
    return picture


def _with_pillow(path: Path) -> StoredPicture | None:
    """The picture if it has 8 bits a channel; None if another reader has to take it."""
    try:
        image = Image.open(path)
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be opened: {error}.") from error
    except Exception as error:  # whatever a decoder makes of a damaged head
        _damaged(path, error)
    with image:
        if image.mode == "F" or sixteen_bit(image):  # of a kind that OpenImageIO does not open
            return None
        notes = []
        num_frames = getattr(image, "n_frames", 1)
        if num_frames > 1:
            notes.append(f"{path.name} has {num_frames} pictures: the first is used")
        try:
            image.load()
            turned = ImageOps.exif_transpose(image)
            mode = _target_mode(turned)
            pixels = np.asarray(turned if turned.mode == mode else turned.convert(mode))
        except Exception as error:  # decoders raise anything on damaged files
            _damaged(path, error)
    return StoredPicture(pixels.reshape(*pixels.shape[:2], -1), notes)


def _target_mode(image: Image.Image) -> str:
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        return "RGBA"
    return "L" if image.mode in ("1", "L") else "RGB"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file opened by OpenImageIO, alpha as stored; None if it cannot."""
    config = oiio.ImageSpec()
    config.attribute("oiio:UnassociatedAlpha", 1)
    source: Any = oiio.ImageInput.open(str(path), config)
    _error(oiio)  # takes it, or the library prints it at the end of the program
    try:
        yield source
    finally:
        if source is not None:
            source.close()


def _with_openimageio(path: Path, source: Any) -> StoredPicture:
    spec = source.spec()
    first, last = _channels(path, [str(name) for name in spec.channelnames], spec.alpha_channel)
    kind, notes = str(spec.format), []
    wanted = {"double": "float"}.get(kind, kind)
    if wanted not in ("uint8", "uint16", "half", "float"):
        wanted = "uint16"
        notes.append(f"{path.name} holds {kind}: the upper 16 bits are used")
    codes = source.read_image(0, 0, first, last, wanted)
    if codes is None:
        _damaged(path, _error(source))
    is_straight = spec.get_int_attribute("oiio:UnassociatedAlpha", 0) != 0
    orientation = spec.get_int_attribute("Orientation", 1)
    if source.seek_subimage(1, 0):
        notes.append(f"{path.name} has several pictures: the first is used")
    _error(source)
    codes = codes.reshape(spec.height, spec.width, -1)
    if codes.shape[2] == 2:
        codes = codes[..., [0, 0, 0, 1]]
    if codes.shape[2] == 4 and not is_straight:
        codes = _straight(codes)
    transpose, flip_rows, flip_columns = _TURNS.get(orientation, _TURNS[1])
    codes = codes.transpose(1, 0, 2) if transpose else codes
    codes = codes[:: -1 if flip_rows else 1, :: -1 if flip_columns else 1]
    return StoredPicture(np.ascontiguousarray(codes), notes)


def _error(library: Any) -> str:
    """The last error of OpenImageIO, or of one of its files; it may quote bytes of the file."""
    try:
        return library.geterror().strip()
    except UnicodeDecodeError as error:
        return str(error)


def _channels(path: Path, names: Sequence[str], alpha: int) -> tuple[int, int]:
    """First and last + 1 of the channels to read: red, green, blue (alpha), or grey (alpha)."""
    lower = [name.lower() for name in names]
    for wanted in (["r", "g", "b", "a"], ["r", "g", "b"], ["y", "a"], ["y"]):
        for first in range(len(lower) - len(wanted) + 1):
            if lower[first : first + len(wanted)] == wanted:
                return first, first + len(wanted)
    count = len(names)
    if count in (1, 3) or (count in (2, 4) and alpha == count - 1):
        return 0, count
    raise DataError(
        f"{path} has the channels {', '.join(names)}; allowed are grey, RGB and RGBA. "
        "Take out the channels to fit with a picture program."
    )


def _straight(codes: np.ndarray) -> np.ndarray:
    """RGBA with colours divided by alpha; colour without any alpha (a glow) stays as it is."""
    top = 1.0 if codes.dtype.kind == "f" else float(np.iinfo(codes.dtype).max)
    alpha = codes[..., 3:]
    if (alpha == top).all():
        return codes
    is_seen = alpha > 0
    if codes.dtype.kind == "f":
        color = codes[..., :3].astype(np.float32) / np.where(is_seen, alpha, 1)
        return np.concatenate([color, alpha.astype(np.float32)], axis=2)
    color = codes[..., :3] * (top / np.where(is_seen, alpha, top))
    return np.concatenate([np.rint(np.minimum(color, top)).astype(codes.dtype), alpha], axis=2)


def _with_imageio(path: Path) -> StoredPicture:
    try:
        # Not from the path: plugins that give up leave the file open.
        codes = np.asarray(imageio.imread(path.read_bytes(), extension=path.suffix or ".png"))
    except Exception as error:  # any plugin, any error
        size = path.stat().st_size
        raise DataError(
            f"{path} is not an image that can be read ({size} bytes); {_ALLOWED}. Copy the file "
            "again, or save it as PNG."
        ) from error
    if codes.ndim == 2:
        codes = codes[..., None]
    if codes.ndim != 3 or codes.shape[2] not in (1, 3, 4):
        raise DataError(
            f"{path} holds an array {codes.shape}; allowed is (height, width) or (height, width, "
            "channels) with 1, 3 or 4 channels. Save one picture of it as PNG or EXR."
        )
    if codes.dtype.kind == "f":
        codes = codes if codes.dtype == np.float16 else codes.astype(np.float32)
    elif codes.dtype not in (np.uint8, np.uint16):
        raise DataError(f"{path} holds {codes.dtype}; {_ALLOWED}. Save it as a 16-bit PNG.")
    return StoredPicture(np.ascontiguousarray(codes))


def _check_finite(codes: np.ndarray, path: Path) -> None:
    if codes.dtype.kind != "f":
        return
    bad = np.array([int((~np.isfinite(row)).any(axis=1).sum()) for row in codes])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        column = int(np.flatnonzero(~np.isfinite(codes[row]).all(axis=1))[0])
        raise DataError(
            f"{path}: {bad.sum():,} of {bad.size * codes.shape[1]:,} pixels are NaN or infinite, "
            f"the first at column {column}, row {row} ({codes[row, column]}); all must be finite. "
            "Replace them with a picture program, or crop them away."
        )


def _damaged(path: Path, reason: object) -> NoReturn:
    text = f"{path} begins like an image but cannot be decoded ({reason}); it is probably cut off."
    raise DataError(f"{text} Copy the file again.") from (
        reason if isinstance(reason, Exception) else None
    )

"""images/, images_2/, images_4/, ...: which folder holds the pictures of a size.

COLMAP and LLFF data sets come with copies of their pictures at 1/2, 1/4, 1/8 of the size.
data.downscale counts from the largest there are; a folder of just the size wanted is taken as it
is, as published results do, else a larger one is averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nfields.data.camera_file import find_image
from nfields.data.image_reader import ImageHeader, read_header
from nfields.errors import DataError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp"}


@dataclass(frozen=True)
class ImageFolder:
    """Where pictures are: factor times smaller than the cameras', to be averaged by downscale."""

    path: Path
    factor: int
    downscale: int
    notes: list[str]


def choose_folder(folder: Path, downscale: int) -> ImageFolder:
    """The best of images/, images_K/ for a downscale; the folder itself if it holds pictures."""
    factors = {}
    for path in sorted(folder.glob("images*")):
        factor = "1" if path.name == "images" else path.name.removeprefix("images_")
        if path.is_dir() and factor.isdecimal() and int(factor) >= 1:
            factors[int(factor)] = path
    if not factors:
        if list_pictures(folder):
            return ImageFolder(folder, 1, downscale, [])
        raise DataError(f"{folder} has no folder images/ (or images_2/, images_4/, ...).")
    largest = min(factors)
    wanted = largest * downscale
    factor = max(factor for factor in factors if wanted % factor == 0)
    notes = []
    if largest > 1:
        notes.append(
            f"images/ is not there: data.downscale counts from {factors[largest].name}/, the "
            "largest pictures there are"
        )
    if factor > largest:
        notes.append(f"pictures are those of {factors[factor].name}/")
    return ImageFolder(factors[factor], factor, wanted // factor, notes)


def list_pictures(folder: Path) -> list[Path]:
    """All pictures under a folder, by name."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)


def find_pictures(
    names: list[str], place: ImageFolder, *, allow_outside: bool, where: str
) -> Sequence[Path | None]:
    """The file of each name; None where there is none.

    By name, else by the name without suffix; where no name fits and there are as many files as
    names, in the order of both (downscaled copies are sometimes renamed).
    """
    found: list[Path | None] = [
        find_image(place.path, name, allow_outside, f"{where} ({name})") for name in names
    ]
    if place.factor > 1 and not any(found):
        files = list_pictures(place.path)
        by_stem = {str(path.relative_to(place.path).with_suffix("")): path for path in files}
        found = [by_stem.get(str(Path(name).with_suffix(""))) for name in names]
        if not any(found) and len(files) == len(names):
            in_order = dict(zip(sorted(names), files, strict=True))
            found = [in_order[name] for name in names]
    return found


def scale_to(
    path: Path, width: int, height: int, factor: int
) -> tuple[ImageHeader, tuple[float, float]]:
    """The head of a picture, and its size divided by that of its camera, checked."""
    header = read_header(path)
    for found, said in ((header.width, width), (header.height, height)):
        if abs(found * factor - said) >= factor:  # copies are cut or rounded by less than a pixel
            raise DataError(
                f"{path} has {header.width} x {header.height} pixels; its camera has {width} x "
                f"{height}"
                + (f", of which 1/{factor} was expected" if factor > 1 else "")
                + "; use the pictures the cameras were computed from (data.downscale makes them "
                "smaller)."
            )
    return header, (header.width / width, header.height / height)

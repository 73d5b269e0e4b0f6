"""NSVF: intrinsics.txt, bbox.txt, pose/NAME.txt and rgb/NAME.png, split by the first letter.

Names begin with 0_ (train), 1_ (val) or 2_ (test). Poses are camera to world in OpenCV's axes
(x right, y down, z forward). Our box is theirs, its longest side from -1 to 1
(https://github.com/facebookresearch/NSVF).
"""

from pathlib import Path

import numpy as np

from nfields.data.camera_file import View, find_image, missing_note, read_pose
from nfields.data.image_reader import read_header
from nfields.data.image_folders import list_pictures
from nfields.data.posed_images import PosedImages, SceneTransform, check_downscale
from nfields.data.posed_views import assemble
from nfields.errors import DataError

EXPECTED = "intrinsics.txt, bbox.txt, pose/ and rgb/ with files 0_*, 1_*, 2_* (NSVF)"

_SPLITS = {"0_": "train", "1_": "val", "2_": "test"}


def matches(path: Path) -> bool:
    """True for a folder with intrinsics.txt, pose/ and rgb/."""
    return (path / "intrinsics.txt").is_file() and (path / "pose").is_dir()


def read(*, path: str, downscale: int, holdout: int, allow_outside: bool) -> PosedImages:
    """The scene; holdout is not needed, the names have the split."""
    return read_nsvf(path=path, downscale=downscale)


def read_nsvf(*, path: str, downscale: int) -> PosedImages:
    """The scene in a folder; without 2_ files, 1_ is the test split."""
    check_downscale(downscale)
    folder = Path(path)
    for name in ("intrinsics.txt", "bbox.txt"):
        if not (folder / name).is_file():
            raise DataError(f"{folder / name} does not exist; an NSVF scene has {EXPECTED}.")
    focal, center, size = _intrinsics(folder / "intrinsics.txt")
    views: dict[str, list[View]] = {"train": [], "val": [], "test": []}
    missing = []
    poses = sorted(file for file in (folder / "pose").glob("*.txt"))
    for file in poses:
        split = _SPLITS.get(file.name[:2])
        if split is None:
            raise DataError(
                f"{file}: the name must begin with 0_ (train), 1_ (val) or 2_ (test)."
            )
        picture = find_image(folder / "rgb", file.stem, False, str(file))
        if picture is None:
            missing.append(file.stem)
            continue
        header = read_header(picture)
        scale = (1.0, 1.0) if size is None else (header.width / size[0], header.height / size[1])
        middle = (0.5 * header.width, 0.5 * header.height)
        views[split].append(
            View(
                name=f"rgb/{picture.name}",
                header=header,
                camera_to_world=_pose(file),
                focal=(focal[0] * scale[0], focal[1] * scale[1]),
                center=middle
                if center is None
                else (center[0] * scale[0], center[1] * scale[1]),
                distortion=(0.0, 0.0, 0.0, 0.0),
            )
        )
    if not views["test"]:
        views["test"] = views.pop("val")
    num = sum(map(len, views.values()))
    notes = missing_note(missing, num, folder / "pose") if num else []
    for split in ("train", "test"):
        if not views[split]:
            raise DataError(
                f"{folder}: split {split!r} is empty: of {len(poses)} files in pose/, {num} have a "
                f"picture in rgb/, and none of those begins with {'0_' if split == 'train' else '1_ or 2_'}."
            )
    unposed = [p.name for p in list_pictures(folder / "rgb") if not (folder / "pose" / f"{p.stem}.txt").is_file()]
    if unposed:
        notes.append(f"{len(unposed)} pictures in rgb/ have no pose (first: {unposed[0]})")
    return assemble(
        {split: chosen for split, chosen in views.items() if chosen},
        path=folder / "pose",
        downscale=downscale,
        transform=_transform(folder / "bbox.txt"),
        aabb_scale=1,
        near=0.0,
        source=f"NSVF scene {folder.resolve().name}",
        notes=notes,
        missing=missing,
    )


def _numbers(file: Path) -> list[list[float]]:
    """The numbers of each line that is not empty."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        rows = [[float(word) for word in line.split()] for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise DataError(f"{file} must hold numbers only ({error}).") from error
    if not all(np.isfinite(value) for row in rows for value in row):
        raise DataError(f"{file}: all numbers must be finite.")
    return rows


def _intrinsics(
    file: Path,
) -> tuple[tuple[float, float], tuple[float, float] | None, tuple[float, float] | None]:
    """Focal lengths, principal point and picture size, the last two None where not given.

    Either a 4 x 4 matrix, or a first line "f cx cy ..." and a last one "height width".
    """
    rows = _numbers(file)
    if len(rows) >= 3 and all(len(row) >= 3 for row in rows[:3]) and rows[2][2] == 1:
        focal, center = (rows[0][0], rows[1][1]), (rows[0][2], rows[1][2])
        size = None
    elif rows and len(rows[0]) >= 3:
        focal, center = (rows[0][0], rows[0][0]), (rows[0][1], rows[0][2])
        has_size = len(rows) > 1 and len(rows[-1]) == 2 and min(rows[-1]) >= 1
        size = (rows[-1][1], rows[-1][0]) if has_size else None
    else:
        raise DataError(
            f"{file} must be a 4 x 4 matrix of intrinsics, or begin with a line 'focal cx cy 0'."
        )
    if min(focal) <= 0:
        raise DataError(f"{file}: the focal length {focal} must be positive, in pixels.")
    return focal, center, size


def _pose(file: Path) -> np.ndarray:
    pose = read_pose({"transform_matrix": _numbers(file)}, str(file))
    return pose * np.array([1.0, -1.0, -1.0, 1.0])


def _transform(file: Path) -> SceneTransform:
    rows = _numbers(file)
    if not rows or len(rows[0]) < 6:
        raise DataError(f"{file} must hold xmin ymin zmin xmax ymax zmax (and a voxel size).")
    low, high = np.array(rows[0][:3]), np.array(rows[0][3:6])
    if not (high > low).all():
        raise DataError(f"{file}: the box from {low.tolist()} to {high.tolist()} is empty.")
    scale = 2 / float((high - low).max())
    x, y, z = (float(value) for value in -scale * (low + high) / 2)
    return SceneTransform(scale, (x, y, z))

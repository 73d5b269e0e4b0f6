"""COLMAP's sparse models: cameras, images and points from .bin or .txt, every field checked.

Format: https://colmap.github.io/format.html. Poses are world to camera, x_c = R(q) x + t, in
OpenCV's axes; pixel positions as ours.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float, Int

from nfields.errors import DataError
from nfields.render.lenses import FISHEYE, PERSPECTIVE

PARTS = ("cameras", "images", "points3D")
# Number and name of COLMAP's camera models, and how many parameters each has.
_MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
    5: ("OPENCV_FISHEYE", 8),
    6: ("FULL_OPENCV", 12),
    7: ("FOV", 5),
    8: ("SIMPLE_RADIAL_FISHEYE", 4),
    9: ("RADIAL_FISHEYE", 5),
    10: ("THIN_PRISM_FISHEYE", 12),
}
_NUM_PARAMETERS = dict(_MODELS.values())
# Where focal lengths and principal point stand: f cx cy, or fx fy cx cy.
_ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_UNKNOWN_LENSES = ("FOV", "THIN_PRISM_FISHEYE")


@dataclass(frozen=True)
class ColmapCamera:
    """Intrinsics in pixels of a picture of width x height; lens as in render/lenses.py."""

    width: int
    height: int
    focal: tuple[float, float]
    center: tuple[float, float]
    lens: int
    distortion: tuple[float, float, float, float]


@dataclass(frozen=True)
class ColmapImage:
    """A registered picture: pose world to camera (OpenCV axes), camera, the points it sees."""

    name: str
    quaternion: tuple[float, ...]  # w x y z
    translation: tuple[float, ...]
    camera_id: int
    point_ids: Int[np.ndarray, " points"]
    pixels: Float[np.ndarray, "points 2"]  # where it sees them, x y, as our pixel positions


@dataclass(frozen=True)
class ColmapModel:
    """A sparse model; `points` has a row for each of `point_ids`, which are sorted."""

    cameras: dict[int, ColmapCamera]
    images: list[ColmapImage]
    point_ids: Int[np.ndarray, " n"]
    points: Float[np.ndarray, "n 3"]

    def seen_by(
        self, image: ColmapImage
    ) -> tuple[Float[np.ndarray, "seen 3"], Float[np.ndarray, "seen 2"]]:
        """The points of an image and the pixels it sees them at; numbers of points that the model
        does not have are passed over.
        """
        if len(self.point_ids) == 0 or len(image.point_ids) == 0:
            return np.zeros((0, 3)), np.zeros((0, 2))
        index = np.searchsorted(self.point_ids, image.point_ids)
        index = index.clip(max=len(self.point_ids) - 1)
        is_known = self.point_ids[index] == image.point_ids
        return self.points[index[is_known]], image.pixels[is_known]


def suffix_of(folder: Path) -> str | None:
    """".bin" or ".txt" if the folder holds a model of that kind, else None; .bin wins."""
    for suffix in (".bin", ".txt"):
        if all((folder / f"{part}{suffix}").is_file() for part in ("cameras", "images")):
            return suffix
    return None


def read_model(folder: Path) -> ColmapModel:
    """The model in a folder; points3D may be missing."""
    suffix = suffix_of(folder)
    if suffix is None:
        raise DataError(f"{folder} has no cameras and images (.bin or .txt) of COLMAP.")
    files = {part: folder / f"{part}{suffix}" for part in PARTS}
    if suffix == ".bin":
        cameras = _Binary.read(files["cameras"], _read_camera)
        images = _Binary.read(files["images"], _read_image)
        found = _Binary.read(files["points3D"], _read_point) if files["points3D"].is_file() else []
    else:
        cameras = [_text_camera(*line) for line in _lines(files["cameras"])]
        images = _text_images(files["images"])
        found = (
            [_text_point(*line) for line in _lines(files["points3D"])]
            if files["points3D"].is_file()
            else []
        )
    by_id = dict(cameras)
    if not images:
        raise DataError(
            f"{files['images']} lists no image: the reconstruction failed. Match the pictures "
            "again, with more overlap between neighbours."
        )
    for image in images:
        if image.camera_id not in by_id:
            raise DataError(
                f"{files['images']}: {image.name} has camera {image.camera_id}, which "
                f"{files['cameras'].name} does not list (it has {sorted(by_id)[:6]}); the files "
                "are of different models."
            )
    names = {image.name for image in images}
    if len(names) < len(images):
        twin = next(name for name in names if sum(image.name == name for image in images) > 1)
        raise DataError(f"{files['images']}: {twin} is listed more than once; export it again.")
    found.sort(key=lambda point: point[0])
    return ColmapModel(
        by_id,
        images,
        np.array([number for number, _ in found], dtype=np.int64),
        np.array([place for _, place in found], dtype=np.float64).reshape(-1, 3),
    )


def make_camera(
    model: str, width: int, height: int, parameters: tuple[float, ...], where: str
) -> ColmapCamera:
    """The camera of a COLMAP model name and its parameters."""
    wanted = _NUM_PARAMETERS.get(model)
    if wanted is None or model in _UNKNOWN_LENSES:
        raise DataError(
            f"{where}: camera model {model} is not known here; known are "
            f"{', '.join(name for name in _NUM_PARAMETERS if name not in _UNKNOWN_LENSES)}. "
            "Undistort the pictures first (colmap image_undistorter)."
        )
    if len(parameters) != wanted:
        raise DataError(
            f"{where}: {model} has {len(parameters)} parameters and must have {wanted}."
        )
    if not np.isfinite(parameters).all():
        raise DataError(f"{where}: parameters {list(parameters)} must be finite numbers.")
    if model in _ONE_FOCAL:
        focal, center = (parameters[0], parameters[0]), parameters[1:3]
        rest = parameters[3:]
    else:
        focal, center = (parameters[0], parameters[1]), parameters[2:4]
        rest = parameters[4:]
    if width < 1 or height < 1 or not min(focal) > 0:
        raise DataError(
            f"{where}: size {width} x {height} and focal length {focal} must be positive."
        )
    if model == "FULL_OPENCV":
        if any(rest[4:]):
            raise DataError(
                f"{where}: FULL_OPENCV with k3..k6 = {list(rest[4:])} is a lens nfields does not "
                "have; undistort the pictures first (colmap image_undistorter)."
            )
        rest = rest[:4]
    k1, k2, k3, k4 = (*rest, 0.0, 0.0, 0.0, 0.0)[:4]
    lens = FISHEYE if "FISHEYE" in model else PERSPECTIVE
    return ColmapCamera(width, height, focal, (center[0], center[1]), lens, (k1, k2, k3, k4))


class _Binary:
    """A file read field by field; an end too early is the user's error, with the place."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream = path, stream
        self.size = path.stat().st_size
        self.what = "its head"

    def take(self, num_bytes: int) -> bytes:
        # A damaged count would ask for more memory than there is.
        if num_bytes > self.size - self.stream.tell():
            raise DataError(
                f"{self.path} ends after {self.size} bytes, in the middle of {self.what}; it is "
                "cut off. Copy it again or export the model again."
            )
        return self.stream.read(num_bytes)

    def unpack(self, layout: str) -> tuple:
        return struct.unpack("<" + layout, self.take(struct.calcsize("<" + layout)))

    @staticmethod
    def read(path: Path, read_entry) -> list:
        """The entries of a file: their number, then one after the other."""
        with path.open("rb") as stream:
            file = _Binary(path, stream)
            (num,) = file.unpack("Q")
            entries = []
            for i in range(num):
                file.what = f"entry {i + 1} of {num}"
                entries.append(read_entry(file))
            return entries


def _read_camera(file: _Binary) -> tuple[int, ColmapCamera]:
    number, model_id, width, height = file.unpack("iiQQ")
    where = f"{file.path}: camera {number}"
    if model_id not in _MODELS:
        raise DataError(
            f"{where}: camera model number {model_id} is not one of COLMAP's "
            f"{', '.join(f'{k} {name}' for k, (name, _) in _MODELS.items())}; the file is damaged "
            "or newer than nfields."
        )
    name, num = _MODELS[model_id]
    return number, make_camera(name, width, height, file.unpack(f"{num}d"), where)


def _read_image(file: _Binary) -> ColmapImage:
    _, *pose, camera_id = file.unpack("i7di")
    name = bytearray()
    while (byte := file.take(1)) != b"\0":
        name += byte
    (num,) = file.unpack("Q")
    points = np.frombuffer(
        file.take(24 * num), dtype=[("x", "<f8"), ("y", "<f8"), ("id", "<i8")]
    )
    pixels = np.stack([points["x"], points["y"]], axis=1)
    text = name.decode("utf-8", errors="replace")
    return _make_image(text, tuple(pose), camera_id, points["id"], pixels, str(file.path))


def _read_point(file: _Binary) -> tuple[int, tuple[float, float, float]]:
    number, x, y, z, _, _, _, _, num = file.unpack("Q3d3BdQ")
    file.take(8 * num)
    return number, _place((x, y, z), f"{file.path}: point {number}")


def _make_image(
    name: str,
    pose: tuple[float, ...],
    camera_id: int,
    ids: np.ndarray,
    pixels: np.ndarray,
    where: str,
) -> ColmapImage:
    """An image; ids below 0 are pixels without a point."""
    quaternion, translation = pose[:4], pose[4:]
    length = float(np.linalg.norm(quaternion))
    if not np.isfinite(pose).all() or not 0.9 < length < 1.1:
        raise DataError(
            f"{where}: the pose of {name} is q={list(quaternion)}, t={list(translation)}; a unit "
            "quaternion and finite numbers are wanted. Export the model again."
        )
    unit = tuple(value / length for value in quaternion)
    has_point = (ids >= 0) & np.isfinite(pixels).all(axis=1)
    ids = ids[has_point].astype(np.int64)
    return ColmapImage(name, unit, translation, camera_id, ids, pixels[has_point])


def _place(values: tuple[float, float, float], where: str) -> tuple[float, float, float]:
    if not np.isfinite(values).all():
        raise DataError(f"{where}: {list(values)} must be finite numbers.")
    return values


def _lines(path: Path, keep_empty: bool = False) -> list[tuple[str, str]]:
    """Where each line stands ("file, line 3") and its text, without comments."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as text: {error}.") from error
    lines = [
        (f"{path}, line {i + 1}", line.strip())
        for i, line in enumerate(text.splitlines())
        if not line.lstrip().startswith("#")
    ]
    return lines if keep_empty else [line for line in lines if line[1]]


def _text_camera(where: str, line: str) -> tuple[int, ColmapCamera]:
    words = line.split()
    try:
        number, width, height = int(words[0]), int(words[2]), int(words[3])
        parameters = tuple(float(word) for word in words[4:])
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{where}: {line[:60]!r} must be CAMERA_ID MODEL WIDTH HEIGHT PARAMETERS..."
        ) from error
    return number, make_camera(words[1], width, height, parameters, where)


def _text_images(path: Path) -> list[ColmapImage]:
    """Two lines an image; the second may be empty, so empty lines count there."""
    images = []
    lines = iter(_lines(path, keep_empty=True))
    for where, line in lines:
        if not line:
            continue
        words = line.split(maxsplit=9)
        _, observations = next(lines, ("", ""))
        try:
            pose = tuple(float(word) for word in words[1:8])
            camera_id, name = int(words[8]), words[9]
            observed = np.array(observations.split(), dtype=np.float64).reshape(-1, 3)
        except (ValueError, IndexError) as error:
            raise DataError(
                f"{where}: {line[:60]!r} must be IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, "
                "and the line below X Y POINT3D_ID ..."
            ) from error
        images.append(
            _make_image(name, pose, camera_id, observed[:, 2], observed[:, :2], where)
        )
    return images


def _text_point(where: str, line: str) -> tuple[int, tuple[float, float, float]]:
    words = line.split()
    try:
        number, (x, y, z) = int(words[0]), (float(word) for word in words[1:4])
    except (ValueError, IndexError) as error:
        raise DataError(
            f"{where}: {line[:60]!r} must be POINT3D_ID X Y Z R G B ERROR TRACK..."
        ) from error
    return number, _place((x, y, z), where)

"""What the json files of posed images say: checked numbers, poses, lenses and image paths.

NeRF-synthetic, instant-ngp and nerfstudio share this format; `blender` and `transforms` differ in
splits and units only. Every message names the file, the frame, the key, what was found and a fix.
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nfields.data.image_reader import ImageHeader, read_header
from nfields.data.pixel_file import DepthFile, MaskFile, PointDepths
from nfields.errors import DataError
from nfields.render.lenses import EQUIRECTANGULAR, FISHEYE, PERSPECTIVE

# Largest entry of R R^T - I: float32 poses of real data sets stay below 1e-5, rounded ones below
# this.
_ROTATION_TOLERANCE = 1e-3
_SUFFIXES = ("", ".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG", ".webp")
_LENS_KEYS = ("k1", "k2", "p1", "p2")


@dataclass(frozen=True)
class View:
    """One frame with an image: pose in the user's frame, intrinsics in pixels of the file."""

    name: str
    header: ImageHeader
    camera_to_world: np.ndarray  # (3, 4) float64, rotation made exactly orthonormal
    focal: tuple[float, float]
    center: tuple[float, float]
    distortion: tuple[float, ...]
    lens: int = PERSPECTIVE
    mask: MaskFile | None = None
    depth: DepthFile | PointDepths | None = None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a json file."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not valid json: {error.msg} at line {error.lineno}, column {error.colno}. "
            "It may be cut off or edited by hand; export it again."
        ) from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as json text: {error}.") from error
    if not isinstance(meta, dict):
        raise DataError(
            f"{path} holds a json {type(meta).__name__}; wanted is an object with the key 'frames'."
        )
    return meta


def read_frames(path: Path, meta: dict[str, Any]) -> list[dict[str, Any]]:
    """The frames of a file: objects with file_path, a text, each; at least one."""
    frames = meta.get("frames")
    if not isinstance(frames, list) or not frames:
        found = "no key 'frames'" if frames is None else f"frames={_shorten(frames)}"
        raise DataError(
            f"{path} has {found}; wanted is a list with an object for every picture. "
            "Is this the transforms file of the data set?"
        )
    for i, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise DataError(f"{path}: frames[{i}]={_shorten(frame)} must be an object.")
        name = frame.get("file_path")
        if not isinstance(name, str) or not name or "\0" in name:
            raise DataError(
                f"{path}: frames[{i}].file_path={_shorten(name)} must be the path of a picture "
                "relative to the folder of this file."
            )
    return frames


def read_views(
    path: Path, meta: dict[str, Any], *, allow_outside: bool
) -> tuple[list[View], list[str]]:
    """The frames of a file that have an image, and the names of those that have none.

    An error if none has.
    """
    views, missing = [], []
    for i, frame in enumerate(read_frames(path, meta)):
        where = f"{path}: frames[{i}] ({frame['file_path']})"
        image_path = find_image(path.parent, frame["file_path"], allow_outside, where)
        name = clean_name(frame["file_path"])
        if image_path is None:
            missing.append(name)
            continue
        header = read_header(image_path)
        lens, distortion = read_lens(frame, meta, where)
        if lens == EQUIRECTANGULAR:  # a whole panorama, whatever focal length exporters write
            focal = (header.width / (2 * math.pi), header.height / math.pi)
            center = (0.5 * header.width, 0.5 * header.height)
        else:
            focal, center = read_intrinsics(frame, meta, header, where)
        views.append(
            View(
                name=name,
                header=header,
                camera_to_world=read_pose(frame, where),
                focal=focal,
                center=center,
                distortion=distortion,
                lens=lens,
                mask=_find_mask(path.parent, frame, image_path, allow_outside, where),
                depth=_find_depth(path.parent, frame, meta, allow_outside, where),
            )
        )
    if not views:
        raise DataError(
            f"{path}: none of its {len(missing)} frames has an image file (looked for "
            f"{path.parent / missing[0]} first); put the pictures beside this file or correct "
            "file_path."
        )
    return views, missing


def missing_note(missing: list[str], num_views: int, path: Path) -> list[str]:
    """A sentence about frames without an image, or nothing."""
    if not missing:
        return []
    return [
        f"{len(missing)} of {len(missing) + num_views} frames of {path.name} have no image file "
        f"and are skipped (first: {missing[0]})"
    ]


def clean_name(file_path: str) -> str:
    """The relative path of a frame with forward slashes and without ./ in front."""
    return os.path.normpath(file_path.replace("\\", "/"))


def find_image(folder: Path, file_path: str, allow_outside: bool, where: str) -> Path | None:
    """The image file of a frame, with or without its suffix in file_path; None if it is missing.

    A path that leaves the folder (absolute, or by ..) is refused unless allow_outside: a data set
    from elsewhere has no business with other files. `..` is resolved in the text, before links.
    """
    name = clean_name(file_path)
    is_outside = Path(name).is_absolute() or name.split("/")[0] == ".."
    if is_outside and Path(os.path.normpath(folder / name)).is_relative_to(
        os.path.normpath(folder)
    ):
        is_outside = False
    if is_outside and not allow_outside:
        raise DataError(
            f"{where}: file_path leaves the data folder {folder}; if you trust this file set "
            "data.allow_outside=true, else copy the pictures into the folder."
        )
    for suffix in _SUFFIXES:
        path = Path(os.path.normpath(folder / (name + suffix)))
        if path.is_file():
            return path
    return None


def read_pose(frame: dict[str, Any], where: str) -> np.ndarray:
    """transform_matrix as float64 (3, 4), camera to world, its rotation exactly orthonormal."""
    key = "transform_matrix"
    if key not in frame:
        raise DataError(f"{where} has no {key}; every frame needs its 4x4 camera-to-world matrix.")
    try:
        matrix = np.array(frame[key], dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        matrix = np.zeros(0)
    if matrix.shape not in ((3, 4), (4, 4)):
        raise DataError(
            f"{where}: {key}={_shorten(frame[key])} must be 4 (or 3) rows of 4 numbers, camera to "
            "world."
        )
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        raise DataError(
            f"{where}: {key}[{row}][{column}]={matrix[row, column]} must be finite; the pose "
            "estimation failed for this picture, take the frame out."
        )
    if len(matrix) == 4 and not np.allclose(matrix[3], (0, 0, 0, 1), atol=_ROTATION_TOLERANCE):
        raise DataError(
            f"{where}: the last row of {key} is {matrix[3].tolist()} and must be [0, 0, 0, 1]; "
            "is the matrix transposed?"
        )
    rotation = matrix[:3, :3]
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if not deviation <= _ROTATION_TOLERANCE:
        raise DataError(
            f"{where}: the left 3x3 part of {key} is no rotation (R R^T differs from the identity "
            f"by {deviation:.3g}, allowed is {_ROTATION_TOLERANCE:g}); divide out a scale, or "
            "export the poses again."
        )
    if np.linalg.det(rotation) < 0:
        raise DataError(
            f"{where}: the left 3x3 part of {key} mirrors (determinant -1); axes must be "
            "right-handed: x right, y up, looking along -z. Negate one axis of the exporter."
        )
    left, _, right = np.linalg.svd(rotation)
    return np.concatenate([left @ right, matrix[:3, 3:]], axis=1)


def read_number(
    values: dict[str, Any], key: str, where: str, *, above: float = -math.inf
) -> float | None:
    """values[key] as a finite number above a bound; None if the key is absent or null."""
    value = values.get(key)
    if value is None:
        return None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not math.isfinite(value) or not value > above:
        bound = f" > {above:g}" if above > -math.inf else ""
        raise DataError(
            f"{where}: {key}={_shorten(value)} must be a finite number{bound}; correct the file or "
            "export it again."
        )
    return float(value)


def read_intrinsics(
    frame: dict[str, Any], meta: dict[str, Any], header: ImageHeader, where: str
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Focal lengths and principal point in pixels; a frame's own keys win over the file's.

    fl_x, fl_y in pixels, else x_fov, y_fov (full angle, degrees), else camera_angle_x,
    camera_angle_y (full angle, radians); cx, cy, else the middle of the picture; w, h must be the
    size of the picture.
    """
    for key, size in (("w", header.width), ("h", header.height)):
        said = read_number(frame if key in frame else meta, key, where, above=0.0)
        if said is not None and said != size:
            raise DataError(
                f"{where}: {key}={said:g} but {header.path} has {header.width} x {header.height} "
                "pixels; use the pictures the cameras were computed from (data.downscale makes "
                "them smaller), or scale w, h, fl_x, fl_y, cx and cy with them."
            )
    focal_x = focal_y = None
    for values in (frame, meta):
        if focal_x is None:
            focal_x = _read_focal(values, "x", header.width, where)
        if focal_y is None:
            focal_y = _read_focal(values, "y", header.height, where)
    if focal_x is None:
        raise DataError(
            f"{where}: there is no focal length; give fl_x (pixels) or camera_angle_x (full "
            "horizontal angle in radians), in the frame or at the top of the file."
        )
    center_x = read_number(frame if "cx" in frame else meta, "cx", where)
    center_y = read_number(frame if "cy" in frame else meta, "cy", where)
    return (
        (focal_x, focal_x if focal_y is None else focal_y),
        (
            0.5 * header.width if center_x is None else center_x,
            0.5 * header.height if center_y is None else center_y,
        ),
    )


def _read_focal(values: dict[str, Any], axis: str, size: int, where: str) -> float | None:
    focal = read_number(values, f"fl_{axis}", where, above=0.0)
    if focal is not None:
        return focal
    degrees = read_number(values, f"{axis}_fov", where, above=0.0)
    if degrees is not None and degrees < 180:
        return 0.5 * size / math.tan(math.radians(0.5 * degrees))
    key = f"camera_angle_{axis}"
    angle = read_number(values, key, where, above=0.0)
    if angle is None:
        return None
    if angle >= math.pi:
        raise DataError(
            f"{where}: {key}={angle:g} must be below pi; it is the full angle in radians, not in "
            "degrees."
        )
    return 0.5 * size / math.tan(0.5 * angle)


def read_lens(
    frame: dict[str, Any], meta: dict[str, Any], where: str
) -> tuple[int, tuple[float, ...]]:
    """The number of the lens (render/lenses.py) and its four coefficients, 0 where absent.

    camera_model of nerfstudio, else is_fisheye and latlong of instant-ngp; a frame's own keys win.
    """

    def value_of(key: str) -> float:
        value = read_number(frame if key in frame else meta, key, where)
        return 0.0 if value is None else value

    def flag(key: str) -> bool:
        value = frame.get(key, meta.get(key, False))
        if not isinstance(value, bool):
            raise DataError(f"{where}: {key}={_shorten(value)} must be true or false.")
        return value

    model = frame.get("camera_model", meta.get("camera_model"))
    name = model.upper() if isinstance(model, str) else None
    if name == "EQUIRECTANGULAR" or flag("latlong"):
        return EQUIRECTANGULAR, (0.0,) * 4
    if name in _FISHEYE or (name not in _PERSPECTIVE and flag("is_fisheye")):
        return FISHEYE, tuple(value_of(key) for key in ("k1", "k2", "k3", "k4"))
    unknown = {key: value_of(key) for key in ("k3", "k4", "k5", "k6") if value_of(key) != 0}
    found = ", ".join(f"{key}={value:g}" for key, value in unknown.items())
    if model is not None and name not in _PERSPECTIVE:
        found = f"camera_model={_shorten(model)}"
    if "equirectangular" in frame or "equirectangular" in meta:
        # instant-ngp's map of that name is linear in the sine of the latitude.
        found = "equirectangular of instant-ngp, which is an equal-area map,"
    if found:
        raise DataError(
            f"{where}: {found} is a lens nfields does not have; it has perspective cameras with "
            "OpenCV's k1, k2, p1, p2, OPENCV_FISHEYE with k1..k4, and EQUIRECTANGULAR panoramas "
            "(latlong). Undistort the pictures first (colmap image_undistorter)."
        )
    return PERSPECTIVE, tuple(value_of(key) for key in _LENS_KEYS)


def _find_mask(
    folder: Path, frame: dict[str, Any], picture: Path, allow_outside: bool, where: str
) -> MaskFile | None:
    """The file of mask_path (nerfstudio), else dynamic_mask_NAME.png of instant-ngp."""
    file = _named_file(folder, frame, "mask_path", allow_outside, where)
    if file is not None:
        return MaskFile(file)
    dynamic = picture.with_name(f"dynamic_mask_{picture.stem}.png")
    return MaskFile(dynamic, is_inverted=True) if dynamic.is_file() else None


def _find_depth(
    folder: Path, frame: dict[str, Any], meta: dict[str, Any], allow_outside: bool, where: str
) -> DepthFile | None:
    """The depth map of depth_file_path (nerfstudio, 1/1000 a step) or of depth_path with
    integer_depth_scale (instant-ngp).
    """
    unit = read_number(meta, "integer_depth_scale", str(folder))
    file = _named_file(folder, frame, "depth_file_path", allow_outside, where)
    if file is not None:
        return DepthFile(file, 1e-3 if unit is None else unit)
    if unit is None or unit <= 0 or meta.get("enable_depth_loading") is False:
        return None
    file = _named_file(folder, frame, "depth_path", allow_outside, where)
    return None if file is None else DepthFile(file, unit)


def _named_file(
    folder: Path, frame: dict[str, Any], key: str, allow_outside: bool, where: str
) -> Path | None:
    """The file that a frame names under a key; an error if it is missing."""
    name = frame.get(key)
    if name is None:
        return None
    if not isinstance(name, str) or not name or "\0" in name:
        raise DataError(f"{where}: {key}={_shorten(name)} must be the path of a file.")
    file = find_image(folder, name, allow_outside, f"{where}: {key}")
    if file is None:
        raise DataError(
            f"{where}: {key}={name} does not exist; put it beside the pictures or take the key out."
        )
    return file


_FISHEYE = ("OPENCV_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
_PERSPECTIVE = ("OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."

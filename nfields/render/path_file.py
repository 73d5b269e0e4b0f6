"""Camera paths as files: keyframes, written by the live view or another program, read for videos.

Three kinds of json are read, told apart by their keys:

nfields        keyframes: [{camera_to_world (4 rows of 4), fov_deg (vertical), seconds}, ...], loop
nerfstudio     camera_path: [{camera_to_world (16 numbers, row by row), fov (vertical, degrees)},
               ...], fps; every frame of the video. Its poses are in nerfstudio's own frame; with
               its dataparser_transforms.json beside the file they are taken back to the data's
instant-ngp    path: [{R (quaternion x y z w), T, fov (vertical, degrees), timestamp}, ...],
               duration_seconds, loop; in the unit cube that instant-ngp puts data into by its
               defaults, p -> 0.33 p + 0.5 with the axes y z x (its camera looks along +z, y down)

What is read is in the frame of the data set, with the axes of nfields/render/cameras.py (OpenGL);
SceneTransform.poses_to_ours takes it to ours. Between keyframes positions are a Catmull-Rom spline
(nonuniform: tangents by the three-point formula), rotations scipy's spline of continuous angular
acceleration, fields of view monotone: a path goes exactly through its keyframes.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy.interpolate import CubicHermiteSpline, PchipInterpolator
from scipy.spatial.transform import Rotation, RotationSpline

from nfields.errors import DataError
from nfields.render.cameras import Cameras
from nfields.run_folder import write_json

Array = np.ndarray

# instant-ngp's unit cube: rows of ours from rows of its (y z x), scale and offset of its defaults.
_NGP_ROWS = [2, 0, 1]
_NGP_SCALE, _NGP_OFFSET = 0.33, 0.5
_FLIPPED = np.diag([1.0, -1.0, -1.0])  # OpenCV's camera axes to OpenGL's, and back
_ROTATION_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Keyframe:
    """A camera on a path: its pose in the frame of the data set, and when the path is there."""

    camera_to_world: Float[Array, "4 4"]  # x right, y up, looking along -z
    fov_deg: float  # vertical, full angle
    seconds: float


@dataclass(frozen=True, eq=False)
class CameraPath:
    """Keyframes in order of their seconds, which start at 0; a loop returns to the first."""

    keyframes: tuple[Keyframe, ...]
    loop_seconds: float | None = None  # from the last keyframe back to the first; None: no loop

    @property
    def seconds(self) -> float:
        """How long the path takes."""
        return self.keyframes[-1].seconds + (self.loop_seconds or 0.0)

    def at(self, seconds: Float[Array, " n"]) -> tuple[Float[Array, "n 4 4"], Float[Array, " n"]]:
        """Poses and vertical fields of view (degrees) at times in [0, self.seconds]."""
        pose = np.stack([frame.camera_to_world for frame in self.keyframes])
        fov = np.array([frame.fov_deg for frame in self.keyframes])
        time = np.array([frame.seconds for frame in self.keyframes])
        if self.loop_seconds is not None:
            # Two keyframes more at either end make the seam as smooth as the rest.
            n = len(time)
            index = np.arange(-2, n + 3)
            time = time[index % n] + (index // n) * self.seconds
            pose, fov = pose[index % n], fov[index % n]
        position = pose[:, :3, 3]
        step, slope = np.diff(time)[:, None], np.diff(position, axis=0) / np.diff(time)[:, None]
        inner = (slope[:-1] * step[1:] + slope[1:] * step[:-1]) / (step[:-1] + step[1:])
        tangent = np.concatenate([slope[:1], inner, slope[-1:]])
        result = np.tile(np.eye(4), (len(seconds), 1, 1))
        result[:, :3, 3] = CubicHermiteSpline(time, position, tangent)(seconds)
        turns = RotationSpline(time, Rotation.from_matrix(pose[:, :3, :3]))
        result[:, :3, :3] = turns(seconds).as_matrix()
        return result, PchipInterpolator(time, fov)(seconds)

    def frame_times(self, num_frames: int) -> Float[Array, " n"]:
        """Times of pictures at equal distances; the last of a loop is not the first again."""
        return np.linspace(0, self.seconds, num_frames, endpoint=self.loop_seconds is None)


def pinhole_cameras(
    poses: Float[Array, "n 4 4"], fov_deg: Float[Array, " n"], width: int, height: int
) -> Cameras:
    """Perspective cameras with square pixels at poses of our frame."""
    n = len(poses)
    size = torch.tensor([width, height])
    focal = torch.from_numpy(0.5 * height / np.tan(0.5 * np.radians(fov_deg))).float()
    return Cameras(
        camera_to_world=torch.from_numpy(poses[:, :3]).float(),
        focal=focal[:, None].expand(n, 2).contiguous(),
        center=(size / 2).expand(n, 2).contiguous(),
        distortion=torch.zeros(n, 4),
        sizes=size.expand(n, 2).contiguous(),
    )


def write_path(
    file: Path, keyframes: Sequence[Keyframe], *, loop_seconds: float | None = None
) -> None:
    """Writes a path of nfields' kind, in one go; the folder must exist."""
    content = {
        "format": "nfields camera path",
        "version": 1,
        "loop_seconds": loop_seconds,
        "keyframes": [
            {
                "camera_to_world": frame.camera_to_world.tolist(),
                "fov_deg": float(frame.fov_deg),
                "seconds": float(frame.seconds),
            }
            for frame in keyframes
        ],
    }
    write_json(file, content)


def read_path(file: Path) -> CameraPath:
    """The path of a file of any of the three kinds; at least two keyframes, times that grow."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file} cannot be read as json text: {error}.") from error
    kinds = {"keyframes": _ours, "camera_path": _nerfstudio, "path": _instant_ngp}
    if isinstance(content, dict):
        # nerfstudio's files have keyframes too, next to the path made from them.
        for key in ("camera_path", "path", "keyframes"):
            if isinstance(content.get(key), list):
                return _checked(file, kinds[key](file, content))
    raise DataError(
        f"{file} is no camera path: wanted is a json object with the list keyframes (nfields), "
        "camera_path (nerfstudio) or path (instant-ngp)."
    )


def _checked(file: Path, path: CameraPath) -> CameraPath:
    frames = path.keyframes
    if len(frames) < 2:
        raise DataError(
            f"{file} has {len(frames)} keyframe{'s' * (len(frames) != 1)}; a path needs two or "
            "more. Record another one, or render a still view with path=orbit num_frames=1."
        )
    times = np.array([frame.seconds for frame in frames])
    if (np.diff(times) <= 0).any():
        i = int(np.argmax(np.diff(times) <= 0))
        raise DataError(
            f"{file}: keyframe {i + 1} is at {times[i + 1]:g} seconds, not after the one before "
            f"it at {times[i]:g}; times must grow."
        )
    if path.loop_seconds is not None and not 0 < path.loop_seconds < math.inf:
        raise DataError(f"{file}: loop_seconds={path.loop_seconds} must be above 0, or null.")
    first = times[0]
    moved = tuple(Keyframe(f.camera_to_world, f.fov_deg, f.seconds - first) for f in frames)
    return CameraPath(moved, path.loop_seconds)


def _ours(file: Path, content: dict[str, Any]) -> CameraPath:
    frames = []
    for i, entry in enumerate(content["keyframes"]):
        where = f"{file}: keyframes[{i}]"
        pose = _pose(_numbers(entry, "camera_to_world", where, 16).reshape(4, 4), where)
        frames.append(Keyframe(pose, _fov(entry, "fov_deg", where), _time(entry, "seconds", where)))
    loop = content.get("loop_seconds")
    return CameraPath(tuple(frames), None if loop is None else _time(content, "loop_seconds", file))


def _nerfstudio(file: Path, content: dict[str, Any]) -> CameraPath:
    kind = content.get("camera_type", "perspective")
    if kind != "perspective":
        raise DataError(f"{file}: camera_type={kind!r}: only perspective paths are rendered.")
    fps = _time(content, "fps", file) if content.get("fps") is not None else 24.0
    if fps <= 0:
        raise DataError(f"{file}: fps={fps:g} must be above 0.")
    undo = _from_nerfstudio(file.with_name("dataparser_transforms.json"))
    frames = []
    for i, entry in enumerate(content["camera_path"]):
        where = f"{file}: camera_path[{i}]"
        pose = _pose(_numbers(entry, "camera_to_world", where, 16).reshape(4, 4), where)
        frames.append(Keyframe(undo(pose), _fov(entry, "fov", where), i / fps))
    return CameraPath(tuple(frames))


def _from_nerfstudio(file: Path) -> Callable[[Float[Array, "4 4"]], Float[Array, "4 4"]]:
    """The way of poses from nerfstudio's frame, scale (R p + t), to that of its data."""
    if not file.is_file():
        return lambda pose: pose
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as json text: {error}.") from error
    matrix = _numbers(content, "transform", file, 12).reshape(3, 4)
    scale = _numbers(content, "scale", file, 1)[0]

    def undo(pose: Float[Array, "4 4"]) -> Float[Array, "4 4"]:
        result = pose.copy()
        result[:3, :3] = matrix[:, :3].T @ pose[:3, :3]
        result[:3, 3] = matrix[:, :3].T @ (pose[:3, 3] / scale - matrix[:, 3])
        return result

    return undo


def _instant_ngp(file: Path, content: dict[str, Any]) -> CameraPath:
    entries = content["path"]
    is_timed = all(isinstance(entry, dict) and "timestamp" in entry for entry in entries)
    is_loop = bool(content.get("loop", False))
    total = content.get("duration_seconds")
    total = 2.0 * len(entries) if total is None else _time(content, "duration_seconds", file)
    gap = total / max(len(entries) - (not is_loop), 1)
    frames = []
    for i, entry in enumerate(entries):
        where = f"{file}: path[{i}]"
        quaternion = _numbers(entry, "R", where, 4)
        if not np.linalg.norm(quaternion) > 0:
            raise DataError(f"{where}: R={quaternion.tolist()} must be a quaternion x, y, z, w.")
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_quat(quaternion).as_matrix()[_NGP_ROWS] @ _FLIPPED
        pose[:3, 3] = (_numbers(entry, "T", where, 3)[_NGP_ROWS] - _NGP_OFFSET) / _NGP_SCALE
        seconds = _time(entry, "timestamp", where) if is_timed else i * gap
        frames.append(Keyframe(pose, _fov(entry, "fov", where), seconds))
    return CameraPath(tuple(frames), gap if is_loop else None)


def _pose(matrix: Float[Array, "4 4"], where: str) -> Float[Array, "4 4"]:
    """The matrix with its rotation exactly orthonormal; an error if it is none."""
    rotation = matrix[:3, :3]
    error = np.abs(rotation @ rotation.T - np.eye(3)).max()
    if not error <= _ROTATION_TOLERANCE or np.linalg.det(rotation) < 0:
        raise DataError(
            f"{where}: the left upper 3x3 part of camera_to_world is no rotation (R R^T differs "
            f"from the identity by {error:.3g}); divide out a scale, and take right-handed axes."
        )
    left, _, right = np.linalg.svd(rotation)
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = left @ right, matrix[:3, 3]
    return result


def _numbers(entry: Any, key: str, where: object, count: int) -> Float[Array, " count"]:
    value = entry.get(key) if isinstance(entry, dict) else None
    try:
        numbers = np.array(value, dtype=np.float64).reshape(-1)
    except (TypeError, ValueError):
        numbers = np.zeros(0)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise DataError(f"{where}: {key}={value!r:.60} must be {count} finite numbers.")
    return numbers


def _time(entry: Any, key: str, where: object) -> float:
    return float(_numbers(entry, key, where, 1)[0])


def _fov(entry: Any, key: str, where: str) -> float:
    value = _time(entry, key, where)
    if not 0 < value < 180:
        raise DataError(f"{where}: {key}={value:g} must be a full angle within 0 and 180 degrees.")
    return value

"""Our frame for scenes whose files name none: where the box is, how large, and which way is up.

frame   auto   ndc where the cameras face one way and the scene lies in front of them, else box
        box    the point that the cameras look at becomes the origin, up becomes z; the box holds
               99 of 100 observations of points, turned around z so that it can be small
        ndc    normalised device coordinates of the mean camera (arXiv:2003.08934, appendix C): what
               the cameras see between the nearest point and infinity fills [-1, 1]^3, depth running
               as 1 / distance, so that near and far things get equal shares of the field
        none   the frame of the file, scaled by scene_scale

The transform is part of the data set, so meshes and points go back to the frame of the file.
Notation: user units and axes before the transform; n the distance of the near plane.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from nfields.data.camera_file import View
from nfields.data.posed_images import IDENTITY, SceneTransform
from nfields.data.posed_views import border, cameras_of
from nfields.errors import ConfigError, DataError
from nfields.render.cameras import Cameras, rays
from nfields.render.paths import focus_point, look_at, up_direction

FrameName = Literal["auto", "box", "ndc", "none"]
FRAMES = ("auto", "box", "ndc", "none")
MAX_AABB_SCALE = 128

_UNMOVED = SceneTransform(1.0, (0.0, 0.0, 0.0))
# A scene is forward-facing if all cameras look within this angle of their mean ...
_MAX_TURN_RAD = math.radians(40)
# ... and stand together: farther apart than this, in distances of the near plane, a box is better.
_MAX_SPREAD = 1.5
# The near plane, as a part of the distance of the nearest points: there is more than was matched.
_NEAR_MARGIN = 0.8
# Observations outside these quantiles are taken for mistakes of the matching.
_LOW, _HIGH = 0.01, 0.99
# The box is this much wider than the observations.
_BOX_MARGIN = 1.1
# Without points: half the box, in distances of the cameras from what they look at.
_BOX_OF_CAMERAS = 1.5


@dataclass(frozen=True)
class SceneFrame:
    """Transform, box and near distance (our units) of a scene, and a sentence for the user."""

    transform: SceneTransform
    aabb_scale: int
    near: float
    note: str


def check_frame_options(
    *, frame: str, aabb_scale: int | None, scene_scale: float | int | None, near: float | int | None
) -> None:
    """Nothing; an error for values of data.* that are not allowed."""
    if frame not in FRAMES:
        raise ConfigError(f"data.frame={frame!r}: choose {', '.join(FRAMES)}")
    if aabb_scale is not None and not is_aabb_scale(aabb_scale):
        raise ConfigError(
            f"data.aabb_scale={aabb_scale} must be a power of two from 1 to {MAX_AABB_SCALE}."
        )
    if scene_scale is not None and not 0 < scene_scale < math.inf:
        raise ConfigError(f"data.scene_scale={scene_scale} must be > 0; null lets it be found.")
    if near is not None and not 0 <= near < math.inf:
        raise ConfigError(f"data.near={near} must be >= 0, in our units; null lets it be found.")
    given = {"aabb_scale": aabb_scale, "scene_scale": scene_scale, "near": near}
    if frame == "ndc" and any(value is not None for value in given.values()):
        names = ", ".join(key for key, value in given.items() if value is not None)
        raise ConfigError(f"data.{names} has no effect with data.frame=ndc; take it out.")


def is_aabb_scale(value: float | int) -> bool:
    """True for the powers of two from 1 to 128."""
    return value in [2**power for power in range(MAX_AABB_SCALE.bit_length())]


def fit_frame(
    views: Sequence[View],
    observed: Sequence[Float[np.ndarray, "_ 3"]] | None,
    *,
    frame: str,
    aabb_scale: int | None,
    scene_scale: float | int | None,
    near: float | int | None,
) -> SceneFrame:
    """Our frame for views, and for the points that each of them sees (user frame) if known.

    A given scene_scale (ours = scene_scale * user), aabb_scale or near (ours) is kept.
    """
    check_frame_options(frame=frame, aabb_scale=aabb_scale, scene_scale=scene_scale, near=near)
    cameras = cameras_of(views, _UNMOVED)
    if observed is not None and sum(map(len, observed)) == 0:
        observed = None
    is_given = aabb_scale is not None or scene_scale is not None or near is not None
    if frame == "auto":
        is_forward = observed is not None and not is_given and _is_forward(cameras, observed)
        frame = "ndc" if is_forward else "box"
    if frame == "ndc":
        if observed is None:
            raise DataError(
                "data.frame=ndc needs the distance of the nearest thing, and there are no points "
                "(or bounds) to find it from; take data.frame=box."
            )
        return _device_coordinates(cameras, observed)
    rotation, center = np.array(IDENTITY), np.zeros(3)
    if frame == "box":
        typical = _median(observed, cameras)
        middle = focus_point(cameras, (typical[0], typical[1], typical[2]))
        rotation = _upright(up_direction(cameras))
        if observed is not None:
            points = (np.concatenate(list(observed)) - middle) @ rotation.T
            rotation = _tightest_turn(points) @ rotation
        center = rotation @ middle
    return _box(
        cameras, observed, rotation, center, frame,
        aabb_scale=aabb_scale, scene_scale=scene_scale, near=near,
    )  # fmt: skip


def _box(
    cameras: Cameras,
    observed: Sequence[np.ndarray] | None,
    rotation: np.ndarray,
    center: np.ndarray,
    frame: str,
    *,
    aabb_scale: int | None,
    scene_scale: float | int | None,
    near: float | int | None,
) -> SceneFrame:
    """The box around the centre; its size and the part of interest from the observations."""
    position = cameras.camera_to_world[:, :, 3].double().numpy() @ rotation.T
    distance = np.linalg.norm(position - center, axis=1)
    if observed is None:
        reach = _BOX_OF_CAMERAS * float(np.median(distance)) or 1.0
        ratio, nearest, found = 4.0, 0.1 * reach, "the cameras alone"
    else:
        points = np.concatenate(list(observed)) @ rotation.T
        size = np.abs(points - center).max(axis=1)
        reach = _BOX_MARGIN * float(np.quantile(size, _HIGH)) or 1.0
        ratio = reach / max(float(np.median(size)), 1e-9 * reach)
        nearest = _NEAR_MARGIN * _nearest(cameras, observed)
        found = f"{len(points):,} observations of points"
    if frame == "none" and scene_scale is None:
        scene_scale = 1.0
    size_ours = ratio if scene_scale is None else scene_scale * reach
    power = math.log2(max(size_ours, 1.0))
    power = round(power) if scene_scale is None else math.ceil(power - 1e-9)
    box = int(aabb_scale or 2 ** min(power, MAX_AABB_SCALE.bit_length() - 1))
    scale = box / reach if scene_scale is None else float(scene_scale)
    if near is None:
        near = scale * nearest
    x, y, z = (float(value) for value in -scale * center)
    rows = tuple((float(a), float(b), float(c)) for a, b, c in rotation)
    note = (
        f"frame={frame}: from {found}, the scene box reaches {box / scale:.3g} units of the "
        f"file around {np.round(center @ rotation, 3).tolist()} (aabb_scale {box}, scale "
        f"{scale:.4g}); rays start {near / scale:.3g} units from the cameras"
    )
    return SceneFrame(SceneTransform(scale, (x, y, z), rows), box, near, note)


def _device_coordinates(cameras: Cameras, observed: Sequence[np.ndarray]) -> SceneFrame:
    """Normalised device coordinates of the mean camera; the near plane lies at z = -1 before H."""
    rotation, origin = _mean_pose(cameras)
    depths = _depths(rotation[2], origin, observed)
    near = _NEAR_MARGIN * float(np.quantile(depths, _LOW))
    if not near > 0:
        raise DataError(
            "data.frame=ndc needs all points in front of the cameras, and some lie beside or "
            "behind the mean camera; take data.frame=box."
        )
    scale = 1 / near
    offset = -scale * rotation @ origin
    reach = _reach(cameras, rotation, scale, offset)
    homography = (
        (float(1 / reach[0]), 0.0, 0.0, 0.0),
        (0.0, float(1 / reach[1]), 0.0, 0.0),
        (0.0, 0.0, -1.0, -2.0),  # z' = 1 + 2 / z: -1 at the near plane, 1 at infinity
        (0.0, 0.0, -1.0, 0.0),
    )
    x, y, z = (float(value) for value in offset)
    rows = tuple((float(a), float(b), float(c)) for a, b, c in rotation)
    note = (
        f"frame=ndc: the cameras face one way; what they see from {near:.3g} units of the file to "
        "infinity fills the box (data.frame=box keeps it as it is)"
    )
    return SceneFrame(SceneTransform(scale, (x, y, z), rows, homography), 1, 0.0, note)


def _reach(
    cameras: Cameras, rotation: np.ndarray, scale: float, offset: np.ndarray
) -> Float[np.ndarray, "2"]:
    """The largest |x / z|, |y / z| that any camera sees: at the near plane or at infinity."""
    reach = np.full(2, 1e-6)
    for view in range(len(cameras)):
        pixels = border(cameras, view)
        origins, directions = rays(cameras, torch.full((len(pixels),), view), pixels)
        start = origins.double().numpy() @ rotation.T * scale + offset
        along = directions.double().numpy() @ rotation.T
        forward = along[:, 2] < -1e-3
        start, along = start[forward], along[forward] / -along[forward, 2:]
        t = np.maximum(start[:, 2] + 1, 0)  # on the way to z = -1
        for places in ((start + t[:, None] * along)[:, :2], along[:, :2]):
            reach = np.maximum(reach, np.abs(places).max(axis=0, initial=0))
    return reach


def _is_forward(cameras: Cameras, observed: Sequence[np.ndarray]) -> bool:
    if not cameras.is_perspective or len(cameras) < 2:
        return False
    rotation, origin = _mean_pose(cameras)
    pose = cameras.camera_to_world.double().numpy()
    if (pose[:, :, 2] @ rotation[2]).min() < math.cos(_MAX_TURN_RAD):
        return False
    near = float(np.quantile(_depths(rotation[2], origin, observed), _LOW))
    spread = np.linalg.norm(pose[:, :, 3] - origin, axis=1).max()
    return bool(near > 0 and spread < _MAX_SPREAD * near)


def _mean_pose(cameras: Cameras) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Rows right, up, back of the mean camera, and its place."""
    pose = cameras.camera_to_world.double().numpy()
    origin = pose[:, :, 3].mean(axis=0)
    back, up = pose[:, :, 2].mean(axis=0), pose[:, :, 1].mean(axis=0)
    return look_at(origin[None], origin - back, up)[0].T, origin


def _depths(
    back: np.ndarray, origin: np.ndarray, observed: Sequence[np.ndarray]
) -> Float[np.ndarray, " n"]:
    return -(np.concatenate(list(observed)) - origin) @ back


def _nearest(cameras: Cameras, observed: Sequence[np.ndarray]) -> float:
    """A small quantile of the distances of points from the cameras that see them."""
    position = cameras.camera_to_world[:, :, 3].double().numpy()
    distances = [
        np.linalg.norm(points - place, axis=1)
        for place, points in zip(position, observed, strict=True)
    ]
    return float(np.quantile(np.concatenate(distances), _LOW))


def _median(observed: Sequence[np.ndarray] | None, cameras: Cameras) -> Float[np.ndarray, "3"]:
    if observed is None:
        return cameras.camera_to_world[:, :, 3].double().numpy().mean(axis=0)
    return np.median(np.concatenate(list(observed)), axis=0)


def _tightest_turn(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "3 3"]:
    """The turn around z, in whole degrees, that lets points fit into the smallest cube: which way x
    points is open, and a room at an angle to the box wastes half of it.
    """
    some = points[:: max(1, len(points) // 4000)]
    flat, height = some[:, 0] + 1j * some[:, 1], np.abs(some[:, 2])
    sizes = []
    for degree in range(90):
        turned = flat * np.exp(1j * math.radians(degree))
        size = np.maximum(np.maximum(np.abs(turned.real), np.abs(turned.imag)), height)
        sizes.append(np.quantile(size, _HIGH))
    angle = math.radians(int(np.argmin(sizes)))
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def _upright(up: Float[np.ndarray, "3"]) -> Float[np.ndarray, "3 3"]:
    """The smallest rotation that takes a unit vector to z."""
    z = np.array([0.0, 0.0, 1.0])
    if up[2] < -1 + 1e-9:
        return np.diag([1.0, -1.0, -1.0])
    cross = np.cross(up, z)
    skew = np.array(
        [[0, -cross[2], cross[1]], [cross[2], 0, -cross[0]], [-cross[1], cross[0], 0]]
    )
    return np.eye(3) + skew + skew @ skew / (1 + up[2])

"""Camera paths for videos: pure functions from the cameras of a scene to new cameras.

orbit         a full circle around what the cameras look at; for objects. Loops.
spiral        small loops around the mean camera, looking at one point, as in LLFF; for scenes
              photographed from the front. Loops.
interpolate   a smooth ride through the views themselves; shows only what was photographed, so it is
              right for every capture.

Nothing refers to the axes of the world: a path of a moved, turned or scaled scene is the path of
the scene, moved, turned or scaled. The one exception is the box centre, the fallback of the point
that everything looks at where the optical axes are parallel. Frames, axes and units are those of
nfields/render/cameras.py.

Notation: o_i camera positions, d_i unit viewing directions (-z), r_i right axes (x), u_i up axes
(y).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from nfields.render.cameras import Cameras
from nfields.render.tour import spread_out, travelling_order

Array = np.ndarray

# Below this share of the mean of I - d d^T in its weakest direction (sine squared of the typical
# angle between the optical axes), the point nearest to all of them is noise: cameras within about 3
# degrees.
_PARALLEL = 3e-3
# An orbit above this elevation would spin around its own pole.
_MAX_ELEVATION = math.radians(75)
# Frames a view of `interpolate`: with fewer, constant speed is a chase.
_FRAMES_PER_VIEW = 15
_STEPS_PER_VIEW = 64  # of the arc-length table; the speed is constant to about 1 / 64^2


def focus_point(cameras: Cameras, fallback: Sequence[float] = (0.0, 0.0, 0.0)) -> Float[Array, "3"]:
    """The point nearest to all optical axes (least squares): what the cameras look at.

    Solves sum_i (I - d_i d_i^T) (x - o_i) = 0. Returns the fallback where the axes are parallel or
    the point lies behind the typical camera (people who photograph a room from its middle look away
    from it).
    """
    position, rotation = _poses(cameras)
    direction = -rotation[:, :, 2]
    across = np.eye(3) - direction[:, :, None] * direction[:, None, :]
    if np.linalg.eigvalsh(across.mean(0))[0] < _PARALLEL:
        return np.asarray(fallback, np.float64)
    point = np.linalg.solve(across.sum(0), (across @ position[:, :, None]).sum(0)[:, 0])
    if np.median(((point - position) * direction).sum(1)) <= 0:
        return np.asarray(fallback, np.float64)
    return point


def up_direction(cameras: Cameras) -> Float[Array, "3"]:
    """The unit vector that was up for the photographers.

    People hold cameras level: the right axes lie in the horizontal plane, so up is the direction
    with the least of them (the eigenvector of sum r r^T with the smallest eigenvalue). Where all
    look the same way, this leaves up open and the mean of the cameras' own up axes takes its place.
    (That mean alone would lean: of cameras that look down from one side, all up axes tilt the same
    way.)
    """
    _, rotation = _poses(cameras)
    right, up = rotation[:, :, 0], rotation[:, :, 1]
    mean = up.mean(0)
    values, vectors = np.linalg.eigh(right.T @ right / len(right))
    vertical = vectors[:, 0] * math.copysign(1.0, float(vectors[:, 0] @ mean))
    is_clear = values[1] > 0.01 + 4 * values[0]  # 0.01: turned by about 6 degrees from each other
    if is_clear and vertical @ mean > 0.5 * np.linalg.norm(mean):
        return vertical
    return _unit(mean, otherwise=up[0])


def orbit(
    cameras: Cameras,
    num_frames: int,
    *,
    center: Sequence[float] | None = None,
    radius: float | None = None,
    elevation_deg: float | None = None,
    box_center: Sequence[float] = (0.0, 0.0, 0.0),
) -> Cameras:
    """A full circle looking at the centre; frame k is at the angle 2 pi k / num_frames.

    Centre (`focus_point`), up (`up_direction`), radius and elevation (medians) come from the
    cameras unless given; the circle starts above or below the first camera. Intrinsics are the
    median ones without distortion.
    """
    position, rotation = _poses(cameras)
    middle = focus_point(cameras, box_center) if center is None else np.asarray(center, np.float64)
    up = up_direction(cameras)
    offset = position - middle
    distance = np.linalg.norm(offset, axis=1)
    height = offset @ up
    if radius is None:
        radius = float(np.median(distance))
    if radius <= 0:
        raise ValueError(
            f"radius={radius:g} of the orbit must be positive: all cameras stand in its centre"
        )
    if elevation_deg is None:
        sine = height / np.maximum(distance, 1e-12)
        elevation = float(np.median(np.arcsin(np.clip(sine, -1, 1))))
    else:
        elevation = math.radians(elevation_deg)
    elevation = min(max(elevation, -_MAX_ELEVATION), _MAX_ELEVATION)
    # Azimuth 0 is that of the first camera not above the centre; failing all, its right axis.
    flat = offset - height[:, None] * up
    is_aside = np.linalg.norm(flat, axis=1) > 0.1 * distance
    start = flat[np.argmax(is_aside)] if is_aside.any() else rotation[0, :, 0]
    start = _unit(start - (start @ up) * up, otherwise=_any_normal(up))
    side = np.cross(up, start)
    angle = 2 * math.pi * np.arange(num_frames)[:, None] / num_frames
    ring = math.cos(elevation) * (np.cos(angle) * start + np.sin(angle) * side)
    origins = middle + radius * (ring + math.sin(elevation) * up)
    return _assemble(cameras, origins, look_at(origins, middle, up))


def spiral(
    cameras: Cameras,
    num_frames: int,
    *,
    num_loops: int = 2,
    extent: float = 0.5,
    box_center: Sequence[float] = (0.0, 0.0, 0.0),
) -> Cameras:
    """Loops around the mean pose, all looking at one point; seamless for an even num_loops.

    The radii are `extent` times the 90th percentile of the cameras' offsets along the mean right,
    up and viewing directions; forward and backward goes half as often as around. `focus_point`
    gives the distance looked at.
    """
    position, rotation = _poses(cameras)
    mean_position = position.mean(0)
    back = _unit(rotation[:, :, 2].mean(0), otherwise=rotation[0, :, 2])
    up = _unit(rotation[:, :, 1].mean(0), otherwise=rotation[0, :, 1])
    axes = look_at(mean_position[None], mean_position - back, up)[0]
    spread = np.percentile(np.abs((position - mean_position) @ axes), 90, axis=0) * extent
    depth = float((focus_point(cameras, box_center) - mean_position) @ -back)
    if depth <= 0:  # the fallback is behind: look as far as the cameras are apart, or one unit
        depth = 2 * float(np.linalg.norm(position - mean_position, axis=1).max()) or 1.0
    focus = mean_position - depth * back
    angle = 2 * math.pi * num_loops * np.arange(num_frames) / num_frames
    wave = np.stack([np.cos(angle), np.sin(angle), np.sin(angle / 2)], axis=1)
    origins = mean_position + (wave * spread) @ axes.T
    return _assemble(cameras, origins, look_at(origins, focus, up))


def interpolate(cameras: Cameras, num_frames: int, *, num_views: int | None = None) -> Cameras:
    """A ride through the views in travelling order at constant speed, from first to last.

    num_views of them, spread out, are visited: by default one per fifteen frames. Positions are a
    centripetal Catmull-Rom spline, rotations a spherical linear interpolation; speed counts turning
    as well as moving.
    """
    if len(cameras) < 2:
        raise ValueError("path=interpolate needs two views or more, there is one; use path=orbit")
    if num_views is None:
        num_views = max(2, num_frames // _FRAMES_PER_VIEW)
    if num_views < 2:
        raise ValueError(f"num_views={num_views} must be at least 2")
    position, _ = _poses(cameras)
    chosen = spread_out(position, min(num_views, len(cameras)))
    visited = cameras[torch.from_numpy(chosen[travelling_order(position[chosen])])]
    num_segments = len(visited) - 1
    fine = np.linspace(0, num_segments, num_segments * _STEPS_PER_VIEW + 1)
    origins, rotation = ride(visited, fine)
    moved = np.linalg.norm(np.diff(origins, axis=0), axis=1)
    turned = (
        Rotation.from_matrix(rotation[:-1]).inv() * Rotation.from_matrix(rotation[1:])
    ).magnitude()
    # A turn of the mean angle counts as a quarter of a move of the mean length.
    weight = 0.25 * moved.sum() / turned.sum() if turned.sum() > 1e-6 else 0.0
    length = np.hypot(moved, weight * turned) if moved.sum() > 0 else turned
    table = np.concatenate([[0.0], np.cumsum(length)])
    t = np.interp(np.linspace(0, table[-1], num_frames), table, fine)
    return _assemble(cameras, *ride(visited, t))


def ride(
    cameras: Cameras, t: Float[Array, " frames"]
) -> tuple[Float[Array, "frames 3"], Float[Array, "frames 3 3"]]:
    """Positions and rotations at times t in [0, n - 1]; at t = i exactly those of camera i.

    Centripetal Catmull-Rom (knots a distance |o_i+1 - o_i|^(1/2) apart, which has no loops or
    cusps) by the recursion of Barry and Goldman; the curve is mirrored beyond its ends.
    """
    position, rotation = _poses(cameras)
    num_segments = len(position) - 1
    i = np.clip(np.floor(t).astype(int), 0, num_segments - 1)
    s = (t - i)[:, None]
    ends = 2 * position[0] - position[1], 2 * position[-1] - position[-2]
    p = np.concatenate([ends[0][None], position, ends[1][None]])
    gap = np.sqrt(np.linalg.norm(np.diff(p, axis=0), axis=1, keepdims=True))
    gap = np.maximum(gap, 1e-6 * gap.max() + 1e-12)  # two views from one place
    before, here, after = gap[i], gap[i + 1], gap[i + 2]
    p0, p1, p2, p3 = p[i], p[i + 1], p[i + 2], p[i + 3]
    x = s * here  # time since p1
    a1 = p1 + (x / before) * (p1 - p0)
    a2 = p1 + s * (p2 - p1)
    a3 = p2 + ((x - here) / after) * (p3 - p2)
    b1 = a1 + ((x + before) / (before + here)) * (a2 - a1)
    b2 = a2 + (x / (here + after)) * (a3 - a2)
    turns = Rotation.from_matrix(rotation)
    step = (turns[:-1].inv() * turns[1:]).as_rotvec()
    rotations = Rotation.from_matrix(rotation[i]) * Rotation.from_rotvec(s * step[i])
    return b1 + s * (b2 - b1), rotations.as_matrix()


def look_at(
    origins: Float[Array, "n 3"], target: Float[Array, "3"], up: Float[Array, "3"]
) -> Float[Array, "n 3 3"]:
    """Rotations [x y z] of level cameras at the origins that look at the target (along -z)."""
    back = origins - target
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    right = np.cross(up, back)
    length = np.linalg.norm(right, axis=1, keepdims=True)
    right = np.where(length > 1e-9, right / np.maximum(length, 1e-9), _any_normal(up))
    return np.stack([right, np.cross(back, right), back], axis=2)


def make_path(
    name: str, cameras: Cameras, num_frames: int, width: int | None, height: int | None
) -> Cameras:
    """The cameras of the path `name` with pictures of width x height.

    None keeps the size, or the shape where only the other is given. The vertical field of view is
    that of the cameras; pixels are square.
    """
    if name not in PATHS:
        raise ValueError(f"path={name} is not known; use one of: {', '.join(PATHS)}")
    if num_frames < 1:
        raise ValueError(f"num_frames={num_frames} must be at least 1")
    for key, value in (("width", width), ("height", height)):
        if value is not None and value < 1:
            raise ValueError(f"{key}={value} must be at least 1 pixel")
    path = PATHS[name](cameras, num_frames)
    if width is None and height is None:
        return path
    _, old_height = path.size(0)
    new_width, new_height = picture_size(path.size(0), width, height)
    focal = path.focal[:, 1:] * (new_height / old_height)
    size = torch.tensor([new_width, new_height])
    return replace(
        path,
        focal=focal.expand(-1, 2).contiguous(),
        center=(size / 2).expand(num_frames, 2).contiguous(),
        sizes=size.expand(num_frames, 2).contiguous(),
    )


def picture_size(size: tuple[int, int], width: int | None, height: int | None) -> tuple[int, int]:
    """Width and height as given; None keeps the size, or the shape where the other one is given."""
    old_width, old_height = size
    if width is None and height is None:
        return size
    new_height = (
        height if height is not None else max(1, round((width or 1) * old_height / old_width))
    )
    new_width = width if width is not None else max(1, round(new_height * old_width / old_height))
    return new_width, new_height


def strays(path: Cameras, cameras: Cameras) -> bool:
    """True if a path goes where nothing was photographed: the field is a guess there.

    That is, farther from the nearest camera than 0.8 times the typical distance to the focus.
    """
    position, _ = _poses(cameras)
    places, _ = _poses(path)
    reach = np.median(np.linalg.norm(position - focus_point(cameras), axis=1))
    away = np.linalg.norm(places[:, None] - position[None], axis=2).min(axis=1)
    return bool(away.max() > 0.8 * reach)


PATHS: dict[str, Callable[[Cameras, int], Cameras]] = {
    "orbit": orbit,
    "spiral": spiral,
    "interpolate": interpolate,
}


def _assemble(cameras: Cameras, origins: Array, rotation: Array) -> Cameras:
    """Cameras at the poses with the typical intrinsics: first size, median focal, no lens."""
    num_frames = len(origins)
    size = cameras.sizes[:1].cpu()
    relative = cameras.focal[:, 1] / cameras.sizes[:, 1]  # by the height: see make_path
    focal = relative.double().median().item() * size[0, 1].item()
    pose = np.concatenate([rotation, origins[:, :, None]], axis=2)
    return Cameras(
        camera_to_world=torch.from_numpy(pose).float(),
        focal=torch.full((num_frames, 2), focal),
        center=(size / 2).expand(num_frames, 2).contiguous(),
        distortion=torch.zeros(num_frames, 4),
        sizes=size.expand(num_frames, 2).contiguous(),
        homography=None if cameras.homography is None else cameras.homography.cpu(),
    )


def _poses(cameras: Cameras) -> tuple[Float[Array, "n 3"], Float[Array, "n 3 3"]]:
    if len(cameras) == 0:
        raise ValueError("a camera path needs the cameras of the scene, and there are none")
    pose = cameras.camera_to_world.detach().cpu().double().numpy()
    return pose[:, :, 3], pose[:, :, :3]


def _unit(vector: Array, otherwise: Array) -> Array:
    length = np.linalg.norm(vector)
    return vector / length if length > 1e-6 else otherwise


def _any_normal(vector: Array) -> Array:
    """A unit vector at right angles to the given one."""
    axis = np.eye(3)[int(np.argmin(np.abs(vector)))]
    normal = np.cross(vector, axis)
    return normal / np.linalg.norm(normal)

"""Views of a camera file made into a data set: cameras in our frame, pictures decoded, checks."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from nfields.data.camera_file import View
from nfields.data.image_reader import conversion_notes, read_images
from nfields.data.posed_images import PosedImages, SceneTransform
from nfields.errors import DataError
from nfields.render.cameras import Cameras, distort, project, rays


def assemble(
    splits: dict[str, list[View]],
    *,
    path: Path,
    downscale: int,
    transform: SceneTransform,
    aabb_scale: int,
    near: float,
    source: str,
    notes: Sequence[str],
) -> PosedImages:
    """The data set of the views of each split; alpha in one picture gives all pictures four
    channels. `path` is the camera file that messages name.
    """
    headers = [view.header for views in splits.values() for view in views]
    has_alpha = any(header.has_alpha for header in headers)
    cameras = {split: _cameras(views, transform) for split, views in splits.items()}
    notes = [*notes, *conversion_notes(headers)]
    for split, split_cameras in cameras.items():
        names = [view.name for view in splits[split]]
        check_lenses(split_cameras, names, path)
        notes += _check_seen(split_cameras, names, split, aabb_scale, transform, path)
    num_channels = 4 if has_alpha else 3
    images = {
        split: read_images([view.header for view in views], num_channels, downscale)
        for split, views in splits.items()
    }
    return PosedImages(
        cameras={split: value.downscaled(downscale) for split, value in cameras.items()},
        images=images,
        names={split: [view.name for view in views] for split, views in splits.items()},
        has_alpha=has_alpha,
        aabb_scale=aabb_scale,
        transform=transform,
        source=source,
        near=near,
        notes=notes,
    )


def _cameras(views: Sequence[View], transform: SceneTransform) -> Cameras:
    poses = np.stack([view.camera_to_world for view in views])
    poses[:, :, 3] = poses[:, :, 3] * transform.scale + np.array(transform.offset)
    sizes = [(view.header.width, view.header.height) for view in views]
    float32 = torch.float32
    return Cameras(
        camera_to_world=torch.from_numpy(poses).to(float32),
        focal=torch.tensor([view.focal for view in views], dtype=float32),
        center=torch.tensor([view.center for view in views], dtype=float32),
        distortion=torch.tensor([view.distortion for view in views], dtype=float32),
        sizes=torch.tensor(sizes, dtype=torch.int64),
    )


def _border(cameras: Cameras, view: int, num: int = 9) -> Tensor:
    """Positions along the four edges of a picture, corners included."""
    s = torch.linspace(0, 1, num)
    zero, one = torch.zeros(num), torch.ones(num)
    edges = [(s, zero), (s, one), (zero, s), (one, s)]
    unit = torch.cat([torch.stack(edge, dim=1) for edge in edges])
    return unit * cameras.sizes[view]


def check_lenses(cameras: Cameras, names: Sequence[str], path: Path) -> None:
    """Nothing; an error if a lens folds its picture, so that some pixels have no or two rays."""
    if not cameras.is_distorted:
        return
    _, first = np.unique(
        torch.cat([cameras.distortion, cameras.focal, cameras.center], dim=1).numpy(),
        axis=0,
        return_index=True,
    )
    for view in first.tolist():
        pixels = _border(cameras, view)
        index = torch.full((len(pixels),), view)
        origins, directions = rays(cameras, index, pixels)
        found, _ = project(cameras, view, origins + directions)
        # The way out from the middle must not turn back in the picture before it gets there.
        local = directions @ cameras.camera_to_world[view, :, :3]
        plane = torch.stack([local[:, 0], -local[:, 1]]) / -local[:, 2]
        way = torch.linspace(0, 1, 33)[:, None, None] * plane
        lens = cameras.distortion[view, :, None].expand(4, len(pixels))
        radius = torch.stack([distort(points, lens).norm(dim=0) for points in way])
        is_inverse = (found - pixels).abs().max() < 0.1
        if not is_inverse or not (radius.diff(dim=0) >= 0).all():
            k1, k2, p1, p2 = cameras.distortion[view].tolist()
            raise DataError(
                f"{path}: the lens k1={k1:g}, k2={k2:g}, p1={p1:g}, p2={p2:g} of {names[view]} "
                "folds the picture before its corners, so its pixels have no single ray; wrong "
                "sign, or coefficients of another lens model? Undistort the pictures first."
            )


def seen(cameras: Cameras, aabb_scale: int) -> Bool[Tensor, " n"]:
    """True for cameras with the box [-aabb_scale, aabb_scale]^3 in their picture.

    Tried with a grid of rays (finds large boxes) and a grid of points (finds small ones).
    """
    unit = torch.linspace(0, 1, 9)
    grid = torch.stack(torch.meshgrid(unit, unit, indexing="xy"), dim=-1).view(-1, 2)
    lattice = aabb_scale * torch.cartesian_prod(*[torch.linspace(-1, 1, 5)] * 3)
    result = torch.zeros(len(cameras), dtype=torch.bool)
    for view in range(len(cameras)):
        size = cameras.sizes[view]
        origins, directions = rays(cameras, torch.full((len(grid),), view), grid * size)
        sides = torch.stack([-aabb_scale - origins, aabb_scale - origins]) / directions
        t_in, t_out = sides.amin(dim=0).amax(dim=1), sides.amax(dim=0).amin(dim=1)
        pixels, depth = project(cameras, view, lattice)
        is_inside = ((pixels >= 0) & (pixels <= size)).all(dim=1) & (depth > 0)
        result[view] = (t_out > t_in.clamp_min(0)).any() | is_inside.any()
    return result


def _check_seen(
    cameras: Cameras,
    names: Sequence[str],
    split: str,
    aabb_scale: int,
    transform: SceneTransform,
    path: Path,
) -> list[str]:
    is_seen = seen(cameras, aabb_scale)
    blind = [name for name, sees in zip(names, is_seen.tolist(), strict=True) if not sees]
    if len(blind) < len(names):
        some = f"{len(blind)} of {len(names)} {split} cameras do not see the scene box"
        return [f"{some} (first: {blind[0]})"] if blind else []
    corners = transform.to_user(torch.tensor([[-1.0] * 3, [1.0] * 3]) * aabb_scale)
    low, high = ([round(value, 3) for value in corner] for corner in corners.tolist())
    position = transform.to_user(cameras.camera_to_world[0, :, 3])
    raise DataError(
        f"{path}: no {split} camera sees the scene box, which reaches from {low} to {high} in the "
        f"frame of the file; the first camera is at {[round(v, 3) for v in position.tolist()]}. "
        "Lower data.scene_scale (or raise data.aabb_scale) until the box holds the scene, or "
        "check that the cameras look along their -z axis."
    )

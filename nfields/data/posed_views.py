"""Views of a camera file made into a data set: cameras in our frame, pictures decoded, checks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from nfields.data.camera_file import View
from nfields.data.image_reader import ImageHeader, conversion_notes, read_images
from nfields.data.posed_images import PosedImages, SceneTransform
from nfields.errors import ConfigError, DataError
from nfields.render.cameras import Cameras, project, rays, view_rays
from nfields.render.lenses import FISHEYE, PERSPECTIVE, distort


@dataclass(frozen=True)
class PosedViews:
    """What the reader of a format found, before any picture is decoded: `assemble`'s arguments."""

    splits: dict[str, list[View]]
    path: Path
    downscale: int
    transform: SceneTransform
    aabb_scale: int
    near: float
    source: str
    notes: list[str]
    missing: list[str]


_handed_over: ContextVar[list[PosedViews] | None] = ContextVar("handed_over", default=None)


@contextmanager
def views_only() -> Iterator[list[PosedViews]]:
    """Inside, readers append what they found to the list and neither check it nor decode pictures.

    For looking at a data set that training would refuse, and at large ones without reading them.
    """
    found: list[PosedViews] = []
    token = _handed_over.set(found)
    try:
        yield found
    finally:
        _handed_over.reset(token)


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
    missing: Sequence[str] = (),
) -> PosedImages:
    """The data set of the views of each split; alpha in one picture gives all pictures four
    channels. `path` is the camera file that messages name, `missing` the pictures that it names and
    that are not there.
    """
    handed_over = _handed_over.get()
    if handed_over is not None:
        handed_over.append(
            PosedViews(
                splits, path, downscale, transform, aabb_scale, near, source, list(notes),
                list(missing),
            )
        )  # fmt: skip
        return PosedImages(
            cameras={split: cameras_of(views, transform) for split, views in splits.items()},
            images=None,
            names={split: [view.name for view in views] for split, views in splits.items()},
            has_alpha=any(view.header.has_alpha for views in splits.values() for view in views),
            aabb_scale=aabb_scale,
            transform=transform,
            source=source,
            near=near,
        )
    headers = [view.header for views in splits.values() for view in views]
    has_alpha = any(header.has_alpha for header in headers)
    cameras = {split: cameras_of(views, transform) for split, views in splits.items()}
    notes = [*notes, *conversion_notes(headers), *size_notes(headers), *twin_notes(splits)]
    for split, split_cameras in cameras.items():
        names = [view.name for view in splits[split]]
        check_lenses(split_cameras, names, path)
        notes += _check_seen(split_cameras, names, split, aabb_scale, transform, path)
    num_channels = 4 if has_alpha else 3
    images = {
        split: read_images([view.header for view in views], num_channels, downscale)
        for split, views in splits.items()
    }
    cameras = {split: value.downscaled(downscale) for split, value in cameras.items()}
    masks = {
        split: [_mask(view, cameras[split], i, downscale) for i, view in enumerate(views)]
        for split, views in splits.items()
    }
    notes += mask_notes(masks)
    depths = {
        split: [
            None
            if view.depth is None
            else view.depth.read(view.header, cameras[split], i, downscale, transform.scale)
            for i, view in enumerate(views)
        ]
        for split, views in splits.items()
    }
    notes += _depth_notes(depths)
    return PosedImages(
        cameras=cameras,
        images=images,
        names={split: [view.name for view in views] for split, views in splits.items()},
        has_alpha=has_alpha,
        aabb_scale=aabb_scale,
        transform=transform,
        source=source,
        near=near,
        notes=notes,
        masks=masks,
        depths=depths,
    )


def _depth_notes(depths: dict[str, list[Tensor | None]]) -> list[str]:
    """A sentence about the depths that task.depth_weight can use, or nothing."""
    each = [depth for split in depths.values() for depth in split]
    known = [depth for depth in each if depth is not None]
    sparse = [len(depth.values()) for depth in known if depth.is_sparse]
    notes = []
    if sparse:
        notes.append(
            f"points give depths to {sum(sparse) / len(sparse):.0f} pixels of a picture, in "
            f"{len(sparse)} of {len(each)}; training uses them (task.depth_weight=0: does not)"
        )
    if len(known) > len(sparse):
        notes.append(f"{len(known) - len(sparse)} of {len(each)} pictures have a depth map")
    return notes


def cameras_of(views: Sequence[View], transform: SceneTransform) -> Cameras:
    """The cameras of views in our frame."""
    poses = np.stack([view.camera_to_world for view in views])
    rotation = np.array(transform.rotation)
    poses = rotation @ poses
    poses[:, :, 3] = poses[:, :, 3] * transform.scale + np.array(transform.offset)
    sizes = [(view.header.width, view.header.height) for view in views]
    float32 = torch.float32
    return Cameras(
        camera_to_world=torch.from_numpy(poses).to(float32),
        focal=torch.tensor([view.focal for view in views], dtype=float32),
        center=torch.tensor([view.center for view in views], dtype=float32),
        distortion=torch.tensor([view.distortion for view in views], dtype=float32),
        sizes=torch.tensor(sizes, dtype=torch.int64),
        lens=torch.tensor([view.lens for view in views], dtype=torch.int64),
        homography=None
        if transform.homography is None
        else torch.tensor(transform.homography, dtype=float32),
    )


def check_holdout(holdout: int) -> None:
    """Nothing; an error if nothing would be left to train on."""
    if holdout < 2:
        raise ConfigError(f"data.holdout={holdout} must be >= 2; 8 holds out every eighth view.")


def hold_out(file: Path, views: Sequence[View], holdout: int) -> dict[str, list[View]]:
    """The split of files without one: every holdout-th view by name, from the first, is test."""
    views = sorted(views, key=lambda view: view.name)
    if len(views) < 2:
        raise DataError(
            f"{file}: only one frame has an image; at least two are needed, one to train on and "
            "one held out."
        )
    train = [view for i, view in enumerate(views) if i % holdout != 0]
    return {"train": train, "test": views[::holdout]}


def _mask(view: View, cameras: Cameras, index: int, downscale: int) -> Tensor | None:
    """Where the file of a mask, if there is one, and the circle of a fisheye leave pixels in."""
    mask = None if view.mask is None else view.mask.read(view.header, downscale)
    shown = fisheye_circle(cameras, index)
    if shown is None or mask is None:
        return shown if mask is None else mask
    return mask & shown


def fisheye_circle(cameras: Cameras, index: int) -> Bool[Tensor, "height width"] | None:
    """Which pixels a fisheye lens fills; None where it, or any other lens, fills the picture."""
    if int(cameras.lens[index]) != FISHEYE:
        return None
    width, height = cameras.size(index)
    shown = view_rays(cameras, index)[1][:, 0].isfinite().view(height, width)
    return None if bool(shown.all()) else shown


def mask_notes(masks: dict[str, list[Tensor | None]]) -> list[str]:
    """A sentence about pixels that masks leave out, or nothing."""
    found = [mask for split in masks.values() for mask in split if mask is not None]
    if not found:
        return []
    total = sum(mask.numel() for mask in found)
    left_out = total - sum(int(mask.count_nonzero()) for mask in found)
    num = sum(len(split) for split in masks.values())
    hint = "; if masks cut out an object, data.masks=object makes the rest empty"
    return [
        f"{len(found)} of {num} pictures have a mask: {left_out / total:.1%} of their pixels are "
        f"neither trained on nor measured{hint if 2 * left_out > total else ''}"
    ]


def size_notes(headers: Sequence[ImageHeader]) -> list[str]:
    """A sentence about pictures of several sizes, or nothing."""
    sizes = Counter((header.width, header.height) for header in headers)
    if len(sizes) < 2:
        return []
    (width, height), num = sizes.most_common(1)[0]
    return [
        f"pictures have {len(sizes)} different sizes; {num} of {len(headers)} have {width} x "
        f"{height} pixels"
    ]


def twin_notes(splits: dict[str, list[View]]) -> list[str]:
    """A sentence about files that several views name, or nothing."""
    paths = Counter(view.header.path for views in splits.values() for view in views)
    twins = [path for path, count in paths.items() if count > 1]
    if not twins:
        return []
    return [
        f"{len(twins)} pictures are named more than once (first: {twins[0].name}); if one of them "
        "is held out, its score means nothing"
    ]


def border(cameras: Cameras, view: int, num: int = 9) -> Tensor:
    """Positions along the four edges of a picture, corners included."""
    s = torch.linspace(0, 1, num)
    zero, one = torch.zeros(num), torch.ones(num)
    edges = [(s, zero), (s, one), (zero, s), (one, s)]
    unit = torch.cat([torch.stack(edge, dim=1) for edge in edges])
    return unit * cameras.sizes[view]


def check_lenses(cameras: Cameras, names: Sequence[str], path: Path) -> None:
    """Nothing; an error if a lens folds its picture, so that some pixels have no or two rays."""
    cameras = replace(cameras, homography=None)
    if not cameras.is_distorted:
        return
    lens = cameras.lens[:, None].float()
    _, first = np.unique(
        torch.cat([cameras.distortion, cameras.focal, cameras.center, lens], dim=1).numpy(),
        axis=0,
        return_index=True,
    )
    for view in first.tolist():
        if cameras.lens[view] != PERSPECTIVE:
            continue  # a fisheye may end inside its picture
        pixels = border(cameras, view)
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
    before = replace(transform, homography=None)
    box = aabb_scale * torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 3)
    corners = transform.to_user(box) if transform.homography is None else before.to_user(box)
    low, high = (
        [round(value, 3) for value in corner.tolist()]
        for corner in (corners.amin(dim=0), corners.amax(dim=0))
    )
    position = before.to_user(cameras.camera_to_world[0, :, 3])
    raise DataError(
        f"{path}: no {split} camera sees the scene box, which reaches from {low} to {high} in the "
        f"frame of the file; the first camera is at {[round(v, 3) for v in position.tolist()]}. "
        "Lower data.scene_scale (or raise data.aabb_scale) until the box holds the scene, or "
        "check that the cameras look along their -z axis."
    )

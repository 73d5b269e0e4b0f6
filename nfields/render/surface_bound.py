"""Where the surface of a field cannot be: safe distances on a grid, from samples of the field.

Notation   h spacing, L(a) the greatest slope of f where |f| <= a, r = sqrt(3) / 2, and
           s = integral of da / L(a) from 0 to |f|: the surface is at least s away. Every point is
           within r h of a corner, so a corner near a point of the surface has s <= r h: the near
           corners. The surface is at least (distance to the nearest near corner) - r h away from a
           corner, and at least s. The first holds however wrong f is far from its surface; the
           second is sharper beside it, and taken up to 3 h.
Where f is no distance, near corners are those of cells in which it changes its sign.

Near corners form parts. Those that are strays (nfields/render/strays.py) are no surface to the
bound, and what would meet them goes through; only strays that are 4 cells and more from everything
else are parts of their own. A part's area is its number of corners, as those of a plane lie.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

from nfields.ops.sphere_trace import BoundGrid
from nfields.render.strays import are_stray
from nfields.render.surface import Surface

_STRIDE = 4  # fine cells a coarse one
_COVER = 0.5 * 3**0.5  # r
# A learned distance is steeper than 1 in places. More than this is not allowed for: the grid would
# exclude nothing.
_MAX_LIPSCHITZ = 2.0
_BANDS = 3  # of |f|, a spacing each, that have slopes of their own: fields are steeper far away
_TRUSTED = 3.0  # spacings up to which |f| is believed


@dataclass(frozen=True)
class SurfaceBound:
    """What `bound_surface` found out, for any number of pictures of the same surface."""

    grid: BoundGrid
    distances: BoundGrid  # estimates, not bounds: what shading asks
    slopes: tuple[float, ...] | None  # as sphere_trace takes them; None: f is no distance
    near: Float[Tensor, "n 3"]  # corners next to the surface, all around it; none: no surface
    box: Float[Tensor, "2 3"]  # holds all of the inside and of the surface
    num_strays: int  # parts of the surface that the bound leaves out
    num_samples: int


def bound_surface(surface: Surface, resolution: int) -> SurfaceBound:
    """Samples the field on a grid of `resolution` cells along the longest side of its box.

    A distance is sampled coarsely, then finely where that leaves the surface possible for slopes up
    to 2: some 15 per cent of the grid. L is the steepest of the fine differences but for one in a
    thousand, and a tenth more. Missed are parts that break this: of a distance, parts that are
    steeper; of other functions, parts that change no corner's sign (thinner than a cell).
    """
    low, high = surface.bounds.double().cpu()
    size = high - low
    if not bool((size > 0).all() & size.isfinite().all()):
        raise ValueError(f"bounds={surface.bounds.tolist()} must be a box with positive sides")
    spacing = float(size.max()) / resolution
    coarse = torch.ceil(size / (_STRIDE * spacing) - 1e-6).long().clamp(min=1)
    cells = _STRIDE * coarse

    def sample(index: Int[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        # Corners beyond the box are asked at the nearest point of it, which is no farther from
        # anything inside.
        return surface.values(torch.minimum(low + index * spacing, high).float())

    shape = tuple((cells + 1).tolist())
    if not surface.is_distance:
        values = sample(_all_corners(shape, 1)).view(shape)
        near = _changes_sign(values)
        distance = _distance_to(near) - _COVER
        slopes, num_strays, num_samples = None, 0, values.numel()
        estimate = (distance + _COVER) * spacing
    else:
        coarse_shape = tuple((coarse + 1).tolist())
        values = sample(_all_corners(coarse_shape, _STRIDE)).view(coarse_shape)
        num_samples = values.numel()
        is_open = _may_cross(values, _MAX_LIPSCHITZ * _COVER * _STRIDE * spacing)
        values = torch.nn.functional.interpolate(
            values[None, None], size=shape, mode="trilinear", align_corners=True
        )[0, 0]
        known = _corners_of(is_open)
        index = known.nonzero()
        values[known] = sample(index)
        num_samples += len(index)
        slopes = _steepness(values, known, spacing)
        size_of = _least_distance(values.abs(), slopes, spacing) / spacing
        near = known & (size_of <= _COVER)
        strays = _strays(near, surface, low, spacing, slopes[0])
        near &= strays == 0
        distance = _distance_to(near) - _COVER
        believed = torch.where(known, size_of.clamp(max=_TRUSTED), 0.0)
        estimate, num_strays = values.abs(), int(strays.max())
        if num_strays:
            is_theirs, sign = _around_strays(strays, near, values)
            values = torch.where(is_theirs, sign, values)
            believed[is_theirs] = 0
            estimate = torch.where(is_theirs, (distance + _COVER) * spacing, estimate)
        distance = torch.maximum(distance, believed)
    grid = BoundGrid((distance.clamp(min=0) * spacing).copysign(values), low, spacing)
    estimates = BoundGrid(estimate.copysign(values), low, spacing)
    near_points = torch.minimum(low + near.nonzero() * spacing, high).float()
    box = torch.stack([low, high]).float()
    if len(near_points) and not _reaches_the_rim(values):
        reach = _COVER * spacing
        box[0] = torch.maximum(box[0], near_points.amin(dim=0) - reach)
        box[1] = torch.minimum(box[1], near_points.amax(dim=0) + reach)
    return SurfaceBound(grid, estimates, slopes, near_points, box, num_strays, num_samples)


def _strays(
    near: Bool[Tensor, "x y z"], surface: Surface, low: Float[Tensor, " 3"], spacing: float,
    slope: float,
) -> Int[Tensor, "x y z"]:  # fmt: skip
    """The near corners of stray parts, numbered from 1; 0 elsewhere."""
    labelled: Any = label(near.numpy(), np.ones((3, 3, 3)))  # the stubs know of other forms
    numbers, num_parts = labelled
    if num_parts < 2:
        return torch.zeros_like(near, dtype=torch.int32)
    index = near.nonzero()
    part = numbers[tuple(index.T.numpy())] - 1
    area = spacing**2 / (2 * _COVER * slope)  # of a plane, a corner within r h slope of it
    points = (low + index * spacing).numpy()
    is_stray = are_stray(area * np.bincount(part), points, part, surface)
    renumbered = np.append(0, np.where(is_stray, np.cumsum(is_stray), 0)).astype(np.int32)
    return torch.from_numpy(renumbered[numbers])


def _around_strays(
    strays: Int[Tensor, "x y z"], near: Bool[Tensor, "x y z"], values: Float[Tensor, "x y z"]
) -> tuple[Bool[Tensor, "x y z"], Float[Tensor, "x y z"]]:
    """The corners nearer to a stray than to anything else, and the sign around it: where most of
    them that are no near corners have it."""
    nearest: Any = distance_transform_edt(~(near | (strays > 0)).numpy(), return_indices=True)
    number = strays.numpy()[tuple(nearest[1])]
    is_free = (number > 0) & (strays == 0).numpy()
    signs = np.bincount(number[is_free], np.sign(values.numpy()[is_free]), int(strays.max()) + 1)
    return torch.from_numpy(number > 0), torch.from_numpy(np.sign(signs)[number]).to(values)


def _reaches_the_rim(values: Float[Tensor, "x y z"]) -> bool:
    """Whether any corner of the grid's faces is inside."""
    return any(bool((values.select(axis, end) < 0).any()) for axis in range(3) for end in (0, -1))


def _all_corners(shape: tuple[int, ...], stride: int) -> Int[Tensor, "n 3"]:
    axes = [torch.arange(count) * stride for count in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).view(-1, 3)


def _may_cross(values: Float[Tensor, "x y z"], reach: float) -> Bool[Tensor, "a b c"]:
    """Cells with a corner within `reach` of zero, or with corners on both sides."""
    smallest = -torch.nn.functional.max_pool3d(-values.abs()[None, None], 2, 1)[0, 0]
    highest = torch.nn.functional.max_pool3d(values[None, None], 2, 1)[0, 0]
    lowest = -torch.nn.functional.max_pool3d(-values[None, None], 2, 1)[0, 0]
    return (smallest <= reach) | ((lowest < 0) & (highest >= 0))


def _corners_of(cells: Bool[Tensor, "a b c"]) -> Bool[Tensor, "x y z"]:
    """Fine corners of the coarse cells that are True, their faces included."""
    for axis in range(3):
        inner = cells.repeat_interleave(_STRIDE, dim=axis)
        last = inner.narrow(axis, inner.shape[axis] - 1, 1)
        upper = torch.cat([inner, last], dim=axis)
        first = inner.narrow(axis, 0, 1)
        cells = upper | torch.cat([first, inner], dim=axis)
    return cells


def _changes_sign(values: Float[Tensor, "x y z"]) -> Bool[Tensor, "x y z"]:
    """Corners with another sign among their 26 neighbours: all those of crossed cells, and more."""
    inside = (values < 0).float()[None, None]
    some = torch.nn.functional.max_pool3d(inside, 3, 1, padding=1)[0, 0]
    every = 1 - torch.nn.functional.max_pool3d(1 - inside, 3, 1, padding=1)[0, 0]
    return some > every


def _distance_to(near: Bool[Tensor, "x y z"]) -> Float[Tensor, "x y z"]:
    """Distances to the nearest True corner, in spacings; beyond the grid if there is none."""
    if not bool(near.any()):
        return torch.full(near.shape, float(sum(near.shape)))
    return torch.from_numpy(distance_transform_edt(~near.numpy())).float()


def _steepness(
    values: Float[Tensor, "x y z"], known: Bool[Tensor, "x y z"], spacing: float
) -> tuple[float, ...]:
    """The slopes that one in a thousand known corners exceeds, plus a tenth; from 1 to 2. Of those
    where |f| is below one spacing, two and so on, and of all."""
    inner = (slice(None, -1),) * 3
    is_known, squares = known[inner], values.new_zeros(())
    for axis in range(3):
        behind = tuple(slice(1, None) if k == axis else slice(None, -1) for k in range(3))
        is_known = is_known & known[behind]
        squares = squares + (values[behind] - values[inner]).square()
    slopes, heights = squares[is_known].sqrt() / spacing, values[inner][is_known].abs() / spacing
    found = []
    for top in (*range(1, _BANDS + 1), torch.inf):
        part = slopes[heights < top]
        if len(part) == 0:
            found.append(1.0)
            continue
        steep = part.kthvalue(max(1, round(0.999 * len(part)))).values
        found.append(min(max(1.1 * float(steep), 1.0), _MAX_LIPSCHITZ))
    return tuple(found)


def _least_distance(
    sizes: Float[Tensor, "x y z"], slopes: tuple[float, ...], band: float
) -> Float[Tensor, "x y z"]:
    """s of sizes |f|; the last slope holds for all that is above the other bands."""
    total = torch.zeros_like(sizes)
    for k, slope in enumerate(slopes):
        top = band if k + 1 < len(slopes) else torch.inf
        total += (sizes - k * band).clamp(0, top) / slope
    return total

"""Rays against a surface: depths, points and normals, without a mesh.

The surface is what `nfields.ops.sphere_trace` finds inside the surface's box. Where the box cuts
through the inside, rays that come from outside hit the cut itself, so solids look solid; a ray that
starts inside the surface hits it from within. Normals look towards the ray's origin.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nfields.ops.sphere_trace import sphere_trace
from nfields.render.surface import Surface
from nfields.render.surface_bound import SurfaceBound


@dataclass(frozen=True)
class Hits:
    """Where rays meet a surface; misses have an infinite depth and zero normals."""

    depth: Float[Tensor, " n"]  # distance along the unit ray
    is_hit: Bool[Tensor, " n"]
    points: Float[Tensor, "hits 3"]  # of the hits alone, in the order of the rays
    normals: Float[Tensor, "hits 3"]  # unit, towards the ray's origin


def trace(
    surface: Surface,
    bound: SurfaceBound,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    *,
    pixel_size: float,
    backend: str = "auto",
) -> Hits:
    """The first hit of every ray; directions are unit vectors, everything is on the CPU.

    `pixel_size` is how far apart neighbouring rays are where they meet the surface: what a ray
    crosses within less than half of it (or a quarter of a cell of the bound) may be missed, and
    depths are right to a hundredth of it and better.
    """
    spacing = bound.grid.spacing
    gap = min(max(0.5 * pixel_size, spacing / 32), spacing / 4)
    enter, leave, face = box_interval(origins, directions, surface.bounds.to(origins))

    depth, starts_inside = sphere_trace(
        surface.values, origins, directions, enter, leave, bound=bound.grid,
        lipschitz=bound.lipschitz, gap=gap, tolerance=gap / 8, backend=backend,
    )  # fmt: skip
    is_cut = starts_inside & (enter > 0)
    depth = torch.where(is_cut, enter, depth)
    is_hit = depth.isfinite()
    d, t = directions[is_hit], depth[is_hit]
    points = origins[is_hit] + t[:, None] * d
    normals = gradients(surface, points, 0.5 * pixel_size)
    normals = torch.nn.functional.normalize(normals, dim=1, eps=1e-20)
    axis = torch.nn.functional.one_hot(face[is_hit], 3).to(normals)
    # A gradient of zero says nothing; the ray's own direction is at least towards the viewer.
    normals = torch.where(is_cut[is_hit, None], axis, normals)
    normals = torch.where(normals.square().sum(1, keepdim=True) > 0.5, normals, -d)
    normals = torch.where((normals * d).sum(1, keepdim=True) > 0, -normals, normals)
    return Hits(depth, is_hit, points, normals)


def box_interval(
    origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], bounds: Float[Tensor, "2 3"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Int[Tensor, " n"]]:
    """Where rays enter a box (0 if they start in it) and leave it, and the axis of the face they
    enter through; a ray that misses leaves before it enters."""
    tiny = torch.finfo(directions.dtype).tiny ** 0.5
    safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    first, second = (bounds[0] - origins) / safe, (bounds[1] - origins) / safe
    enter, face = torch.minimum(first, second).max(dim=1)
    leave = torch.maximum(first, second).amin(dim=1)
    return enter.clamp(min=0), leave, face


def gradients(surface: Surface, points: Float[Tensor, "n 3"], step: float) -> Float[Tensor, "n 3"]:
    """Central differences of the surface's function over `step` to both sides, along each axis.

    That is the mean gradient over the footprint: pictures of fields that are rough below a pixel do
    not sparkle, and functions that cannot be differentiated are welcome. The error for a smooth
    field is step^2 / 6 times its third derivative.
    """
    offsets = step * torch.cat([torch.eye(3), -torch.eye(3)]).to(points)
    taps = (points[:, None] + offsets).view(-1, 3)
    values = surface.values(taps).view(-1, 2, 3)
    return (values[:, 0] - values[:, 1]) / (2 * step)

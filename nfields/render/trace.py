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


@dataclass(frozen=True)
class Crossings:
    """Rays and where each first crosses a surface, before anything is known about its normals."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    depth: Float[Tensor, " n"]  # infinite for a miss
    is_cut: Bool[Tensor, " n"]  # where the box cuts through the inside
    face: Int[Tensor, " n"]  # the axis of the box's face there

    def __getitem__(self, index: Bool[Tensor, " n"]) -> "Crossings":
        """The chosen rays."""
        parts = (self.origins, self.directions, self.depth, self.is_cut, self.face)
        return Crossings(*(part[index] for part in parts))

    @property
    def points(self) -> Float[Tensor, "n 3"]:
        """The places of the crossings."""
        return self.origins + self.depth[:, None] * self.directions


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
    found = crossings(
        surface, bound, origins, directions, pixel_size=pixel_size, gaps=0.125, backend=backend
    )
    return Hits(found.depth, found.depth.isfinite(), *hits_of(surface, found, pixel_size))


def crossings(
    surface: Surface,
    bound: SurfaceBound,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    *,
    pixel_size: float,
    gaps: float,
    backend: str = "auto",
) -> Crossings:
    """The first crossings of `trace`, right to `gaps` times the longest piece that it may miss."""
    spacing = bound.grid.spacing
    gap = min(max(0.5 * pixel_size, spacing / 32), spacing / 4)
    enter, leave, face = box_interval(origins, directions, bound.box.to(origins))
    depth, starts_inside = sphere_trace(
        surface.values, origins, directions, enter, leave, bound=bound.grid,
        slopes=bound.slopes, gap=gap, tolerance=gaps * gap, backend=backend,
    )  # fmt: skip
    is_cut = starts_inside & (enter > 0)
    depth = torch.where(is_cut, enter, depth)
    return Crossings(origins, directions, depth, is_cut, face)


def hits_of(
    surface: Surface, found: Crossings, pixel_size: float
) -> tuple[Float[Tensor, "hits 3"], Float[Tensor, "hits 3"]]:
    """Points and unit normals, towards the rays' origins, of the crossings that there are."""
    found = found[found.depth.isfinite()]
    points, d = found.points, found.directions
    normals = gradients(surface, points, 0.5 * pixel_size)
    normals = torch.nn.functional.normalize(normals, dim=1, eps=1e-20)
    axis = torch.nn.functional.one_hot(found.face, 3).to(normals)
    # A gradient of zero says nothing; the ray's own direction is at least towards the viewer.
    normals = torch.where(found.is_cut[:, None], axis, normals)
    normals = torch.where(normals.square().sum(1, keepdim=True) > 0.5, normals, -d)
    return points, torch.where((normals * d).sum(1, keepdim=True) > 0, -normals, normals)


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

"""Pictures of a surface through a camera: what the studio's light, its depth and its normals are.

Antialiasing is adaptive: pixels beside which the surface ends, jumps in depth or bends are traced
again with several rays each, whose light is averaged; the others keep their one ray.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nfields.render.cameras import Cameras, pixel_centers, rays
from nfields.render.shade import linear, studio_light
from nfields.render.surface import Surface
from nfields.render.surface_bound import SurfaceBound
from nfields.render.trace import Hits, trace

_RAYS = 1 << 18  # traced at once
_BEND = 0.9  # cosine between normals of neighbours below which a pixel is an edge
_JUMP = 4.0  # pixels' sizes between depths of neighbours above which it is one


@dataclass(frozen=True)
class Photograph:
    """One view of a surface; row 0 on top."""

    light: Float[Tensor, "h w 3"]  # linear, times opacity
    opacity: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]  # along the ray through the pixel's centre, infinite for a miss
    normals: Float[Tensor, "h w 3"]  # unit, towards the camera, world's axes; 0 for a miss


def photograph(
    surface: Surface, bound: SurfaceBound, cameras: Cameras, view: int, *, antialias: int
) -> Photograph:
    """The picture of a view, with antialias^2 rays in pixels at edges; 1 turns that off."""
    if antialias < 1:
        raise ValueError(f"antialias={antialias} must be at least 1")
    width, height = cameras.size(view)
    centers = pixel_centers(width, height)
    size = pixel_size(bound, cameras, view)
    hits, light = _look(surface, bound, cameras, view, centers, size)
    opacity = hits.is_hit.float()
    normals = torch.zeros(len(centers), 3)
    normals[hits.is_hit] = hits.normals
    if antialias > 1:
        is_edge = _edges(hits.depth.view(height, width), normals.view(height, width, 3), size).view(
            -1
        )
        light, opacity = light.clone(), opacity.clone()
        offsets = (torch.arange(antialias) + 0.5) / antialias - 0.5
        grid = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1).view(-1, 2)
        inside = centers[is_edge]
        again = (inside[:, None] + grid).view(-1, 2)
        finer, finer_light = _look(surface, bound, cameras, view, again, size / antialias)
        light[is_edge] = finer_light.view(len(inside), len(grid), 3).mean(dim=1)
        opacity[is_edge] = finer.is_hit.float().view(len(inside), len(grid)).mean(dim=1)
    return Photograph(
        light.view(height, width, 3), opacity.view(height, width),
        hits.depth.view(height, width), normals.view(height, width, 3),
    )  # fmt: skip


def pixel_size(bound: SurfaceBound, cameras: Cameras, view: int) -> float:
    """How far apart the rays of neighbouring pixels are at the middle of the surface."""
    low, high = extent(bound)
    camera = cameras.camera_to_world[view, :, 3].cpu()
    distance = max(float((camera - (low + high) / 2).norm()), 0.1 * float((high - low).max()))
    return distance / float(cameras.focal[view].max())


def extent(bound: SurfaceBound) -> tuple[Float[Tensor, " 3"], Float[Tensor, " 3"]]:
    """The box around the surface, to a cell; the whole box where there is no surface."""
    if len(bound.near):
        return bound.near.amin(dim=0), bound.near.amax(dim=0)
    low = bound.grid.low.float()
    return low, low + (torch.tensor(bound.grid.values.shape) - 1) * bound.grid.spacing


def _look(
    surface: Surface, bound: SurfaceBound, cameras: Cameras, view: int,
    pixels: Float[Tensor, "n 2"], size: float,
) -> tuple[Hits, Float[Tensor, "n 3"]]:  # fmt: skip
    """The hits of rays through positions in the picture, and the light that comes along them."""
    low, high = extent(bound)
    parts, lights = [], []
    cameras = cameras.to("cpu")
    for part in pixels.split(_RAYS):
        index = torch.full((len(part),), view)
        origins, directions = rays(cameras, index, part)
        hits = trace(surface, bound, origins, directions, pixel_size=size)
        albedo = None
        if surface.color is not None:
            with torch.no_grad():
                albedo = linear(surface.color(hits.points.to(surface.bounds.device)).cpu())
        light = torch.zeros(len(part), 3)
        light[hits.is_hit] = studio_light(
            hits.points, hits.normals, albedo, cameras.camera_to_world[view], bound.distances,
            float((high - low).max()),
        )  # fmt: skip
        parts.append(hits)
        lights.append(light)
    merged = Hits(*(torch.cat([getattr(p, f) for p in parts]) for f in Hits.__dataclass_fields__))
    return merged, torch.cat(lights)


def _edges(
    depth: Float[Tensor, "h w"], normals: Float[Tensor, "h w 3"], size: float
) -> Bool[Tensor, "h w"]:
    """Pixels beside which the surface ends, jumps or bends."""
    is_edge = torch.zeros_like(depth, dtype=torch.bool)
    for axis in (0, 1):
        count = depth.shape[axis]
        if count < 2:
            continue
        one, other = depth.narrow(axis, 0, count - 1), depth.narrow(axis, 1, count - 1)
        both = one.isfinite() & other.isfinite()
        bend = (normals.narrow(axis, 0, count - 1) * normals.narrow(axis, 1, count - 1)).sum(2)
        jump = torch.where(both, (one - other).abs(), 0.0) > _JUMP * size
        differs = (one.isfinite() != other.isfinite()) | (both & (jump | (bend < _BEND)))
        is_edge.narrow(axis, 0, count - 1).logical_or_(differs)
        is_edge.narrow(axis, 1, count - 1).logical_or_(differs)
    return is_edge

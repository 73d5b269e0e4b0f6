"""Pictures of a surface through a camera: what the studio's light, its depth and its normals are.

Antialiasing is adaptive: pixels beside which the surface ends or jumps are traced again with more
rays, the others keep their one (nfields/render/antialias.py).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.render.antialias import Seen, known_light, mean_light
from nfields.render.cameras import Cameras, pixel_centers, rays
from nfields.render.shade import linear, studio_light
from nfields.render.surface import Surface
from nfields.render.surface_bound import SurfaceBound
from nfields.render.trace import crossings, hits_of, trace

_RAYS = 1 << 18  # traced at once


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
    cameras = cameras.to("cpu")
    parts, lights = [], []
    for part in centers.split(_RAYS):
        origins, directions = rays(cameras, torch.full((len(part),), view), part)
        hits = trace(surface, bound, origins, directions, pixel_size=size)
        light = torch.zeros(len(part), 3)
        light[hits.is_hit] = _light(surface, bound, cameras, view, hits.points, hits.normals)
        parts.append(hits)
        lights.append(light)
    is_hit, light = torch.cat([hits.is_hit for hits in parts]), torch.cat(lights)
    points, normals = torch.zeros(len(centers), 3), torch.zeros(len(centers), 3)
    points[is_hit] = torch.cat([hits.points for hits in parts])
    normals[is_hit] = torch.cat([hits.normals for hits in parts])
    depth = torch.cat([hits.depth for hits in parts]).view(height, width)
    maps = (part.view(height, width, 3) for part in (points, normals, light))
    seen = Seen(is_hit.view(height, width), *maps)
    if antialias == 1:
        return Photograph(seen.light, seen.is_hit.float(), depth, seen.normals)
    shown, opacity = _with_edges(surface, bound, cameras, view, seen, size, antialias)
    return Photograph(shown, opacity, depth, seen.normals)


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


def _light(
    surface: Surface, bound: SurfaceBound, cameras: Cameras, view: int,
    points: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"],
) -> Float[Tensor, "n 3"]:  # fmt: skip
    """The linear light of points of the surface."""
    low, high = extent(bound)
    albedo = None
    if surface.color is not None:
        with torch.no_grad():
            albedo = linear(surface.color(points.to(surface.bounds.device)).cpu())
    return studio_light(
        points, normals, albedo, cameras.camera_to_world[view], bound.distances,
        float((high - low).max()),
    )  # fmt: skip


def _with_edges(
    surface: Surface, bound: SurfaceBound, cameras: Cameras, view: int, seen: Seen, size: float,
    antialias: int,
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w"]]:  # fmt: skip
    """Light and opacity of whole pixels, with antialias^2 rays in those at edges."""
    shown, is_edge = mean_light(seen, size)
    index = is_edge.nonzero()
    finer, offsets = size / antialias, (torch.arange(antialias) + 0.5) / antialias
    grid = torch.stack(torch.meshgrid(offsets, offsets, indexing="ij"), dim=-1).view(-1, 2)
    again = (index.flip(1)[:, None] + grid).reshape(-1, 2)
    covered, lights = [], []
    for pixels in again.split(_RAYS):
        origins, directions = rays(cameras, torch.full((len(pixels),), view), pixels)
        found = crossings(surface, bound, origins, directions, pixel_size=finer, gaps=1.0)
        is_hit = found.depth.isfinite()
        found = found[is_hit]
        light, is_known = known_light(seen, pixels[is_hit], found.points, size)
        anew = hits_of(surface, found[~is_known], finer)
        light[~is_known] = _light(surface, bound, cameras, view, *anew)
        lights.append(torch.zeros(len(pixels), 3).masked_scatter(is_hit[:, None], light))
        covered.append(is_hit.float())
    opacity = seen.is_hit.float()
    opacity[is_edge] = torch.cat(covered).view(len(index), len(grid)).mean(dim=1)
    shown[is_edge] = torch.cat(lights).view(len(index), len(grid), 3).mean(dim=1)
    return shown, opacity

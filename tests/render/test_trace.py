"""Rays against surfaces: depths, normals, silhouettes, cuts by the box; the bound they rely on."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nfields.ops.sphere_trace.cpu import interpolate
from nfields.render.cameras import Cameras, view_rays
from nfields.render.photograph import photograph
from nfields.render.small_bodies import cells_of_points
from nfields.render.surface import Surface
from nfields.render.surface_bound import SurfaceBound, bound_surface
from nfields.render.trace import trace
from nfields.render.turntable import turntable
from tests.compare import assert_matches

CENTER, RADIUS = torch.tensor([0.1, -0.05, 0.2]), 0.6


def surface_of(distance, is_distance: bool = True, half_side: float = 1.0) -> Surface:
    bounds = half_side * torch.tensor([[-1.0] * 3, [1.0] * 3])
    return Surface(distance, bounds, torch.eye(4), is_distance, None)


def ball(x: Tensor) -> Tensor:
    return (x - CENTER).norm(dim=1) - RADIUS


@pytest.fixture(scope="module")
def ball_bound() -> SurfaceBound:
    return bound_surface(surface_of(ball), 32)


def camera(size: int = 64, **other) -> Cameras:
    options = {"azimuth_deg": 40, "elevation_deg": 20, "fov_deg": 30, "margin": 0.05, "up": "y"}
    corners = CENTER + RADIUS * torch.tensor([[-1.0, -1, -1], [1, 1, 1]])
    return turntable(corners, 1, width=size, height=size, **(options | other))


def test_ball_has_its_depths_normals_and_silhouette(ball_bound: SurfaceBound) -> None:
    origins, directions = view_rays(camera(), 0)
    pixel = 0.05
    hits = trace(surface_of(ball), ball_bound, origins, directions, pixel_size=pixel)
    b = ((origins - CENTER) * directions).sum(1)
    inner = b.square() - (origins - CENTER).square().sum(1) + RADIUS**2
    is_clear = 2 * inner.clamp(min=0).sqrt() > 0.5 * pixel  # the chord that a ray may miss
    assert hits.is_hit[is_clear].all() and not hits.is_hit[inner < 0].any()  # the tangent cone
    expected = -b - inner.clamp(min=0).sqrt()
    found = hits.is_hit
    assert_matches(hits.depth[found], expected[found], atol=2e-3, rtol=0)
    # The central difference errs by step^2 / 6 f''' and f''' <= 3 / r^2: a milliradian here.
    outwards = normalize(hits.points - CENTER, dim=1)
    assert_matches(hits.normals, outwards, atol=0.025**2 / 2 / RADIUS**2, rtol=0)


def test_turning_camera_and_surface_together_changes_nothing(ball_bound: SurfaceBound) -> None:
    angle = math.radians(33)
    rotation = torch.tensor(
        [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
    )
    origins, directions = view_rays(camera(), 0)
    hits = trace(surface_of(ball), ball_bound, origins, directions, pixel_size=0.02)
    turned = surface_of(lambda x: ball(x @ rotation))
    other = trace(
        turned, bound_surface(turned, 32), origins @ rotation.T, directions @ rotation.T,
        pixel_size=0.02,
    )  # fmt: skip
    both = hits.is_hit & other.is_hit
    assert (hits.is_hit == other.is_hit).double().mean() > 0.99
    assert_matches(other.depth[both], hits.depth[both], atol=2e-3, rtol=0)


def test_solid_cut_by_the_box_shows_its_cut() -> None:
    surface = surface_of(ball, half_side=0.3)
    bound = bound_surface(surface, 16)
    hits = trace(
        surface, bound, torch.tensor([[2.0, 0, 0.1]]), torch.tensor([[-1.0, 0, 0]]), pixel_size=0.01
    )
    assert_matches(hits.depth, torch.tensor([1.7]), num_operations=4)
    assert hits.normals.tolist() == [[1, 0, 0]]


def test_ray_from_inside_hits_from_within(ball_bound: SurfaceBound) -> None:
    direction = torch.tensor([[0.0, 0, -1]])
    hits = trace(surface_of(ball), ball_bound, CENTER[None], direction, pixel_size=0.01)
    assert_matches(hits.depth, torch.tensor([RADIUS]), atol=1e-3, rtol=0)
    assert_matches(hits.normals, -direction, atol=1e-3, rtol=0)


def test_function_that_is_no_distance_has_the_same_surface(ball_bound: SurfaceBound) -> None:
    other = surface_of(lambda x: 50 * torch.sinh(3 * ball(x)), is_distance=False)
    bound = bound_surface(other, 32)
    assert bound.slopes is None
    origins, directions = view_rays(camera(), 0)
    one = trace(surface_of(ball), ball_bound, origins, directions, pixel_size=0.02)
    two = trace(other, bound, origins, directions, pixel_size=0.02)
    both = one.is_hit & two.is_hit
    assert (one.is_hit == two.is_hit).double().mean() > 0.99
    assert_matches(two.depth[both], one.depth[both], atol=2e-3, rtol=0)


def test_bound_is_below_the_distance_everywhere(ball_bound: SurfaceBound) -> None:
    grid = ball_bound.grid
    points = 2 * torch.rand(2000, 3) - 1
    values = grid.values.numpy()
    for point, distance in zip(points.tolist(), ball(points).tolist(), strict=True):
        at = [(point[k] - float(grid.low[k])) / grid.spacing for k in range(3)]
        safe = interpolate(values, *at)
        assert abs(safe) - grid.margin <= abs(distance) + 1e-6
        assert abs(safe) <= grid.margin or (safe < 0) == (distance < 0)


@pytest.mark.slow
def test_rays_go_through_strays() -> None:
    """Two dots beside a ball, and one in a hollow of it; what the data has small is none."""
    dots = torch.tensor([[0.9, 0.9, 0.0], [-0.9, 0.9, 0.3]])

    def spotted(x: Tensor) -> Tensor:
        shell = (x.norm(dim=1) - 0.45).abs() - 0.25
        nearest = torch.cdist(x, torch.cat([dots, torch.zeros(1, 3)])).amin(dim=1)
        return torch.minimum(shell, nearest - 0.005)

    surface = surface_of(spotted)
    origins = torch.cat([dots + torch.tensor([0.0, 0, 3]), torch.tensor([[0.0, 0.0, 3]])])
    directions = torch.tensor([[0.0, 0, -1]]).repeat(3, 1)
    there = cells_of_points(np.array([*dots.tolist(), [0.0, 0.0, 0.0]]))
    for cells, num_strays, expected in ((None, 3, math.inf), (there, 0, 3 - 0.005)):
        given = replace(surface, small_bodies=cells)
        bound = bound_surface(given, 64)
        assert bound.num_strays == num_strays
        hits = trace(given, bound, origins, directions, pixel_size=0.01)
        assert_matches(hits.depth, torch.tensor([expected, expected, 3 - 0.7]), atol=2e-3, rtol=0)
        assert (bound.near.abs().amax() < 0.75) == (num_strays > 0)
        middle = tuple(size // 2 for size in bound.grid.values.shape)
        assert (bound.distances.values[middle] > 0.15) == (num_strays > 0)
    assert bound_surface(replace(surface, is_distance=False), 64).num_strays == 0


def test_box_is_that_of_the_surface_or_of_the_field_where_it_is_cut(
    ball_bound: SurfaceBound,
) -> None:
    low, high = ball_bound.box
    cells = torch.stack([CENTER - RADIUS - low, high - CENTER - RADIUS]) / ball_bound.grid.spacing
    assert (cells >= 0).all() and (cells < 3).all()
    cut = bound_surface(surface_of(ball, half_side=0.7), 16)
    inside_out = bound_surface(surface_of(lambda x: -ball(x)), 16)
    assert cut.box.tolist() == surface_of(ball, half_side=0.7).bounds.tolist()
    assert inside_out.box.tolist() == [[-1.0] * 3, [1.0] * 3]


def test_empty_field_gives_an_empty_picture() -> None:
    surface = surface_of(lambda x: torch.ones_like(x[:, 0]))
    bound = bound_surface(surface, 16)
    seen = photograph(surface, bound, camera(16), 0, antialias=2)
    assert len(bound.near) == 0 and not seen.opacity.any() and seen.depth.isinf().all()


def test_antialiasing_makes_the_covered_area_right(ball_bound: SurfaceBound) -> None:
    """Light and opacity of pixels at the outline are shares: their sum is the disc's area."""
    sizes = {}
    for antialias in (1, 4):
        seen = photograph(surface_of(ball), ball_bound, camera(24), 0, antialias=antialias)
        sizes[antialias] = float(seen.opacity.sum())
        assert (seen.light.amax(2) <= 1.3 * seen.opacity + 1e-6).all()
    fine = photograph(surface_of(ball), ball_bound, camera(192), 0, antialias=1)
    area = float(fine.opacity.sum()) / 64
    assert abs(sizes[4] - area) < 0.01 * area
    assert ((seen.opacity > 0) & (seen.opacity < 1)).any()


@pytest.mark.parametrize("up", ["x", "y", "z", "-y"])
def test_turntable_shows_every_point_with_its_margin(up) -> None:
    from nfields.render.cameras import project

    points = torch.rand(200, 3) * torch.tensor([1.0, 0.3, 2.0])
    path = turntable(
        points, 5, width=90, height=60, up=up, azimuth_deg=10, elevation_deg=15, fov_deg=30,
        margin=0.05,
    )  # fmt: skip
    vertical = path.camera_to_world[:, "xyz".index(up[-1]), 1]
    assert ((vertical < 0) if up.startswith("-") else (vertical > 0)).all()
    for view in range(5):
        pixels, depth = project(path, view, points)
        assert (depth > 0).all() and (pixels > 1.5).all()
        assert (pixels < torch.tensor([88.5, 58.5])).all()

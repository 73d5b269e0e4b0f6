"""Light of whole pixels: means of what is smooth, borders as many rays have them, thin parts."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from nfields.render.antialias import Seen, known_light, mean_light
from nfields.render.cameras import Cameras
from nfields.render.photograph import Photograph, photograph
from nfields.render.surface import Surface
from nfields.render.surface_bound import bound_surface
from nfields.render.turntable import turntable
from tests.compare import assert_matches


def still(distance, size: int, antialias: int, cells: int = 32) -> Photograph:
    bounds = torch.tensor([[-1.0] * 3, [1.0] * 3])
    surface = Surface(distance, bounds, torch.eye(4), True, None)
    return photograph(
        surface, bound_surface(surface, cells), camera(size), 0, antialias=antialias
    )  # fmt: skip


def camera(size: int) -> Cameras:
    return turntable(
        torch.tensor([[-0.7] * 3, [0.7] * 3]), 1, width=size, height=size, up="y", azimuth_deg=30,
        elevation_deg=20, fov_deg=30, margin=0.05,
    )  # fmt: skip


def solids(x: Tensor) -> Tensor:
    """Two balls, one before the other, and a box with its creases."""
    one = (x - torch.tensor([0.3, 0.2, 0.3])).norm(dim=1) - 0.25
    two = (x - torch.tensor([0.0, -0.1, -0.2])).norm(dim=1) - 0.45
    corner = (x - torch.tensor([-0.4, 0.3, 0.2])).abs() - torch.tensor([0.15, 0.2, 0.1])
    box = corner.clamp(min=0).norm(dim=1) + corner.amax(1).clamp(max=0)
    return torch.minimum(torch.minimum(one, two), box)


def flat(light: Tensor) -> Seen:
    """A plane seen from straight above, one unit a pixel, with the given light (h, w)."""
    height, width = light.shape
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    points = torch.stack([columns + 0.5, rows + 0.5, torch.zeros(height, width)], dim=-1)
    normals = torch.tensor([0.0, 0, 1]).expand(height, width, 3)
    return Seen(
        torch.ones_like(light, dtype=torch.bool),
        points,
        normals,
        light[..., None].expand(-1, -1, 3),
    )


def test_mean_of_quadratic_light_is_exact() -> None:
    x, y = torch.arange(8.0), torch.arange(6.0)[:, None]
    light, is_edge = mean_light(flat(0.3 * x**2 - 0.1 * y**2 + x), size=1.0)
    # The mean of x^2 over a pixel is that of its centre and 1/12.
    expected = 0.3 * (x**2 + 1 / 12) - 0.1 * (y**2 + 1 / 12) + x
    assert not is_edge.any()
    inner = (slice(1, -1), slice(1, -1))
    assert_matches(light[..., 0][inner], expected[inner], atol=1e-5, rtol=0)


def test_step_of_the_surface_is_an_edge_and_shares_no_light() -> None:
    seen = flat(torch.arange(6.0).repeat(4, 1))
    points = seen.points.clone()
    points[:, 3:, 2] += 2.0
    seen = Seen(seen.is_hit, points, seen.normals, seen.light)
    light, is_edge = mean_light(seen, size=1.0)
    assert is_edge[:, 2:4].all() and not is_edge[:, [0, 1, 4, 5]].any()
    pixels = torch.tensor([[2.9, 1.7], [3.1, 1.7], [2.9, 1.7]])
    below_above_between = torch.cat([pixels, torch.tensor([[0.0], [2.0], [1.0]])], dim=1)
    light, is_known = known_light(seen, pixels, below_above_between, size=1.0)
    assert is_known.tolist() == [True, True, False]
    assert_matches(light[:2, 0], torch.tensor([2.0, 3.0]), atol=1e-6, rtol=0)


def test_looked_up_light_is_interpolated() -> None:
    pixels = torch.rand(50, 2) * torch.tensor([5.0, 3.0]) + 0.5
    seen = flat(2 * torch.arange(6.0) + 3 * torch.arange(4.0)[:, None])
    points = torch.cat([pixels, torch.zeros(50, 1)], dim=1)
    light, is_known = known_light(seen, pixels, points, size=1.0)
    assert is_known.all()
    expected = (2 * (pixels[:, 0] - 0.5) + 3 * (pixels[:, 1] - 0.5))[:, None].expand(-1, 3)
    assert_matches(light, expected, atol=1e-4, rtol=0)


def test_picture_is_that_of_64_rays_a_pixel() -> None:
    """Light and opacity from 0 to 1: a hundredth off in the mean square, a quarter of one ray's."""
    size = 48
    many = still(solids, 8 * size, 1)
    maps = torch.cat([many.light, many.opacity[..., None]], dim=2).permute(2, 0, 1)
    truth = avg_pool2d(maps[None], 8)[0].permute(1, 2, 0)
    errors = {}
    for antialias in (1, 2, 4):
        seen = still(solids, size, antialias)
        found = torch.cat([seen.light, seen.opacity[..., None]], dim=2)
        errors[antialias] = float((found - truth).square().mean().sqrt())
    assert errors[2] < 0.021 and errors[4] < 0.012
    assert errors[4] < 0.26 * errors[1]


@pytest.mark.parametrize("antialias", [1, 2])
def test_slab_of_half_a_cell_has_no_holes(antialias: int) -> None:
    half = 0.26 / 32  # of a cell's side, 1 / 16

    def plate(x: Tensor) -> Tensor:
        outside = torch.stack([x[:, [0, 2]].norm(dim=1) - 0.6, x[:, 1].abs() - half], dim=1)
        return outside.clamp(min=0).norm(dim=1) + outside.amax(1).clamp(max=0)

    seen = still(plate, 24, antialias)  # whose pixels are wider than a cell
    inner = avg_pool2d(seen.opacity[None], 3, 1)[0] > 0.99  # all nine pixels around
    assert inner.sum() > 30
    # A convex thing: between two pixels of a row that are covered, all are.
    for row in seen.opacity:
        covered = (row > 0.99).nonzero()
        if len(covered):
            assert (row[int(covered[0]) : int(covered[-1]) + 1] > 0.99).all()

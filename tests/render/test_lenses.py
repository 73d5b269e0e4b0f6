"""Lenses: projection and its inverse, closed forms, and the kernel against float64."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nfields.render.cameras import Cameras, apply_homography, project, rays, rays_in_torch, through
from nfields.render.lenses import (
    EQUIRECTANGULAR,
    FISHEYE,
    PERSPECTIVE,
    bend,
    from_plane,
    max_angle,
    to_plane,
    unbend,
)
from tests.compare import assert_matches

PHONE = (0.06, -0.08, -0.001, 0.0002)
WIDE = (-0.03, 0.004, -0.002, 0.0003)  # a fisheye that sees beyond 90 degrees
FOLDING = (-0.3, 0.0, 0.0, 0.0)  # theta_d falls beyond theta = 1 / sqrt(0.9)
SIZE = (600, 400)


def cameras_of(lens: int, coefficients: tuple[float, ...], num: int = 2) -> Cameras:
    generator = torch.Generator().manual_seed(3)
    rotation, _ = torch.linalg.qr(torch.randn(num, 3, 3, generator=generator))
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    focal = (600 / (2 * math.pi), 400 / math.pi) if lens == EQUIRECTANGULAR else (180.0, 190.0)
    return Cameras(
        camera_to_world=torch.cat([rotation, torch.randn(num, 3, 1, generator=generator)], dim=2),
        focal=torch.tensor([focal]).repeat(num, 1),
        center=torch.tensor([[300.0, 200.0]]).repeat(num, 1),
        distortion=torch.tensor([coefficients]).repeat(num, 1),
        sizes=torch.tensor([SIZE]).repeat(num, 1),
        lens=torch.full((num,), lens),
    )


def pixels_of(num: int) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.rand(num, 2, generator=generator) * torch.tensor(SIZE)


def directions_of(num: int, max_angle_rad: float) -> Tensor:
    """Unit directions within an angle of the optical axis z, in float64."""
    generator = torch.Generator().manual_seed(5)
    angle, turn = torch.rand(2, num, generator=generator, dtype=torch.float64)
    angle, turn = angle * max_angle_rad, turn * 2 * math.pi
    flat = angle.sin()
    return torch.stack([flat * turn.cos(), flat * turn.sin(), angle.cos()], dim=1)


@pytest.mark.parametrize(
    ("lens", "coefficients", "reach"),
    [
        (PERSPECTIVE, (0.0,) * 4, 1.4),
        (PERSPECTIVE, PHONE, 0.7),
        (FISHEYE, (0.0,) * 4, math.pi - 1e-3),
        (FISHEYE, WIDE, 2.0),
        (FISHEYE, FOLDING, 1.0),
        (EQUIRECTANGULAR, (0.0,) * 4, math.pi),
    ],
)
def test_plane_and_direction_undo_each_other(
    lens: int, coefficients: tuple[float, ...], reach: float
) -> None:
    directions = directions_of(2000, reach)
    values = torch.tensor(coefficients, dtype=torch.float64)
    plane = to_plane(directions, lens, values)
    limit = torch.from_numpy(max_angle(values[None].numpy())).expand(2000)
    found = from_plane(plane, torch.full((2000,), lens), values.expand(2000, 4), limit)
    assert (found - directions).abs().max() < 1e-9


def test_angle_of_a_fisheye_ends_where_its_picture_turns_back() -> None:
    limits = max_angle(np.array([FOLDING, (0.0,) * 4]))
    assert limits == pytest.approx([1 / math.sqrt(0.9), math.pi])
    values = torch.tensor([FOLDING], dtype=torch.float64).T
    limit = torch.tensor(limits[:1])
    edge = bend(limit, values)
    assert unbend(edge * 0.999999, values, limit) == pytest.approx(limits[0], abs=2e-3)
    assert bool(unbend(edge * 1.000001, values, limit).isnan())


def test_fisheye_without_coefficients_is_equidistant() -> None:
    """A direction at angle theta to the right lies at focal * theta, also behind the camera."""
    cameras = cameras_of(FISHEYE, (0.0,) * 4)
    for theta in (0.0, 0.5, math.pi / 2, 2.5):
        local = torch.tensor([math.sin(theta), 0.0, -math.cos(theta)])
        point = cameras.camera_to_world[0] @ torch.cat([3 * local, torch.ones(1)])
        pixels, depth = project(cameras, 0, point[None])
        assert_matches(pixels, torch.tensor([[300 + 180 * theta, 200.0]]), num_operations=60)
        assert_matches(depth, torch.tensor([3.0]), num_operations=30)


def test_panorama_shows_all_directions() -> None:
    """Forward in the middle, right at three quarters, up on top, behind at both sides."""
    cameras = cameras_of(EQUIRECTANGULAR, (0.0,) * 4)
    pixels = torch.tensor([[300.0, 200.0], [450.0, 200.0], [17.0, 0.0], [0.0, 200.0]])
    _, directions = rays(cameras, torch.zeros(4, dtype=torch.int64), pixels)
    local = directions @ cameras.camera_to_world[0, :, :3]
    expected = torch.tensor([[0.0, 0, -1], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert_matches(local, expected, num_operations=20)


@pytest.mark.parametrize(
    ("lens", "coefficients"),
    [(FISHEYE, (0.0,) * 4), (FISHEYE, WIDE), (FISHEYE, FOLDING), (EQUIRECTANGULAR, (0.0,) * 4)],
)
def test_kernel_matches_float64_and_projection_undoes_it(
    lens: int, coefficients: tuple[float, ...]
) -> None:
    cameras = cameras_of(lens, coefficients)
    pixels = pixels_of(1000)
    index = torch.ones(1000, dtype=torch.int64)
    origins, directions = rays(cameras, index, pixels)
    exact = replace(
        cameras,
        camera_to_world=cameras.camera_to_world.double(),
        focal=cameras.focal.double(),
        center=cameras.center.double(),
        distortion=cameras.distortion.double(),
    )
    _, expected = rays_in_torch(exact, index, pixels.double())
    shown = expected[:, 0].isfinite()
    assert torch.equal(directions[:, 0].isfinite(), shown)
    assert bool(shown.any())
    assert bool(shown.all()) == (coefficients != FOLDING)
    assert (directions - expected)[shown].abs().max() < 2e-5
    found, depth = project(cameras, 1, (origins + 2.5 * directions)[shown])
    error = (found - pixels[shown]).abs()
    if lens == EQUIRECTANGULAR:  # all longitudes meet at the poles
        error[:, 0] *= torch.sin(pixels[shown, 1] / 400 * math.pi)
    assert error.max() < 5e-3
    assert_matches(depth, torch.full_like(depth, 2.5), num_operations=100)


def test_views_may_have_different_lenses() -> None:
    plain, bent = cameras_of(PERSPECTIVE, PHONE), cameras_of(FISHEYE, WIDE)
    both = Cameras(
        **{
            name: torch.cat([getattr(plain, name), getattr(bent, name)])
            for name in ("camera_to_world", "focal", "center", "distortion", "sizes", "lens")
        }
    )
    pixels = pixels_of(50)
    for i, (single, view) in enumerate([(plain, 0), (plain, 1), (bent, 0), (bent, 1)]):
        mixed = rays(both, torch.full((50,), i), pixels)
        alone = rays(single, torch.full((50,), view), pixels)
        assert torch.equal(mixed[1], alone[1])
    restored = Cameras.from_dict(both.to_dict())
    assert torch.equal(restored.lens, both.lens)
    assert torch.equal(both[2:].lens, bent.lens)


def ndc(near: float) -> Tensor:
    """NeRF's normalised device coordinates, field of view 90 degrees (arXiv:2003.08934, C)."""
    return torch.tensor(
        [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, -1.0, -2 * near], [0, 0, -1.0, 0]],
        dtype=torch.float64,
    )


def test_images_of_rays_are_straight_and_start_at_the_near_plane() -> None:
    generator = torch.Generator().manual_seed(6)
    origins = 0.1 * torch.randn(200, 3, generator=generator, dtype=torch.float64)
    directions = -directions_of(200, 0.9)
    matrix = ndc(1.0)
    start, along = through(matrix, origins, directions)
    assert_matches(start[:, 2], -torch.ones(200, dtype=torch.float64), num_operations=100)
    assert_matches(along.norm(dim=1), torch.ones(200, dtype=torch.float64), num_operations=50)
    for t in (1.5, 4.0, 1000.0):
        image = apply_homography(matrix, origins + t * directions)
        in_front = image[:, 2] > -1
        away = torch.linalg.cross(image - start, along).norm(dim=1)
        forward = ((image - start) * along).sum(dim=1)
        assert away[in_front].max() < 1e-9
        assert forward[in_front].min() > 0


def test_near_plane_of_ndc_goes_to_minus_one_and_infinity_to_one() -> None:
    points = torch.tensor([[0.5, -0.5, -2.0], [0.0, 0.0, -1e12]], dtype=torch.float64)
    found = apply_homography(ndc(2.0), points)
    torch.testing.assert_close(found[0], torch.tensor([0.25, -0.25, -1.0], dtype=torch.float64))
    torch.testing.assert_close(found[1, 2], torch.tensor(1.0, dtype=torch.float64))


def test_rays_away_from_the_scene_have_no_image() -> None:
    origins = torch.zeros(3, 3)
    directions = torch.tensor([[0.0, 0, 1], [1.0, 0, 0], [0, 0, -1.0]])
    _, along = through(ndc(1.0).float(), origins, directions)
    assert along[:, 0].isfinite().tolist() == [False, False, True]


def test_projection_undoes_rays_through_a_homography() -> None:
    cameras = Cameras(
        camera_to_world=torch.eye(4)[None, :3] + torch.tensor([0, 0, 0, 0.1]),
        focal=torch.tensor([[300.0, 300.0]]),
        center=torch.tensor([[300.0, 200.0]]),
        distortion=torch.zeros(1, 4),
        sizes=torch.tensor([SIZE]),
        homography=ndc(1.0).float(),
    )
    pixels = pixels_of(100)
    origins, directions = rays(cameras, torch.zeros(100, dtype=torch.int64), pixels)
    found, depth = project(cameras, 0, origins + 0.5 * directions)
    assert (found - pixels).abs().max() < 5e-3
    assert depth.min() > 1.0
    assert Cameras.from_dict(cameras.to_dict()).homography is not None

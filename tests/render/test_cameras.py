"""Cameras: rays and projection undo each other, and the conventions are what is said."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nfields.render.cameras import (
    Cameras,
    pixel_centers,
    project,
    rays,
    rays_in_torch,
    view_rays,
)
from nfields.render.lenses import distort, undistort
from tests.compare import assert_matches

FOX_LENS = (0.0578421, -0.0805099, -0.000980296, 0.00015575)
# A pixel position is the product of a focal length and a direction, both float32.
PIXEL_TOLERANCE = 2e-3


def random_cameras(
    num: int, lens: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0), size: tuple[int, int] = (1080, 1920)
) -> Cameras:
    generator = torch.Generator().manual_seed(1)
    rotation, _ = torch.linalg.qr(torch.randn(num, 3, 3, generator=generator))
    rotation = rotation * torch.linalg.det(rotation)[:, None, None]
    place = torch.randn(num, 3, 1, generator=generator)
    return Cameras(
        camera_to_world=torch.cat([rotation, place], dim=2),
        focal=torch.tensor([[1375.52, 1374.49]]).repeat(num, 1),
        center=torch.tensor([[554.558, 965.268]]).repeat(num, 1),
        distortion=torch.tensor([lens]).repeat(num, 1),
        sizes=torch.tensor([size]).repeat(num, 1),
    )


def one_camera(focal: float = 100.0, size: tuple[int, int] = (40, 30)) -> Cameras:
    """At the origin, looking along -z, principal point in the middle."""
    return Cameras(
        camera_to_world=torch.eye(4)[None, :3],
        focal=torch.full((1, 2), focal),
        center=torch.tensor([[size[0] / 2, size[1] / 2]]),
        distortion=torch.zeros(1, 4),
        sizes=torch.tensor([size]),
    )


def random_pixels(cameras: Cameras, num: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    view_index = torch.randint(len(cameras), (num,), generator=generator)
    pixels = torch.rand(num, 2, generator=generator) * cameras.sizes[view_index]
    return view_index, pixels


def test_ray_of_principal_point_is_minus_z() -> None:
    origins, directions = rays(one_camera(), torch.tensor([0]), torch.tensor([[20.0, 15.0]]))
    assert origins.tolist() == [[0, 0, 0]]
    assert directions.tolist() == [[0, 0, -1]]


def test_pixel_x_goes_right_and_pixel_y_goes_down() -> None:
    _, directions = rays(
        one_camera(), torch.tensor([0, 0]), torch.tensor([[120.0, 15.0], [20.0, 115.0]])
    )
    half = math.sqrt(0.5)
    assert_matches(directions, torch.tensor([[half, 0, -half], [0, -half, -half]]))


@pytest.mark.parametrize("lens", [(0.0, 0.0, 0.0, 0.0), FOX_LENS, (-0.2, 0.05, 0.002, -0.003)])
def test_project_undoes_rays(lens: tuple[float, ...]) -> None:
    cameras = random_cameras(3, lens)
    for view in range(3):
        _, pixels = random_pixels(cameras[view : view + 1], 500)
        origins, directions = rays(cameras, torch.full((500,), view), pixels)
        found, depth = project(cameras, view, origins + 3.5 * directions)
        assert (found - pixels).abs().max() < PIXEL_TOLERANCE
        assert_matches(depth, torch.full((500,), 3.5), num_operations=100)


@pytest.mark.parametrize("lens", [(0.0, 0.0, 0.0, 0.0), FOX_LENS, (-0.2, 0.05, 0.002, -0.003)])
def test_kernel_matches_torch(lens: tuple[float, ...]) -> None:
    cameras = random_cameras(5, lens)
    view_index, pixels = random_pixels(cameras, 1000)
    origins, directions = rays(cameras, view_index, pixels)
    expected_origins, expected_directions = rays_in_torch(cameras, view_index, pixels)
    assert_matches(origins, expected_origins)
    assert_matches(directions, expected_directions, num_operations=200)


def test_directions_have_length_one() -> None:
    cameras = random_cameras(4, FOX_LENS)
    _, directions = rays(cameras, *random_pixels(cameras, 300))
    assert_matches(directions.norm(dim=1), torch.ones(300), num_operations=10)


@given(
    k1=st.floats(-0.15, 0.3), k2=st.floats(-0.05, 0.1), p1=st.floats(-0.01, 0.01),
    p2=st.floats(-0.01, 0.01), x=st.floats(-0.7, 0.7), y=st.floats(-0.7, 0.7),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_undistort_undoes_distort(
    k1: float, k2: float, p1: float, p2: float, x: float, y: float
) -> None:
    point = torch.tensor([[x], [y]], dtype=torch.float64)
    lens = torch.tensor([[k1], [k2], [p1], [p2]], dtype=torch.float64)
    assert (undistort(distort(point, lens), lens) - point).abs().max() < 1e-9


def test_depth_is_negative_behind_the_camera() -> None:
    _, depth = project(one_camera(), 0, torch.tensor([[0.1, 0.2, 2.0], [0.1, 0.2, -2.0]]))
    distance = math.sqrt(0.01 + 0.04 + 4)
    assert_matches(depth, torch.tensor([-distance, distance]), num_operations=10)


@pytest.mark.parametrize("factor", [1, 2, 3, 7])
def test_downscale_keeps_rays_of_block_centers(factor: int) -> None:
    cameras = random_cameras(2, FOX_LENS)
    small = cameras.downscaled(factor)
    assert small.sizes.tolist() == [[1080 // factor, 1920 // factor]] * 2
    view_index, pixels = random_pixels(small, 100)
    _, small_directions = rays(small, view_index, pixels)
    _, directions = rays(cameras, view_index, pixels * factor)
    assert_matches(small_directions, directions, num_operations=30)


def test_resize_keeps_rays_of_corners() -> None:
    cameras = random_cameras(2)
    resized = cameras.resized(500, 300)
    assert resized.sizes.tolist() == [[500, 300]] * 2
    for x, y in [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)]:
        index = torch.tensor([1])
        _, a = rays(cameras, index, torch.tensor([[1080 * x, 1920 * y]]))
        _, b = rays(resized, index, torch.tensor([[500 * x, 300 * y]]))
        assert_matches(a, b, num_operations=30)


def test_view_rays_are_row_major_through_pixel_centers() -> None:
    cameras = one_camera(size=(4, 3))
    _, directions = view_rays(cameras, 0)
    found, _ = project(cameras, 0, directions)
    assert_matches(found, pixel_centers(4, 3), num_operations=30)
    assert pixel_centers(4, 3)[:5].tolist() == [
        [0.5, 0.5], [1.5, 0.5], [2.5, 0.5], [3.5, 0.5], [0.5, 1.5],
    ]  # fmt: skip


def test_json_keeps_every_bit() -> None:
    cameras = random_cameras(3, FOX_LENS)
    restored = Cameras.from_dict(json.loads(json.dumps(cameras.to_dict())))
    for name in ("camera_to_world", "focal", "center", "distortion", "sizes"):
        assert torch.equal(getattr(restored, name), getattr(cameras, name))


def test_choice_by_slice_indices_and_flags() -> None:
    cameras = random_cameras(4)
    for chosen in (
        cameras[1:3],
        cameras[torch.tensor([1, 2])],
        cameras[torch.tensor([False, True, True, False])],
    ):
        assert torch.equal(chosen.camera_to_world, cameras.camera_to_world[1:3])


def test_no_rays_of_no_pixels() -> None:
    origins, directions = rays(one_camera(), torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2))
    assert origins.shape == directions.shape == (0, 3)


@pytest.mark.parametrize("view", [-1, 1])
def test_view_that_does_not_exist_is_an_error(view: int) -> None:
    with pytest.raises(IndexError, match=f"view_index={view} of 1 cameras"):
        rays(one_camera(), torch.tensor([0, view]), torch.zeros(2, 2))


def test_rays_of_non_contiguous_pixels() -> None:
    cameras = random_cameras(3, FOX_LENS)
    view_index, pixels = random_pixels(cameras, 100)
    wide = torch.stack([pixels, pixels], dim=2).flatten(1)[:, ::2]
    assert not wide.is_contiguous()
    assert torch.equal(rays(cameras, view_index, wide)[1], rays(cameras, view_index, pixels)[1])

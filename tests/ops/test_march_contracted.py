"""Marching contracted space: equal steps there, all of a ray, only occupied cells; kernel and
reference alike. And the contraction itself.
"""

import math

import pytest
import torch
from torch import Tensor

from nfields.ops.march import Samples
from nfields.ops.march_contracted import march_contracted
from nfields.render.contraction import contract, speed
from tests.compare import assert_matches

BACKENDS = ["reference", "numba"]
DT = 1 / 64


def some_rays(n: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    origins = 1.5 * torch.randn(n, 3, generator=generator, dtype=dtype)
    directions = torch.randn(n, 3, generator=generator, dtype=dtype)
    jitter = torch.rand(n, generator=generator, dtype=dtype)
    return origins, torch.nn.functional.normalize(directions, dim=1), jitter


def full(cells: int = 16) -> Tensor:
    return torch.full((1, cells, cells, cells // 8), 255, dtype=torch.uint8)


def test_contraction_is_the_identity_inside_and_below_two_outside() -> None:
    points = torch.tensor([[0.3, -0.5, 0.1], [0.6, 0.0, 0.8], [3.0, 0.0, 0.0], [0.0, 1e12, 0.0]])
    found = contract(points.double())
    assert_matches(found[:2], points[:2].double(), atol=1e-12)
    assert_matches(found[2], torch.tensor([2 - 1 / 3, 0, 0], dtype=torch.float64))
    assert (found.norm(dim=1) <= 2).all()


def test_speed_is_the_length_of_the_derivative_along_the_ray() -> None:
    origins, directions, _ = some_rays(50)
    h = 1e-6
    moved = contract(origins + h * directions) - contract(origins - h * directions)
    is_smooth = (origins.norm(dim=1) - 1).abs() > 1e-4
    expected = moved.norm(dim=1) / (2 * h)
    assert_matches(speed(origins, directions)[is_smooth], expected[is_smooth], rtol=1e-6)


def test_gradient_of_the_contraction_is_that_of_central_differences() -> None:
    points = torch.randn(20, 3, dtype=torch.float64) * 2
    points.requires_grad_()
    assert torch.autograd.gradcheck(contract, points)


def of_ray(samples: Samples, i: int) -> tuple[Tensor, Tensor]:
    first, last = samples.offsets[i : i + 2].tolist()
    return samples.t_starts[first:last], samples.t_ends[first:last]


@pytest.mark.parametrize("backend", BACKENDS)
def test_steps_are_equal_in_contracted_space_and_leave_no_gap(backend: str) -> None:
    origins, directions, jitter = some_rays(40)
    samples = march_contracted(
        origins, directions, full(), jitter, near=0.1, dt_min=DT, backend=backend
    )
    for i in range(40):
        starts, ends = of_ray(samples, i)
        assert_matches(starts[1:], ends[:-1], atol=1e-12)
        assert 0.1 <= starts[0] < 0.1 + DT * 40
        points = [contract(origins[i] + t[:, None] * directions[i]) for t in (starts, ends)]
        length = (points[1] - points[0]).norm(dim=1)
        assert length.max() < 1.25 * DT  # the speed is taken where a step starts
        near = (origins[i] + ends[:, None] * directions[i]).norm(dim=1) < 4
        assert not near.any() or length[near].min() > 0.8 * DT
        far = origins[i] + ends[-1] * directions[i]
        assert far.norm() > 0.5 / DT  # to where less than a step or two are left to infinity


@pytest.mark.parametrize("backend", BACKENDS)
def test_only_occupied_cells_have_samples(backend: str) -> None:
    bits = torch.zeros(1, 8, 8, 1, dtype=torch.uint8)
    bits[0, 4, 4, 0] = 1 << 6  # c / 2 in [0.5, 0.75] x [0, 0.25]^2: distance 1 to 2 along x
    origins = torch.tensor([[-3.0, 0.01, 0.01], [-3.0, 0.01, 0.01]], dtype=torch.float64)
    directions = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]], dtype=torch.float64)
    samples = march_contracted(
        origins, directions, bits, torch.zeros(2).double(), near=0.0, dt_min=DT, backend=backend
    )
    starts, ends = of_ray(samples, 0)
    assert abs(float(starts[0]) - 4) < DT and abs(float(ends[-1]) - 5) < 5 * DT
    assert len(of_ray(samples, 1)[0]) == 0


def test_kernel_takes_the_steps_of_the_reference() -> None:
    origins, directions, jitter = some_rays(200)
    random = torch.randint(0, 256, (1, 16, 16, 2), dtype=torch.uint8)
    found = [
        march_contracted(
            origins, directions, random, jitter, near=0.05, dt_min=DT, max_samples=70, backend=b
        )
        for b in BACKENDS
    ]
    assert torch.equal(found[0].offsets, found[1].offsets)
    assert found[0].offsets.diff().max() == 70
    assert_matches(found[1].t_starts, found[0].t_starts, rtol=1e-9)
    assert_matches(found[1].t_ends, found[0].t_ends, rtol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_rays_that_are_not_finite_and_no_rays_have_no_samples(backend: str) -> None:
    origins, directions, jitter = some_rays(3)
    directions[1] = math.nan
    for part in (slice(1, 2), slice(0, 0)):
        samples = march_contracted(
            origins[part], directions[part], full(), jitter[part], near=0.0, dt_min=DT,
            backend=backend,
        )  # fmt: skip
        assert len(samples.t_starts) == 0 and samples.offsets.tolist() == [0] * len(samples.offsets)

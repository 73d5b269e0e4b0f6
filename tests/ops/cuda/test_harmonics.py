"""harmonics on CUDA: the kernel against scipy and, at high degrees, the reference."""

import pytest
import torch

from nfields.ops.harmonics import harmonics, num_harmonics
from nfields.ops.harmonics.reference import harmonics_reference
from tests.compare import assert_matches
from tests.ops.test_harmonics import directions, exact


@pytest.mark.parametrize("degree", [0, 1, 2, 7, 16])
def test_values_are_those_of_scipy(device: torch.device, degree: int) -> None:
    x = directions(50, torch.float64)
    found = harmonics(x.to(device), degree, backend="triton").cpu()
    # Rounding of z is multiplied by degree^2 / 2 near the poles.
    assert_matches(found, torch.from_numpy(exact(x, degree)), num_operations=200 * (1 + degree**4))


@pytest.mark.slow
def test_degree_200_is_the_reference_in_float32(device: torch.device) -> None:
    x = directions(8, torch.float32)[[0, 2, 5, 9]].to(device)
    found = harmonics(x, 200)
    assert found.dtype == torch.float32 and found.shape == (4, num_harmonics(200))
    expected = harmonics_reference(x.double(), 200)
    # Both work in float64: what is left is the rounding of the output.
    assert_matches(found, expected.float(), atol=2e-6)


def test_the_pole_has_only_zonal_harmonics(device: torch.device) -> None:
    x = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -2.0]], device=device)
    found = harmonics(x, 12)
    zonal = [degree * degree + degree for degree in range(13)]
    assert found.isfinite().all() and (found[:, zonal] != 0).all()
    found[:, zonal] = 0
    assert not found.any()


def test_no_point_and_any_length_of_directions(device: torch.device) -> None:
    assert harmonics(torch.zeros(0, 3, device=device), 4).shape == (0, 25)
    x = directions(70, torch.float32).to(device)
    rows = (3 * x).repeat(1, 2)[:, :3]  # not contiguous
    assert_matches(harmonics(rows, 5), harmonics(x, 5), num_operations=20)


def test_directions_have_the_gradient_of_the_reference(device: torch.device) -> None:
    x = directions(10, torch.float64)[4:].to(device).requires_grad_()
    values = harmonics(x, 3)
    (found,) = torch.autograd.grad(values.square().sum() + values[:, 1].sum(), x)
    expected = harmonics_reference(x, 3)
    (wanted,) = torch.autograd.grad(expected.square().sum() + expected[:, 1].sum(), x)
    assert_matches(found, wanted, num_operations=100)

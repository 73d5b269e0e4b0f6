"""Spherical harmonics: scipy's values, the addition theorem, and no NaN at any degree."""

import math

import numpy as np
import pytest
import torch
from scipy.special import sph_harm_y
from torch import Tensor
from torch.nn.functional import normalize

from nfields.ops.harmonics import harmonics, num_harmonics
from nfields.render.harmonics import spherical_harmonics
from tests.compare import assert_matches


def directions(num: int, dtype: torch.dtype) -> Tensor:
    """Random directions, some within 1e-3 of the poles, the poles and points of the axes."""
    x = torch.randn(num, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x[: num // 4, :2] *= 1e-3
    special = torch.tensor([[0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0]], dtype=torch.float64)
    return torch.cat([special, normalize(x, dim=1)]).to(dtype)


def exact(x: Tensor, degree: int) -> np.ndarray:
    """The same features from scipy, in float64 from the directions as they are stored."""
    x, y, z = normalize(x.double(), dim=1).numpy().T
    theta, phi = np.arctan2(np.hypot(x, y), z), np.arctan2(y, x)
    columns = []
    for l in range(degree + 1):  # noqa: E741
        for m in range(-l, l + 1):
            # scipy has the Condon-Shortley phase (-1)^m, ours does not.
            value = (-1) ** m * math.sqrt(2) * sph_harm_y(l, abs(m), theta, phi)
            columns.append(value.imag if m < 0 else value.real / (1 if m else math.sqrt(2)))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize("degree", [0, 1, 2, 7, 30])
def test_values_are_those_of_scipy(degree: int, backend: str) -> None:
    x = directions(50, torch.float64)
    # Rounding of z is multiplied by degree^2 / 2 near the poles.
    steps = 200 * (1 + degree**4)
    values = harmonics(x, degree, backend=backend)
    assert_matches(values, torch.from_numpy(exact(x, degree)), num_operations=steps)


@pytest.mark.slow
def test_float32_is_within_1e_4_at_degree_100() -> None:
    x = directions(200, torch.float32)
    error = harmonics(x, 100).double() - torch.from_numpy(exact(x, 100))
    assert error.abs().max() < 1e-4


def test_degree_200_in_float32_has_no_nan_and_keeps_the_addition_theorem() -> None:
    features = harmonics(directions(100, torch.float32), 200)
    assert features.shape[1] == num_harmonics(200) == 201**2
    assert features.isfinite().all()
    counts = [num_harmonics(degree) for degree in (0, 10, 50, 200)]
    sums = features.square().cumsum(dim=1)[:, [count - 1 for count in counts]]
    wanted = torch.tensor(counts) / (4 * math.pi)
    assert ((sums / wanted - 1).abs() < 1e-3).all()


def test_no_point_and_any_length_of_directions() -> None:
    assert harmonics(torch.zeros(0, 3), 4).shape == (0, 25)
    x = directions(70, torch.float32)
    assert_matches(harmonics(3 * x, 5), harmonics(x, 5), num_operations=20)


def test_harmonics_are_orthonormal() -> None:
    """Gauss-Legendre in z, equal steps in azimuth: exact for products of degree 6."""
    z, weights = np.polynomial.legendre.leggauss(8)
    phi = np.arange(16) * 2 * math.pi / 16
    rho = np.sqrt(1 - z**2)[:, None]
    grid = np.stack(
        [rho * np.cos(phi), rho * np.sin(phi), np.broadcast_to(z[:, None], (8, 16))], axis=2
    )
    features = harmonics(torch.from_numpy(grid.reshape(-1, 3)), 6)
    area = torch.from_numpy(np.repeat(weights, 16) * 2 * math.pi / 16)
    assert_matches(
        (features * area[:, None]).T @ features, torch.eye(49).double(), num_operations=500
    )


def test_gradient_is_that_of_the_reference_in_float64() -> None:
    x = directions(10, torch.float64)[4:].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: harmonics(x, 3), x, fast_mode=True)


def test_derivatives_at_the_pole_are_finite() -> None:
    x = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]], requires_grad=True)
    harmonics(x, 12).sum().backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_degree_1_spans_the_coordinates_and_agrees_with_the_colours_harmonics() -> None:
    x = directions(20, torch.float64)
    scale = math.sqrt(3 / (4 * math.pi))
    assert_matches(harmonics(x, 1)[:, 1:], scale * x[:, [1, 2, 0]])
    squares = spherical_harmonics(x, 3).square()
    ours = harmonics(x, 3).square()
    assert_matches(ours[:, 9:].sum(dim=1), squares[:, 9:].sum(dim=1), num_operations=100)

"""Spherical harmonics: orthonormal, and the addition theorem."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from nfields.errors import ConfigError
from nfields.render.harmonics import spherical_harmonics
from tests.compare import assert_matches


def test_harmonics_are_orthonormal_on_the_sphere() -> None:
    # Gauss-Legendre in z times equal angles integrates polynomials of degree 6 exactly.
    import numpy as np

    z, weights = np.polynomial.legendre.leggauss(8)
    phi = np.arange(16) * (2 * math.pi / 16)
    r = np.sqrt(1 - z**2)
    points = np.stack(
        [np.outer(r, np.cos(phi)), np.outer(r, np.sin(phi)), np.outer(z, np.ones(16))], axis=-1
    )
    y = spherical_harmonics(torch.from_numpy(points.reshape(-1, 3)), 3)
    area = torch.from_numpy(np.repeat(weights, 16) * (2 * math.pi / 16))
    gram = y.T @ (area[:, None] * y)
    assert_matches(gram, torch.eye(16, dtype=torch.float64), num_operations=128)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_addition_theorem(degree: int) -> None:
    y = spherical_harmonics(normalize(torch.randn(100, 3, dtype=torch.float64), dim=1), degree)
    expected = torch.full((100,), (degree + 1) ** 2 / (4 * math.pi), dtype=torch.float64)
    assert_matches(y.square().sum(dim=1), expected, num_operations=64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_kernel_has_the_values_of_the_operations_that_have_gradients(
    degree: int, dtype: torch.dtype
) -> None:
    directions = normalize(torch.randn(100, 3, dtype=dtype), dim=1)
    values = spherical_harmonics(directions.clone().requires_grad_(), degree)
    assert values.requires_grad == (degree > 0)
    assert_matches(spherical_harmonics(directions, degree), values.detach(), num_operations=32)


def test_degree_four_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.\.3"):
        spherical_harmonics(torch.zeros(1, 3), 4)

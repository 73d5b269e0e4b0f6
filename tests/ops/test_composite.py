"""composite: limits and closed forms of volume rendering; kernel against reference."""

import math

import pytest
import torch
from torch import Tensor

from nfields.ops.composite import composite
from nfields.ops.composite.reference import composite_reference
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives


def packed(num_rays: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sample intervals (t_starts, t_ends) and offsets of rays of different lengths, some empty."""
    counts = torch.randint(0, most + 1, (num_rays,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    starts = torch.cat([0.1 * torch.arange(int(c), dtype=torch.float64) for c in counts])
    return starts, starts + 0.1, offsets


@pytest.mark.parametrize("min_transmittance", [0.0, 1e-2])
def test_kernel_has_the_derivatives_of_the_reference(min_transmittance: float) -> None:
    starts, ends, offsets = packed(60, 20)
    density = 20 * torch.rand(len(starts), dtype=torch.float64)
    color = torch.rand(len(starts), 3, dtype=torch.float64)
    geometry = (starts, ends, offsets)

    def flat(outputs: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        return torch.cat([output.reshape(len(offsets) - 1, -1) for output in outputs], dim=1)

    assert_same_derivatives(
        lambda d, c: flat(
            composite(d, c, *geometry, min_transmittance=min_transmittance, backend="numba")
        ),
        lambda d, c: flat(composite_reference(d, c, *geometry, min_transmittance)),
        (density, color),
        num_operations=len(starts),  # the reference subtracts sums over all samples
    )


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_constant_density_gives_the_exponential_law(backend: str) -> None:
    starts = torch.arange(50, dtype=torch.float64) * 0.02
    density = torch.full((50,), 3.0, dtype=torch.float64)
    color = torch.ones(50, 1, dtype=torch.float64)
    rgb, opacity, _ = composite(
        density, color, starts, starts + 0.02, torch.tensor([0, 50]), min_transmittance=0.0,
        backend=backend,
    )  # fmt: skip
    expected = torch.tensor([1 - math.exp(-3.0)], dtype=torch.float64)
    assert_matches(opacity, expected, num_operations=200)
    assert_matches(rgb[:, 0], opacity, num_operations=200)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_splitting_a_sample_changes_nothing(backend: str) -> None:
    offsets, halves = torch.tensor([0, 1]), torch.tensor([0, 2])
    one = (torch.tensor([2.0]), torch.tensor([[0.3, 0.6, 0.9]]))
    two = (torch.tensor([2.0, 2.0]), one[1].repeat(2, 1))
    whole = composite(*one, torch.tensor([1.0]), torch.tensor([1.5]), offsets, backend=backend)
    split = composite(
        *two, torch.tensor([1.0, 1.25]), torch.tensor([1.25, 1.5]), halves, backend=backend
    )
    assert_matches(split[0], whole[0], num_operations=16)
    assert_matches(split[1], whole[1], num_operations=16)


def test_an_opaque_sample_hides_what_is_behind_and_takes_its_gradient() -> None:
    density = torch.tensor([1e4, 5.0], requires_grad=True)
    color = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]], requires_grad=True)
    starts = torch.tensor([1.0, 1.1])
    rgb, opacity, depth = composite(density, color, starts, starts + 0.1, torch.tensor([0, 2]))
    rgb.sum().backward()
    assert rgb.tolist() == [[1.0, 0.0, 0.0]] and opacity.item() == 1.0
    assert_matches(depth, torch.tensor([1.05]))
    assert color.grad is not None and color.grad[1].tolist() == [0, 0, 0]
    assert density.grad is not None and density.grad[1].item() == 0


def test_a_ray_without_samples_is_empty() -> None:
    nothing = torch.zeros(0)
    rgb, opacity, depth = composite(
        nothing, torch.zeros(0, 3), nothing, nothing, torch.zeros(3, dtype=torch.int64)
    )
    assert not rgb.any() and not opacity.any() and not depth.any() and rgb.shape == (2, 3)

"""The distortion of rays: closed forms, the double sum, and gradients, of reference and kernel."""

import math

import pytest
import torch
from torch import Tensor

from nfields.ops.distortion import distortion
from tests.compare import assert_matches

BACKENDS = ["reference", "numba"]


def samples(counts: list[int], dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Samples with gaps between them, and a scale that is not the distance."""
    generator = torch.Generator().manual_seed(0)
    gaps = torch.rand(sum(counts), 2, generator=generator, dtype=dtype) + 0.1
    offsets = torch.tensor([0, *counts]).cumsum(0)
    edges = 0.1 * gaps.view(-1).cumsum(0).view(-1, 2)
    density = 4 * torch.rand(sum(counts), generator=generator, dtype=dtype)
    starts, ends = edges[:, 0].contiguous(), edges[:, 1].contiguous()
    return density, starts, ends, starts / (1 + starts), ends / (1 + ends), offsets


def weights(density: Tensor, starts: Tensor, ends: Tensor) -> list[float]:
    result, transmittance = [], 1.0
    for sigma, a, b in zip(density.tolist(), starts.tolist(), ends.tolist(), strict=True):
        kept = math.exp(-sigma * (b - a))
        result.append(transmittance * (1 - kept))
        transmittance *= kept
    return result


@pytest.mark.parametrize("backend", BACKENDS)
def test_loss_is_the_double_sum_over_pairs_of_samples(backend: str) -> None:
    values = samples([5, 0, 1, 7])
    found = distortion(*values, min_transmittance=0.0, backend=backend)
    density, starts, ends, a, b, offsets = values
    expected = []
    for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        w = weights(density[first:last], starts[first:last], ends[first:last])
        middle = ((a + b) / 2)[first:last].tolist()
        width = (b - a)[first:last].tolist()
        pairs = [
            w[i] * w[j] * abs(middle[i] - middle[j]) for i in range(len(w)) for j in range(len(w))
        ]
        own = [w[i] ** 2 * width[i] / 3 for i in range(len(w))]
        expected.append(math.fsum(pairs + own))
    assert_matches(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_thin_walls_cost_their_distance(backend: str) -> None:
    """Half of the light ends at s = 0.2, half at 0.7: 2 (1/2) (1/2) 0.5."""
    width, offsets = 1e-6, torch.tensor([0, 2])
    starts = torch.tensor([0.2, 0.7], dtype=torch.float64)
    density = torch.tensor([math.log(2) / width, 1e9], dtype=torch.float64)
    ends = starts + width
    found = distortion(density, starts, ends, starts, ends, offsets, backend=backend)
    assert_matches(found, torch.tensor([0.25], dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
def test_uniform_weights_cost_a_third_of_their_extent(backend: str) -> None:
    """E|x - y| of two uniform numbers in [0, 1], however finely it is cut: exactly 1/3."""
    n = 64
    edges = torch.linspace(0, 1, n + 1, dtype=torch.float64)
    # Sample i takes 1 / (n - i) of what arrives: equal weights 1 / n; the last one takes all.
    share = 1 / (n - torch.arange(n, dtype=torch.float64))
    density = -torch.log1p(-share.clamp(max=1 - 1e-15)) * n
    offsets = torch.tensor([0, n])
    found = distortion(
        density, edges[:-1], edges[1:], edges[:-1], edges[1:], offsets, min_transmittance=0.0,
        backend=backend,
    )  # fmt: skip
    assert_matches(found, torch.tensor([1 / 3], dtype=torch.float64), atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("min_transmittance", [0.0, 0.3])
@pytest.mark.slow
def test_gradients_are_those_of_central_differences(backend: str, min_transmittance: float) -> None:
    density, *rest = samples([6, 0, 1, 9])
    upstream = torch.tensor([1.0, 2.0, -1.0, 0.5], dtype=torch.float64)

    def loss(density: Tensor) -> Tensor:
        found = distortion(density, *rest, min_transmittance=min_transmittance, backend=backend)
        return (found * upstream).sum()

    leaf = density.clone().requires_grad_()
    loss(leaf).backward()
    assert leaf.grad is not None
    for i in range(len(density)):
        step = torch.zeros_like(density)
        step[i] = 1e-4
        expected = (loss(density + step) - loss(density - step)) / 2e-4
        # The kernel's own exponential is good to about 1e-7.
        assert abs(float(leaf.grad[i] - expected)) < 2e-3 * max(0.05, abs(float(expected)))


def test_kernel_is_the_reference_in_both_precisions() -> None:
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-6)):
        density, *rest = samples([40, 3, 0, 17], dtype)
        found = []
        for backend in BACKENDS:
            leaf = density.clone().requires_grad_()
            value = distortion(leaf, *rest, backend=backend)
            value.square().sum().backward()
            found.append((value.detach(), leaf.grad))
        for ours, expected in zip(found[1], found[0], strict=True):
            assert_matches(ours, expected, atol=tolerance)


def test_no_samples_cost_nothing() -> None:
    nothing = torch.zeros(0)
    offsets = torch.tensor([0, 0, 0])
    assert (distortion(nothing, nothing, nothing, nothing, nothing, offsets) == 0).all()

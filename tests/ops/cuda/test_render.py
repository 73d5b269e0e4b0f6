"""render on CUDA: the one kernel against its definition in float64."""

# pyright: reportCallIssue=false
# (It takes a tuple of tensors for several arguments.)

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from nfields.errors import ConfigError
from nfields.ops.render import GridNetwork, render
from tests.compare import assert_matches
from tests.ops.test_render import NETWORKS, OPTIONS, bits, gaussians, in_double, layers, rays

ATOL = 1e-4  # of the 1e-3 that is promised
COARSE: dict[str, Any] = {**OPTIONS, "dt_min": 1 / 8}


def on(device: torch.device, network: GridNetwork) -> GridNetwork:
    parts: dict[str, Any] = {}
    for name in GridNetwork.__dataclass_fields__:
        part = getattr(network, name)
        if isinstance(part, Tensor):
            part = part.to(device)
        parts[name] = [w.to(device) for w in part] if isinstance(part, list) else part
    return GridNetwork(**parts)


def assert_renders_as_defined(
    device: torch.device, network: GridNetwork, occupancy: Tensor, **options: Any
) -> None:
    chosen = {**COARSE, **options}
    network, occupancy = on(device, network), occupancy.to(device)
    few = tuple(part.to(device) for part in rays(20))  # a block and a part of one
    found = render(*few, network, occupancy, **chosen)
    exact = (part.double() for part in few)
    expected = render(*exact, in_double(network), occupancy, **chosen, backend="reference")
    assert float(expected[1].max()) > 0.2 and float(expected[1].min()) == 0
    for one, other in zip(found, expected, strict=True):
        assert_matches(one, other.float(), atol=ATOL, rtol=ATOL)


@pytest.mark.slow
@pytest.mark.parametrize("index", [0, 1, 3, 5])
def test_kernel_is_the_reference(device: torch.device, index: int) -> None:
    """Neurons with and without a linear term; one and three layers; 4, 2 and 1 features."""
    assert_renders_as_defined(device, NETWORKS[index], bits(), density_bias=2.0)


@pytest.mark.slow
def test_kernel_is_the_reference_with_cascades_and_a_cone(device: torch.device) -> None:
    options = {"cone": 1 / 4, "dt_max": 1.0, "half_size": 4.0}
    assert_renders_as_defined(device, NETWORKS[1], bits(3, 0.1), **options)


@pytest.mark.slow
def test_an_opaque_ray_and_one_with_too_many_samples_end(device: torch.device) -> None:
    options = {"density_bias": 4.0, "min_transmittance": 0.1}
    assert_renders_as_defined(device, NETWORKS[1], bits(1, 0.6), **options)
    assert_renders_as_defined(device, NETWORKS[1], bits(1, 0.6), density_bias=2.0, max_samples=2)


def test_huge_densities_and_logits_give_no_nan(device: torch.device) -> None:
    network = gaussians(2, 16, False)
    network = on(device, replace(network, readout_weight=1e4 * network.readout_weight))
    few = tuple(part.to(device) for part in rays(8))
    for part in render(*few, network, bits().to(device), **COARSE):
        assert bool(part.isfinite().all())


def test_no_rays_and_rays_that_are_not_finite_are_zero(device: torch.device) -> None:
    network, occupancy = on(device, NETWORKS[1]), bits().to(device)
    origins, directions, basis = (part.to(device) for part in rays(3))
    origins[:], directions[1, 2] = torch.nan, torch.inf
    for part in render(origins, directions, basis, network, occupancy, **COARSE):
        assert not part.any()
    nothing = (part[:0] for part in (origins, directions, basis))
    color, opacity, depth = render(*nothing, network, occupancy, **COARSE)
    assert color.shape == (0, 3) and opacity.shape == depth.shape == (0,)


def test_a_network_that_is_too_wide_is_refused(device: torch.device) -> None:
    few = tuple(part.to(device) for part in rays(3))
    with pytest.raises(ConfigError, match=r"80 units .* task.renderer=plain"):
        render(*few, on(device, layers(2, 80)), bits().to(device), **COARSE)

"""render: the one kernel against its definition and closed forms."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nfields.errors import ConfigError
from nfields.ops.grid_encode import GridLayout
from nfields.ops.render import GridNetwork, render
from tests.compare import assert_matches

CELLS = 16
# 1e-3 is what the kernel promises; float32 sums and its own exponential leave far less.
ATOL = 1e-4
OPTIONS: dict[str, Any] = {
    "center": (0.1, -0.05, 0.0), "half_size": 1.1, "density_bias": 1.0, "near": 0.1,
    "dt_min": 1 / 64, "dt_max": 1 / 8, "cone": 0.0, "max_samples": 1024,
}  # fmt: skip


def grid(features: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Three levels, the last of them hashed."""
    layout = GridLayout.build(
        dim=3, num_levels=3, base_resolution=4, max_resolution=24, log2_entries=10
    )
    table = 0.4 * torch.randn(layout.num_entries, features, generator=generator)
    return table, layout.scales, layout.levels


def gaussians(features: int, num: int, is_linear: bool, num_basis: int = 9) -> GridNetwork:
    generator = torch.Generator().manual_seed(num)
    dim = 3 * features
    hidden = num + dim * is_linear
    return GridNetwork(
        *grid(features, generator), False, 0.5 * torch.randn(num, dim, generator=generator),
        0.5 + torch.rand(num, dim, generator=generator), [], [],
        torch.randn(1 + 3 * num_basis, hidden, generator=generator),
        torch.randn(1 + 3 * num_basis, generator=generator),
    )  # fmt: skip


def layers(features: int, *widths: int, num_basis: int = 9) -> GridNetwork:
    generator = torch.Generator().manual_seed(features)
    sizes = [3 * features, *widths]
    weights = [
        torch.randn(b, a, generator=generator) / math.sqrt(a)
        for a, b in zip(sizes, widths, strict=False)
    ]
    biases = [0.3 * torch.randn(b, generator=generator) for b in widths]
    return GridNetwork(
        *grid(features, generator), True, None, None, weights, biases,
        torch.randn(1 + 3 * num_basis, widths[-1], generator=generator),
        torch.randn(1 + 3 * num_basis, generator=generator),
    )  # fmt: skip


NETWORKS = [
    gaussians(4, 20, True), gaussians(2, 16, False), gaussians(8, 3, True), layers(2, 24),
    layers(4, 40, 20), layers(1, 16, 8, 32),
]  # fmt: skip


def rays(num: int) -> tuple[Tensor, Tensor, Tensor]:
    """Origins around the scene and in it, directions to it, and any basis."""
    generator = torch.Generator().manual_seed(3)
    origins = 2 * torch.randn(num, 3, generator=generator)
    aims = 0.7 * torch.randn(num, 3, generator=generator)
    directions = normalize(aims - origins, dim=1)
    return origins, directions, 0.4 * torch.randn(num, 9, generator=generator)


def bits(cascades: int = 1, occupied: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (cascades, CELLS, CELLS, CELLS // 8, 8)
    flags = (torch.rand(shape, generator=generator) < occupied).long()
    return (flags << torch.arange(8)).sum(dim=-1).to(torch.uint8)


def in_double(network: GridNetwork) -> GridNetwork:
    """The same network in float64, where the definition's long sums are exact enough."""
    found = {name: getattr(network, name) for name in GridNetwork.__dataclass_fields__}
    for name, part in found.items():
        if isinstance(part, list):
            found[name] = [tensor.double() for tensor in part]
        elif isinstance(part, Tensor) and name not in ("scales", "levels"):
            found[name] = part.double()
    return GridNetwork(**found)


def assert_renders_as_defined(network: GridNetwork, occupancy: Tensor, **options: Any) -> None:
    chosen = {**OPTIONS, **options}
    found = render(*rays(200), network, occupancy, **chosen)
    origins, directions, basis = (part.double() for part in rays(200))
    expected = render(
        origins, directions, basis, in_double(network), occupancy, **chosen, backend="reference"
    )
    assert float(expected[1].max()) > 0.3 and float(expected[1].min()) == 0
    for one, other in zip(found, expected, strict=True):
        assert_matches(one, other.float(), atol=ATOL, rtol=ATOL)


@pytest.mark.parametrize("index", range(len(NETWORKS)))
def test_kernel_is_the_reference(index: int) -> None:
    assert_renders_as_defined(NETWORKS[index], bits())


def test_kernel_is_the_reference_with_cascades_and_a_cone() -> None:
    assert_renders_as_defined(NETWORKS[0], bits(3, 0.1), cone=1 / 32, half_size=4.0)


def test_rays_end_behind_any_number_of_samples() -> None:
    """The kernel takes four samples at a time; nothing is special about four."""
    for max_samples in (1, 3, 4, 5, 8, 9):
        assert_renders_as_defined(NETWORKS[0], bits(), max_samples=max_samples)


def test_an_opaque_ray_ends() -> None:
    assert_renders_as_defined(NETWORKS[3], bits(), density_bias=6.0)
    assert_renders_as_defined(NETWORKS[3], bits(), density_bias=6.0, min_transmittance=0.1)


def test_huge_densities_and_logits_give_no_nan() -> None:
    network = replace(NETWORKS[0], readout_weight=1e4 * NETWORKS[0].readout_weight)
    for part in render(*rays(200), network, bits(), **OPTIONS):
        assert bool(part.isfinite().all())


def test_constant_density_has_the_opacity_of_its_thickness() -> None:
    network = gaussians(4, 16, False)
    network = replace(
        network, readout_weight=torch.zeros_like(network.readout_weight),
        readout_bias=torch.zeros_like(network.readout_bias),
    )  # fmt: skip
    origin, direction = torch.tensor([[0.3, 0.2, -3.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    options = {**OPTIONS, "density_bias": math.log(0.7), "jitter": 0.0}
    color, opacity, depth = render(
        origin, direction, torch.ones(1, 9), network, bits(1, 1.1), **options
    )
    expected = torch.tensor([1 - math.exp(-0.7 * 2)])  # the scene is two units thick
    assert_matches(opacity, expected, atol=1e-5)
    assert_matches(color, 0.5 * expected.expand(1, 3), atol=1e-5)  # logits 0: one half
    # integral of (2 + s) 0.7 exp(-0.7 s) over the two units
    mean = 2 * float(expected) + 1 / 0.7 - (2 + 1 / 0.7) * math.exp(-1.4)
    assert_matches(depth, torch.tensor([mean]), atol=1e-4)


def test_no_rays_and_rays_that_are_not_finite() -> None:
    origins, directions, basis = rays(3)
    nothing = render(origins[:0], directions[:0], basis[:0], NETWORKS[0], bits(), **OPTIONS)
    assert [len(part) for part in nothing] == [0, 0, 0]
    directions[1] = math.nan
    directions[2] = -directions[2]
    for part in render(origins, directions, basis, NETWORKS[0], bits(), **OPTIONS):
        assert float(part[1:].abs().max()) == 0


def test_result_does_not_depend_on_the_company_of_a_ray() -> None:
    origins, directions, basis = rays(150)
    every = render(origins, directions, basis, NETWORKS[0], bits(), **OPTIONS)
    some = render(origins[7::3], directions[7::3], basis[7::3], NETWORKS[0], bits(), **OPTIONS)
    for one, other in zip(every, some, strict=True):
        assert torch.equal(one[7::3], other)


def test_wrong_input_is_refused() -> None:
    origins, directions, basis = rays(3)
    with pytest.raises(ValueError, match="values"):
        render(origins, directions, basis[:, :4], NETWORKS[0], bits(), **OPTIONS)
    with pytest.raises(ValueError, match="dt_min"):
        render(origins, directions, basis, NETWORKS[0], bits(), **{**OPTIONS, "dt_min": 0.0})
    with pytest.raises(ConfigError, match="triton"):
        render(origins, directions, basis, NETWORKS[0], bits(), **OPTIONS, backend="triton")
    with pytest.raises(ValueError, match="float64"):
        render(origins.double(), directions, basis, NETWORKS[0], bits(), **OPTIONS)

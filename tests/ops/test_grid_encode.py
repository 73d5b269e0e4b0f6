"""grid_encode: the published indexing, closed forms of interpolation, kernel against reference."""

import math
from typing import Any

import pytest
import torch

from nfields.errors import ConfigError
from nfields.ops.grid_encode import GridLayout, cpu, grid_encode
from nfields.ops.grid_encode.reference import grid_encode_reference, vertex_index
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives

# (ix, iy, iz) -> entry for tables of 2^19 and 2^15: instant-ngp's hash, computed by hand.
HASH_VECTORS = {
    (1, 0, 0): (1, 1),
    (0, 1, 0): (489905, 31153),
    (0, 0, 1): (153493, 22421),
    (1, 2, 3): (128476, 30172),
    (100, 200, 300): (110768, 12464),
    (2047, 2047, 2047): (285147, 23003),
}


def small_layout(dim: int) -> GridLayout:
    """Four levels of which the finer ones are hashed."""
    return GridLayout.build(
        dim=dim, num_levels=4, base_resolution=4, max_resolution=40, log2_entries=9
    )


def test_hash_gives_the_published_entries() -> None:
    for vertex, entries in HASH_VECTORS.items():
        point = torch.tensor([vertex])
        for log2, entry in zip((19, 15), entries, strict=True):
            assert vertex_index(point, 0, 1 << log2, torch.tensor(True)).item() == entry


def test_layout_of_instant_ngp_has_its_resolutions_and_parameters() -> None:
    layout = GridLayout.build(
        dim=3, num_levels=16, base_resolution=16, max_resolution=2048, log2_entries=19
    )
    assert layout.num_entries * 2 == 12_196_240
    assert layout.levels[:12, 0].tolist() == [16, 23, 31, 43, 59, 81, 112, 154, 213, 295, 407, 562]
    assert layout.levels[:, 3].tolist() == [0] * 5 + [1] * 11


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_table_linear_in_the_vertex_gives_a_linear_feature(backend: str) -> None:
    layout = GridLayout.build(
        dim=3, num_levels=1, base_resolution=8, max_resolution=8, log2_entries=30
    )
    resolution, scale = int(layout.levels[0, 0]), float(layout.scales[0])
    entry = torch.arange(resolution**3)
    vertex = torch.stack(
        [entry % resolution, entry // resolution % resolution, entry // resolution**2], dim=1
    ).double()
    coefficients = torch.randn(3, 4, dtype=torch.float64)
    x = torch.rand(200, 3, dtype=torch.float64) * (1 - 1 / scale)  # no wrapped border vertex
    features = grid_encode(x, vertex @ coefficients, layout.scales, layout.levels, backend=backend)
    assert_matches(features, (x * scale + 0.5) @ coefficients, num_operations=16)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_constant_table_gives_the_constant_everywhere(backend: str) -> None:
    layout = small_layout(2)
    table = torch.full((layout.num_entries, 2), 3.5, dtype=torch.float64)
    x = torch.tensor([[0, 0], [1, 1], [-2, 0.5], [7, math.nan]], dtype=torch.float64)
    features = grid_encode(x, table, layout.scales, layout.levels, backend=backend)
    assert_matches(features, torch.full_like(features, 3.5), num_operations=8)


@pytest.mark.parametrize(("dim", "num_features"), [(2, 2), (3, 4)])
@pytest.mark.parametrize("smoothstep", [False, True])
def test_kernel_has_the_derivatives_of_the_reference(
    dim: int, num_features: int, smoothstep: bool
) -> None:
    layout = small_layout(dim)
    x = torch.rand(300, dim, dtype=torch.float64) * 1.2 - 0.1  # some outside
    table = torch.randn(layout.num_entries, num_features, dtype=torch.float64)
    grid = (layout.scales, layout.levels)
    assert_same_derivatives(
        lambda x, table: grid_encode(x, table, *grid, smoothstep=smoothstep, backend="numba"),
        lambda x, table: grid_encode_reference(x, table, *grid, smoothstep),
        (x, table),
        num_operations=(1 << dim) * 40**2,  # a position, and so a weight, is off by 40 eps
        zero_rows=slice(50, 120),
    )


def test_float32_kernel_agrees_with_the_float64_reference() -> None:
    layout = small_layout(3)
    x = torch.rand(500, 3)
    table = torch.randn(layout.num_entries, 4)
    found = grid_encode(x, table, layout.scales, layout.levels)
    expected = grid_encode_reference(
        x.double(), table.double(), layout.scales, layout.levels, False
    )
    # A position x scale has an error of eps times the resolution, and so has the weight.
    error = 4 * torch.finfo(torch.float32).eps * 40 * table.abs().max().item()
    assert (found - expected).abs().max() < error


@pytest.mark.parametrize("dim", [2, 3])
@pytest.mark.parametrize("num_features", [1, 2, 4, 8])
def test_gathered_entries_give_the_features_of_single_loads(
    dim: int, num_features: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = small_layout(dim)
    x, table = torch.rand(333, dim), torch.randn(layout.num_entries, num_features)
    exact = grid_encode_reference(x, table, layout.scales, layout.levels, False)
    for has_gather in (True, False):
        monkeypatch.setattr("nfields.ops.grid_encode.HAS_GATHER", has_gather)
        found = grid_encode(x, table, layout.scales, layout.levels)
        assert_matches(found, exact, num_operations=(1 << dim) * 40**2)


def test_smoothstep_makes_the_gradient_vanish_at_vertices() -> None:
    layout = small_layout(2)
    table = torch.randn(layout.num_entries, 2, dtype=torch.float64)
    position = (torch.tensor([[1.0, 2.0]]).double() - 0.5) / layout.scales[0].double()
    x = position.requires_grad_()
    first_level = grid_encode(x, table, layout.scales, layout.levels, smoothstep=True)[:, :2]
    (gradient,) = torch.autograd.grad(first_level.sum(), x)
    assert_matches(gradient, torch.zeros_like(gradient), atol=1e-12)  # t = 0 up to rounding


def test_no_points_give_no_features_and_zero_gradient() -> None:
    layout = small_layout(3)
    table = torch.randn(layout.num_entries, 4, requires_grad=True)
    features = grid_encode(torch.zeros(0, 3), table, layout.scales, layout.levels)
    features.sum().backward()
    assert features.shape == (0, 16)
    assert table.grad is not None and not table.grad.any()


def test_slope_in_the_points_alone_computes_no_gradient_of_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = small_layout(3)
    x = torch.rand(50, 3, requires_grad=True)
    table = torch.randn(layout.num_entries, 4, requires_grad=True)

    def features() -> torch.Tensor:
        return grid_encode(x, table, layout.scales, layout.levels).sum()

    expected = torch.autograd.grad(features(), (x, table))
    computed: list[bool] = []
    kernel = cpu.table_gradient_kernel

    def counted(dim: int, num_features: int) -> Any:
        computed.append(True)
        return kernel(dim, num_features)

    monkeypatch.setattr(cpu, "table_gradient_kernel", counted)
    (slope,) = torch.autograd.grad(features(), x, create_graph=True)
    assert torch.equal(slope, expected[0])
    assert computed == []
    slope.square().sum().backward()
    assert computed == []  # the kernel of second derivatives did it
    assert torch.equal(torch.autograd.grad(features(), table)[0], expected[1])
    table.grad = None
    features().backward()
    assert table.grad is not None and torch.equal(table.grad, expected[1])
    assert len(computed) == 2


def test_points_that_are_not_contiguous_are_read_right() -> None:
    layout = small_layout(3)
    table = torch.randn(layout.num_entries, 4)
    wide = torch.rand(20, 6)
    found = grid_encode(wide[:, ::2], table, layout.scales, layout.levels)
    expected = grid_encode(wide[:, ::2].contiguous(), table, layout.scales, layout.levels)
    assert torch.equal(found, expected)


def test_wrong_inputs_are_refused() -> None:
    layout = small_layout(3)
    table = torch.randn(layout.num_entries, 4)
    x = torch.rand(5, 3)
    with pytest.raises(ValueError, match=r"\(n, 2\) or \(n, 3\)"):
        grid_encode(torch.rand(5, 4), table, layout.scales, layout.levels)
    with pytest.raises(ValueError, match="use 1, 2, 4 or 8"):
        grid_encode(x, table[:, :3].contiguous(), layout.scales, layout.levels)
    with pytest.raises(ValueError, match="must agree"):
        grid_encode(x.double(), table, layout.scales, layout.levels)
    with pytest.raises(ConfigError, match="does not exist"):
        grid_encode(x, table, layout.scales, layout.levels, backend="cudda")
    with pytest.raises(ConfigError, match="runs on NVIDIA GPUs"):
        grid_encode(x, table, layout.scales, layout.levels, backend="triton")
    with pytest.raises(ConfigError, match="base_resolution"):
        GridLayout.build(dim=3, num_levels=2, base_resolution=8, max_resolution=4, log2_entries=9)


def test_another_device_names_the_reference_backend() -> None:
    layout = small_layout(3)
    x = torch.rand(5, 3, device="meta")
    table = torch.rand(layout.num_entries, 4, device="meta")
    with pytest.raises(ConfigError, match="backend=reference"):
        grid_encode(x, table, layout.scales, layout.levels)


@pytest.mark.parametrize("dim", [2, 3])
def test_any_number_of_entries_hashes_alike_in_kernel_and_reference(dim: int) -> None:
    """A fraction of log2_entries gives a multiple of 8, not a power of two."""
    layout = GridLayout.build(
        dim=dim, num_levels=4, base_resolution=16, max_resolution=90, log2_entries=7.3
    )
    assert layout.levels[-1, 2] == int(2**7.3) // 8 * 8 == 152 and layout.levels[-1, 3] == 1
    x = torch.rand(1000, dim, dtype=torch.float64)
    table = torch.randn(layout.num_entries, 2, dtype=torch.float64)
    ours, exact = (
        grid_encode(x, table, layout.scales, layout.levels, backend=backend)
        for backend in ("numba", "reference")
    )
    # Rounding of x is multiplied by the scale of the level in a weight.
    assert_matches(ours, exact, num_operations=90**2)


def test_levels_that_go_first_give_the_same_features(monkeypatch: pytest.MonkeyPatch) -> None:
    layout = small_layout(3)
    x, table = torch.rand(1000, 3), torch.randn(layout.num_entries, 2)
    usual = grid_encode(x, table, layout.scales, layout.levels)
    for limit, value in {
        "LARGE_LEVEL_BYTES": 3000, "LARGE_TABLE_BYTES": 0, "MANY_POINTS": 0
    }.items():  # fmt: skip
        monkeypatch.setattr(f"nfields.ops.grid_encode.{limit}", value)
    sizes = layout.levels[:, 2] * 2 * x.element_size()
    assert (sizes > 3000).any() and (sizes <= 3000).any()
    assert torch.equal(grid_encode(x, table, layout.scales, layout.levels), usual)

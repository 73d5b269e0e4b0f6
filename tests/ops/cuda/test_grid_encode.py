"""grid_encode on CUDA: the kernels against the reference, where tables wrap and points leave."""

# pyright: reportCallIssue=false
# (It takes a tuple of tensors for one argument.)

import math

import pytest
import torch

from nfields.ops.backend import matrix_products
from nfields.ops.grid_encode import GridLayout, grid_encode
from nfields.ops.grid_encode.reference import grid_encode_reference
from nfields.ops.half_copy import kept_copy
from nfields.optimizer import Adam, ParameterGroup
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives


def layout_on(device: torch.device, dim: int) -> tuple[GridLayout, tuple[torch.Tensor, ...]]:
    """Four levels of which the finer ones are hashed, into a number of entries that is no power."""
    layout = GridLayout.build(
        dim=dim, num_levels=4, base_resolution=4, max_resolution=40, log2_entries=8.7
    )
    return layout, (layout.scales.to(device), layout.levels.to(device))


@pytest.mark.parametrize(("dim", "num_features"), [(2, 1), (2, 8), (3, 2), (3, 4)])
@pytest.mark.parametrize("smoothstep", [False, True])
@pytest.mark.slow
def test_kernels_have_the_derivatives_of_the_reference(
    device: torch.device, dim: int, num_features: int, smoothstep: bool
) -> None:
    layout, grid = layout_on(device, dim)
    x = torch.rand(150, dim, dtype=torch.float64) * 1.2 - 0.1  # some outside; no multiple of 128
    x[0], x[1], x[2] = 0, 1, 0.5
    table = torch.randn(layout.num_entries, num_features, dtype=torch.float64)
    assert_same_derivatives(
        lambda x, table: grid_encode(x, table, *grid, smoothstep=smoothstep, backend="triton"),
        lambda x, table: grid_encode_reference(x, table, *grid, smoothstep),
        (x.to(device), table.to(device)),
        num_operations=(1 << dim) * 40**2,  # a position, and so a weight, is off by 40 eps
        zero_rows=slice(50, 120),
    )


def test_float32_kernels_agree_with_the_float64_reference(device: torch.device) -> None:
    layout, grid = layout_on(device, 3)
    x = torch.rand(200, 3, device=device)
    table = torch.randn(layout.num_entries, 2, device=device, requires_grad=True)
    exact = table.detach().double().requires_grad_()
    found = grid_encode(x, table, *grid)
    expected = grid_encode_reference(x.double(), exact, *grid, False)
    # A position x scale has an error of eps times the resolution, and so has the weight.
    error = 4 * torch.finfo(torch.float32).eps * 40
    assert_matches(found, expected, atol=error * float(table.detach().abs().max()))
    incoming = torch.randn_like(found)
    (gradient,) = torch.autograd.grad(found, table, incoming)
    (wanted,) = torch.autograd.grad(expected, exact, incoming.double())
    assert_matches(gradient, wanted, atol=error * float(incoming.abs().max()) * 200)


def test_tables_are_read_as_float16_where_products_are(device: torch.device) -> None:
    layout, grid = layout_on(device, 3)
    x = torch.rand(70, 3, device=device)
    table = torch.randn(layout.num_entries, 4, device=device, requires_grad=True)
    with matrix_products("fp16"):
        found = grid_encode(x, table, *grid)
    assert_matches(found, grid_encode(x, table.half().float(), *grid), num_operations=8)
    found.sum().backward()
    assert table.grad is not None and table.grad.dtype == torch.float32
    assert_matches(table.grad.sum(), torch.tensor(70.0 * 16), num_operations=70 * 128)


@pytest.mark.parametrize("num_points", [0, 1, 128])
def test_any_number_of_points_and_points_that_are_not_numbers(
    device: torch.device, num_points: int
) -> None:
    layout, grid = layout_on(device, 2)
    x = torch.full((num_points, 2), math.nan, device=device)
    table = torch.full((layout.num_entries, 2), 3.5, device=device, requires_grad=True)
    found = grid_encode(x, table, *grid)
    found.sum().backward()
    assert found.shape == (num_points, 8)
    assert_matches(found, torch.full_like(found, 3.5), num_operations=8)
    assert table.grad is not None
    assert_matches(table.grad.sum(), torch.tensor(8.0 * num_points), num_operations=num_points * 32)


def test_the_float16_table_is_kept_and_follows_the_optimiser(device: torch.device) -> None:
    layout, grid = layout_on(device, 2)
    x = torch.rand(40, 2, device=device)
    table = torch.nn.Parameter(torch.randn(layout.num_entries, 2, device=device))
    optimizer = Adam([ParameterGroup("grid", [table], 0.1, is_sparse=True)], (0.9, 0.99), 1e-15)

    def features() -> torch.Tensor:
        with matrix_products("fp16"):
            return grid_encode(x, table, *grid)

    features().sum().backward()
    copy, before = kept_copy(table), table.detach().clone()
    assert copy is not None and torch.equal(copy, table.detach().half())
    optimizer.step()
    assert kept_copy(table) is copy and torch.equal(copy, table.detach().half())
    assert (table != before).any()
    with torch.no_grad():
        table.mul_(2)
    assert kept_copy(table) is None  # PyTorch changed the table: the next call copies it again
    expected = grid_encode(x, table.detach().half().float(), *grid)
    assert_matches(features(), expected, num_operations=8)
    assert kept_copy(table) is not copy

"""Operation grid_encode: features of points from a multi-resolution grid, dense or hashed.

Contract
    x       (n, d) in [0, 1], d = 2 or 3; values outside are clamped (gradient 0), NaN counts as 0
    table   (entries, F), F = 1, 2, 4 or 8; all levels one after the other
    scales  (L,) float32; layout (L, 4) int64: resolution, first entry, entries, hashed (0 or 1)
    returns (n, L * F), level 0 first

Gradients: table and x, first and second order; on CUDA the second through the reference. There are
no third derivatives. n = 0 is allowed. Deterministic for any number of threads; on CUDA the
gradient of the table is not, it is added up by atomics. The derivative in x is that of the cell a
point is in: piecewise constant for linear interpolation, continuous with `smoothstep`. On CUDA,
inside `matrix_products` of 16 bits, the table is read as float16.
backend=tcnn: by tiny-cuda-nn, see nfields/ops/tiny_cuda_nn.py.
Also called: multi-resolution hash encoding (instant-ngp, arXiv:2201.05989).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.errors import ConfigError
from nfields.ops import tiny_cuda_nn
from nfields.ops.backend import (
    implement_on_cuda,
    require_same_dtype,
    uses_reference,
    uses_triton,
)
from nfields.ops.gradient import asked_later, is_asked_for, reference_gradients
from nfields.ops.grid_encode import cpu, second_cpu
from nfields.ops.grid_encode.lanes import HAS_GATHER
from nfields.ops.grid_encode.reference import grid_encode_reference

# Largest vertices-a-side whose stride still fits uint32 (tiny-cuda-nn): beyond it a level hashes.
MAX_DENSE_RESOLUTION = {2: 65535, 3: 1625}

LARGE_LEVEL_BYTES, LARGE_TABLE_BYTES, MANY_POINTS = 1 << 20, 1 << 24, 1 << 16


@dataclass(frozen=True)
class GridLayout:
    """Where each level of a grid lies in its table, by instant-ngp's rules.

    Level l has scale N_min b^l - 1, ceil(scale) + 1 vertices a side, and at most 2^log2_entries
    entries, rounded to a multiple of 8 (log2_entries may have a fraction); a level that does not
    fit is hashed.
    """

    scales: Float[Tensor, " levels"]
    levels: Int[Tensor, "levels 4"]
    num_entries: int

    @staticmethod
    def build(
        *,
        dim: int,
        num_levels: int,
        base_resolution: int,
        max_resolution: int,
        log2_entries: float | int,
    ) -> "GridLayout":
        """The layout of `num_levels` levels from base to max resolution (cells a side)."""
        if dim not in MAX_DENSE_RESOLUTION:
            raise ConfigError(f"grids have 2 or 3 dimensions, not {dim}")
        if max_resolution < base_resolution or base_resolution < 2:
            raise ConfigError(
                f"base_resolution={base_resolution}, max_resolution={max_resolution}: "
                "need 2 <= base_resolution <= max_resolution"
            )
        if not 3 <= log2_entries <= 30:
            raise ConfigError(f"log2_entries={log2_entries} is outside 3..30")
        steps = max(num_levels - 1, 1)
        limit = int(2.0**log2_entries) // 8 * 8
        growth = math.log2(max_resolution / base_resolution) / steps
        rows, scales, first = [], [], 0
        for level in range(num_levels):
            scale = float(np.float32(2.0 ** (level * growth) * base_resolution - 1.0))
            resolution = math.ceil(scale) + 1
            entries = min(-(-(resolution**dim) // 8) * 8, limit)
            fits = resolution**dim <= entries and resolution <= MAX_DENSE_RESOLUTION[dim]
            if not fits:
                entries = limit
            rows.append((resolution, first, entries, int(not fits)))
            scales.append(scale)
            first += entries
        return GridLayout(
            scales=torch.tensor(scales, dtype=torch.float32),
            levels=torch.tensor(rows, dtype=torch.int64),
            num_entries=first,
        )


def grid_encode(
    x: Float[Tensor, "n d"],
    table: Float[Tensor, "entries features"],
    scales: Float[Tensor, " levels"],
    layout: Int[Tensor, "levels 4"],
    *,
    smoothstep: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "n level_features"]:
    """Features of the points at every level; see the module's contract."""
    if x.ndim != 2 or x.shape[1] not in (2, 3):
        raise ValueError(f"grid_encode: x must be (n, 2) or (n, 3), not {tuple(x.shape)}")
    if table.shape[1] not in (1, 2, 4, 8):
        raise ValueError(f"grid_encode: {table.shape[1]} features a level; use 1, 2, 4 or 8")
    if backend == "tcnn" and len(x) > 0:
        return tiny_cuda_nn.encode(x, table, scales, layout, smoothstep)
    if uses_reference(backend, "grid_encode", x):
        return grid_encode_reference(x, table, scales, layout, smoothstep)
    require_same_dtype("grid_encode", table=table, x=x)
    if x.requires_grad:
        table = asked_later(table)
    return _encode(x, table, scales, layout, smoothstep)


@torch.library.custom_op("nfields::grid_encode", mutates_args=(), device_types="cpu")
def _encode(x: Tensor, table: Tensor, scales: Tensor, layout: Tensor, smoothstep: bool) -> Tensor:
    dim, features = x.shape[1], table.shape[1]
    num_points, num_levels = x.shape[0], layout.shape[0]
    out = table.new_empty(num_points, num_levels * features)
    padded = _padded(num_points)
    points = x.new_empty(dim * padded).numpy()
    cpu.pack_points(dim)(x.contiguous().view(-1).numpy(), points)
    entry_bytes = features * table.element_size()
    large = _levels_that_go_first(layout, entry_bytes, num_points)
    ready = table.new_empty(len(large) * padded * features).numpy()
    cpu.forward_kernel(dim, features, HAS_GATHER and entry_bytes in (4, 8))(
        points, table.contiguous().view(-1).numpy(), scales.to(x.dtype).numpy(), layout.numpy(),
        smoothstep, large, ready, np.setdiff1d(np.arange(num_levels), large), out.view(-1).numpy(),
    )  # fmt: skip
    return out


def _padded(num_points: int) -> int:
    """The number of points in whole blocks of the kernels."""
    return -(-num_points // cpu.BLOCK) * cpu.BLOCK


def _levels_that_go_first(layout: Tensor, entry_bytes: int, num_points: int) -> np.ndarray:
    """Levels to encode over all points before the next, as they would drive each other from cache.

    That pays where a level is larger than the second-level cache of a core, all together than the
    third, and there are enough points to come back to the same entries.
    """
    sizes = layout[:, 2].numpy() * entry_bytes
    large = np.flatnonzero(sizes > LARGE_LEVEL_BYTES)
    if num_points < MANY_POINTS or sizes[large].sum() < LARGE_TABLE_BYTES:
        return large[:0]
    return large


@_encode.register_fake
def _(x: Tensor, table: Tensor, scales: Tensor, layout: Tensor, smoothstep: bool) -> Tensor:
    return table.new_empty(x.shape[0], layout.shape[0] * table.shape[1])


@torch.library.custom_op("nfields::grid_encode_backward", mutates_args=(), device_types="cpu")
def _encode_backward(
    gradient: Tensor,
    x: Tensor,
    table: Tensor,
    scales: Tensor,
    layout: Tensor,
    smoothstep: bool,
    needs_x: bool,
    needs_table: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of x and table; an empty tensor where not needed."""
    dim, features = x.shape[1], table.shape[1]
    gradient = gradient.contiguous()
    flat_x, flat_gradient = x.contiguous().view(-1).numpy(), gradient.view(-1).numpy()
    grid = (scales.to(x.dtype).numpy(), layout.numpy(), smoothstep)
    x_gradient = torch.zeros_like(x) if needs_x else x.new_empty(0)
    table_gradient = torch.zeros_like(table) if needs_table else table.new_empty(0)
    if needs_x:
        second_cpu.point_gradient_kernel(dim, features)(
            flat_x, table.contiguous().view(-1).numpy(), flat_gradient, *grid,
            x_gradient.view(-1).numpy(),
        )  # fmt: skip
    if needs_table:
        _, points, packed = _packed(x, gradient, features)
        cpu.table_gradient_kernel(dim, features)(
            points, packed, *grid, table_gradient.view(-1).numpy()
        )
    return x_gradient, table_gradient


def _packed(
    x: Tensor, gradient: Tensor, features: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The points with a gradient, and both as `cpu.pack_gradients` has them."""
    dim = x.shape[1]
    active = cpu.nonzero_rows(gradient.numpy())
    padded = _padded(len(active))
    points = x.new_empty(dim * padded).numpy()
    packed = x.new_empty(gradient.shape[1] * padded).numpy()
    cpu.pack_gradients(dim, features)(
        x.contiguous().view(-1).numpy(), gradient.view(-1).numpy(), active, points, packed
    )
    return active, points, packed


@_encode_backward.register_fake
def _(gradient, x, table, scales, layout, smoothstep, needs_x, needs_table):
    return (
        torch.empty_like(x) if needs_x else x.new_empty(0),
        torch.empty_like(table) if needs_table else table.new_empty(0),
    )


def _save(ctx, inputs, output) -> None:
    x, table, scales, layout, ctx.smoothstep = inputs
    ctx.save_for_backward(x, table, scales, layout)


def _backward(ctx, gradient: Tensor):
    x, table, scales, layout = ctx.saved_tensors
    needs_x, needs_table = ctx.needs_input_grad[:2]
    if needs_x and needs_table:
        needs_table = is_asked_for(table)
    x_gradient, table_gradient = _encode_backward(
        gradient, x, table, scales, layout, ctx.smoothstep, needs_x, needs_table
    )
    return (
        x_gradient if needs_x else None,
        table_gradient if needs_table else None,
        None,
        None,
        None,
    )


@torch.library.custom_op("nfields::grid_encode_second", mutates_args=(), device_types="cpu")
def _encode_second(
    direction: Tensor,
    gradient: Tensor,
    x: Tensor,
    table: Tensor,
    scales: Tensor,
    layout: Tensor,
    smoothstep: bool,
    needs_x: bool,
    needs_table: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients, in gradient, x and table, of <direction, gradient of x>; empty if not needed."""
    dim, features = x.shape[1], table.shape[1]
    gradient, direction = gradient.contiguous(), direction.contiguous()
    flat_x, flat_direction = x.contiguous().view(-1).numpy(), direction.view(-1).numpy()
    grid = (scales.to(x.dtype).numpy(), layout.numpy(), smoothstep)
    second = torch.zeros_like(gradient)
    x_second = torch.zeros_like(x) if needs_x else x.new_empty(0)
    table_second = torch.zeros_like(table) if needs_table else table.new_empty(0)
    second_cpu.second_gradient_kernel(dim, features)(
        flat_x, flat_direction, table.contiguous().view(-1).numpy(), gradient.view(-1).numpy(),
        *grid, second.view(-1).numpy(), x_second.view(-1).numpy(),
    )  # fmt: skip
    if needs_table:
        active, points, packed = _packed(x, gradient, features)
        directions = np.zeros_like(points)
        second_cpu.pack_directions(dim)(flat_x, flat_direction, active, directions)
        second_cpu.second_table_gradient_kernel(dim, features)(
            points, directions, packed, *grid, table_second.view(-1).numpy()
        )
    return second, x_second, table_second


@_encode_second.register_fake
def _(direction, gradient, x, table, scales, layout, smoothstep, needs_x, needs_table):
    return (
        torch.empty_like(gradient),
        torch.empty_like(x) if needs_x else x.new_empty(0),
        torch.empty_like(table) if needs_table else table.new_empty(0),
    )


def _save_backward(ctx, inputs, output) -> None:
    gradient, x, table, scales, layout, ctx.smoothstep, ctx.needs_x, ctx.needs_table = inputs
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(gradient, x, table, scales, layout)


def _double_backward(ctx, direction: Tensor | None, table_direction: Tensor | None):
    gradient, x, table, scales, layout = ctx.saved_tensors
    options = (scales, layout, ctx.smoothstep)
    direction = direction if ctx.needs_x else None
    table_direction = table_direction if ctx.needs_table else None
    if uses_triton(x):
        second = reference_gradients(
            lambda x, table: grid_encode_reference(x, table, *options),
            (x, table),
            gradient,
            (direction, table_direction),
        )
        return (*second, None, None, None, None, None)
    needs = ctx.needs_input_grad
    gradient_second = x_second = table_second = None
    if direction is not None:
        gradient_second, x_second, table_second = _encode_second(
            direction, gradient, x, table, *options, needs[1], needs[2]
        )
    if table_direction is not None:
        # The table's gradient is linear in `gradient`, and is features with the table exchanged.
        features = _encode(x, table_direction, *options)
        gradient_second = features if gradient_second is None else gradient_second + features
        if needs[1]:
            slope = _encode_backward(gradient, x, table_direction, *options, True, False)[0]
            x_second = slope if x_second is None else x_second + slope
    return (
        gradient_second,
        x_second if needs[1] else None,
        table_second if needs[2] else None,
        None,
        None,
        None,
        None,
        None,
    )


_encode.register_autograd(_backward, setup_context=_save)
_encode_backward.register_autograd(_double_backward, setup_context=_save_backward)
implement_on_cuda(_encode, "nfields.ops.grid_encode.cuda:encode")
implement_on_cuda(_encode_backward, "nfields.ops.grid_encode.cuda:encode_backward")

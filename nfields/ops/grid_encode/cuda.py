"""Grid features on CUDA (Triton).

Mapping. Forward and table gradient: one program a block of points and a level, levels last, so that
the programs at work read one level's part of the table (4 MB at 2^19 entries of 2 float32), which
stays in L2. A corner is one load of F neighbouring numbers. Point gradient: one program a block of
points, through all levels.

The table gradient is added up by atomics. The alternative, sorting the 2^d L entries a point
touches and adding up each entry's segment, moves every (entry, weight) pair through memory some ten
times: 2^18 points and 16 levels are 34 million pairs, 2.7 GB a radix sort, 1 ms at 3 TB/s, while
the atomics are 67 million additions in L2, where tens of slices take one each a cycle: 0.5 ms. The
price: sums depend on the order, so `trainer.deterministic` is refused.

Tables are float32 and are read as float16 inside `matrix_products("bf16" or "fp16")`: half of the
bytes, while the optimiser's table and the gradient stay float32. The copy is kept between calls and
follows the optimiser (nfields/ops/half_copy.py).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfields.errors import ConfigError
from nfields.ops.backend import product_precision
from nfields.ops.grid_encode.reference import HASH_PRIMES
from nfields.ops.half_copy import half_copy

BLOCK = 128
PRIME_Y, PRIME_Z = tl.constexpr(HASH_PRIMES[1]), tl.constexpr(HASH_PRIMES[2])


@triton.jit
def cell_of(x, scale, SMOOTHSTEP: tl.constexpr):
    """Cell along an axis, position t in it, and dt/dx (0 where x is clamped)."""
    inside = (x >= 0.0) & (x <= 1.0)
    x = tl.where(x >= 0.0, x, 0.0)  # NaN too
    x = tl.where(x <= 1.0, x, 1.0)
    position = x * scale + 0.5
    cell = position.to(tl.int32)  # at least 0: truncation is the floor
    t = position - cell.to(position.dtype)
    slope = tl.where(inside, scale, 0.0)
    if SMOOTHSTEP:
        slope *= 6.0 * t * (1.0 - t)
        t = t * t * (3.0 - 2.0 * t)
    return cell.to(tl.uint32), t, slope


@triton.jit
def _axis(x_ptr, point, mask, k, scale, DIM: tl.constexpr, SMOOTHSTEP: tl.constexpr):
    """`cell_of` coordinate k of the points."""
    return cell_of(tl.load(x_ptr + point * DIM + k, mask=mask, other=0.0), scale, SMOOTHSTEP)


@triton.jit
def entry_of(x, y, z, resolution, num_entries, is_hashed, DIM: tl.constexpr):
    """Entry of a vertex within its level; all uint32."""
    if is_hashed:
        index = x ^ (y * PRIME_Y)
        if DIM == 3:
            index ^= z * PRIME_Z
    else:
        index = x + y * resolution
        if DIM == 3:
            index += z * (resolution * resolution)
    return index % num_entries


@triton.jit
def encode_kernel(
    x_ptr, table_ptr, scales_ptr, layout_ptr, out_ptr, num_points, num_levels, DIM: tl.constexpr,
    FEATURES: tl.constexpr, SMOOTHSTEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    level = tl.program_id(1)
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = point < num_points
    feature = tl.arange(0, FEATURES)
    kind = x_ptr.dtype.element_ty
    scale = tl.load(scales_ptr + level).to(kind)
    resolution = tl.load(layout_ptr + level * 4).to(tl.uint32)
    table_ptr += tl.load(layout_ptr + level * 4 + 1) * FEATURES
    num_entries = tl.load(layout_ptr + level * 4 + 2).to(tl.uint32)
    is_hashed = tl.load(layout_ptr + level * 4 + 3) != 0
    x, tx, _ = _axis(x_ptr, point, mask, 0, scale, DIM, SMOOTHSTEP)
    y, ty, _ = _axis(x_ptr, point, mask, 1, scale, DIM, SMOOTHSTEP)
    z, tz, _ = _axis(x_ptr, point, mask, DIM - 1, scale, DIM, SMOOTHSTEP)
    total = tl.full([BLOCK, FEATURES], 0, kind)
    for corner in tl.static_range(1 << DIM):
        weight = (tx if corner & 1 else 1 - tx) * (ty if corner & 2 else 1 - ty)
        if DIM == 3:
            weight *= tz if corner & 4 else 1 - tz
        entry = entry_of(
            x + (corner & 1), y + (corner >> 1 & 1), z + (corner >> 2), resolution, num_entries,
            is_hashed, DIM,
        )  # fmt: skip
        row = entry.to(tl.int64)[:, None] * FEATURES + feature[None, :]
        value = tl.load(table_ptr + row, mask=mask[:, None], other=0.0)
        total += weight[:, None] * value.to(kind)
    target = point[:, None] * (num_levels * FEATURES) + level * FEATURES + feature[None, :]
    tl.store(out_ptr + target, total, mask=mask[:, None])


@triton.jit
def table_gradient_kernel(
    x_ptr, gradient_ptr, scales_ptr, layout_ptr, out_ptr, num_points, num_levels,
    DIM: tl.constexpr, FEATURES: tl.constexpr, SMOOTHSTEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds to the zeroed table gradient; a point without gradient costs no atomic."""
    level = tl.program_id(1)
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = point < num_points
    feature = tl.arange(0, FEATURES)
    kind = x_ptr.dtype.element_ty
    source = point[:, None] * (num_levels * FEATURES) + level * FEATURES + feature[None, :]
    gradient = tl.load(gradient_ptr + source, mask=mask[:, None], other=0.0)
    live = tl.max((gradient != 0.0).to(tl.int32), axis=1) > 0
    scale = tl.load(scales_ptr + level).to(kind)
    resolution = tl.load(layout_ptr + level * 4).to(tl.uint32)
    out_ptr += tl.load(layout_ptr + level * 4 + 1) * FEATURES
    num_entries = tl.load(layout_ptr + level * 4 + 2).to(tl.uint32)
    is_hashed = tl.load(layout_ptr + level * 4 + 3) != 0
    x, tx, _ = _axis(x_ptr, point, mask, 0, scale, DIM, SMOOTHSTEP)
    y, ty, _ = _axis(x_ptr, point, mask, 1, scale, DIM, SMOOTHSTEP)
    z, tz, _ = _axis(x_ptr, point, mask, DIM - 1, scale, DIM, SMOOTHSTEP)
    for corner in tl.static_range(1 << DIM):
        weight = (tx if corner & 1 else 1 - tx) * (ty if corner & 2 else 1 - ty)
        if DIM == 3:
            weight *= tz if corner & 4 else 1 - tz
        entry = entry_of(
            x + (corner & 1), y + (corner >> 1 & 1), z + (corner >> 2), resolution, num_entries,
            is_hashed, DIM,
        )  # fmt: skip
        row = entry.to(tl.int64)[:, None] * FEATURES + feature[None, :]
        tl.atomic_add(out_ptr + row, weight[:, None] * gradient, mask=live[:, None], sem="relaxed")


@triton.jit
def point_gradient_kernel(
    x_ptr, table_ptr, gradient_ptr, scales_ptr, layout_ptr, out_ptr, num_points, num_levels,
    DIM: tl.constexpr, FEATURES: tl.constexpr, SMOOTHSTEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = point < num_points
    feature = tl.arange(0, FEATURES)
    kind = x_ptr.dtype.element_ty
    dx = tl.full([BLOCK], 0, kind)
    dy = tl.full([BLOCK], 0, kind)
    dz = tl.full([BLOCK], 0, kind)
    for level in range(num_levels):
        source = point[:, None] * (num_levels * FEATURES) + level * FEATURES + feature[None, :]
        gradient = tl.load(gradient_ptr + source, mask=mask[:, None], other=0.0)
        scale = tl.load(scales_ptr + level).to(kind)
        resolution = tl.load(layout_ptr + level * 4).to(tl.uint32)
        first = tl.load(layout_ptr + level * 4 + 1)
        num_entries = tl.load(layout_ptr + level * 4 + 2).to(tl.uint32)
        is_hashed = tl.load(layout_ptr + level * 4 + 3) != 0
        x, tx, slope_x = _axis(x_ptr, point, mask, 0, scale, DIM, SMOOTHSTEP)
        y, ty, slope_y = _axis(x_ptr, point, mask, 1, scale, DIM, SMOOTHSTEP)
        z, tz, slope_z = _axis(x_ptr, point, mask, DIM - 1, scale, DIM, SMOOTHSTEP)
        for corner in tl.static_range(1 << DIM):
            entry = entry_of(
                x + (corner & 1), y + (corner >> 1 & 1), z + (corner >> 2), resolution,
                num_entries, is_hashed, DIM,
            )  # fmt: skip
            row = (first + entry.to(tl.int64))[:, None] * FEATURES + feature[None, :]
            value = tl.load(table_ptr + row, mask=mask[:, None], other=0.0).to(kind)
            value = tl.sum(value * gradient, axis=1)
            wx = tx if corner & 1 else 1 - tx
            wy = ty if corner & 2 else 1 - ty
            by_x = value if corner & 1 else -value
            by_y = value if corner & 2 else -value
            if DIM == 3:
                wz = tz if corner & 4 else 1 - tz
                by_z = value if corner & 4 else -value
                dx += by_x * slope_x * wy * wz
                dy += by_y * slope_y * wx * wz
                dz += by_z * slope_z * wx * wy
            else:
                dx += by_x * slope_x * wy
                dy += by_y * slope_y * wx
    tl.store(out_ptr + point * DIM, dx, mask=mask)
    tl.store(out_ptr + point * DIM + 1, dy, mask=mask)
    if DIM == 3:
        tl.store(out_ptr + point * DIM + 2, dz, mask=mask)


def encode(x: Tensor, table: Tensor, scales: Tensor, layout: Tensor, smoothstep: bool) -> Tensor:
    """Features of the points at every level."""
    num_points, num_levels, features = x.shape[0], layout.shape[0], table.shape[1]
    out = x.new_empty(num_points, num_levels * features)
    if product_precision() != "fp32" and table.dtype == torch.float32:
        table = half_copy(table)
    if num_points > 0:
        encode_kernel[(triton.cdiv(num_points, BLOCK), num_levels)](
            x.contiguous(), table.contiguous(), scales, layout, out, num_points, num_levels,
            DIM=x.shape[1], FEATURES=features, SMOOTHSTEP=smoothstep, BLOCK=BLOCK,
        )  # fmt: skip
    return out


def encode_backward(
    gradient: Tensor, x: Tensor, table: Tensor, scales: Tensor, layout: Tensor, smoothstep: bool,
    needs_x: bool, needs_table: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of x and table; an empty tensor where not needed."""
    if torch.are_deterministic_algorithms_enabled() and x.is_cuda:
        raise ConfigError(
            "trainer.deterministic=true: the gradient of a grid is added up by atomics on CUDA, in "
            "an order that varies; set it to false, or model.backend=reference or "
            "trainer.device=cpu"
        )
    num_points, num_levels, features = x.shape[0], layout.shape[0], table.shape[1]
    x_gradient = torch.zeros_like(x) if needs_x else x.new_empty(0)
    table_gradient = torch.zeros_like(table) if needs_table else table.new_empty(0)
    x, gradient = x.contiguous(), gradient.contiguous()
    blocks = triton.cdiv(num_points, BLOCK)
    if needs_x and num_points > 0:
        point_gradient_kernel[(blocks,)](
            x, table.contiguous(), gradient, scales, layout, x_gradient, num_points, num_levels,
            DIM=x.shape[1], FEATURES=features, SMOOTHSTEP=smoothstep, BLOCK=BLOCK,
        )  # fmt: skip
    if needs_table and num_points > 0:
        table_gradient_kernel[(blocks, num_levels)](
            x, gradient, scales, layout, table_gradient, num_points, num_levels,
            DIM=x.shape[1], FEATURES=features, SMOOTHSTEP=smoothstep, BLOCK=BLOCK,
        )  # fmt: skip
    return x_gradient, table_gradient

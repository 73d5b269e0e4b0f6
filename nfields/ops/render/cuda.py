"""Rays through an occupancy grid, a field and the compositing sum on CUDA (Triton).

Mapping. One program for RAYS rays, a ray a lane. In every round each ray that is not done marches
to its next sample (nfields/ops/march/cuda.py), the field is evaluated at all of them together, and
every ray adds up its sample; a ray that is opaque or has left the scene waits for the others of its
program. Grid features come a level at a time and are multiplied into the first layer, or added to
the squared distances of the neurons, at once; further layers and the readout are products on tensor
cores, three of TF32 for a float32. All values are read out and then multiplied by the ray's basis:
folding the basis into the readout, as on the CPU, would be a matrix a ray.

Memory: a ray reads its basis once and writes five numbers; networks come from L2, and the grid's
look-ups are what costs.
"""

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfields.ops.grid_encode.cuda import cell_of, entry_of
from nfields.ops.march.cuda import begin, coarsen, load_rays, look, step_at
from nfields.ops.mlp.cuda import pad_and_stack

if TYPE_CHECKING:
    from nfields.ops.render import GridNetwork

RAYS, NUM_WARPS = 16, 4
MAX_LOG_DENSITY = tl.constexpr(15.0)


@triton.jit
def _through_grid(
    x, y, z, mask, table_ptr, scales_ptr, layout_ptr, first_ptr, second_ptr, readout_ptr,
    num_levels, num_units, hidden_size, num_out, FEATURES: tl.constexpr, SMOOTHSTEP: tl.constexpr,
    GAUSSIAN: tl.constexpr, LINEAR: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr,
    RAYS: tl.constexpr,
):  # fmt: skip
    """Products of the first layer, or squared distances of the neurons; and of the linear term."""
    unit, out = tl.arange(0, WIDTH), tl.arange(0, OUT)
    is_unit, is_out = unit < num_units, out < num_out
    dim = num_levels * FEATURES
    total = tl.full([RAYS, WIDTH], 0, x.dtype)
    linear = tl.full([RAYS, OUT], 0, x.dtype)
    for level in range(num_levels):
        scale = tl.load(scales_ptr + level).to(x.dtype)
        resolution = tl.load(layout_ptr + level * 4).to(tl.uint32)
        rows_ptr = table_ptr + tl.load(layout_ptr + level * 4 + 1) * FEATURES
        num_entries = tl.load(layout_ptr + level * 4 + 2).to(tl.uint32)
        is_hashed = tl.load(layout_ptr + level * 4 + 3) != 0
        cx, tx, _ = cell_of(x, scale, SMOOTHSTEP)
        cy, ty, _ = cell_of(y, scale, SMOOTHSTEP)
        cz, tz, _ = cell_of(z, scale, SMOOTHSTEP)
        for f in range(FEATURES):
            feature = tl.full([RAYS], 0, x.dtype)
            for corner in tl.static_range(8):
                weight = (tx if corner & 1 else 1 - tx) * (ty if corner & 2 else 1 - ty)
                weight *= tz if corner & 4 else 1 - tz
                entry = entry_of(
                    cx + (corner & 1), cy + (corner >> 1 & 1), cz + (corner >> 2), resolution,
                    num_entries, is_hashed, 3,
                )  # fmt: skip
                row = entry.to(tl.int64) * FEATURES + f
                feature += weight * tl.load(rows_ptr + row, mask=mask, other=0.0)
            d = level * FEATURES + f
            first = tl.load(first_ptr + unit * dim + d, mask=is_unit, other=0.0)[None, :]
            if GAUSSIAN:
                second = tl.load(second_ptr + unit * dim + d, mask=is_unit, other=0.0)[None, :]
                scaled = (feature[:, None] - first) * second
                total += scaled * scaled
            else:
                total += feature[:, None] * first
            if LINEAR:
                where = readout_ptr + out * hidden_size + num_units + d
                linear += feature[:, None] * tl.load(where, mask=is_out, other=0.0)[None, :]
    return total, linear


@triton.jit
def _values(
    x, y, z, mask, table_ptr, scales_ptr, layout_ptr, first_ptr, second_ptr, layers_ptr, biases_ptr,
    readout_ptr, readout_bias_ptr, num_levels, num_units, num_layers, hidden_size, num_out,
    FEATURES: tl.constexpr, SMOOTHSTEP: tl.constexpr, GAUSSIAN: tl.constexpr, LINEAR: tl.constexpr,
    WIDTH: tl.constexpr, OUT: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    """All values (RAYS, OUT) of the network at points of the grid's [0, 1]^3."""
    unit, out = tl.arange(0, WIDTH), tl.arange(0, OUT)
    hidden, value = _through_grid(
        x, y, z, mask, table_ptr, scales_ptr, layout_ptr, first_ptr, second_ptr, readout_ptr,
        num_levels, num_units, hidden_size, num_out, FEATURES, SMOOTHSTEP, GAUSSIAN, LINEAR, WIDTH,
        OUT, RAYS,
    )  # fmt: skip
    num_read = num_units
    if GAUSSIAN:
        hidden = tl.where(hidden < 120.0, tl.exp(-0.5 * hidden), 0.0)  # as rbf_decode
    else:
        hidden = tl.maximum(hidden + tl.load(biases_ptr + unit)[None, :], 0.0)
        for layer in range(1, num_layers):
            where = layers_ptr + (layer - 1) * WIDTH * WIDTH + unit[None, :] * WIDTH + unit[:, None]
            hidden = tl.dot(hidden, tl.load(where), input_precision="tf32x3")
            hidden += tl.load(biases_ptr + layer * WIDTH + unit)[None, :]
            hidden = tl.maximum(hidden, 0.0)
        num_read = hidden_size
    is_out = out < num_out
    readout = tl.load(
        readout_ptr + out[None, :] * hidden_size + unit[:, None],
        mask=(unit < num_read)[:, None] & is_out[None, :], other=0.0,
    )  # fmt: skip
    value += tl.dot(hidden, readout, input_precision="tf32x3")
    return value + tl.load(readout_bias_ptr + out, mask=is_out, other=0.0)[None, :]


@triton.jit
def _sigmoid(z):
    small = tl.exp(-tl.abs(z))
    return tl.where(z >= 0.0, 1.0, small) / (1.0 + small)


@triton.jit
def render_kernel(
    origins_ptr, directions_ptr, basis_ptr, bits_ptr, coarse_ptr, table_ptr, scales_ptr, layout_ptr,
    first_ptr, second_ptr, layers_ptr, biases_ptr, readout_ptr, readout_bias_ptr, out_ptr, num_rays,
    num_basis, num_levels, num_units, num_layers, hidden_size, center_x, center_y, center_z,
    field_size, near, dt_min, dt_max, cone, jitter, density_bias, min_transmittance, half_size,
    max_samples, cells, CASCADES: tl.constexpr, HAS_CONE: tl.constexpr, FEATURES: tl.constexpr,
    SMOOTHSTEP: tl.constexpr, GAUSSIAN: tl.constexpr, LINEAR: tl.constexpr, WIDTH: tl.constexpr,
    OUT: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    """out (n, 5): color, opacity, depth."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    mask = ray < num_rays
    ox, oy, oz = load_rays(origins_ptr, ray, mask, 0.0)
    dx, dy, dz = load_rays(directions_ptr, ray, mask, 1.0)
    active, origin_t, leave = begin(
        ox, oy, oz, dx, dy, dz, mask, jitter, near, dt_min, dt_max, cone, half_size
    )
    out = tl.arange(0, OUT)
    num_out = 1 + 3 * num_basis
    color = tl.where(out > 0, (out - 1) // num_basis, 3)  # which one a value belongs to
    basis = tl.load(
        basis_ptr + ray[:, None] * num_basis + ((out + num_basis - 1) % num_basis)[None, :],
        mask=mask[:, None] & ((out > 0) & (out < num_out))[None, :], other=0.0,
    )  # fmt: skip
    t = origin_t
    dt = step_at(t, cone, dt_min, dt_max)
    index = tl.full([RAYS], 0, tl.int32)
    count = tl.full([RAYS], 0, tl.int32)
    skip_to = tl.full([RAYS], 0, ox.dtype)
    through = tl.full([RAYS], 1, ox.dtype)
    red, green, blue = tl.zeros_like(skip_to), tl.zeros_like(skip_to), tl.zeros_like(skip_to)
    depth = tl.zeros_like(skip_to)
    active = active & (count < max_samples)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        start, end = tl.zeros_like(t), tl.zeros_like(t)
        found = active ^ active
        seeks = active
        while tl.max(seeks.to(tl.int32), axis=0) > 0:
            hit, a, b, next_t, next_dt, next_index, next_skip, goes_on = look(
                ox, oy, oz, dx, dy, dz, bits_ptr, coarse_ptr, origin_t, leave, t, dt, index,
                skip_to, seeks, dt_min, dt_max, cone, cells, CASCADES, HAS_CONE,
            )  # fmt: skip
            start, end = tl.where(hit, a, start), tl.where(hit, b, end)
            t, dt = tl.where(seeks, next_t, t), tl.where(seeks, next_dt, dt)
            index = tl.where(seeks, next_index, index)
            skip_to = tl.where(seeks, next_skip, skip_to)
            found = found | hit
            seeks = goes_on & ~hit
        middle = 0.5 * (start + end)
        to_grid = 0.5 / field_size
        x = tl.where(found, (ox + middle * dx - center_x) * to_grid + 0.5, 0.0)
        y = tl.where(found, (oy + middle * dy - center_y) * to_grid + 0.5, 0.0)
        z = tl.where(found, (oz + middle * dz - center_z) * to_grid + 0.5, 0.0)
        value = _values(
            x, y, z, found, table_ptr, scales_ptr, layout_ptr, first_ptr, second_ptr, layers_ptr,
            biases_ptr, readout_ptr, readout_bias_ptr, num_levels, num_units, num_layers,
            hidden_size, num_out, FEATURES, SMOOTHSTEP, GAUSSIAN, LINEAR, WIDTH, OUT, RAYS,
        )  # fmt: skip
        log_density = tl.sum(tl.where((out == 0)[None, :], value, 0.0), axis=1) + density_bias
        value *= basis
        kept = tl.exp(-tl.exp(tl.minimum(log_density, MAX_LOG_DENSITY)) * (end - start))
        weight = tl.where(found, through * (1.0 - kept), 0.0)
        red += weight * _sigmoid(tl.sum(tl.where((color == 0)[None, :], value, 0.0), axis=1))
        green += weight * _sigmoid(tl.sum(tl.where((color == 1)[None, :], value, 0.0), axis=1))
        blue += weight * _sigmoid(tl.sum(tl.where((color == 2)[None, :], value, 0.0), axis=1))
        depth += weight * middle
        through = tl.where(found, through * kept, through)
        count += found.to(tl.int32)
        active = found & (count < max_samples) & (through >= min_transmittance)
    tl.store(out_ptr + ray * 5, red, mask=mask)
    tl.store(out_ptr + ray * 5 + 1, green, mask=mask)
    tl.store(out_ptr + ray * 5 + 2, blue, mask=mask)
    tl.store(out_ptr + ray * 5 + 3, 1.0 - through, mask=mask)
    tl.store(out_ptr + ray * 5 + 4, depth, mask=mask)


@torch.no_grad()
def render(
    origins: Tensor, directions: Tensor, basis: Tensor, network: "GridNetwork", bits: Tensor,
    frame: tuple[float, ...], steps: tuple[float, ...], limits: tuple[float, float],
    max_samples: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Colour, opacity and depth of every ray."""
    (num_rays, num_basis), (cascades, cells) = basis.shape, bits.shape[:2]
    near, dt_min, dt_max, cone, jitter = steps
    num_out, hidden_size = network.readout_weight.shape
    nothing = origins.new_zeros(1)
    second = layers = biases = nothing
    if network.centers is not None and network.inv_widths is not None:
        num_units, width = len(network.centers), len(network.centers)
        first, second = network.centers.contiguous(), network.inv_widths.contiguous()
    else:
        first = network.weights[0].contiguous()
        num_units, width = len(first), max(len(weight) for weight in network.weights)
    width = max(16, triton.next_power_of_2(width))
    if network.centers is None:
        zeros = [weight.new_zeros(len(weight)) for weight in network.weights]
        biases = pad_and_stack([*network.biases] or zeros, width)
        if len(network.weights) > 1:
            layers = pad_and_stack(network.weights[1:], width, width)
    out = origins.new_zeros(num_rays, 5)
    if num_rays > 0:
        render_kernel[(triton.cdiv(num_rays, RAYS),)](
            *(t.contiguous() for t in (origins, directions, basis, bits, coarsen(bits))),
            network.table.contiguous(), network.scales, network.levels, first, second, layers,
            biases, network.readout_weight.contiguous(), network.readout_bias.contiguous(), out,
            num_rays, num_basis, len(network.levels), num_units, len(network.weights), hidden_size,
            *frame, near, dt_min, dt_max, cone, jitter, *limits, float(2 ** (cascades - 1)),
            max_samples, cells, CASCADES=cascades, HAS_CONE=cone > 0,
            FEATURES=network.table.shape[1], SMOOTHSTEP=network.smoothstep,
            GAUSSIAN=network.centers is not None,
            LINEAR=network.centers is not None and hidden_size > num_units, WIDTH=width,
            OUT=max(16, triton.next_power_of_2(num_out)), RAYS=RAYS, num_warps=NUM_WARPS,
        )  # fmt: skip
    return out[:, :3], out[:, 3], out[:, 4]

"""Rays through an occupancy grid, a field and the compositing sum on the CPU (Numba).

Mapping. A thread takes chunks of CHUNK rays in turn and keeps RAYS of them in flight. In every
round each ray in flight adds its next SAMPLES samples to a block; the block's grid features, hidden
values and readouts are computed as in nfields/ops/{grid_encode,rbf_decode}/cpu.py; then every ray
adds up its samples, front to back, and one that is opaque or has left the scene makes room for the
next ray of the thread. Blocks are full until the last rays of a thread, and at most SAMPLES - 1
samples a ray are evaluated in vain.

The harmonics of a ray are folded into the readout of (log density, r, g, b) when its first sample
is found: rays that meet nothing cost the march alone.

Memory a thread touches: RAYS readouts (4 x hidden), a block of corners, features and hidden values:
110 KB with 64 hidden values, L2; and the grid, whose look-ups are what costs.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nfields.jit import njit
from nfields.ops.grid_encode.cpu import find_block_cells
from nfields.ops.grid_encode.lanes import LANES, copy_entry, gather_lanes
from nfields.ops.march.cpu import first_step, ray_span, take_samples
from nfields.ops.simd import exp_negative, gather
from nfields.ops.tiles import (
    AS_IS,
    BIAS,
    RELU,
    TILE_COLUMNS,
    TILE_ROWS,
    ZERO,
    distance_tile,
    dot,
    multiply_tile,
)

if TYPE_CHECKING:
    from nfields.ops.render import GridNetwork

BLOCK = 128  # of nfields/ops/grid_encode/cpu.py, whose corners are laid out for it
SAMPLES = 4
RAYS = BLOCK // SAMPLES
CHUNK = 64
CORNERS = 8
MAX_LOG_DENSITY = 15.0
_FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}


@dataclass(frozen=True)
class Packed:
    """A network as the kernel reads it: transposed, rows padded to TILE_COLUMNS, flat."""

    num_neurons: int  # 0: ReLU layers
    scale: np.ndarray  # [d, j] = s_jd
    shift: np.ndarray  # [d, j] = s_jd mu_jd
    layers: np.ndarray  # of each layer the bias, then W^T
    sizes: np.ndarray  # inputs of the first layer, outputs of every layer
    readout: np.ndarray  # (out, padded hidden)
    bias: np.ndarray  # (out,)


def padded(size: int) -> int:
    """The next multiple of TILE_COLUMNS."""
    return -(-size // TILE_COLUMNS) * TILE_COLUMNS


@torch.no_grad()
def pack(network: "GridNetwork") -> Packed:
    """The network's decoder for the kernel."""
    nothing = np.zeros(0, np.float32)
    dim = len(network.levels) * network.table.shape[1]
    num_hidden = network.readout_weight.shape[1]
    scale, shift, layers, sizes, num_neurons = nothing, nothing, nothing, [dim], 0
    width = padded(num_hidden)
    if network.centers is not None and network.inv_widths is not None:
        num_neurons = len(network.centers)
        width = max(width, padded(num_neurons))
        both = torch.zeros(2, dim, padded(num_neurons))
        both[0, :, :num_neurons] = network.inv_widths.T
        both[1, :, :num_neurons] = (network.inv_widths * network.centers).T
        scale, shift = both.view(2, -1).numpy()
    else:
        parts = []
        sizes += [len(weight) for weight in network.weights]
        for k, (inputs, outputs) in enumerate(pairwise(sizes)):
            part = torch.zeros(1 + inputs, padded(outputs))
            part[1:, :outputs] = network.weights[k].T
            if network.biases:
                part[0, :outputs] = network.biases[k]
            parts.append(part.view(-1))
        layers = torch.cat(parts).numpy()
    readout = torch.zeros(len(network.readout_weight), width)
    readout[:, :num_hidden] = network.readout_weight
    return Packed(
        num_neurons, scale, shift, layers, np.array(sizes, np.int64), readout.view(-1).numpy(),
        network.readout_bias.detach().contiguous().numpy(),
    )  # fmt: skip


@njit(cache=True, nogil=True, **_FAST)
def render(
    thread: int, num_threads: int, features: int, num_neurons: int, has_gather: bool,
    origins: Any, directions: Any, basis: Any, bits: Any, clear: Any, box: Any, options: Any,
    max_samples: int, table: Any, scales: Any, levels: Any, smoothstep: bool, scale: Any,
    shift: Any, layers: Any, sizes: Any, readout: Any, bias: Any, out: Any,
) -> None:  # fmt: skip
    """Fills rows of out (n, 5), zeros at first, with color, opacity, depth: one thread's share."""
    kind = origins.dtype.type
    dim = features * levels.shape[0]
    num_rays, num_basis = basis.shape
    width = readout.shape[0] // (1 + 3 * num_basis)
    half, one, scene = kind(0.5), kind(1), kind(2 ** (bits.shape[0] - 1))
    # The grid's coordinates are 0.5 x + 0.5 of the field's.
    to_grid = half / options[3]
    near, dt_min, dt_max, cone, jitter = options[4], options[5], options[6], options[7], options[8]
    density_bias, min_transmittance = options[9], options[10]

    # Rays in flight.
    ray = np.zeros(RAYS, np.int64) - 1
    start, finish = np.zeros(RAYS, origins.dtype), np.zeros(RAYS, origins.dtype)
    index, count = np.zeros(RAYS, np.int64), np.zeros(RAYS, np.int64)
    t, dt = np.zeros(RAYS, origins.dtype), np.zeros(RAYS, origins.dtype)
    transmittance = np.zeros(RAYS, origins.dtype)
    total = np.zeros(4 * RAYS, origins.dtype)  # color, depth
    fold = np.zeros(4 * RAYS * width, origins.dtype)
    fold_bias = np.zeros(4 * RAYS, origins.dtype)
    first = np.zeros(RAYS + 1, np.int64)  # of its samples in the block
    # A block of samples.
    starts, ends = np.zeros(BLOCK, origins.dtype), np.zeros(BLOCK, origins.dtype)
    middle, length = np.zeros(BLOCK, origins.dtype), np.zeros(BLOCK, origins.dtype)
    points = np.zeros(3 * BLOCK, origins.dtype)
    rows = np.zeros(CORNERS * BLOCK, np.uint32)
    weights = np.zeros(CORNERS * BLOCK, origins.dtype)
    level_features = np.zeros(BLOCK * features, origins.dtype)
    encoded = np.zeros(BLOCK * dim, origins.dtype)
    widest = width
    for k in range(1, sizes.shape[0]):
        widest = max(widest, (sizes[k] + TILE_COLUMNS - 1) // TILE_COLUMNS * TILE_COLUMNS)
    hidden, other = np.zeros(BLOCK * widest, origins.dtype), np.zeros(BLOCK * widest, origins.dtype)
    value = np.zeros(4 * BLOCK, origins.dtype)

    chunk = thread
    upcoming, stop = chunk * CHUNK, min(chunk * CHUNK + CHUNK, num_rays)
    while True:
        filled, in_flight = 0, 0
        for slot in range(RAYS):
            first[slot] = filled
            while ray[slot] >= 0 or upcoming < num_rays:
                i, is_new, skip_to = ray[slot], ray[slot] < 0, kind(0)
                if is_new:
                    i = upcoming
                    upcoming += 1
                    if upcoming >= stop:
                        chunk += num_threads
                        upcoming, stop = chunk * CHUNK, min(chunk * CHUNK + CHUNK, num_rays)
                    enter, skip_to, finish[slot] = ray_span(
                        origins[i, 0], origins[i, 1], origins[i, 2], directions[i, 0],
                        directions[i, 1], directions[i, 2], box, scene, near,
                    )  # fmt: skip
                    if finish[slot] < skip_to:
                        continue
                    start[slot], dt[slot] = first_step(enter, jitter, dt_min, dt_max, cone)
                    index[slot], t[slot], count[slot] = 0, start[slot], 0
                found, index[slot], t[slot], dt[slot] = take_samples(
                    origins[i, 0], origins[i, 1], origins[i, 2], directions[i, 0],
                    directions[i, 1], directions[i, 2], bits, clear, start[slot], finish[slot],
                    dt_min, dt_max, cone, skip_to, index[slot], t[slot], dt[slot],
                    min(SAMPLES, max_samples - count[slot]), starts, ends, filled, True,
                )  # fmt: skip
                if is_new:
                    if found == 0:
                        continue
                    ray[slot] = i
                    transmittance[slot] = one
                    for k in range(4):
                        total[4 * slot + k] = 0
                    _fold_readout(basis, i, num_basis, readout, bias, width, fold, fold_bias, slot)
                count[slot] += found
                filled += found
                break
            i = ray[slot]
            if i < 0:
                continue
            in_flight += 1
            for s in range(first[slot], filled):
                middle[s], length[s] = half * (starts[s] + ends[s]), ends[s] - starts[s]
                for k in range(3):
                    x = (origins[i, k] + middle[s] * directions[i, k] - options[k]) * to_grid + half
                    points[k * BLOCK + s] = min(max(x, kind(0)), one)
        first[RAYS] = filled
        if in_flight == 0:
            break
        lanes = (filled + LANES - 1) // LANES * LANES
        _encode(
            features, has_gather, lanes, points, table, scales, levels, smoothstep,
            rows, weights, level_features, encoded,
        )  # fmt: skip
        if num_neurons > 0:
            _responses(num_neurons, dim, lanes, encoded, scale, shift, width, hidden)
            is_swapped = False
        else:
            is_swapped = _through_layers(lanes, dim, encoded, layers, sizes, hidden, other)
        for slot in range(RAYS):
            for s in range(first[slot], first[slot + 1]):
                for c in range(4):
                    row = (4 * slot + c) * width
                    if is_swapped:
                        value[c * BLOCK + s] = dot(fold, row, other, s * width, width)
                    else:
                        value[c * BLOCK + s] = dot(fold, row, hidden, s * width, width)
                    value[c * BLOCK + s] += fold_bias[4 * slot + c]
        _activate(lanes, density_bias, length, value)
        for slot in range(RAYS):
            i = ray[slot]
            if i < 0:
                continue
            through = transmittance[slot]
            for s in range(first[slot], first[slot + 1]):
                weight = through * (one - value[s])
                for c in range(3):
                    total[4 * slot + c] += weight * value[(1 + c) * BLOCK + s]
                total[4 * slot + 3] += weight * middle[s]
                through *= value[s]
                if through < min_transmittance:
                    break
            transmittance[slot] = through
            is_last = first[slot + 1] < first[slot] + SAMPLES or count[slot] >= max_samples
            if through < min_transmittance or is_last:
                for c in range(3):
                    out[i, c] = total[4 * slot + c]
                out[i, 3] = one - through
                out[i, 4] = total[4 * slot + 3]
                ray[slot] = -1


@njit(cache=True, **_FAST)
def _fold_readout(
    basis: Any, i: int, num_basis: int, readout: Any, bias: Any, width: int, fold: Any,
    fold_bias: Any, slot: int,
) -> None:  # fmt: skip
    """The readout of (log density, r, g, b) for ray i, into row `slot` of fold (RAYS, 4, width)."""
    flat = basis.reshape(-1)
    for j in range(width):
        fold[4 * slot * width + j] = readout[j]
    fold_bias[4 * slot] = bias[0]
    for c in range(3):
        target = (4 * slot + 1 + c) * width
        for j in range(0, width, TILE_COLUMNS):
            multiply_tile(
                1, 1, ZERO, AS_IS, flat, i * num_basis, 0, 1, readout,
                (1 + c * num_basis) * width + j, width, num_basis, fold, target + j, 0, fold, 0,
            )  # fmt: skip
        total = bias.dtype.type(0)
        for k in range(num_basis):
            total += basis[i, k] * bias[1 + c * num_basis + k]
        fold_bias[4 * slot + 1 + c] = total


@njit(cache=True, **_FAST)
def _encode(
    features: int, has_gather: bool, lanes: int, points: Any, table: Any, scales: Any, levels: Any,
    smoothstep: bool, rows: Any, weights: Any, level_features: Any, encoded: Any,
) -> None:  # fmt: skip
    """encoded (lanes, levels * features): the grid's features of a block of points."""
    dim = features * levels.shape[0]
    for level in range(levels.shape[0]):
        find_block_cells(
            3, points, 0, BLOCK, scales[level], levels[level], smoothstep, rows, weights, lanes
        )
        first, position = levels[level, 1], level * features
        # The number of features is a constant of the vector code: one loop for each.
        if features == 1:
            if has_gather:
                for i in range(0, lanes, LANES):
                    gather_lanes(
                        1, CORNERS, table, first, rows, weights, i, BLOCK, level_features, i
                    )
                for i in range(lanes):
                    copy_entry(1, level_features, i, encoded, i * dim + position)
            else:
                for i in range(lanes):
                    gather(
                        1, CORNERS, table, first, rows, weights, i, BLOCK, encoded,
                        i * dim + position,
                    )  # fmt: skip
        elif features == 2:
            if has_gather:
                for i in range(0, lanes, LANES):
                    gather_lanes(
                        2, CORNERS, table, first, rows, weights, i, BLOCK, level_features, 2 * i
                    )
                for i in range(lanes):
                    copy_entry(2, level_features, 2 * i, encoded, i * dim + position)
            else:
                for i in range(lanes):
                    gather(
                        2, CORNERS, table, first, rows, weights, i, BLOCK, encoded,
                        i * dim + position,
                    )  # fmt: skip
        elif features == 4:
            for i in range(lanes):
                gather(
                    4, CORNERS, table, first, rows, weights, i, BLOCK, encoded, i * dim + position
                )
        else:
            for i in range(lanes):
                gather(
                    8, CORNERS, table, first, rows, weights, i, BLOCK, encoded, i * dim + position
                )


@njit(cache=True, **_FAST)
def _responses(
    num_neurons: int, dim: int, lanes: int, encoded: Any, scale: Any, shift: Any, width: int,
    hidden: Any,
) -> None:  # fmt: skip
    """hidden (lanes, width): Gaussian responses, then features, as far as there is room."""
    half = hidden.dtype.type(0.5)
    columns = -(-num_neurons // TILE_COLUMNS) * TILE_COLUMNS
    for i in range(0, lanes, TILE_ROWS):
        for j in range(0, columns, TILE_COLUMNS):
            distance_tile(
                encoded, i * dim, dim, scale, shift, j, columns, dim, hidden, i * width + j, width
            )
    # Slices: of an index that could be negative the compiler makes no vector.
    for i in range(lanes):
        row, features = hidden[i * width : i * width + width], encoded[i * dim : i * dim + dim]
        for j in range(columns):
            row[j] = exp_negative(half * row[j])
        for d in range(min(dim, width - num_neurons)):
            row[num_neurons + d] = features[d]


@njit(cache=True, **_FAST)
def _through_layers(
    lanes: int, dim: int, encoded: Any, layers: Any, sizes: Any, hidden: Any, other: Any
) -> bool:
    """Values behind every ReLU layer, in turn in hidden and other; True if the last are in other.

    Rows are as wide as the layer, padded; what is behind a layer's outputs is zero.
    """
    begin, stride = 0, dim
    for k in range(sizes.shape[0] - 1):
        columns = (sizes[k + 1] + TILE_COLUMNS - 1) // TILE_COLUMNS * TILE_COLUMNS
        source = encoded if k == 0 else (hidden if k % 2 == 1 else other)
        target = hidden if k % 2 == 0 else other
        for i in range(0, lanes, TILE_ROWS):
            for j in range(0, columns, TILE_COLUMNS):
                multiply_tile(
                    TILE_ROWS, 1, BIAS, RELU, source, i * stride, stride, 1, layers,
                    begin + columns + j, columns, sizes[k], target, i * columns + j, columns,
                    layers, begin + j,
                )  # fmt: skip
        begin += (1 + sizes[k]) * columns
        stride = columns
    return sizes.shape[0] % 2 == 1


@njit(cache=True, **_FAST)
def _exp(x: Any) -> Any:
    """exp(x), by the exponential that LLVM vectorises, which takes negative numbers."""
    small = exp_negative(abs(x))
    return small if x < 0 else type(x)(1) / small


@njit(cache=True, **_FAST)
def _activate(lanes: int, density_bias: Any, length: Any, value: Any) -> None:
    """value (4, BLOCK): log density and logits to what passes a sample, and its colour."""
    one = value.dtype.type(1)
    limit = value.dtype.type(MAX_LOG_DENSITY)
    for s in range(lanes):
        value[s] = _exp(-_exp(min(value[s] + density_bias, limit)) * length[s])
    for k in range(BLOCK, 4 * BLOCK):
        value[k] = one / (one + _exp(-value[k]))

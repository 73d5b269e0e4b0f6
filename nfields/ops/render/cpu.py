"""Rays through an occupancy grid, a field and the compositing sum on the CPU (Numba).

Mapping. A thread takes chunks of CHUNK rays in turn and keeps RAYS of them in flight. LANES rays at
once are marched to their first sample and wait there, which most of a picture's rays do not reach.
In every round each ray in flight adds its next SAMPLES samples to a block; the block's grid
features, hidden values and readouts are computed as in nfields/ops/{grid_encode,rbf_decode}/cpu.py;
then every ray adds up its samples, front to back, and one that is opaque or has left the scene
makes room for one that waits. Blocks are full until the last rays of a thread, and at most
SAMPLES - 1 samples a ray are evaluated in vain.

The harmonics of a ray are folded into its readout of (r, g, b) when its first sample is found: rays
that meet nothing cost the march alone.

Memory a thread touches: RAYS readouts (3 x hidden), a block of corners, features and hidden values:
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
from nfields.ops.march.lanes import (
    ACTIVE,
    ENDS,
    EXACT,
    HIT,
    NUM_KEPT,
    NUM_ROWS,
    STARTS,
    begin,
    look,
    make,
)
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
GROUPS = RAYS // LANES  # of nfields/ops/march/lanes.py
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
    num_basis = basis.shape[1]
    width = readout.shape[0] // (1 + 3 * num_basis)
    half, one, scene = kind(0.5), kind(1), kind(2 ** (bits.shape[0] - 1))
    # The grid's coordinates are 0.5 x + 0.5 of the field's.
    to_grid = half / options[3]
    density_bias, min_transmittance = options[9], options[10]

    # Rays in flight: GROUPS of LANES, and one more group that looks for the first sample of rays.
    state = np.zeros((GROUPS + 1, NUM_ROWS * LANES), origins.dtype)
    for group in range(GROUPS + 1):
        make(state[group], options[5])
    places = np.zeros(3 * LANES, np.int32)
    searching = np.zeros(LANES, np.int64)  # rays of the last group
    ray = np.zeros(RAYS, np.int64) - 1
    count, taken = np.zeros(RAYS, np.int64), np.zeros(RAYS, np.int64)
    wanted = np.zeros(RAYS, np.int64)  # samples of the next round
    transmittance = np.zeros(RAYS, origins.dtype)
    total = np.zeros(4 * RAYS, origins.dtype)  # color, depth
    fold = np.zeros(3 * RAYS * width, origins.dtype)
    fold_bias = np.zeros(3 * RAYS, origins.dtype)
    first = np.zeros(RAYS + 1, np.int64)  # of its samples in the block
    # Rays whose first sample is found and that wait for room.
    waiting_ray = np.zeros(RAYS + LANES, np.int64)
    waiting = np.zeros((RAYS + LANES, NUM_KEPT), origins.dtype)
    num_waiting = 0
    # A block of samples.
    starts, ends = np.zeros(BLOCK, origins.dtype), np.zeros(BLOCK, origins.dtype)  # SAMPLES a ray
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

    grid = (bits.reshape(-1), clear.reshape(-1), bits.shape[0], bits.shape[1])
    steps = (options[5], options[6], options[7])
    span = (box, scene, options[4], options[8])
    flat_basis = basis.reshape(-1)
    num_begun = 0
    while True:
        num_free = 0
        for slot in range(RAYS):
            num_free += 1 if ray[slot] < 0 else 0
        num_waiting, num_begun = _find_first_samples(
            thread, num_threads, origins, directions, span, grid, steps, state[GROUPS], searching,
            places, num_begun, num_free, num_waiting, waiting_ray, waiting,
        )  # fmt: skip
        filled, in_flight = 0, 0
        for group in range(GROUPS):
            own = state[group]
            for lane in range(LANES):
                slot = group * LANES + lane
                taken[slot] = 0
                if ray[slot] < 0 and num_waiting > 0:
                    num_waiting -= 1
                    ray[slot] = waiting_ray[num_waiting]
                    for row in range(NUM_KEPT):
                        own[row * LANES + lane] = waiting[num_waiting, row]
                    starts[slot * SAMPLES] = own[STARTS * LANES + lane]
                    ends[slot * SAMPLES] = own[ENDS * LANES + lane]
                    taken[slot], count[slot], transmittance[slot] = 1, 0, one
                    wanted[slot] = min(SAMPLES, max_samples)
                    for k in range(4):
                        total[4 * slot + k] = 0
                    _fold_readout(
                        flat_basis, ray[slot] * num_basis, num_basis, readout, bias, width, fold,
                        fold_bias, slot,
                    )  # fmt: skip
                is_active = ray[slot] >= 0 and taken[slot] < wanted[slot]
                own[ACTIVE * LANES + lane] = one if is_active else kind(0)
            _take_samples(group * LANES, grid, steps, own, places, taken, wanted, starts, ends)
            for slot in range(group * LANES, group * LANES + LANES):
                count[slot] += taken[slot]
        for slot in range(RAYS):
            first[slot] = filled
            i = ray[slot]
            if i < 0:
                continue
            in_flight += 1
            for k in range(taken[slot]):
                start, end = starts[slot * SAMPLES + k], ends[slot * SAMPLES + k]
                middle[filled], length[filled] = half * (start + end), end - start
                for axis in range(3):
                    x = origins[i, axis] + middle[filled] * directions[i, axis]
                    x = (x - options[axis]) * to_grid + half
                    points[axis * BLOCK + filled] = min(max(x, kind(0)), one)
                filled += 1
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
        result = other if is_swapped else hidden
        for slot in range(RAYS):
            for s in range(first[slot], first[slot + 1]):
                value[s] = bias[0] + dot(readout, 0, result, s * width, width)
                for c in range(3):
                    row = 3 * slot + c
                    value[(1 + c) * BLOCK + s] = fold_bias[row] + dot(
                        fold, row * width, result, s * width, width
                    )
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
            has_ended = taken[slot] < wanted[slot] or count[slot] >= max_samples
            # As many more as it takes to end, if they are like the last one.
            kept, left = value[max(first[slot + 1] - 1, 0)], through
            wanted[slot] = 0
            while left >= min_transmittance and wanted[slot] < SAMPLES:
                left *= kept
                wanted[slot] += 1
            wanted[slot] = min(wanted[slot], max_samples - count[slot])
            if through < min_transmittance or has_ended:
                for c in range(3):
                    out[i, c] = total[4 * slot + c]
                out[i, 3] = one - through
                out[i, 4] = total[4 * slot + 3]
                ray[slot] = -1


@njit(cache=True, **EXACT)
def _find_first_samples(
    thread: int, num_threads: int, origins: Any, directions: Any, span: Any, grid: Any, steps: Any,
    state: Any, searching: Any, places: Any, num_begun: int, num_wanted: int, num_waiting: int,
    waiting_ray: Any, waiting: Any,
) -> Any:  # fmt: skip
    """Marches the thread's next rays until `num_wanted` wait with their first sample, or none is
    left; returns how many wait, and how many of its rays the thread has begun.
    """
    while num_waiting < num_wanted:
        num_active = 0
        for lane in range(LANES):
            while state[ACTIVE * LANES + lane] == 0:
                chunk = num_begun // CHUNK * num_threads + thread
                i = chunk * CHUNK + num_begun % CHUNK
                if i >= origins.shape[0]:
                    break
                searching[lane] = i
                num_begun += 1
                begin(state, lane, origins, directions, i, *span, *steps)
            num_active += 1 if state[ACTIVE * LANES + lane] != 0 else 0
        if num_active == 0:
            break
        look(state, places, *grid, *steps)
        for lane in range(LANES):
            if state[HIT * LANES + lane] != 0:
                waiting_ray[num_waiting] = searching[lane]
                for row in range(NUM_KEPT):
                    waiting[num_waiting, row] = state[row * LANES + lane]
                num_waiting += 1
                state[ACTIVE * LANES + lane] = 0
    return num_waiting, num_begun


@njit(cache=True, **EXACT)
def _take_samples(
    first_slot: int, grid: Any, steps: Any, state: Any, places: Any, taken: Any, wanted: Any,
    starts: Any, ends: Any,
) -> None:  # fmt: skip
    """Marches a group of rays until each has the samples that it wants, or has come to its end."""
    while True:
        num_active = 0
        for lane in range(LANES):
            num_active += 1 if state[ACTIVE * LANES + lane] != 0 else 0
        if num_active == 0:
            return
        look(state, places, *grid, *steps)
        for lane in range(LANES):
            if state[HIT * LANES + lane] != 0:
                slot = first_slot + lane
                starts[slot * SAMPLES + taken[slot]] = state[STARTS * LANES + lane]
                ends[slot * SAMPLES + taken[slot]] = state[ENDS * LANES + lane]
                taken[slot] += 1
                if taken[slot] == wanted[slot]:
                    state[ACTIVE * LANES + lane] = 0


@njit(cache=True, **_FAST)
def _fold_readout(
    basis: Any, start: int, num_basis: int, readout: Any, bias: Any, width: int, fold: Any,
    fold_bias: Any, slot: int,
) -> None:  # fmt: skip
    """The readout of (r, g, b) of a ray whose basis begins at `start`: a slot of fold."""
    for c in range(3):
        target, source = (3 * slot + c) * width, (1 + c * num_basis) * width
        # Four tiles at once do not wait for the sum of one.
        for j in range(0, width - 3 * TILE_COLUMNS, 4 * TILE_COLUMNS):
            multiply_tile(
                1, 4, ZERO, AS_IS, basis, start, 0, 1, readout, source + j, width, num_basis, fold,
                target + j, 0, fold, 0,
            )  # fmt: skip
        for j in range(width // (4 * TILE_COLUMNS) * 4 * TILE_COLUMNS, width, TILE_COLUMNS):
            multiply_tile(
                1, 1, ZERO, AS_IS, basis, start, 0, 1, readout, source + j, width, num_basis, fold,
                target + j, 0, fold, 0,
            )  # fmt: skip
    red = green = blue = bias.dtype.type(0)
    for k in range(num_basis):
        red += basis[start + k] * bias[1 + k]
        green += basis[start + k] * bias[1 + num_basis + k]
        blue += basis[start + k] * bias[1 + 2 * num_basis + k]
    fold_bias[3 * slot], fold_bias[3 * slot + 1], fold_bias[3 * slot + 2] = red, green, blue


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

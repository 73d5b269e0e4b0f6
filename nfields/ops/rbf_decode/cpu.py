"""Gaussian neurons and their readout on the CPU (Numba).

Mapping. One thread a chunk of points; the number of chunks is fixed, so sums do not depend on the
number of threads. With groups (one readout a ray) a chunk ends where a group ends, so no two
threads add to the same weights. A chunk goes through its points in tiles of TILE; a tile's
features, hidden values, gradients and the layer's parameters stay in L1 (40 KB at D = 24, N = 64).
All sums are small matrix products over register tiles (nfields/ops/tiles.py), about 60 % of an AVX2
core's peak where Numba's own loops reached 20 %; rows are padded to PAD columns for them.

The parameters arrive transposed and padded to PAD neurons: scale[d, j] = s_jd and
shift[d, j] = s_jd mu_jd. The exponent is a sum of squares (s F - s mu)^2: never negative, no
cancellation. The backward pass reads the saved responses and leaves out the points whose gradient
is zero.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from functools import cache
from typing import Any

import numpy as np
from numba.misc.special import literally

from nfields.jit import njit, prange
from nfields.ops.simd import exp_negative
from nfields.ops.tiles import (
    AS_IS,
    SUM,
    TILE_COLUMNS,
    TILE_ROWS,
    distance_tile,
    dot,
    multiply_tile,
)

TILE = 32
PAD = TILE_COLUMNS
NUM_CHUNKS = 16
_FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}


@njit(cache=True, **_FAST)
def _multiply(
    a: Any, a_row: int, a_step: int, rows: int, b: Any, columns: int, length: int, out: Any
) -> None:
    """out (rows x columns) += A B, A[r, k] = a[r a_row + k a_step], B (length x columns); flat."""
    for r in range(0, rows, TILE_ROWS):
        for c in range(0, columns, TILE_COLUMNS):
            multiply_tile(
                TILE_ROWS, 1, SUM, AS_IS, a, r * a_row, a_row, a_step, b, c, columns, length,
                out, r * columns + c, columns, out, 0,
            )  # fmt: skip


@njit(cache=True, **_FAST)
def _pad_weights(weight: Any, width: int, padded: Any) -> None:
    """padded (O up to TILE_ROWS, width, flat) = weight (O, H), the rest stays zero."""
    for o in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            padded[o * width + j] = weight[o, j]


@njit(cache=True, **_FAST)
def _responses(
    tile: Any, count: int, dim: int, scale: Any, shift: Any, width: int, phi: Any
) -> None:
    """phi[i, j] = exp(-1/2 sum_d (scale[d, j] tile[i, d] - shift[d, j])^2); all flat."""
    half = phi.dtype.type(0.5)
    for i in range(0, count, TILE_ROWS):
        for j in range(0, width, TILE_COLUMNS):
            distance_tile(
                tile, i * dim, dim, scale, shift, j, width, dim, phi, i * width + j, width
            )
    for k in range(count * width):
        phi[k] = exp_negative(half * phi[k])


@njit(cache=True, **_FAST)
def _chunk_groups(offsets: Any, num_points: int) -> Any:
    """First group of every chunk (NUM_CHUNKS + 1 entries): equal points, whole groups."""
    num_groups = offsets.shape[0] - 1
    first = np.zeros(NUM_CHUNKS + 1, np.int64)
    group = 0
    for c in range(1, NUM_CHUNKS):
        while group < num_groups and offsets[group] < num_points * c // NUM_CHUNKS:
            group += 1
        first[c] = group
    first[NUM_CHUNKS] = num_groups
    return first


# The kernels below are made for constants (loops of known length need no remainder: 1.7 times
# faster). They close over numbers alone, which Numba's disk cache can compare. What is done to a
# chunk is a function of its own, made for constants by `literally`: inlined into the parallel loop
# it takes twice as long to compile.


@cache
def decode_kernel(dim: int, num_neurons: int, num_out: int, num_hidden: int) -> Any:
    """kernel(features, scale, shift, weight, bias, offsets, out, phi): fills out and phi (n, N).

    `offsets` has one entry a group and one more.
    """

    @njit(parallel=True, cache=True, **_FAST)
    def decode(
        features: Any, scale: Any, shift: Any, weight: Any, bias: Any, offsets: Any, out: Any,
        phi: Any,
    ) -> None:  # fmt: skip
        first = _chunk_groups(offsets, features.shape[0])
        for chunk in prange(NUM_CHUNKS):
            _decode_chunk(
                dim, num_neurons, num_out, num_hidden, np.int64(chunk), first, features, scale,
                shift, weight, bias, offsets, out, phi,
            )  # fmt: skip

    return decode


@njit(**_FAST)
def _decode_chunk(
    dim: int, num_neurons: int, num_out: int, num_hidden: int, c: int, first: Any, features: Any,
    scale: Any, shift: Any, weight: Any, bias: Any,
    offsets: Any, out: Any, phi: Any,
) -> None:  # fmt: skip
    _ = literally(dim), literally(num_neurons), literally(num_out), literally(num_hidden)
    num_points, num_groups = features.shape[0], weight.shape[0]
    width = -(-num_neurons // PAD) * PAD
    hidden_width = -(-num_hidden // PAD) * PAD
    flat_scale, flat_shift = scale.reshape(-1), shift.reshape(-1)
    tile = np.zeros(TILE * dim, features.dtype)
    local = np.zeros(TILE * width, features.dtype)
    hidden = np.zeros(hidden_width, features.dtype)
    readout = np.zeros(num_out * hidden_width, features.dtype)
    if num_groups == 1:
        start, stop, group = num_points * c // NUM_CHUNKS, num_points * (c + 1) // NUM_CHUNKS, 0
    else:
        start, stop, group = offsets[first[c]], offsets[first[c + 1]], first[c]
    loaded = -1
    for p in range(start, stop, TILE):
        count = min(TILE, stop - p)
        for i in range(count):
            for d in range(dim):
                tile[i * dim + d] = features[p + i, d]
        _responses(tile, count, dim, flat_scale, flat_shift, width, local)
        for i in range(count):
            if num_groups > 1:
                while p + i >= offsets[group + 1]:
                    group += 1
            if group != loaded:
                _pad_weights(weight[group], hidden_width, readout)
                loaded = group
            for j in range(num_neurons):
                hidden[j] = local[i * width + j]
                phi[p + i, j] = hidden[j]
            for d in range(num_hidden - num_neurons):
                hidden[num_neurons + d] = tile[i * dim + d]
            for o in range(num_out):
                out[p + i, o] = bias[group, o] + dot(
                    readout, o * hidden_width, hidden, 0, hidden_width
                )


@cache
def backward_kernel(dim: int, num_neurons: int, num_out: int, num_hidden: int) -> Any:
    """kernel(...): gradients of features, readout and (as moments) of centres and widths.

    slopes (N, W): columns [2 s^2 | -2 s^2 mu | 0 ..] of a neuron, W = 2 D rounded up to PAD. With
    q = d(loss)/d(exponent sum) of a point and neuron, per chunk: zeroth (C, N) = sum q and moments
    (C, N up to PAD, W) = sum q [F^2 | F | 0 ..]. weight_gradient and bias_gradient are per group,
    or per chunk if there is only one group.
    """

    @njit(parallel=True, cache=True, **_FAST)
    def backward(
        gradient: Any, features: Any, phi: Any, slopes: Any, weight: Any, offsets: Any,
        features_gradient: Any, weight_gradient: Any, bias_gradient: Any, zeroth: Any,
        moments: Any,
    ) -> None:  # fmt: skip
        first = _chunk_groups(offsets, features.shape[0])
        for chunk in prange(NUM_CHUNKS):
            c = np.int64(chunk)
            _backward_chunk(
                dim, num_neurons, num_out, num_hidden, c, first, gradient, features, phi, slopes,
                weight, offsets, features_gradient, weight_gradient, bias_gradient, zeroth[c],
                moments[c].reshape(-1),
            )  # fmt: skip

    return backward


@njit(**_FAST)
def _backward_chunk(
    dim: int, num_neurons: int, num_out: int, num_hidden: int, c: int, first: Any, gradient: Any,
    features: Any, phi: Any, slopes: Any, weight: Any,
    offsets: Any, features_gradient: Any, weight_gradient: Any, bias_gradient: Any, zeroth: Any,
    moments: Any,
) -> None:  # fmt: skip
    _ = literally(dim), literally(num_neurons), literally(num_out), literally(num_hidden)
    num_points, num_groups = features.shape[0], weight.shape[0]
    columns = -(-2 * dim // PAD) * PAD
    width = -(-num_neurons // PAD) * PAD
    hidden_width = -(-num_hidden // PAD) * PAD
    out_width = -(-num_out // TILE_ROWS) * TILE_ROWS
    kind = features.dtype
    flat_slopes = slopes.reshape(-1)
    # One row a live point of the tile; columns beyond the used ones stay zero.
    tile_gradient = np.zeros(TILE * out_width, kind)
    hidden = np.zeros(TILE * hidden_width, kind)  # [phi | F]
    powers = np.zeros(TILE * columns, kind)  # [F^2 | F]
    q = np.zeros(TILE * width, kind)  # d(loss)/d(exponent sum)
    slope = np.zeros(TILE * columns, kind)
    direct = np.zeros(TILE * dim, kind)  # feature gradient through the linear term
    back = np.zeros(hidden_width, kind)
    readout = np.zeros(out_width * hidden_width, kind)
    readout_gradient = np.zeros(out_width * hidden_width, kind)
    point = np.zeros(TILE, np.int64)
    if num_groups == 1:
        start, stop = num_points * c // NUM_CHUNKS, num_points * (c + 1) // NUM_CHUNKS
        group, slot = 0, c
    else:
        start, stop = offsets[first[c]], offsets[first[c + 1]]
        group, slot = first[c], first[c]
    filled, run, loaded = 0, 0, -1  # rows run .. filled - 1 belong to group `loaded`
    for p in range(start, stop):
        if num_groups > 1:
            while p >= offsets[group + 1]:
                group += 1
        live = False
        for o in range(num_out):
            live = live or gradient[p, o] != 0
        if live:
            if group != loaded:
                if loaded >= 0:
                    _add_readout_gradient(
                        tile_gradient,
                        hidden,
                        run,
                        filled,
                        out_width,
                        hidden_width,
                        readout_gradient,
                    )
                    _flush_readout_gradient(readout_gradient, hidden_width, weight_gradient[slot])
                run, loaded = filled, group
                slot = c if num_groups == 1 else group
                _pad_weights(weight[group], hidden_width, readout)
            for o in range(num_out):
                tile_gradient[filled * out_width + o] = gradient[p, o]
                bias_gradient[slot, o] += gradient[p, o]
            row = filled * hidden_width
            for j in range(num_neurons):
                hidden[row + j] = phi[p, j]
            for d in range(num_hidden - num_neurons):
                hidden[row + num_neurons + d] = features[p, d]
            for d in range(dim):
                powers[filled * columns + d] = features[p, d] * features[p, d]
            for d in range(dim):
                powers[filled * columns + dim + d] = features[p, d]
            back[:] = 0
            for j in range(0, hidden_width, TILE_COLUMNS):
                multiply_tile(
                    1, 1, SUM, AS_IS, tile_gradient, filled * out_width, 0, 1, readout, j,
                    hidden_width, num_out, back, j, 0, back, 0,
                )  # fmt: skip
            for j in range(num_neurons):
                q[filled * width + j] = kind.type(-0.5) * hidden[row + j] * back[j]
                zeroth[j] += q[filled * width + j]
            for d in range(num_hidden - num_neurons):
                direct[filled * dim + d] = back[num_neurons + d]
            point[filled] = p
            filled += 1
        else:
            for d in range(dim):
                features_gradient[p, d] = 0
        if filled == TILE or (p == stop - 1 and filled > 0):
            _add_readout_gradient(
                tile_gradient, hidden, run, filled, out_width, hidden_width, readout_gradient
            )
            q[filled * width :] = 0
            slope[:] = 0
            rows = -(-filled // TILE_ROWS) * TILE_ROWS
            _multiply(q, width, 1, rows, flat_slopes, columns, num_neurons, slope)
            _multiply(q, 1, width, width, powers, columns, filled, moments)
            for i in range(filled):
                for d in range(dim):
                    features_gradient[point[i], d] = (
                        direct[i * dim + d]
                        + slope[i * columns + d] * powers[i * columns + dim + d]
                        + slope[i * columns + dim + d]
                    )
            filled, run = 0, 0
    if loaded >= 0:
        _flush_readout_gradient(readout_gradient, hidden_width, weight_gradient[slot])


@njit(cache=True, **_FAST)
def _add_readout_gradient(
    tile_gradient: Any, hidden: Any, run: int, filled: int, out_width: int, hidden_width: int,
    readout_gradient: Any,
) -> None:  # fmt: skip
    """readout_gradient (O x H, padded) += gradient^T hidden over rows run .. filled - 1."""
    for o in range(0, out_width, TILE_ROWS):
        for j in range(0, hidden_width, TILE_COLUMNS):
            multiply_tile(
                TILE_ROWS, 1, SUM, AS_IS, tile_gradient, run * out_width + o, 1, out_width, hidden,
                run * hidden_width + j, hidden_width, filled - run, readout_gradient,
                o * hidden_width + j, hidden_width, readout_gradient, 0,
            )  # fmt: skip


@njit(cache=True, **_FAST)
def _flush_readout_gradient(readout_gradient: Any, width: int, target: Any) -> None:
    """target (O, H) += the padded sum, which is cleared."""
    for o in range(target.shape[0]):
        for j in range(target.shape[1]):
            target[o, j] += readout_gradient[o * width + j]
    readout_gradient[:] = 0

"""Multi-resolution grid features on the CPU (Numba).

Mapping. Coordinates are clamped and turned into structure of arrays once. Forward: one thread a
block of BLOCK points, all levels in turn; where the levels do not fit the cache together, those
that are large go first, one after the other over all points, so that each is read from memory once
(16 levels of 4 MB: 2.2 times as fast). Table gradient: one thread a level over all points, so that
no two threads add to the same entry and no atomics are needed; a level reads gradients of its own,
not a line of all levels' for its few numbers. Within a block, first the 2^d rows and weights of
every point are computed (uint32 throughout: int64 halves the speed), then the entries are gathered
(nfields/ops/grid_encode/lanes.py; nfields/ops/simd.py where an entry is more than 8 bytes or the
processor has no AVX-512). Derivatives in the point are in second_cpu.py.

Memory a block touches: 2^d * BLOCK * 8 bytes of rows and weights (8 KB in 3-D, stays in L1), one
tile of features, and 2^d entries a point and level scattered over the level's table, which is what
costs.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from functools import cache
from typing import Any

import numpy as np

from nfields.jit import njit, prange
from nfields.ops.grid_encode.lanes import (
    DENSE,
    HASHED,
    HASHED_ANY,
    LANES,
    copy_entry,
    find_cells,
    gather_lanes,
)
from nfields.ops.simd import gather, scatter

BLOCK = 128
# Everything of fastmath but nnan and ninf: NaN coordinates must be caught, not assumed away.
FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}


@njit(inline="always", **FAST)
def clamped(value: Any) -> Any:
    """The value in [0, 1]; NaN becomes 0."""
    zero, one = type(value)(0), type(value)(1)
    value = value if value > zero else zero
    return value if value < one else one


@njit(inline="always", **FAST)
def find_block_cells(
    dim: int, points: Any, start: int, stride: int, scale: Any, level: Any, smoothstep: bool,
    rows: Any, weights: Any, count: int,
) -> None:  # fmt: skip
    """Entries and weights of the corners of `count` points, structure of arrays throughout.

    `count` is a multiple of LANES, at most BLOCK; rows and weights are (2^dim, BLOCK), flat.
    """
    resolution, entries = level[0], level[2]
    if level[3] == 0:
        for i in range(0, count, LANES):
            find_cells(
                dim, DENSE, points, start + i, stride, scale, resolution, entries, smoothstep,
                rows, weights, i, BLOCK,
            )  # fmt: skip
    elif entries & (entries - 1) == 0:
        for i in range(0, count, LANES):
            find_cells(
                dim, HASHED, points, start + i, stride, scale, resolution, entries, smoothstep,
                rows, weights, i, BLOCK,
            )  # fmt: skip
    else:
        for i in range(0, count, LANES):
            find_cells(
                dim, HASHED_ANY, points, start + i, stride, scale, resolution, entries, smoothstep,
                rows, weights, i, BLOCK,
            )  # fmt: skip


# The kernels below are made for constants: a closure over numbers alone is found again in Numba's
# disk cache, one over a compiled function is not.


@cache
def pack_points(dim: int) -> Any:
    """kernel(x, points): the clamped coordinates, (dim, padded), flat; zeros behind the last."""

    @njit(parallel=True, cache=True, **FAST)
    def pack(x: Any, points: Any) -> None:
        num_points, padded = x.shape[0] // dim, points.shape[0] // dim
        for b in prange(padded // BLOCK):
            start = b * BLOCK
            stop = min(start + BLOCK, num_points)
            for k in range(dim):
                for i in range(start, stop):
                    points[k * padded + i] = clamped(x[i * dim + k])
                for i in range(stop, start + BLOCK):
                    points[k * padded + i] = 0

    return pack


@cache
def forward_kernel(dim: int, features: int, has_gather: bool) -> Any:
    """kernel(points, table, scales, layout, smoothstep, large, ready, small, out).

    points are those of `pack_points`. First the levels `large`, one after the other over all
    points, into `ready` (len(large), padded, features); then `small`, block by block, and `out`
    (n, levels * features) takes both. All but layout flat.
    """
    corners = 1 << dim

    @njit(parallel=True, cache=True, **FAST)
    def encode(
        points: Any, table: Any, scales: Any, layout: Any, smoothstep: bool, large: Any,
        ready: Any, small: Any, out: Any,
    ) -> None:  # fmt: skip
        padded, num_levels = points.shape[0] // dim, layout.shape[0]
        width = num_levels * features
        num_points = out.shape[0] // width
        for slot in range(large.shape[0]):
            level = large[slot]
            for b in prange(padded // BLOCK):
                rows = np.empty(corners * BLOCK, np.uint32)
                weights = np.empty(corners * BLOCK, points.dtype)
                start = b * BLOCK
                find_block_cells(
                    dim, points, start, padded, scales[level], layout[level], smoothstep, rows,
                    weights, BLOCK,
                )  # fmt: skip
                _gather(
                    features, corners, has_gather, table, layout[level, 1], rows, weights, ready,
                    (slot * padded + start) * features,
                )  # fmt: skip
        for b in prange(padded // BLOCK):
            rows = np.empty(corners * BLOCK, np.uint32)
            weights = np.empty(corners * BLOCK, points.dtype)
            tile = np.empty(small.shape[0] * BLOCK * features, points.dtype)
            start = b * BLOCK
            for slot in range(small.shape[0]):
                level = small[slot]
                find_block_cells(
                    dim, points, start, padded, scales[level], layout[level], smoothstep, rows,
                    weights, BLOCK,
                )  # fmt: skip
                _gather(
                    features, corners, has_gather, table, layout[level, 1], rows, weights, tile,
                    slot * BLOCK * features,
                )  # fmt: skip
            for i in range(min(BLOCK, num_points - start)):
                row = (start + i) * width
                for slot in range(small.shape[0]):
                    source = (slot * BLOCK + i) * features
                    copy_entry(features, tile, source, out, row + small[slot] * features)
                for slot in range(large.shape[0]):
                    source = (slot * padded + start + i) * features
                    copy_entry(features, ready, source, out, row + large[slot] * features)

    return encode


@njit(inline="always", **FAST)
def _gather(
    features: int, corners: int, has_gather: bool, table: Any, first: int, rows: Any, weights: Any,
    out: Any, position: int,
) -> None:  # fmt: skip
    """The features of a block of points, one point after the other from out[position] on."""
    if has_gather:
        for i in range(0, BLOCK, LANES):
            gather_lanes(
                features, corners, table, first, rows, weights, i, BLOCK, out,
                position + i * features,
            )  # fmt: skip
    else:
        for i in range(BLOCK):
            gather(
                features, corners, table, first, rows, weights, i, BLOCK, out,
                position + i * features,
            )  # fmt: skip


@cache
def pack_gradients(dim: int, features: int) -> Any:
    """kernel(x, gradient, active, points, packed): what `table_gradient_kernel` reads.

    Points as of `pack_points` and their gradients, (padded / BLOCK, levels, BLOCK, features): a
    level then reads its own numbers alone, and a block is written within the L1 cache. `active`
    lists the points whose gradient is not zero. Place LANES g + lane of the padded ones takes
    active point lane padded / LANES + g, so that neighbours on a ray, which add to the same
    entries, do not wait for each other.
    """

    @njit(parallel=True, cache=True, **FAST)
    def pack(x: Any, gradient: Any, active: Any, points: Any, packed: Any) -> None:
        num_active, padded = active.shape[0], points.shape[0] // dim
        num_levels = packed.shape[0] // (padded * features)
        width, groups = num_levels * features, padded // LANES
        for b in prange(padded // BLOCK):
            first = b * BLOCK * (num_levels - 1)  # where the block starts, less its first place
            for place in range(b * BLOCK, (b + 1) * BLOCK):
                rank = place % LANES * groups + place // LANES
                if rank < num_active:
                    point = active[rank]
                    for k in range(dim):
                        points[k * padded + place] = clamped(x[point * dim + k])
                    for level in range(num_levels):
                        copy_entry(
                            features, gradient, point * width + level * features, packed,
                            (first + level * BLOCK + place) * features,
                        )  # fmt: skip
                else:
                    for k in range(dim):
                        points[k * padded + place] = 0
                    for level in range(num_levels):
                        for f in range(features):
                            packed[(first + level * BLOCK + place) * features + f] = 0

    return pack


@cache
def table_gradient_kernel(dim: int, features: int) -> Any:
    """kernel(points, packed, scales, layout, smoothstep, out); adds to the flat table `out`."""
    corners = 1 << dim

    @njit(parallel=True, cache=True, **FAST)
    def scatter_levels(
        points: Any, packed: Any, scales: Any, layout: Any, smoothstep: bool, out: Any
    ) -> None:
        padded, num_levels = points.shape[0] // dim, layout.shape[0]
        half = (num_levels + 1) // 2
        for k in prange(num_levels):
            # Fine levels miss the cache and cost more: give a thread even and odd levels in turn.
            level = 2 * k if k < half else 2 * (k - half) + 1
            rows = np.empty(corners * BLOCK, np.uint32)
            weights = np.empty(corners * BLOCK, points.dtype)
            for start in range(0, padded, BLOCK):
                find_block_cells(
                    dim, points, start, padded, scales[level], layout[level], smoothstep, rows,
                    weights, BLOCK,
                )  # fmt: skip
                for i in range(BLOCK):
                    scatter(
                        features, corners, out, layout[level, 1], rows, weights, i, BLOCK, packed,
                        (start * num_levels + level * BLOCK + i) * features,
                    )  # fmt: skip

    return scatter_levels


@njit(cache=True)
def nonzero_rows(gradient: Any) -> Any:
    """Indices (int64) of the rows of `gradient` that are not all zero."""
    num_rows, width = gradient.shape
    found = np.empty(num_rows, np.int64)
    count = 0
    for i in range(num_rows):
        for k in range(width):
            if gradient[i, k] != 0:
                found[count] = i
                count += 1
                break
    return found[:count]

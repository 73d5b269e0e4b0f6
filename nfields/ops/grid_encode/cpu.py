"""Multi-resolution grid features on the CPU (Numba).

Mapping. Forward and point gradient: one thread a block of BLOCK points, all levels in turn; where
the levels do not fit the cache together, those that are large go first, one after the other over
all points, so that each is read from memory once (16 levels of 4 MB: 2.2 times as fast). Table
gradient: one thread a level over all points, so that no two threads add to the same entry and no
atomics are needed. Within a block, first the 2^d rows and weights of every point are computed as
structure of arrays (vectorised over points, uint32 throughout: int64 halves the speed), then each
point gathers its entries with one vector load a corner (nfields/ops/simd.py).

Memory a block touches: 2^d * BLOCK * 8 bytes of rows and weights (8 KB in 3-D, stays in L1) and
2^d entries a point and level scattered over the level's table, which is what costs.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from functools import cache
from typing import Any

import numpy as np
from numba import njit, prange

from nfields.ops.grid_encode.reference import HASH_PRIMES
from nfields.ops.simd import gather, scatter

BLOCK = 128
# Everything of fastmath but nnan and ninf: NaN coordinates must be caught, not assumed away.
_FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}
_u32, _i32 = np.uint32, np.int32
_PRIME_Y, _PRIME_Z = np.uint32(HASH_PRIMES[1]), np.uint32(HASH_PRIMES[2])
_ONE = np.uint32(1)


@njit(inline="always", **_FAST)
def _wrap(index: Any, num_entries: Any) -> Any:
    """index mod num_entries for index < 2 num_entries: the difference wraps around if negative."""
    return min(index, _u32(index - num_entries))


@njit(inline="always", **_FAST)
def _mod(index: Any, num_entries: Any, reciprocal: Any) -> Any:
    """index mod num_entries; reciprocal = floor(2^32 / num_entries), so the quotient is at most 1
    too small.
    """
    quotient = _u32((np.uint64(index) * reciprocal) >> np.uint64(32))
    return _wrap(_u32(index - quotient * num_entries), num_entries)


@njit(inline="always", **_FAST)
def _load_points(x: Any, active: Any, start: int, count: int, dim: int, block: Any) -> None:
    """block[k, i] = coordinate k of active point start + i, clamped to [0, 1]; NaN becomes 0."""
    zero, one = block.dtype.type(0), block.dtype.type(1)
    for k in range(dim):
        for i in range(count):
            value = x[active[start + i] * dim + k]
            value = value if value > zero else zero
            block[k, i] = value if value < one else one


@njit(**_FAST)
def _rows_2d(
    block: Any, count: int, scale: Any, level: Any, smoothstep: bool, rows: Any, weights: Any
) -> None:
    half, one, two, three = (
        block.dtype.type(0.5), block.dtype.type(1), block.dtype.type(2), block.dtype.type(3)
    )  # fmt: skip
    num_entries, hashed = _u32(level[2]), level[3] != 0
    step_y = _PRIME_Y if hashed else _u32(level[0])
    inverse = np.uint64(np.int64(4294967296) // np.int64(level[2]))
    for i in range(count):
        px, py = block[0, i] * scale + half, block[1, i] * scale + half
        ix, iy = _i32(px), _i32(py)
        tx, ty = px - block.dtype.type(ix), py - block.dtype.type(iy)
        if smoothstep:
            tx, ty = tx * tx * (three - two * tx), ty * ty * (three - two * ty)
        sx, sy = one - tx, one - ty
        weights[i], weights[BLOCK + i] = sx * sy, tx * sy
        weights[2 * BLOCK + i], weights[3 * BLOCK + i] = sx * ty, tx * ty
        x0, y0 = _u32(ix), _u32(_u32(iy) * step_y)
        x1, y1 = _u32(x0 + _ONE), _u32(y0 + step_y)
        if hashed:
            rows[i], rows[BLOCK + i] = (
                _mod(x0 ^ y0, num_entries, inverse),
                _mod(x1 ^ y0, num_entries, inverse),
            )
            rows[2 * BLOCK + i], rows[3 * BLOCK + i] = (
                _mod(x0 ^ y1, num_entries, inverse),
                _mod(x1 ^ y1, num_entries, inverse),
            )
        else:
            rows[i] = _wrap(_u32(x0 + y0), num_entries)
            rows[BLOCK + i] = _wrap(_u32(x1 + y0), num_entries)
            rows[2 * BLOCK + i] = _wrap(_u32(x0 + y1), num_entries)
            rows[3 * BLOCK + i] = _wrap(_u32(x1 + y1), num_entries)


@njit(**_FAST)
def _rows_3d(
    block: Any, count: int, scale: Any, level: Any, smoothstep: bool, rows: Any, weights: Any
) -> None:
    half, one, two, three = (
        block.dtype.type(0.5), block.dtype.type(1), block.dtype.type(2), block.dtype.type(3)
    )  # fmt: skip
    num_entries, hashed = _u32(level[2]), level[3] != 0
    step_y = _PRIME_Y if hashed else _u32(level[0])
    step_z = _PRIME_Z if hashed else _u32(step_y * step_y)
    inverse = np.uint64(np.int64(4294967296) // np.int64(level[2]))
    for i in range(count):
        px = block[0, i] * scale + half
        py = block[1, i] * scale + half
        pz = block[2, i] * scale + half
        ix, iy, iz = _i32(px), _i32(py), _i32(pz)
        tx = px - block.dtype.type(ix)
        ty = py - block.dtype.type(iy)
        tz = pz - block.dtype.type(iz)
        if smoothstep:
            tx = tx * tx * (three - two * tx)
            ty = ty * ty * (three - two * ty)
            tz = tz * tz * (three - two * tz)
        sx, sy, sz = one - tx, one - ty, one - tz
        w00, w10, w01, w11 = sy * sz, ty * sz, sy * tz, ty * tz
        weights[i], weights[BLOCK + i] = sx * w00, tx * w00
        weights[2 * BLOCK + i], weights[3 * BLOCK + i] = sx * w10, tx * w10
        weights[4 * BLOCK + i], weights[5 * BLOCK + i] = sx * w01, tx * w01
        weights[6 * BLOCK + i], weights[7 * BLOCK + i] = sx * w11, tx * w11
        x0, y0, z0 = _u32(ix), _u32(_u32(iy) * step_y), _u32(_u32(iz) * step_z)
        x1, y1, z1 = _u32(x0 + _ONE), _u32(y0 + step_y), _u32(z0 + step_z)
        if hashed:
            rows[i], rows[BLOCK + i] = (
                _mod(x0 ^ y0 ^ z0, num_entries, inverse),
                _mod(x1 ^ y0 ^ z0, num_entries, inverse),
            )
            rows[2 * BLOCK + i], rows[3 * BLOCK + i] = (
                _mod(x0 ^ y1 ^ z0, num_entries, inverse),
                _mod(x1 ^ y1 ^ z0, num_entries, inverse),
            )
            rows[4 * BLOCK + i], rows[5 * BLOCK + i] = (
                _mod(x0 ^ y0 ^ z1, num_entries, inverse),
                _mod(x1 ^ y0 ^ z1, num_entries, inverse),
            )
            rows[6 * BLOCK + i], rows[7 * BLOCK + i] = (
                _mod(x0 ^ y1 ^ z1, num_entries, inverse),
                _mod(x1 ^ y1 ^ z1, num_entries, inverse),
            )
        else:
            rows[i] = _wrap(_u32(x0 + y0 + z0), num_entries)
            rows[BLOCK + i] = _wrap(_u32(x1 + y0 + z0), num_entries)
            rows[2 * BLOCK + i] = _wrap(_u32(x0 + y1 + z0), num_entries)
            rows[3 * BLOCK + i] = _wrap(_u32(x1 + y1 + z0), num_entries)
            rows[4 * BLOCK + i] = _wrap(_u32(x0 + y0 + z1), num_entries)
            rows[5 * BLOCK + i] = _wrap(_u32(x1 + y0 + z1), num_entries)
            rows[6 * BLOCK + i] = _wrap(_u32(x0 + y1 + z1), num_entries)
            rows[7 * BLOCK + i] = _wrap(_u32(x1 + y1 + z1), num_entries)


@njit(inline="always", **_FAST)
def _rows(
    dim: int, block: Any, count: int, scale: Any, level: Any, smoothstep: bool, rows: Any,
    weights: Any,
) -> None:  # fmt: skip
    if dim == 2:
        _rows_2d(block, count, scale, level, smoothstep, rows, weights)
    else:
        _rows_3d(block, count, scale, level, smoothstep, rows, weights)


# The kernels below are made for constants: a closure over numbers alone is found again in Numba's
# disk cache, one over a compiled function is not.


@cache
def forward_kernel(dim: int, features: int) -> Any:
    """kernel(x, table, scales, layout, smoothstep, active, ready, slots, out).

    All but layout flat. Level l is copied from ready, (slots, n, features), where slots[l] >= 0.
    """
    corners = 1 << dim

    @njit(parallel=True, cache=True, **_FAST)
    def encode(
        x: Any, table: Any, scales: Any, layout: Any, smoothstep: bool, active: Any, ready: Any,
        slots: Any, out: Any,
    ) -> None:  # fmt: skip
        num_points, num_levels = active.shape[0], layout.shape[0]
        width = num_levels * features
        for b in prange((num_points + BLOCK - 1) // BLOCK):
            start = b * BLOCK
            count = min(BLOCK, num_points - start)
            block = np.empty((dim, BLOCK), x.dtype)
            rows = np.empty(corners * BLOCK, np.uint32)
            weights = np.empty(corners * BLOCK, x.dtype)
            _load_points(x, active, start, count, dim, block)
            for level in range(num_levels):
                first, slot = layout[level, 1], slots[level]
                if slot >= 0:
                    source = (slot * num_points + start) * features
                    for i in range(count):
                        for f in range(features):
                            out[(start + i) * width + level * features + f] = ready[
                                source + i * features + f
                            ]
                    continue
                _rows(dim, block, count, scales[level], layout[level], smoothstep, rows, weights)
                for i in range(count):
                    position = (start + i) * width + level * features
                    gather(features, corners, table, first, rows, weights, i, BLOCK, out, position)

    return encode


@cache
def level_kernel(dim: int, features: int) -> Any:
    """kernel(x, table, scales, layout, smoothstep, active, levels, ready), as forward_kernel.

    ready (len(levels), n, features), flat: the features of some levels, one level after the other.
    """
    corners = 1 << dim

    @njit(parallel=True, cache=True, **_FAST)
    def encode(
        x: Any, table: Any, scales: Any, layout: Any, smoothstep: bool, active: Any, levels: Any,
        ready: Any,
    ) -> None:  # fmt: skip
        num_points = active.shape[0]
        num_blocks = (num_points + BLOCK - 1) // BLOCK
        for slot in range(levels.shape[0]):
            level = levels[slot]
            for b in prange(num_blocks):
                start = b * BLOCK
                count = min(BLOCK, num_points - start)
                block = np.empty((dim, BLOCK), x.dtype)
                rows = np.empty(corners * BLOCK, np.uint32)
                weights = np.empty(corners * BLOCK, x.dtype)
                first = layout[level, 1]
                _load_points(x, active, start, count, dim, block)
                _rows(dim, block, count, scales[level], layout[level], smoothstep, rows, weights)
                for i in range(count):
                    position = (slot * num_points + start + i) * features
                    gather(
                        features, corners, table, first, rows, weights, i, BLOCK, ready, position
                    )

    return encode


@cache
def table_gradient_kernel(dim: int, features: int) -> Any:
    """kernel(x, gradient, scales, layout, smoothstep, active, out); adds to the flat table `out`.

    `active` lists the points whose gradient is not zero: samples behind an opaque surface have
    none, and cost nothing here.
    """
    corners = 1 << dim

    @njit(parallel=True, cache=True, **_FAST)
    def scatter_levels(
        x: Any, gradient: Any, scales: Any, layout: Any, smoothstep: bool, active: Any, out: Any
    ) -> None:
        num_points, num_levels = active.shape[0], layout.shape[0]
        width = num_levels * features
        half = (num_levels + 1) // 2
        for k in prange(num_levels):
            # Fine levels miss the cache and cost more: give a thread even and odd levels in turn.
            level = 2 * k if k < half else 2 * (k - half) + 1
            block = np.empty((dim, BLOCK), x.dtype)
            rows = np.empty(corners * BLOCK, np.uint32)
            weights = np.empty(corners * BLOCK, x.dtype)
            first = layout[level, 1]
            for start in range(0, num_points, BLOCK):
                count = min(BLOCK, num_points - start)
                _load_points(x, active, start, count, dim, block)
                _rows(dim, block, count, scales[level], layout[level], smoothstep, rows, weights)
                for i in range(count):
                    position = active[start + i] * width + level * features
                    scatter(
                        features, corners, out, first, rows, weights, i, BLOCK, gradient, position
                    )

    return scatter_levels


@cache
def point_gradient_kernel(dim: int, features: int) -> Any:
    """kernel(x, table, gradient, scales, layout, smoothstep, out): d(loss)/dx, flat (n * dim)."""
    corners = 1 << dim

    @njit(parallel=True, cache=True, **_FAST)
    def differentiate(
        x: Any, table: Any, gradient: Any, scales: Any, layout: Any, smoothstep: bool, out: Any
    ) -> None:
        num_points, num_levels = x.shape[0] // dim, layout.shape[0]
        width = num_levels * features
        kind = x.dtype.type
        for b in prange((num_points + BLOCK - 1) // BLOCK):
            start = b * BLOCK
            count = min(BLOCK, num_points - start)
            block = np.empty((dim, BLOCK), x.dtype)
            rows = np.empty(corners * BLOCK, np.uint32)
            weights = np.empty(corners * BLOCK, x.dtype)
            everything = np.arange(start, start + count)
            t = np.empty(dim, x.dtype)
            slope = np.empty(dim, x.dtype)
            _load_points(x, everything, 0, count, dim, block)
            for level in range(num_levels):
                scale, first = scales[level], layout[level, 1]
                _rows(dim, block, count, scale, layout[level], smoothstep, rows, weights)
                for i in range(count):
                    for k in range(dim):
                        position = block[k, i] * scale + kind(0.5)
                        t[k] = position - np.floor(position)
                        slope[k] = scale
                        inside = x[(start + i) * dim + k]
                        if not (inside >= kind(0) and inside <= kind(1)):
                            slope[k] = kind(0)  # clamped: the feature no longer depends on x
                        if smoothstep:
                            slope[k] *= kind(6) * t[k] * (kind(1) - t[k])
                            t[k] = t[k] * t[k] * (kind(3) - kind(2) * t[k])
                    for corner in range(corners):
                        entry = (first + rows[corner * BLOCK + i]) * features
                        value = kind(0)
                        for f in range(features):
                            value += (
                                table[entry + f]
                                * gradient[(start + i) * width + level * features + f]
                            )
                        for k in range(dim):
                            term = value * slope[k]
                            for other in range(dim):
                                upper = (corner >> other) & 1 == 1
                                if other == k:
                                    term = term if upper else -term
                                else:
                                    term *= t[other] if upper else kind(1) - t[other]
                            out[(start + i) * dim + k] += term

    return differentiate


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

"""Derivatives of grid features in the point, first and second, on the CPU (Numba).

Notation   w_c(x) the weight of corner c and T_c its entry of the table, so the features of a level
           are sum_c w_c T_c; G the gradient that arrives at the features; y = grad_x <G, features>
           the point gradient, and v the gradient that arrives at y.

    y_k              sum_c (d w_c / d x_k) <G, T_c>
    d<v, y> / d G    sum_c (v . grad w_c) T_c            features with other weights
    d<v, y> / d T_c  (v . grad w_c) G                    scattered, as in `table_gradient_kernel`
    d<v, y> / d x    sum_c (Hessian of w_c) v <G, T_c>

Mapping and memory as in cpu.py: a thread a block of points, a thread a level for the table; slopes
of weights are up to 4 times 2^d * BLOCK numbers (16 KB in 3-D).
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from functools import cache
from typing import Any

import numpy as np

from nfields.jit import njit, prange
from nfields.ops.grid_encode.cpu import BLOCK, FAST, clamped, find_block_cells
from nfields.ops.grid_encode.lanes import LANES
from nfields.ops.grid_encode.slopes import DIRECTION, GRADIENT, HESSIAN, find_slopes
from nfields.ops.simd import gather, scatter


@njit(inline="always", **FAST)
def _is_free(value: Any) -> bool:
    """Whether features change with this coordinate: it is not clamped, nor NaN."""
    return value >= type(value)(0) and value <= type(value)(1)


@cache
def point_gradient_kernel(dim: int, features: int) -> Any:
    """kernel(x, table, gradient, scales, layout, smoothstep, out): y, flat (n * dim)."""
    corners = 1 << dim

    @njit(parallel=True, cache=True, **FAST)
    def differentiate(
        x: Any, table: Any, gradient: Any, scales: Any, layout: Any, smoothstep: bool, out: Any
    ) -> None:
        num_points, num_levels = x.shape[0] // dim, layout.shape[0]
        width = num_levels * features
        for b in prange((num_points + BLOCK - 1) // BLOCK):
            start = b * BLOCK
            count = min(BLOCK, num_points - start)
            block = np.zeros(dim * BLOCK, x.dtype)
            rows = np.empty(corners * BLOCK, np.uint32)
            weights = np.empty(corners * BLOCK, x.dtype)
            slopes = np.empty(dim * corners * BLOCK, x.dtype)
            dots = np.zeros(corners * BLOCK, x.dtype)
            total = np.zeros(dim * BLOCK, x.dtype)
            for k in range(dim):
                for i in range(count):
                    block[k * BLOCK + i] = clamped(x[(start + i) * dim + k])
            for level in range(num_levels):
                scale, first = scales[level], layout[level, 1]
                find_block_cells(
                    dim, block, 0, BLOCK, scale, layout[level], smoothstep, rows, weights, BLOCK
                )
                for i in range(0, BLOCK, LANES):
                    find_slopes(
                        dim, GRADIENT, block, block, i, BLOCK, scale, smoothstep, slopes, i, BLOCK
                    )
                _dots(
                    features, corners, table, first, rows, gradient, start * width, level, width,
                    count, dots,
                )  # fmt: skip
                for k in range(dim):
                    for corner in range(corners):
                        for i in range(BLOCK):
                            total[k * BLOCK + i] += (
                                slopes[(k * corners + corner) * BLOCK + i]
                                * dots[corner * BLOCK + i]
                            )
            for i in range(count):
                for k in range(dim):
                    if _is_free(x[(start + i) * dim + k]):
                        out[(start + i) * dim + k] = total[k * BLOCK + i]

    return differentiate


@njit(inline="always", **FAST)
def _dots(
    features: int, corners: int, table: Any, first: int, rows: Any, gradient: Any, position: int,
    level: int, width: int, count: int, dots: Any,
) -> None:  # fmt: skip
    """dots[c BLOCK + i] = <G, T_c> of the points of a block, at one level."""
    for i in range(count):
        at = position + i * width + level * features
        for corner in range(corners):
            entry = (first + rows[corner * BLOCK + i]) * features
            value = table[entry] * gradient[at]
            for f in range(1, features):
                value += table[entry + f] * gradient[at + f]
            dots[corner * BLOCK + i] = value


@cache
def second_gradient_kernel(dim: int, features: int) -> Any:
    """kernel(x, v, table, gradient, scales, layout, smoothstep, out, x_out), all flat.

    out (n, levels * features) takes d<v, y> / d G, and x_out (n, dim), unless it is empty, takes
    d<v, y> / d x. Both begin as zeros.
    """
    corners = 1 << dim

    @njit(parallel=True, cache=True, **FAST)
    def differentiate(
        x: Any, v: Any, table: Any, gradient: Any, scales: Any, layout: Any, smoothstep: bool,
        out: Any, x_out: Any,
    ) -> None:  # fmt: skip
        num_points, num_levels = x.shape[0] // dim, layout.shape[0]
        width = num_levels * features
        needs_x = x_out.shape[0] > 0
        for b in prange((num_points + BLOCK - 1) // BLOCK):
            start = b * BLOCK
            count = min(BLOCK, num_points - start)
            block = np.zeros(dim * BLOCK, x.dtype)
            directions = np.zeros(dim * BLOCK, x.dtype)
            rows = np.empty(corners * BLOCK, np.uint32)
            weights = np.empty(corners * BLOCK, x.dtype)
            slopes = np.empty((1 + dim) * corners * BLOCK, x.dtype)
            dots = np.zeros(corners * BLOCK, x.dtype)
            total = np.zeros(dim * BLOCK, x.dtype)
            for k in range(dim):
                for i in range(count):
                    value = x[(start + i) * dim + k]
                    block[k * BLOCK + i] = clamped(value)
                    if _is_free(value):
                        directions[k * BLOCK + i] = v[(start + i) * dim + k]
            for level in range(num_levels):
                scale, first = scales[level], layout[level, 1]
                find_block_cells(
                    dim, block, 0, BLOCK, scale, layout[level], smoothstep, rows, weights, BLOCK
                )
                if needs_x:
                    for i in range(0, BLOCK, LANES):
                        find_slopes(
                            dim, HESSIAN, block, directions, i, BLOCK, scale, smoothstep, slopes,
                            i, BLOCK,
                        )  # fmt: skip
                    _dots(
                        features, corners, table, first, rows, gradient, start * width, level,
                        width, count, dots,
                    )  # fmt: skip
                    for k in range(dim):
                        for corner in range(corners):
                            for i in range(BLOCK):
                                total[k * BLOCK + i] += (
                                    slopes[((1 + k) * corners + corner) * BLOCK + i]
                                    * dots[corner * BLOCK + i]
                                )
                else:
                    for i in range(0, BLOCK, LANES):
                        find_slopes(
                            dim, DIRECTION, block, directions, i, BLOCK, scale, smoothstep, slopes,
                            i, BLOCK,
                        )  # fmt: skip
                for i in range(count):
                    gather(
                        features, corners, table, first, rows, slopes, i, BLOCK, out,
                        (start + i) * width + level * features,
                    )  # fmt: skip
            if needs_x:
                for i in range(count):
                    for k in range(dim):
                        if _is_free(x[(start + i) * dim + k]):
                            x_out[(start + i) * dim + k] = total[k * BLOCK + i]

    return differentiate


@cache
def pack_directions(dim: int) -> Any:
    """kernel(x, v, active, directions): v where `pack_gradients` puts the points, (dim, padded)."""

    @njit(parallel=True, cache=True, **FAST)
    def pack(x: Any, v: Any, active: Any, directions: Any) -> None:
        num_active, padded = active.shape[0], directions.shape[0] // dim
        groups = padded // LANES
        for b in prange(padded // BLOCK):
            for place in range(b * BLOCK, (b + 1) * BLOCK):
                rank = place % LANES * groups + place // LANES
                for k in range(dim):
                    value = directions.dtype.type(0)
                    if rank < num_active and _is_free(x[active[rank] * dim + k]):
                        value = v[active[rank] * dim + k]
                    directions[k * padded + place] = value

    return pack


@cache
def second_table_gradient_kernel(dim: int, features: int) -> Any:
    """kernel(points, directions, packed, scales, layout, smoothstep, out); adds d<v, y> / d T.

    As `table_gradient_kernel`, with `directions` of `pack_directions`.
    """
    corners = 1 << dim

    @njit(parallel=True, cache=True, **FAST)
    def scatter_levels(
        points: Any, directions: Any, packed: Any, scales: Any, layout: Any, smoothstep: bool,
        out: Any,
    ) -> None:  # fmt: skip
        padded, num_levels = points.shape[0] // dim, layout.shape[0]
        half = (num_levels + 1) // 2
        for k in prange(num_levels):
            level = 2 * k if k < half else 2 * (k - half) + 1
            rows = np.empty(corners * BLOCK, np.uint32)
            weights = np.empty(corners * BLOCK, points.dtype)
            slopes = np.empty(corners * BLOCK, points.dtype)
            for start in range(0, padded, BLOCK):
                find_block_cells(
                    dim, points, start, padded, scales[level], layout[level], smoothstep, rows,
                    weights, BLOCK,
                )  # fmt: skip
                for i in range(0, BLOCK, LANES):
                    find_slopes(
                        dim, DIRECTION, points, directions, start + i, padded, scales[level],
                        smoothstep, slopes, i, BLOCK,
                    )  # fmt: skip
                for i in range(BLOCK):
                    scatter(
                        features, corners, out, layout[level, 1], rows, slopes, i, BLOCK, packed,
                        (start * num_levels + level * BLOCK + i) * features,
                    )  # fmt: skip

    return scatter_levels

"""Interpolation between the nearest radial basis functions on the CPU (Numba).

Mapping. Forward and point gradient: one thread a block of BLOCK points; a point touches the rows of
its k kernels (4 F bytes each). Feature gradient: pairs (point, neighbour) are sorted by kernel, and
one thread adds up all pairs of a kernel in their order, so no two threads add to one row and sums
do not depend on their number; it touches a row of the incoming gradient a pair.

Nearly all the work are the k F sines of a point. They are computed again in the backward pass:
keeping them would be 16 times the memory of the output, and slower than eight sines an instruction.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions.)

import math
from functools import cache
from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload

from nfields.jit import njit, prange
from nfields.ops.rbf_interp.reference import NORMALIZER_FLOOR
from nfields.ops.simd import exp_negative

BLOCK = 64
NUM_CHUNKS = 64
KERNEL_CODES = {"ivq": 0, "gaussian": 1, "imq": 2, "tent": 3}
_IVQ, _GAUSSIAN, _IMQ, _TENT = range(4)
_FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}
_f32 = np.float32


def sine_of_turns(t: float) -> float:
    """sin(pi t) for 0 <= t < 2^22; float32: error below 2e-7, in a form that LLVM vectorises."""
    return math.sin(math.pi * t)


@njit(inline="always")
def _sine_float32(t: Any) -> Any:
    """(-1)^k sin(pi r) with k = round(t) and r = t - k, exact; minimax polynomial on |r| <= 1/2."""
    k = np.int32(t + _f32(0.5))
    r = t - _f32(k)
    u = r * r
    p = _f32(0.07756039) * u + _f32(-0.59824212)
    p = p * u + _f32(2.55006973)
    p = p * u + _f32(-5.16770968)
    p = p * u + _f32(3.14159264)
    sign = _f32(1) - _f32(np.int32(np.int32(k & np.int32(1)) << np.int32(1)))
    return sign * r * p


@overload(sine_of_turns, inline="always")
def _sine_of_turns(t):
    if t == types.float32:
        return lambda t: _sine_float32(t)
    return lambda t: math.sin(math.pi * t)


@njit(inline="always", **_FAST)
def _response(dim: int, kernel: int, num_shape: int, offset: Any, shapes: Any, i: int) -> Any:
    """phi of kernel i at offset = x - c_i; num_shape: d (d + 1) / 2 upper triangle, d or 1."""
    one, half, two = shapes.dtype.type(1), shapes.dtype.type(0.5), shapes.dtype.type(2)
    if kernel == _TENT:
        product = one
        for d in range(dim):
            product *= max(shapes.dtype.type(0), one - abs(offset[d]) * shapes[i, d % num_shape])
        return product
    q = shapes.dtype.type(0)
    if num_shape <= dim:
        for d in range(dim):
            q += offset[d] * offset[d] * shapes[i, d % num_shape]
    else:
        s = 0
        for a in range(dim):
            q += offset[a] * offset[a] * shapes[i, s]
            for b in range(a + 1, dim):
                q += two * offset[a] * offset[b] * shapes[i, s + b - a]
            s += dim - a
    if kernel == _GAUSSIAN:
        return exp_negative(half * q)
    return one / (one + q) if kernel == _IVQ else one / np.sqrt(one + q)


@njit(inline="always", **_FAST)
def _slope(
    dim: int, kernel: int, num_shape: int, offset: Any, shapes: Any, i: int, phi: Any, slope: Any
) -> None:
    """slope = d(phi)/dx of kernel i at offset, where its response is phi."""
    zero, one = shapes.dtype.type(0), shapes.dtype.type(1)
    if kernel == _TENT:
        for d in range(dim):
            scale = shapes[i, d % num_shape]
            value = one - abs(offset[d]) * scale
            term = -scale if offset[d] > zero else (scale if offset[d] < zero else zero)
            if value < zero:
                term = zero
            for other in range(dim):
                if other != d:
                    term *= max(zero, one - abs(offset[other]) * shapes[i, other % num_shape])
            slope[d] = term
        return
    for d in range(dim):
        slope[d] = zero
    if num_shape <= dim:
        for d in range(dim):
            slope[d] = offset[d] * shapes[i, d % num_shape]
    else:
        s = 0
        for a in range(dim):
            slope[a] += offset[a] * shapes[i, s]
            for b in range(a + 1, dim):
                slope[a] += offset[b] * shapes[i, s + b - a]
                slope[b] += offset[a] * shapes[i, s + b - a]
            s += dim - a
    # slope holds S (x - c), and q has the derivative 2 S (x - c).
    if kernel == _IVQ:
        factor = shapes.dtype.type(-2) * phi * phi
    elif kernel == _GAUSSIAN:
        factor = -phi
    else:
        factor = -phi * phi * phi
    for d in range(dim):
        slope[d] *= factor


# The kernels below are made for constants: a closure over numbers alone is found again in Numba's
# disk cache, one over a compiled function is not.


@cache
def forward_kernel(
    dim: int, num_neighbors: int, width: int, kernel: int, num_shape: int, normalize: int,
    with_sines: int,
) -> Any:  # fmt: skip
    """kernel(x, features, centers, shapes, half_turns, nearest, weights, out): fills weights, out.

    half_turns are the frequencies divided by pi.
    """

    @njit(parallel=True, cache=True, **_FAST)
    def interpolate(
        x: Any, features: Any, centers: Any, shapes: Any, half_turns: Any, nearest: Any,
        weights: Any, out: Any,
    ) -> None:  # fmt: skip
        num_points = x.shape[0]
        zero, floor = x.dtype.type(0), x.dtype.type(NORMALIZER_FLOOR)
        for b in prange((num_points + BLOCK - 1) // BLOCK):
            offset = np.empty(dim, x.dtype)
            w = np.empty(num_neighbors, x.dtype)
            total = np.empty(width, x.dtype)
            for p in range(b * BLOCK, min(num_points, (b + 1) * BLOCK)):
                normalizer = floor
                for j in range(num_neighbors):
                    i = nearest[p, j]
                    for d in range(dim):
                        offset[d] = x[p, d] - centers[i, d]
                    w[j] = _response(dim, kernel, num_shape, offset, shapes, i)
                    normalizer += w[j]
                if normalize:
                    for j in range(num_neighbors):
                        w[j] /= normalizer
                for c in range(width):
                    total[c] = zero
                for j in range(num_neighbors):
                    weights[p, j] = w[j]
                    weight, row = w[j], features[nearest[p, j]]
                    if with_sines:
                        for c in range(width):
                            total[c] += row[c] * sine_of_turns(half_turns[c] * weight)
                    else:
                        for c in range(width):
                            total[c] += row[c] * weight
                for c in range(width):
                    out[p, c] = total[c]

    return interpolate


@njit(cache=True)
def sort_pairs(nearest: Any, num_kernels: int) -> Any:
    """Pairs p k + j sorted by their kernel, in order of p within, and where each kernel's start."""
    flat = nearest.reshape(-1)
    starts = np.zeros(num_kernels + 1, np.int64)
    for pair in range(flat.shape[0]):
        starts[flat[pair] + 1] += 1
    for i in range(num_kernels):
        starts[i + 1] += starts[i]
    free = starts[:-1].copy()
    pairs = np.empty(flat.shape[0], np.int32)
    for pair in range(flat.shape[0]):
        pairs[free[flat[pair]]] = pair
        free[flat[pair]] += 1
    return pairs, starts


@cache
def feature_gradient_kernel(num_neighbors: int, width: int, with_sines: int) -> Any:
    """kernel(gradient, weights, half_turns, pairs, starts, out): fills out, d(loss)/d(features)."""

    @njit(parallel=True, cache=True, **_FAST)
    def accumulate(
        gradient: Any, weights: Any, half_turns: Any, pairs: Any, starts: Any, out: Any
    ) -> None:
        num_kernels, num_pairs = out.shape[0], pairs.shape[0]
        for chunk in prange(NUM_CHUNKS):
            # Equal numbers of pairs a chunk, whole kernels; those without pairs belong somewhere.
            first = np.searchsorted(starts[:-1], num_pairs * chunk // NUM_CHUNKS)
            last = np.searchsorted(starts[:-1], num_pairs * (chunk + 1) // NUM_CHUNKS)
            first = 0 if chunk == 0 else first
            last = num_kernels if chunk == NUM_CHUNKS - 1 else last
            total = np.empty(width, out.dtype)
            for i in range(first, last):
                for c in range(width):
                    total[c] = out.dtype.type(0)
                for k in range(starts[i], starts[i + 1]):
                    p = pairs[k] // num_neighbors
                    weight = weights[p, pairs[k] - p * num_neighbors]
                    row = gradient[p]
                    if with_sines:
                        for c in range(width):
                            total[c] += row[c] * sine_of_turns(half_turns[c] * weight)
                    else:
                        for c in range(width):
                            total[c] += row[c] * weight
                for c in range(width):
                    out[i, c] = total[c]

    return accumulate


@cache
def point_gradient_kernel(
    dim: int, num_neighbors: int, width: int, kernel: int, num_shape: int, normalize: int,
    with_sines: int,
) -> Any:  # fmt: skip
    """kernel(gradient, x, features, centers, shapes, half_turns, nearest, weights, out): d/dx.

    With a_j = d(loss)/d(w_j) and D the normaliser: sum_j (a_j - sum_i a_i w_i) / D d(phi_j)/dx.
    """

    @njit(parallel=True, cache=True, **_FAST)
    def differentiate(
        gradient: Any, x: Any, features: Any, centers: Any, shapes: Any, half_turns: Any,
        nearest: Any, weights: Any, out: Any,
    ) -> None:  # fmt: skip
        num_points, kind = x.shape[0], x.dtype.type
        for b in prange((num_points + BLOCK - 1) // BLOCK):
            offset = np.empty(dim, x.dtype)
            slopes = np.empty((num_neighbors, dim), x.dtype)
            by_weight = np.empty(num_neighbors, x.dtype)
            for p in range(b * BLOCK, min(num_points, (b + 1) * BLOCK)):
                normalizer, mean = kind(NORMALIZER_FLOOR), kind(0)
                for j in range(num_neighbors):
                    i = nearest[p, j]
                    for d in range(dim):
                        offset[d] = x[p, d] - centers[i, d]
                    phi = _response(dim, kernel, num_shape, offset, shapes, i)
                    normalizer += phi
                    _slope(dim, kernel, num_shape, offset, shapes, i, phi, slopes[j])
                    total, row, incoming = kind(0), features[i], gradient[p]
                    weight = weights[p, j]
                    if with_sines:
                        for c in range(width):
                            # cos(m w) = sin(m w + pi / 2)
                            cosine = sine_of_turns(half_turns[c] * weight + kind(0.5))
                            total += incoming[c] * row[c] * half_turns[c] * cosine
                        total *= kind(math.pi)
                    else:
                        for c in range(width):
                            total += incoming[c] * row[c]
                    by_weight[j] = total
                    mean += total * weight
                for d in range(dim):
                    total = kind(0)
                    for j in range(num_neighbors):
                        if normalize:
                            total += (by_weight[j] - mean) / normalizer * slopes[j, d]
                        else:
                            total += by_weight[j] * slopes[j, d]
                    out[p, d] = total

    return differentiate

"""Sine and cosine inside Triton kernels, for arguments of networks.

With q = round(z / pi) and r = z - q pi in [-pi/2, pi/2], sin z = (-1)^q sin r and cos z = (-1)^q
cos r, by Taylor polynomials: absolute error below 3e-7 for |z| < 1,000 in float32. CUDA's own
sine is exact for any argument, by a slow path that takes local memory, which the compiler reserves
in every kernel that calls it; its fast one is off by the rounding of z 2^-23 and more.
"""

import math

import triton
import triton.language as tl

PI, INVERSE_PI = tl.constexpr(math.pi), tl.constexpr(1 / math.pi)
# pi as a sum of two floats, the first with few enough bits that q times it is exact.
PI_HIGH, PI_LOW = tl.constexpr(3.140625), tl.constexpr(math.pi - 3.140625)


@triton.jit
def _reduced(z):
    """r and (-1)^q."""
    q = tl.floor(z * INVERSE_PI + 0.5)
    sign = 1.0 - 2.0 * (q.to(tl.int32) & 1).to(z.dtype)
    return (z - q * PI_HIGH) - q * PI_LOW, sign


@triton.jit
def sine(z):
    """sin(z)."""
    if z.dtype == tl.float64:
        return tl.sin(z)
    r, sign = _reduced(z)
    s = r * r
    p = -2.50521084e-8 * s + 2.75573192e-6
    p = p * s - 1.98412698e-4
    p = p * s + 8.33333333e-3
    p = p * s - 1.66666667e-1
    return sign * (r + r * (s * p))


@triton.jit
def cosine(z):
    """cos(z)."""
    if z.dtype == tl.float64:
        return tl.cos(z)
    r, sign = _reduced(z)
    s = r * r
    p = 2.08767570e-9 * s - 2.75573192e-7
    p = p * s + 2.48015873e-5
    p = p * s - 1.38888889e-3
    p = p * s + 4.16666667e-2
    p = p * s - 0.5
    return sign * (1.0 + s * p)


@triton.jit
def sine_of_half_turns(t):
    """sin(pi t) for 0 <= t < 2^22; float32: error below 2e-7, the polynomial of the CPU kernel."""
    if t.dtype == tl.float64:
        return tl.sin(t * PI)
    k = tl.floor(t + 0.5)
    r = t - k  # exact
    s = r * r
    p = 0.07756039 * s - 0.59824212
    p = p * s + 2.55006973
    p = p * s - 5.16770968
    p = p * s + 3.14159264
    return (1.0 - 2.0 * (k.to(tl.int32) & 1).to(t.dtype)) * r * p

"""The sine activation of the network op on the CPU (Numba), with the bias in the same pass.

With q = round(z / pi) and r = z - q pi in [-pi/2, pi/2], sin z = (-1)^q sin r and cos z = (-1)^q
cos r, by Taylor polynomials: absolute error below 3e-7 for |z| < 1,000 in float32, in a form that
LLVM vectorises (0.3 ns a number on one AVX-512 core, PyTorch's sin 1.25).

Mapping: one thread a block of ROWS rows; a row is a point, the loops run along it. bfloat16 numbers
come as their bit patterns (int16), the upper half of a float32.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from typing import Any

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from nfields.jit import njit, prange
from nfields.ops.simd import bits_of_float, float_from_bits

ROWS = 32
_FAST = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
_f32, _i32, _i16 = np.float32, np.int32, np.int16
# pi as a sum of two floats, the first with few enough bits that q times it is exact.
PI_HIGH = 3.140625
# Taylor polynomials in r^2, highest powers first: sin r = r + r^3 (..), cos r = 1 + r^2 (..).
SINE = (-2.50521084e-8, 2.75573192e-6, -1.98412698e-4, 8.33333333e-3, -1.66666667e-1)
COSINE = (2.08767570e-9, -2.75573192e-7, 2.48015873e-5, -1.38888889e-3, 4.16666667e-2, -0.5)
_INVERSE_PI, _PI_HIGH, _PI_LOW = _f32(1 / np.pi), _f32(PI_HIGH), _f32(np.pi - PI_HIGH)


def _read(value: Any) -> Any:
    """The float32 that a stored number (float32, or bfloat16 as int16) is."""
    raise NotImplementedError("only for kernels")


def _write(array: Any, i: int, value: Any) -> None:
    """array[i] = value, rounded to the nearest bfloat16 (ties to even) if the array is int16."""
    raise NotImplementedError("only for kernels")


@overload(_read, inline="always")
def _overload_read(value):
    if value == types.int16:
        return lambda value: float_from_bits(_i32(_i32(value) << _i32(16)))
    return lambda value: value


@overload(_write, inline="always")
def _overload_write(array, i, value):
    def write_half(array, i, value):
        bits = bits_of_float(value)
        rounding = _i32(0x7FFF) + ((bits >> _i32(16)) & _i32(1))
        array[i] = _i16((bits + rounding) >> _i32(16))

    def write(array, i, value):
        array[i] = value

    return write_half if array.dtype == types.int16 else write


@njit(inline="always", **_FAST)
def _reduced(z: Any) -> Any:
    """r and (-1)^q."""
    q = np.floor(z * _INVERSE_PI + _f32(0.5))
    sign = _f32(_i32(1) - _i32(2) * (_i32(q) & _i32(1)))
    return (z - q * _PI_HIGH) - q * _PI_LOW, sign


@njit(inline="always", **_FAST)
def _sine(r: Any, s: Any) -> Any:
    p = _f32(SINE[0]) * s + _f32(SINE[1])
    p = p * s + _f32(SINE[2])
    p = p * s + _f32(SINE[3])
    p = p * s + _f32(SINE[4])
    return r + r * (s * p)


@njit(inline="always", **_FAST)
def _cosine(s: Any) -> Any:
    p = _f32(COSINE[0]) * s + _f32(COSINE[1])
    p = p * s + _f32(COSINE[2])
    p = p * s + _f32(COSINE[3])
    p = p * s + _f32(COSINE[4])
    p = p * s + _f32(COSINE[5])
    return _f32(1) + s * p


# The loops along a row stand in functions of their own: inside prange they are four times slower.


@njit(**_FAST)
def _sine_row(z: Any, bias: Any, sine: Any) -> None:
    for i in range(len(z)):
        r, sign = _reduced(_read(z[i]) + bias[i])
        _write(sine, i, sign * _sine(r, r * r))


@njit(**_FAST)
def _both_row(z: Any, bias: Any, sine: Any, cosine: Any) -> None:
    for i in range(len(z)):
        r, sign = _reduced(_read(z[i]) + bias[i])
        s = r * r
        _write(sine, i, sign * _sine(r, s))
        _write(cosine, i, sign * _cosine(s))


@njit(**_FAST)
def _multiply_row(back: Any, cosine: Any, total: Any) -> None:
    for i in range(len(back)):
        value = _read(back[i]) * _read(cosine[i])
        total[i] += value
        _write(cosine, i, value)


@njit(parallel=True, cache=True, **_FAST)
def _sines(z: Any, bias: Any, sine: Any) -> None:
    num_rows = z.shape[0]
    for b in prange((num_rows + ROWS - 1) // ROWS):
        for row in range(b * ROWS, min((b + 1) * ROWS, num_rows)):
            _sine_row(z[row], bias, sine[row])


@njit(parallel=True, cache=True, **_FAST)
def _both(z: Any, bias: Any, sine: Any, cosine: Any) -> None:
    num_rows = z.shape[0]
    for b in prange((num_rows + ROWS - 1) // ROWS):
        for row in range(b * ROWS, min((b + 1) * ROWS, num_rows)):
            _both_row(z[row], bias, sine[row], cosine[row])


@njit(parallel=True, cache=True, **_FAST)
def _multiply(back: Any, cosine: Any, totals: Any) -> None:
    num_rows = back.shape[0]
    for b in prange((num_rows + ROWS - 1) // ROWS):
        for row in range(b * ROWS, min((b + 1) * ROWS, num_rows)):
            _multiply_row(back[row], cosine[row], totals[b])


def sine(z: Tensor, bias: Tensor) -> Tensor:
    """sin(z + bias); z (n, width) is contiguous, float64, float32 or bfloat16, bias not half."""
    if z.dtype == torch.float64:
        return (z + bias).sin()
    out = torch.empty_like(z)
    _sines(_array(z), bias.numpy(), _array(out))
    return out


def sine_and_cosine(z: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """sin(z + bias) and cos(z + bias), as `sine`."""
    if z.dtype == torch.float64:
        return (z + bias).sin(), (z + bias).cos()
    sines, cosines = torch.empty_like(z), torch.empty_like(z)
    _both(_array(z), bias.numpy(), _array(sines), _array(cosines))
    return sines, cosines


def through_sine(back: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor]:
    """back * cosine, which takes the place of `cosine`, and its sum over the rows."""
    if back.dtype == torch.float64:
        cosine *= back
        return cosine, cosine.sum(dim=0)
    num_blocks = (len(back) + ROWS - 1) // ROWS
    totals = torch.zeros(num_blocks, back.shape[1], dtype=torch.float32)
    _multiply(_array(back), _array(cosine), totals.numpy())
    return cosine, totals.sum(dim=0)


def _array(tensor: Tensor) -> np.ndarray:
    """The numbers, bfloat16 as bit patterns."""
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()

"""Sines and cosines of float32 rows inside a kernel (Numba), a vector at a time.

The formulas of nfields/ops/mlp/sine_cpu.py. Vectors are written out, as LLVM by itself takes half
of AVX-512's width: 0.1 ns a sine and its cosine on one core, if they come from the cache.

q is rounded by adding 1.5 * 2^23, which leaves its lowest bit, the sign, as the lowest bit of the
sum; so |z| must be below 10^7. Functions that call this are compiled without "reassoc", which Numba
gives to every instruction in a function and which would undo the rounding.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nfields.jit import njit
from nfields.ops.mlp.sine_cpu import COSINE, PI_HIGH, SINE
from nfields.ops.simd import array_data
from nfields.ops.tiles import TILE_COLUMNS

_INT32 = ir.IntType(32)
_FUSED = ("contract",)
_FAST: Any = {"fastmath": {"contract", "nsz", "arcp"}, "error_model": "numpy"}
_ROUND = 1.5 * 2**23


@intrinsic(prefer_literal=True)
def _take_sines(
    typing_context: Any, with_cosines: Any, z: Any, i: Any, sines: Any, j: Any, cosines: Any,
    k: Any,
) -> Any:  # fmt: skip
    """sines[j + c] = sin z[i + c] and, where `with_cosines`, cosines[k + c] = cos z[i + c].

    c < TILE_COLUMNS; flat float32 arrays, unchecked. `with_cosines` (0 or 1) is a constant.
    """
    has_cosines, size = with_cosines.literal_value, types.int64
    signature = types.void(with_cosines, z, size, sines, size, cosines, size)
    vector = ir.VectorType(ir.FloatType(), TILE_COLUMNS)
    whole = ir.VectorType(_INT32, TILE_COLUMNS)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args

        def real(value: float) -> Any:
            return ir.Constant(vector, [float(np.float32(value))] * TILE_COLUMNS)

        def place(array: int, offset: int) -> Any:
            pointer = array_data(context, builder, kinds[array], args[array])
            return builder.bitcast(builder.gep(pointer, [args[offset]]), vector.as_pointer())

        def fused(a: Any, b: Any, c: Any) -> Any:
            return builder.fadd(builder.fmul(a, b, flags=_FUSED), c, flags=_FUSED)

        def series(factors: tuple[float, ...], s: Any) -> Any:
            value = real(factors[0])
            for factor in factors[1:]:
                value = fused(value, s, real(factor))
            return value

        def signed(value: Any) -> Any:
            bits = builder.xor(builder.bitcast(value, whole), sign)
            return builder.bitcast(bits, vector)

        value = builder.load(place(1, 2), align=4)
        rounded = fused(value, real(1 / math.pi), real(_ROUND))
        sign = builder.shl(builder.bitcast(rounded, whole), ir.Constant(whole, [31] * TILE_COLUMNS))
        q = builder.fsub(rounded, real(_ROUND))
        r = fused(q, real(-PI_HIGH), value)
        r = fused(q, real(PI_HIGH - math.pi), r)
        s = builder.fmul(r, r)
        sine = fused(builder.fmul(series(SINE, s), s), r, r)
        builder.store(signed(sine), place(3, 4), align=4)
        if has_cosines:
            cosine = fused(series(COSINE, s), s, real(1))
            builder.store(signed(cosine), place(5, 6), align=4)
        return context.get_dummy_value()

    return signature, codegen


@njit(**_FAST)
def take_sines(z: Any, first: int, rows: int, stride: int, width: int, sines: Any) -> None:
    """sines = sin z, rows of `stride`; z from `first` on. `width` is a multiple of TILE_COLUMNS."""
    for i in range(rows):
        for j in range(i * stride, i * stride + width, TILE_COLUMNS):
            _take_sines(0, z, first + j, sines, j, sines, j)


@njit(**_FAST)
def pack_sines(
    z: Any, first: int, rows: int, stride: int, width: int, panel: Any, cosines: Any
) -> None:
    """panel (rows, width) = sin z without gaps; cosines = cos z in rows of `stride`, as z."""
    for i in range(rows):
        for j in range(0, width, TILE_COLUMNS):
            place = i * stride + j
            _take_sines(1, z, first + place, panel, i * width + j, cosines, place)

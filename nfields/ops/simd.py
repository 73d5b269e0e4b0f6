"""Numba intrinsics: a few SIMD instructions that Numba's own loops do not reach.

A grid entry is `features` consecutive floats. Adding eight weighted entries is eight loads and
eight fused multiply-adds of one vector register if it is written as vector code; Numba compiles
the plain loop to scalar code (two AVX2 cores, 8 levels x 4 features: 2.5 times slower).
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from nfields.jit import njit

_f32 = np.float32

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


def array_data(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    return context.make_array(array_type)(context, builder, array).data


def splat(builder: Any, scalar: Any, width: int) -> Any:
    """A vector of `width` lanes all equal to `scalar`."""
    vector = ir.VectorType(scalar.type, width)
    first = builder.insert_element(
        ir.Constant(vector, ir.Undefined), scalar, ir.Constant(_INT32, 0)
    )
    lanes = ir.Constant(ir.VectorType(_INT32, width), [0] * width)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), lanes)


def llvm_float(array_type: Any) -> Any:
    return ir.FloatType() if array_type.dtype == types.float32 else ir.DoubleType()


def _address(builder: Any, table: Any, first: Any, row: Any, features: int, vector: Any) -> Any:
    """Pointer to entry `first + row` of a flat table, as a vector."""
    entry = builder.add(first, builder.zext(row, _INT64))
    offset = builder.mul(entry, ir.Constant(_INT64, features))
    return builder.bitcast(builder.gep(table, [offset]), vector.as_pointer())


@intrinsic(prefer_literal=True)
def gather(
    typing_context: Any, features: Any, corners: Any, table: Any, first: Any, rows: Any,
    weights: Any, i: Any, stride: Any, out: Any, position: Any,
) -> Any:  # fmt: skip
    """out[position + f] = sum_c weights[c * stride + i] * table[(first + rows[c * stride + i], f)].

    `features` (1, 2, 4 or 8) and `corners` are constants; f < features, c < corners. All arrays are
    flat and contiguous, rows uint32; nothing is checked.
    """
    width, num_corners = features.literal_value, corners.literal_value
    size = types.int64
    signature = types.void(features, corners, table, size, rows, weights, size, size, out, size)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        table_ptr, rows_ptr, weights_ptr, out_ptr = (
            array_data(context, builder, kinds[k], args[k]) for k in (2, 4, 5, 8)
        )
        first, i, stride, position = args[3], args[6], args[7], args[9]
        vector = ir.VectorType(llvm_float(kinds[2]), width)
        align = kinds[2].dtype.bitwidth // 8
        total = None
        for corner in range(num_corners):
            j = builder.add(i, builder.mul(stride, ir.Constant(_INT64, corner)))
            row = builder.load(builder.gep(rows_ptr, [j]))
            weight = builder.load(builder.gep(weights_ptr, [j]))
            pointer = _address(builder, table_ptr, first, row, width, vector)
            entry = builder.load(pointer, align=align)
            term = builder.fmul(entry, splat(builder, weight, width), flags=("fast",))
            total = term if total is None else builder.fadd(total, term, flags=("fast",))
        target = builder.bitcast(builder.gep(out_ptr, [position]), vector.as_pointer())
        builder.store(total, target, align=align)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def scatter(
    typing_context: Any, features: Any, corners: Any, table: Any, first: Any, rows: Any,
    weights: Any, i: Any, stride: Any, values: Any, position: Any,
) -> Any:  # fmt: skip
    """table[(first + rows[c * stride + i], f)] += weights[c * stride + i] * values[position + f].

    The transpose of `gather`, with the same arguments. Not atomic: one thread a table.
    """
    width, num_corners = features.literal_value, corners.literal_value
    size = types.int64
    signature = types.void(features, corners, table, size, rows, weights, size, size, values, size)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        table_ptr, rows_ptr, weights_ptr, values_ptr = (
            array_data(context, builder, kinds[k], args[k]) for k in (2, 4, 5, 8)
        )
        first, i, stride, position = args[3], args[6], args[7], args[9]
        vector = ir.VectorType(llvm_float(kinds[2]), width)
        align = kinds[2].dtype.bitwidth // 8
        source = builder.bitcast(builder.gep(values_ptr, [position]), vector.as_pointer())
        value = builder.load(source, align=align)
        for corner in range(num_corners):
            j = builder.add(i, builder.mul(stride, ir.Constant(_INT64, corner)))
            row = builder.load(builder.gep(rows_ptr, [j]))
            weight = builder.load(builder.gep(weights_ptr, [j]))
            pointer = _address(builder, table_ptr, first, row, width, vector)
            term = builder.fmul(value, splat(builder, weight, width), flags=("fast",))
            entry = builder.fadd(builder.load(pointer, align=align), term, flags=("fast",))
            builder.store(entry, pointer, align=align)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def float_from_bits(typing_context: Any, bits: Any) -> Any:
    """The float32 whose bit pattern is the int32 `bits`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@intrinsic
def bits_of_float(typing_context: Any, value: Any) -> Any:
    """The bit pattern, as int32, of a float32."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], _INT32)

    return types.int32(types.float32), codegen


def exp_negative(x: float) -> float:
    """exp(-x) for x >= 0, for kernels; 0 beyond 60: products with what is smaller would soon be
    denormal, and cost a processor a hundred times as much.

    float32: relative error below 3e-7, in a form that LLVM vectorises, which a call to the C
    library is not. float64: the library's.
    """
    return math.exp(-x) if x <= 60 else 0.0


@njit(inline="always")
def _exp_negative_float32(x: Any) -> Any:
    """exp(t) 2^k with k = round(-x / ln 2) and the Taylor polynomial of degree 6 in |t| < 0.35."""
    y = -min(x, _f32(60)) * _f32(1.4426950408889634)
    k = np.int32(y - _f32(0.5))
    t = (y - _f32(k)) * _f32(0.6931471805599453)
    p = _f32(1 / 720) * t + _f32(1 / 120)
    p = p * t + _f32(1 / 24)
    p = p * t + _f32(1 / 6)
    p = p * t + _f32(0.5)
    p = p * t + _f32(1)
    p = p * t + _f32(1)
    power = float_from_bits(np.int32(np.int32(k + np.int32(127)) << np.int32(23)))
    return p * power if x <= _f32(60) else _f32(0)


@njit(inline="always")
def _exp_negative_float64(x: Any) -> Any:
    return math.exp(-x) if x <= 60 else 0.0


@overload(exp_negative, inline="always")
def _exp_negative(x):
    if x == types.float32:
        return lambda x: _exp_negative_float32(x)
    return lambda x: _exp_negative_float64(x)

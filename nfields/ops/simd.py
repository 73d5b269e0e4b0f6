"""Numba intrinsics: a few SIMD instructions that Numba's own loops do not reach.

A grid entry is `features` consecutive floats. Adding eight weighted entries is eight loads and
eight fused multiply-adds of one vector register if it is written as vector code; Numba compiles
the plain loop to scalar code (two AVX2 cores, 8 levels x 4 features: 2.5 times slower).

Numba's disk cache looks at the kernel's own file only: `make clean` after a change here.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

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
    """exp(-x) for x >= 0, for kernels; 0 beyond 87, where float32 turns denormal and slow.

    float32: relative error below 3e-7, in a form that LLVM vectorises, which a call to the C
    library is not. float64: the library's.
    """
    return math.exp(-x) if x <= 87 else 0.0


@njit(inline="always")
def _exp_negative_float32(x: Any) -> Any:
    """exp(t) 2^k with k = round(-x / ln 2) and the Taylor polynomial of degree 6 in |t| < 0.35."""
    y = -min(x, _f32(87)) * _f32(1.4426950408889634)
    k = np.int32(y - _f32(0.5))
    t = (y - _f32(k)) * _f32(0.6931471805599453)
    p = _f32(1 / 720) * t + _f32(1 / 120)
    p = p * t + _f32(1 / 24)
    p = p * t + _f32(1 / 6)
    p = p * t + _f32(0.5)
    p = p * t + _f32(1)
    p = p * t + _f32(1)
    power = float_from_bits(np.int32(np.int32(k + np.int32(127)) << np.int32(23)))
    return p * power if x <= _f32(87) else _f32(0)


@njit(inline="always")
def _exp_negative_float64(x: Any) -> Any:
    return math.exp(-x) if x <= 87 else 0.0


@overload(exp_negative, inline="always")
def _exp_negative(x):
    if x == types.float32:
        return lambda x: _exp_negative_float32(x)
    return lambda x: _exp_negative_float64(x)


# Register tile of the matrix products below: 4 rows x 16 columns are eight 8-wide accumulators, as
# many as two fused multiply-add units of latency 4 need, and leave room for operands.
TILE_ROWS, TILE_COLUMNS = 4, 16


def _register_tile(builder: Any, scalar: Any, rows: int) -> tuple[Any, list[Any]]:
    """The vector type and `rows` zeroed accumulators (LLVM keeps them in registers)."""
    vector = ir.VectorType(scalar, TILE_COLUMNS)
    tiles = []
    for _ in range(rows):
        tile = cgutils.alloca_once(builder, vector)
        builder.store(ir.Constant(vector, None), tile)
        tiles.append(tile)
    return vector, tiles


def _load_vector(builder: Any, pointer: Any, offset: Any, vector: Any, align: int) -> Any:
    address = builder.bitcast(builder.gep(pointer, [offset]), vector.as_pointer())
    return builder.load(address, align=align)


def _store_tile(
    builder: Any, tiles: list[Any], out: Any, start: Any, stride: Any, add: bool, align: int
) -> None:
    for r, tile in enumerate(tiles):
        offset = builder.add(start, builder.mul(stride, ir.Constant(_INT64, r)))
        value = builder.load(tile)
        address = builder.bitcast(builder.gep(out, [offset]), value.type.as_pointer())
        if add:
            value = builder.fadd(value, builder.load(address, align=align), flags=("fast",))
        builder.store(value, address, align=align)


@intrinsic(prefer_literal=True)
def multiply_tile(
    typing_context: Any, rows: Any, a: Any, a_start: Any, a_row: Any, a_step: Any, b: Any,
    b_start: Any, b_step: Any, length: Any, out: Any, start: Any, stride: Any,
) -> Any:  # fmt: skip
    """out[start + r stride + c] += sum_k a[a_start + r a_row + k a_step] b[b_start + k b_step + c].

    `rows` is a constant; k < length, r < rows, c < TILE_COLUMNS; flat arrays, nothing is checked.
    """
    num_rows, size = rows.literal_value, types.int64
    signature = types.void(rows, a, size, size, size, b, size, size, size, out, size, size)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        a_ptr, b_ptr, out_ptr = (array_data(context, builder, kinds[k], args[k]) for k in (1, 5, 9))
        _, _, a_start, a_row, a_step, _, b_start, b_step, length, _, start, stride = args
        align = kinds[1].dtype.bitwidth // 8
        vector, tiles = _register_tile(builder, llvm_float(kinds[1]), num_rows)
        with cgutils.for_range(builder, length, intp=_INT64) as loop:
            b_offset = builder.add(b_start, builder.mul(loop.index, b_step))
            row_b = _load_vector(builder, b_ptr, b_offset, vector, align)
            a_offset = builder.add(a_start, builder.mul(loop.index, a_step))
            for r, tile in enumerate(tiles):
                offset = builder.add(a_offset, builder.mul(a_row, ir.Constant(_INT64, r)))
                factor = splat(builder, builder.load(builder.gep(a_ptr, [offset])), TILE_COLUMNS)
                term = builder.fmul(factor, row_b, flags=("fast",))
                builder.store(builder.fadd(builder.load(tile), term, flags=("fast",)), tile)
        _store_tile(builder, tiles, out_ptr, start, stride, True, align)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def distance_tile(
    typing_context: Any, a: Any, a_start: Any, a_row: Any, scale: Any, shift: Any, column: Any,
    width: Any, length: Any, out: Any, start: Any, stride: Any,
) -> Any:  # fmt: skip
    """out[start + r stride + c] = sum_k (a[a_start + r a_row + k] scale[j] - shift[j])^2.

    j = k width + column + c; k < length, r < TILE_ROWS, c < TILE_COLUMNS; flat arrays, unchecked.
    """
    size = types.int64
    signature = types.void(a, size, size, scale, shift, size, size, size, out, size, size)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        a_ptr, scale_ptr, shift_ptr, out_ptr = (
            array_data(context, builder, kinds[k], args[k]) for k in (0, 3, 4, 8)
        )
        _, a_start, a_row, _, _, column, width, length, _, start, stride = args
        align = kinds[0].dtype.bitwidth // 8
        vector, tiles = _register_tile(builder, llvm_float(kinds[0]), TILE_ROWS)
        with cgutils.for_range(builder, length, intp=_INT64) as loop:
            offset = builder.add(column, builder.mul(loop.index, width))
            row_scale = _load_vector(builder, scale_ptr, offset, vector, align)
            row_shift = _load_vector(builder, shift_ptr, offset, vector, align)
            a_offset = builder.add(a_start, loop.index)
            for r, tile in enumerate(tiles):
                offset = builder.add(a_offset, builder.mul(a_row, ir.Constant(_INT64, r)))
                value = splat(builder, builder.load(builder.gep(a_ptr, [offset])), TILE_COLUMNS)
                scaled = builder.fmul(value, row_scale, flags=("fast",))
                difference = builder.fsub(scaled, row_shift, flags=("fast",))
                square = builder.fmul(difference, difference, flags=("fast",))
                builder.store(builder.fadd(builder.load(tile), square, flags=("fast",)), tile)
        _store_tile(builder, tiles, out_ptr, start, stride, False, align)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def dot(typing_context: Any, a: Any, a_start: Any, b: Any, b_start: Any, length: Any) -> Any:
    """sum_k a[a_start + k] b[b_start + k] for k < length, a multiple of TILE_COLUMNS; unchecked."""
    size = types.int64
    signature = a.dtype(a, size, b, size, size)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        a_ptr, b_ptr = (array_data(context, builder, kinds[k], args[k]) for k in (0, 2))
        _, a_start, _, b_start, length = args
        align = kinds[0].dtype.bitwidth // 8
        scalar = llvm_float(kinds[0])
        vector, (tile,) = _register_tile(builder, scalar, 1)
        steps = builder.sdiv(length, ir.Constant(_INT64, TILE_COLUMNS))
        with cgutils.for_range(builder, steps, intp=_INT64) as loop:
            k = builder.mul(loop.index, ir.Constant(_INT64, TILE_COLUMNS))
            left = _load_vector(builder, a_ptr, builder.add(a_start, k), vector, align)
            right = _load_vector(builder, b_ptr, builder.add(b_start, k), vector, align)
            term = builder.fmul(left, right, flags=("fast",))
            builder.store(builder.fadd(builder.load(tile), term, flags=("fast",)), tile)
        name = f"llvm.vector.reduce.fadd.v{TILE_COLUMNS}{'f32' if align == 4 else 'f64'}"
        kind = ir.FunctionType(scalar, [scalar, vector])
        reduce = cgutils.get_or_insert_function(builder.module, kind, name)
        return builder.call(
            reduce, [ir.Constant(scalar, 0.0), builder.load(tile)], fastmath=("fast",)
        )

    return signature, codegen

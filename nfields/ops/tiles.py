"""Numba intrinsics: tiles of small matrix products whose sums stay in registers.

A step of a product's depth loads one vector a column of the second factor, broadcasts one number a
row of the first, and makes rows x columns fused multiply-adds.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nfields.ops.simd import array_data, llvm_float, splat

# Register tile of small matrix products: 4 rows x 16 columns are eight 8-wide accumulators, as
# many as two fused multiply-add units of latency 4 need, and leave room for operands.
TILE_ROWS, TILE_COLUMNS = 4, 16
# What a tile of a product begins with, and what happens to it before it is stored.
ZERO, BIAS, SUM = 0, 1, 2
AS_IS, RELU, WHERE_POSITIVE, TIMES = 0, 1, 2, 3

_INT64 = ir.IntType(64)
_FLAGS = ("contract", "reassoc", "nsz", "arcp")


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


def _store_vector(builder: Any, value: Any, pointer: Any, offset: Any, align: int) -> None:
    address = builder.bitcast(builder.gep(pointer, [offset]), value.type.as_pointer())
    builder.store(value, address, align=align)


@intrinsic(prefer_literal=True)
def multiply_tile(
    typing_context: Any, rows: Any, columns: Any, begin: Any, finish: Any, a: Any, a_start: Any,
    a_row: Any, a_step: Any, b: Any, b_start: Any, b_step: Any, length: Any, out: Any, start: Any,
    stride: Any, other: Any, other_start: Any,
) -> Any:  # fmt: skip
    """One tile of a matrix product: out[r, c] = finish(begin[r, c] + sum_k a[r, k] b[k, c]).

    In flat arrays: a[r, k] is a[a_start + r a_row + k a_step], b[k, c] b[b_start + k b_step + c],
    out[r, c] out[start + r stride + c]; r < rows, c < columns TILE_COLUMNS, k < length. `begin` is
    ZERO, BIAS (other[other_start + c]) or SUM (out itself); `finish` AS_IS, RELU, WHERE_POSITIVE
    (0 where other[other_start + r stride + c] <= 0) or TIMES (that number); NaN stays NaN. These
    four are constants; nothing is checked.
    """
    num_rows, num_columns = rows.literal_value, columns.literal_value
    first, last = begin.literal_value, finish.literal_value
    size = types.int64
    signature = types.void(
        rows, columns, begin, finish, a, size, size, size, b, size, size, size, out, size, size,
        other, size,
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        a_ptr, b_ptr, out_ptr, other_ptr = (
            array_data(context, builder, kinds[k], args[k]) for k in (4, 8, 12, 15)
        )
        _, _, _, _, _, a_start, a_row, a_step, _, b_start, b_step, length = args[:12]
        start, stride, other_start = args[13], args[14], args[16]
        align = kinds[4].dtype.bitwidth // 8
        vector, tiles = _register_tile(builder, llvm_float(kinds[4]), num_rows * num_columns)
        zero = ir.Constant(vector, None)

        def place(base: Any, row: Any, row_size: Any, column: int) -> Any:
            """base + row row_size + column TILE_COLUMNS"""
            offset = builder.add(base, builder.mul(row, row_size))
            return builder.add(offset, ir.Constant(_INT64, column * TILE_COLUMNS))

        cells = [
            (ir.Constant(_INT64, r), c, tiles[r * num_columns + c])
            for r in range(num_rows)
            for c in range(num_columns)
        ]
        for r, c, tile in cells:
            if first == BIAS:
                offset = place(other_start, r, ir.Constant(_INT64, 0), c)
                builder.store(_load_vector(builder, other_ptr, offset, vector, align), tile)
            elif first == SUM:
                offset = place(start, r, stride, c)
                builder.store(_load_vector(builder, out_ptr, offset, vector, align), tile)
        with cgutils.for_range(builder, length, intp=_INT64) as loop:
            lines = [
                _load_vector(builder, b_ptr, place(b_start, loop.index, b_step, c), vector, align)
                for c in range(num_columns)
            ]
            a_offset = builder.add(a_start, builder.mul(loop.index, a_step))
            for r in range(num_rows):
                offset = builder.add(a_offset, builder.mul(a_row, ir.Constant(_INT64, r)))
                factor = builder.load(builder.gep(a_ptr, [offset]))
                factor = splat(builder, factor, TILE_COLUMNS)
                for line, tile in zip(lines, tiles[r * num_columns :], strict=False):
                    term = builder.fmul(factor, line, flags=_FLAGS)
                    builder.store(builder.fadd(builder.load(tile), term, flags=_FLAGS), tile)
        for r, c, tile in cells:
            value = builder.load(tile)
            if last == RELU:
                value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
            elif last == WHERE_POSITIVE:
                offset = place(other_start, r, stride, c)
                limit = _load_vector(builder, other_ptr, offset, vector, align)
                value = builder.select(builder.fcmp_ordered("<=", limit, zero), zero, value)
            elif last == TIMES:
                offset = place(other_start, r, stride, c)
                factor = _load_vector(builder, other_ptr, offset, vector, align)
                value = builder.fmul(value, factor, flags=_FLAGS)
            _store_vector(builder, value, out_ptr, place(start, r, stride, c), align)
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
        for r, tile in enumerate(tiles):
            offset = builder.add(start, builder.mul(stride, ir.Constant(_INT64, r)))
            _store_vector(builder, builder.load(tile), out_ptr, offset, align)
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

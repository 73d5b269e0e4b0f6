"""Vector code of the network op: one tile of a matrix product whose sums stay in registers.

A tile is `rows` x `columns` vectors of LANES sums. A step of the depth loads one vector a column of
the second factor, broadcasts one number a row of the first and makes rows x columns fused
multiply-adds, so that AVX-512 is busy with arithmetic alone (4 x 4: 16 multiply-adds, 8 loads).

Numba's disk cache looks at the kernel's own file only: `make clean` after a change here.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nfields.ops.simd import array_data, splat

LANES = 16
# What a tile starts from, and what happens to it before it is stored.
ZERO, BIAS, SUM = 0, 1, 2
AS_IS, RELU, WHERE_POSITIVE = 0, 1, 2

_FLAGS = ("contract", "reassoc", "nsz", "arcp")


@intrinsic(prefer_literal=True)
def multiply_tile(
    typing_context: Any, rows: Any, columns: Any, start: Any, finish: Any,
    a: Any, a_first: Any, a_row: Any, a_step: Any, b: Any, b_first: Any, b_step: Any,
    out: Any, out_first: Any, out_row: Any, depth: Any, other: Any, other_first: Any,
) -> Any:  # fmt: skip
    """out[m, n] = finish(start[m, n] + sum_k a[m, k] b[k, n]) for one tile of float32.

    In flat arrays: a[m, k] is a[a_first + m a_row + k a_step], b[k, n] b[b_first + k b_step + n],
    out[m, n] out[out_first + m out_row + n]; m < rows, n < columns LANES, k < depth. `start` is
    ZERO, BIAS (other[other_first + n]) or SUM (out itself); `finish` AS_IS, RELU or WHERE_POSITIVE
    (0 where other[other_first + m out_row + n] <= 0); NaN stays NaN. These four are constants;
    nothing is checked.
    """
    num_rows, num_columns = rows.literal_value, columns.literal_value
    begin, end = start.literal_value, finish.literal_value
    size = types.int64
    signature = types.void(
        rows, columns, start, finish, a, size, size, size, b, size, size, out, size, size, size,
        other, size,
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        a_data, b_data, out_data, other_data = (
            array_data(context, builder, kinds[k], args[k]) for k in (4, 8, 11, 15)
        )
        _, _, _, _, _, a_first, a_row, a_step, _, b_first, b_step = args[:11]
        out_first, out_row, depth, other_first = args[12], args[13], args[14], args[16]
        vector = ir.VectorType(ir.FloatType(), LANES)
        zero = ir.Constant(vector, [0.0] * LANES)

        def times(value: Any, count: int) -> Any:
            return builder.mul(value, ir.Constant(ir.IntType(64), count))

        def place(data: Any, index: Any, column: int) -> Any:
            index = builder.add(index, ir.Constant(ir.IntType(64), column * LANES))
            return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())

        out_rows = [builder.add(out_first, times(out_row, m)) for m in range(num_rows)]
        sums = [
            [cgutils.alloca_once(builder, vector) for _ in range(num_columns)]
            for _ in range(num_rows)
        ]
        for m in range(num_rows):
            for n in range(num_columns):
                first = zero
                if begin == BIAS:
                    first = builder.load(place(other_data, other_first, n), align=4)
                elif begin == SUM:
                    first = builder.load(place(out_data, out_rows[m], n), align=4)
                builder.store(first, sums[m][n])
        a_rows = [builder.add(a_first, times(a_row, m)) for m in range(num_rows)]
        with cgutils.for_range(builder, depth) as loop:
            a_shift = builder.mul(loop.index, a_step)
            b_row = builder.add(b_first, builder.mul(loop.index, b_step))
            line = [builder.load(place(b_data, b_row, n), align=4) for n in range(num_columns)]
            for m in range(num_rows):
                number = builder.load(builder.gep(a_data, [builder.add(a_rows[m], a_shift)]))
                number = splat(builder, number, LANES)
                for n in range(num_columns):
                    product = builder.fmul(number, line[n], flags=_FLAGS)
                    total = builder.fadd(builder.load(sums[m][n]), product, flags=_FLAGS)
                    builder.store(total, sums[m][n])
        for m in range(num_rows):
            row = builder.add(other_first, times(out_row, m)) if end == WHERE_POSITIVE else None
            for n in range(num_columns):
                value = builder.load(sums[m][n])
                if end == RELU:
                    value = builder.select(builder.fcmp_ordered("<", value, zero), zero, value)
                elif end == WHERE_POSITIVE:
                    limit = builder.load(place(other_data, row, n), align=4)
                    value = builder.select(builder.fcmp_ordered("<=", limit, zero), zero, value)
                builder.store(value, place(out_data, out_rows[m], n), align=4)
        return context.get_dummy_value()

    return signature, codegen

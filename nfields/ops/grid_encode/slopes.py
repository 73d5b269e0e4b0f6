"""Vector code of grid_encode's derivatives: how the weights of corners change with the point.

Notation, per axis k of a cell, s_k the level's scale and u_k = pos_k - cell_k:
    a_k    the factor of a corner's weight: t_k at the upper side, 1 - t_k at the lower
    a'_k   its derivative in x_k, + or - s_k (linear), + or - 6 u_k (1 - u_k) s_k (smoothstep)
    a''_k  0, or + or - 6 (1 - 2 u_k) s_k^2
A corner's weight is w = prod_k a_k, and its derivatives are products of these.

As in lanes.py everything works on LANES consecutive points, unrolled over corners.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from nfields.ops.grid_encode.lanes import LANES
from nfields.ops.simd import array_data, llvm_float, splat

# What `find_slopes` writes, for every corner: GRADIENT d arrays, the derivatives of w in each x_k;
# DIRECTION one array, v . grad w; HESSIAN after this d more, (Hessian of w) v.
GRADIENT, DIRECTION, HESSIAN = 0, 1, 2

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_FLAGS = ("contract", "reassoc", "nsz", "arcp")


@intrinsic(prefer_literal=True)
def find_slopes(
    typing_context: Any, dim: Any, what: Any, points: Any, directions: Any, start: Any,
    points_stride: Any, scale: Any, smoothstep: Any, slopes: Any, i: Any, stride: Any,
) -> Any:  # fmt: skip
    """Derivatives of the weights of the corners of points start .. start + LANES.

    slopes[(a corners + c) stride + i + lane] for array a of `what`; coordinate k of a point is
    points[k points_stride + start + lane], of its direction v likewise (not read for GRADIENT);
    `dim` and `what` are constants; nothing is checked.
    """
    num_axes, kind = dim.literal_value, what.literal_value
    size, real = types.int64, points.dtype
    signature = types.void(
        dim, what, points, directions, size, size, real, types.boolean, slopes, size, size
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        _, _, _, _, start, points_stride, scale, smooth, _, i, stride = args
        points, directions, slopes = (
            array_data(context, builder, kinds[k], args[k]) for k in (2, 3, 8)
        )
        scalar = llvm_float(kinds[2])
        align = kinds[2].dtype.bitwidth // 8
        vector, whole = ir.VectorType(scalar, LANES), ir.VectorType(_INT32, LANES)

        def number(value: float) -> Any:
            return ir.Constant(vector, [value] * LANES)

        def times(*factors: Any) -> Any:
            product = factors[0]
            for factor in factors[1:]:
                product = builder.fmul(product, factor, flags=_FLAGS)
            return product

        def plus(*terms: Any) -> Any:
            total = terms[0]
            for term in terms[1:]:
                total = builder.fadd(total, term, flags=_FLAGS)
            return total

        def minus(a: Any, b: Any) -> Any:
            return builder.fsub(a, b, flags=_FLAGS)

        def load(array: Any, k: int) -> Any:
            offset = builder.add(start, builder.mul(points_stride, ir.Constant(_INT64, k)))
            pointer = builder.bitcast(builder.gep(array, [offset]), vector.as_pointer())
            return builder.load(pointer, align=align)

        scales = splat(builder, scale, LANES)
        zero, one = number(0), number(1)
        factor, slope, curve, along = [], [], [], []  # [k][upper]: a_k, a'_k, a''_k, v_k a'_k
        for k in range(num_axes):
            position = plus(times(load(points, k), scales), number(0.5))
            cell = builder.fptosi(position, whole)
            u = minus(position, builder.sitofp(cell, vector))
            rest = minus(one, u)
            smoothed = times(u, u, minus(number(3), times(number(2), u)))
            t = builder.select(smooth, smoothed, u)
            high = times(scales, builder.select(smooth, times(number(6), u, rest), one))
            bend = times(number(6), minus(rest, u), scales, scales)
            bend = builder.select(smooth, bend, zero)
            factor.append((minus(one, t), t))
            slope.append((minus(zero, high), high))
            curve.append((minus(zero, bend), bend))
            if kind != GRADIENT:
                v = load(directions, k)
                along.append(tuple(times(v, s) for s in slope[k]))
                curve[k] = tuple(times(v, c) for c in curve[k])

        def store(array: int, corner: int, value: Any) -> None:
            place = ir.Constant(_INT64, array * (1 << num_axes) + corner)
            offset = builder.add(i, builder.mul(stride, place))
            pointer = builder.bitcast(builder.gep(slopes, [offset]), vector.as_pointer())
            builder.store(value, pointer, align=align)

        axes = range(num_axes)
        for corner in range(1 << num_axes):
            upper = [corner >> k & 1 for k in axes]
            a = [factor[k][upper[k]] for k in axes]
            da = [slope[k][upper[k]] for k in axes]
            if kind == GRADIENT:
                for k in axes:
                    store(k, corner, times(da[k], *(a[m] for m in axes if m != k)))
                continue
            va = [along[k][upper[k]] for k in axes]
            store(0, corner, plus(*(times(va[k], *(a[m] for m in axes if m != k)) for k in axes)))
            if kind != HESSIAN:
                continue
            for j in axes:
                others = [m for m in axes if m != j]
                mixed = plus(*(times(va[k], *(a[m] for m in others if m != k)) for k in others))
                pure = times(curve[j][upper[j]], *(a[m] for m in others))
                store(1 + j, corner, plus(pure, times(da[j], mixed)))
        return context.get_dummy_value()

    return signature, codegen

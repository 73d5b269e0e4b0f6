"""Vector code of grid_encode: the cells of LANES points at once, and the sum of their corners.

Numba's own loops come out half as wide as AVX-512 allows, and never gather. Everything here works
on LANES consecutive points of a block (structure of arrays) and is unrolled over corners;
processors with narrower registers run the same code in pieces.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nfields.ops.grid_encode.reference import HASH_PRIMES
from nfields.ops.simd import array_data, llvm_float, splat

LANES = 16
# Ways from a vertex to its entry: strides; hashed into a power of two, or any number, of entries.
DENSE, HASHED, HASHED_ANY = 0, 1, 2
# Elsewhere LLVM takes a gather apart, and one load a corner is faster.
HAS_GATHER = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))

_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_FLAGS = ("contract", "reassoc", "nsz", "arcp")


def _vector_pointer(builder: Any, data: Any, index: Any, vector: Any) -> Any:
    return builder.bitcast(builder.gep(data, [index]), vector.as_pointer())


def _mod(builder: Any, index: Any, entries: Any, reciprocal: Any) -> Any:
    """index mod entries; reciprocal = floor(2^32 / entries), so the quotient is at most 1 small."""
    wide = ir.VectorType(_INT64, LANES)
    product = builder.mul(builder.zext(index, wide), reciprocal)
    shift = ir.Constant(wide, [32] * LANES)
    quotient = builder.trunc(builder.lshr(product, shift), index.type)
    return _wrap(builder, builder.sub(index, builder.mul(quotient, entries)), entries)


def _wrap(builder: Any, index: Any, entries: Any) -> Any:
    """index mod entries for index < 2 entries."""
    less = builder.sub(index, entries)
    return builder.select(builder.icmp_unsigned("<", index, entries), index, less)


@intrinsic(prefer_literal=True)
def find_cells(
    typing_context: Any, dim: Any, way: Any, points: Any, start: Any, points_stride: Any,
    scale: Any, resolution: Any, entries: Any, smoothstep: Any, rows: Any, weights: Any, i: Any,
    stride: Any,
) -> Any:  # fmt: skip
    """Entries and weights of the corners of the cells of points start .. start + LANES.

    rows[c stride + i + lane] (uint32), weights likewise; coordinate k of a point, in [0, 1], is
    points[k points_stride + start + lane]; `dim` and `way` are constants; nothing is checked.
    """
    num_axes, kind = dim.literal_value, way.literal_value
    size = types.int64
    real = points.dtype
    signature = types.void(
        dim, way, points, size, size, real, size, size, types.boolean, rows, weights, size, size
    )

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        _, _, _, start, points_stride, scale, resolution, entries, smooth, _, _, i, stride = args
        points, rows, weights = (
            array_data(context, builder, kinds[k], args[k]) for k in (2, 9, 10)
        )
        scalar = llvm_float(kinds[2])
        align = kinds[2].dtype.bitwidth // 8
        vector, whole = ir.VectorType(scalar, LANES), ir.VectorType(_INT32, LANES)

        def real(value: float) -> Any:
            return ir.Constant(vector, [value] * LANES)

        def integer(value: int) -> Any:
            return ir.Constant(_INT32, value)

        side = builder.trunc(resolution, _INT32)
        steps = [integer(1), side, builder.mul(side, side)]
        if kind != DENSE:
            steps = [integer(prime) for prime in HASH_PRIMES[:3]]
        scales = splat(builder, scale, LANES)
        low_index, high_index, low_weight, high_weight = [], [], [], []
        for k in range(num_axes):
            offset = builder.add(start, builder.mul(points_stride, ir.Constant(_INT64, k)))
            x = builder.load(_vector_pointer(builder, points, offset, vector), align=align)
            position = builder.fadd(builder.fmul(x, scales, flags=_FLAGS), real(0.5), flags=_FLAGS)
            cell = builder.fptosi(position, whole)
            t = builder.fsub(position, builder.sitofp(cell, vector), flags=_FLAGS)
            slope = builder.fsub(real(3), builder.fmul(real(2), t, flags=_FLAGS), flags=_FLAGS)
            curve = builder.fmul(builder.fmul(t, t, flags=_FLAGS), slope, flags=_FLAGS)
            t = builder.select(smooth, curve, t)
            step = splat(builder, steps[k], LANES)
            low = cell if k == 0 else builder.mul(cell, step)
            low_index.append(low)
            high_index.append(builder.add(low, step))
            low_weight.append(builder.fsub(real(1), t, flags=_FLAGS))
            high_weight.append(t)
        count = splat(builder, builder.trunc(entries, _INT32), LANES)
        mask = builder.sub(count, ir.Constant(whole, [1] * LANES))
        wide = builder.udiv(ir.Constant(_INT64, 1 << 32), entries) if kind == HASHED_ANY else None
        reciprocal = None if wide is None else splat(builder, wide, LANES)
        # Corners share the products and sums of their last axes.
        for corner in range(1 << num_axes):
            upper = [corner >> k & 1 for k in range(num_axes)]
            index = weight = None
            for k in reversed(range(num_axes)):
                axis = (high_index if upper[k] else low_index)[k]
                factor = (high_weight if upper[k] else low_weight)[k]
                if index is None:
                    index, weight = axis, factor
                else:
                    join = builder.add if kind == DENSE else builder.xor
                    index, weight = join(index, axis), builder.fmul(weight, factor)
            if kind == DENSE:
                index = _wrap(builder, index, count)
            elif kind == HASHED:
                index = builder.and_(index, mask)
            else:
                index = _mod(builder, index, count, reciprocal)
            place = builder.add(i, builder.mul(stride, ir.Constant(_INT64, corner)))
            builder.store(index, _vector_pointer(builder, rows, place, whole), align=4)
            builder.store(weight, _vector_pointer(builder, weights, place, vector), align=align)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def gather_lanes(
    typing_context: Any, features: Any, corners: Any, table: Any, first: Any, rows: Any,
    weights: Any, i: Any, stride: Any, out: Any, position: Any,
) -> Any:  # fmt: skip
    """As `gather` of nfields/ops/simd.py for points i .. i + LANES, one after the other in `out`.

    For entries of at most 8 bytes: with AVX-512 one instruction fetches eight of them.
    """
    width, num_corners = features.literal_value, corners.literal_value
    size = types.int64
    signature = types.void(features, corners, table, size, rows, weights, size, size, out, size)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        table, rows, weights, out = (
            array_data(context, builder, kinds[k], args[k]) for k in (2, 4, 5, 8)
        )
        first, i, stride, position = args[3], args[6], args[7], args[9]
        scalar = llvm_float(kinds[2])
        align = kinds[2].dtype.bitwidth // 8
        # An entry is moved as one number of its size; LLVM's gathers know no vectors.
        bits = 8 * align * width
        entry = {32: ir.FloatType(), 64: ir.DoubleType()}[bits]
        group = 512 // bits
        base = builder.gep(table, [builder.mul(first, ir.Constant(_INT64, width))])
        wide = ir.VectorType(_INT64, group)
        bases = splat(builder, builder.ptrtoint(base, _INT64), group)
        sizes = ir.Constant(wide, [bits // 8] * group)
        entries = ir.VectorType(entry, group)
        values = ir.VectorType(scalar, group * width)
        pointers = ir.VectorType(entry.as_pointer(), group)
        name = f"llvm.masked.gather.v{group}{'f32' if bits == 32 else 'f64'}"
        name += f".v{group}p0" + ("f32" if bits == 32 else "f64")
        mask = ir.VectorType(ir.IntType(1), group)
        kind = ir.FunctionType(entries, [pointers, _INT32, mask, entries])
        load = cgutils.get_or_insert_function(builder.module, kind, name)
        for part in range(0, LANES, group):
            total = None
            for corner in range(num_corners):
                j = builder.add(i, builder.mul(stride, ir.Constant(_INT64, corner)))
                j = builder.add(j, ir.Constant(_INT64, part))
                row = builder.load(
                    _vector_pointer(builder, rows, j, ir.VectorType(_INT32, group)), align=4
                )
                weight = builder.load(
                    _vector_pointer(builder, weights, j, ir.VectorType(scalar, group)), align=align
                )
                if width > 1:
                    order = [lane // width for lane in range(group * width)]
                    weight = builder.shuffle_vector(
                        weight, ir.Constant(weight.type, ir.Undefined),
                        ir.Constant(ir.VectorType(_INT32, len(order)), order),
                    )  # fmt: skip
                address = builder.add(bases, builder.mul(builder.zext(row, wide), sizes))
                found = builder.call(
                    load,
                    [
                        builder.inttoptr(address, pointers), ir.Constant(_INT32, align),
                        ir.Constant(mask, [1] * group), ir.Constant(entries, ir.Undefined),
                    ],
                )  # fmt: skip
                term = builder.fmul(builder.bitcast(found, values), weight, flags=_FLAGS)
                total = term if total is None else builder.fadd(total, term, flags=_FLAGS)
            place = builder.add(position, ir.Constant(_INT64, part * width))
            builder.store(total, _vector_pointer(builder, out, place, values), align=align)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic(prefer_literal=True)
def copy_entry(
    typing_context: Any, features: Any, source: Any, start: Any, out: Any, position: Any
) -> Any:
    """out[position + f] = source[start + f] for f < features (a constant), as one vector."""
    width, size = features.literal_value, types.int64
    signature = types.void(features, source, size, out, size)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        source, out = (array_data(context, builder, kinds[k], args[k]) for k in (1, 3))
        vector = ir.VectorType(llvm_float(kinds[1]), width)
        align = kinds[1].dtype.bitwidth // 8
        value = builder.load(_vector_pointer(builder, source, args[2], vector), align=align)
        builder.store(value, _vector_pointer(builder, out, args[4], vector), align=align)
        return context.get_dummy_value()

    return signature, codegen

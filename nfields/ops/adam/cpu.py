"""One step of Adam on the CPU (Numba).

Mapping. One thread a run of BLOCK entries, in one pass over memory where PyTorch's operations make
ten; up to SMALL entries one thread alone, as waking the others takes longer. LANES entries are one
vector, written out: LLVM by itself takes half of AVX-512's width, and asks before each vector
whether the arrays overlap. Of a grid, most vectors have no gradient in a step: those cost one read.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from functools import cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from nfields.jit import njit, prange
from nfields.ops.simd import array_data, llvm_float, splat

BLOCK, LANES = 4096, 16
SMALL = 2 * BLOCK
_FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}
_FLAGS = ("contract", "nsz")


@intrinsic(prefer_literal=True)
def _update_lanes(
    typing_context: Any, skip_zero: Any, param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any,
    i: Any, rate: Any, keep1: Any, keep2: Any, floor: Any, weight_decay: Any,
) -> Any:  # fmt: skip
    """The entries i .. i + LANES of flat arrays; `skip_zero` (0 or 1) is a constant."""
    skips, number = skip_zero.literal_value, param.dtype
    signature = types.void(
        skip_zero, param, grad, exp_avg, exp_avg_sq, types.int64, number, number, number, number,
        number,
    )  # fmt: skip

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kinds = signature.args
        scalar, align = llvm_float(kinds[1]), number.bitwidth // 8
        vector = ir.VectorType(scalar, LANES)
        places = [
            builder.bitcast(
                builder.gep(array_data(context, builder, kinds[k], args[k]), [args[5]]),
                vector.as_pointer(),
            )
            for k in range(1, 5)
        ]
        rate, keep1, keep2, floor, weight_decay = (splat(builder, n, LANES) for n in args[6:])
        zero, one = (ir.Constant(vector, [value] * LANES) for value in (0.0, 1.0))

        def times(a: Any, b: Any) -> Any:
            return builder.fmul(a, b, flags=_FLAGS)

        def plus(a: Any, b: Any) -> Any:
            return builder.fadd(a, b, flags=_FLAGS)

        def update() -> None:
            p, m, v = (builder.load(places[k], align=align) for k in (0, 2, 3))
            g = plus(gradient, times(weight_decay, p))
            new_m = plus(times(keep1, m), times(builder.fsub(one, keep1), g))
            new_v = plus(times(keep2, v), times(times(builder.fsub(one, keep2), g), g))
            name = f"llvm.sqrt.v{LANES}f{number.bitwidth}"
            kind = ir.FunctionType(vector, [vector])
            root = cgutils.get_or_insert_function(builder.module, kind, name)
            scale = plus(builder.call(root, [new_v]), floor)
            new_p = builder.fsub(p, builder.fdiv(times(rate, new_m), scale), flags=_FLAGS)
            for place, old, new in zip(
                (places[0], *places[2:]), (p, m, v), (new_p, new_m, new_v), strict=True
            ):
                value = builder.select(touched, new, old) if skips else new
                builder.store(value, place, align=align)

        gradient = builder.load(places[1], align=align)
        touched = builder.fcmp_unordered("!=", gradient, zero)  # NaN is not 0
        if skips:
            bits = builder.bitcast(touched, ir.IntType(LANES))
            with builder.if_then(builder.icmp_unsigned("!=", bits, ir.Constant(bits.type, 0))):
                update()
        else:
            update()
        return context.get_dummy_value()

    return signature, codegen


@cache
def adam_kernel(is_parallel: bool, skip_zero: bool) -> Any:
    """kernel(...): rate = lr / (1 - b1^t), root2 = sqrt(1 - b2^t); flat arrays, not empty."""
    skips = int(skip_zero)

    @njit(parallel=is_parallel, cache=True, **_FAST)
    def update(
        param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, rate: Any, keep1: Any, keep2: Any,
        root2: Any, eps: Any, weight_decay: Any,
    ) -> None:  # fmt: skip
        size = param.shape[0]
        one = param.dtype.type(1)
        # rate m / (sqrt(v) / root2 + eps), with one division.
        rate, floor = rate * root2, eps * root2
        run = BLOCK if is_parallel else size
        for block in prange((size + run - 1) // run):
            start = np.int64(block) * run
            stop = min(start + run, size)
            last = stop - (stop - start) % LANES
            for i in range(start, last, LANES):
                _update_lanes(
                    skips, param, grad, exp_avg, exp_avg_sq, i, rate, keep1, keep2, floor,
                    weight_decay,
                )  # fmt: skip
            for i in range(last, stop):
                if skips == 1 and grad[i] == 0:
                    continue
                g = grad[i] + weight_decay * param[i]
                m = keep1 * exp_avg[i] + (one - keep1) * g
                v = keep2 * exp_avg_sq[i] + (one - keep2) * g * g
                param[i] -= rate * m / (np.sqrt(v) + floor)
                exp_avg[i] = m
                exp_avg_sq[i] = v

    return update

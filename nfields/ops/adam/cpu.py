"""One step of Adam on the CPU (Numba).

Mapping. One thread a run of BLOCK entries, in one pass over memory where PyTorch's operations make
ten; up to SMALL entries one thread alone, as waking the others takes longer. Of a grid, most
groups of LANES entries have no gradient in a step: those cost one read.
"""

from functools import cache
from typing import Any

import numpy as np

from nfields.jit import njit, prange

BLOCK, LANES = 4096, 16
SMALL = 2 * BLOCK
_FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}


@cache
def adam_kernel(is_parallel: bool) -> Any:
    """kernel(...): rate = lr / (1 - b1^t), root2 = sqrt(1 - b2^t); flat arrays, not empty."""

    @njit(parallel=is_parallel, cache=True, **_FAST)
    def update(
        param: Any, grad: Any, exp_avg: Any, exp_avg_sq: Any, rate: Any, keep1: Any, keep2: Any,
        root2: Any, eps: Any, weight_decay: Any, skip_zero: bool,
    ) -> None:  # fmt: skip
        size = param.shape[0]
        one, zero = param.dtype.type(1), param.dtype.type(0)
        run = BLOCK if is_parallel else size
        for block in prange((size + run - 1) // run):
            stop = min(np.int64(block) * run + run, size)
            for first in range(np.int64(block) * run, stop, LANES):
                last = min(first + LANES, stop)
                if skip_zero:
                    total = zero
                    for i in range(first, last):
                        total += abs(grad[i])
                    if total == zero:
                        continue
                for i in range(first, last):
                    g = grad[i] + weight_decay * param[i]
                    m = keep1 * exp_avg[i] + (one - keep1) * g
                    v = keep2 * exp_avg_sq[i] + (one - keep2) * g * g
                    p = param[i] - rate * m / (np.sqrt(v) / root2 + eps)
                    touched = not skip_zero or grad[i] != zero
                    exp_avg[i] = m if touched else exp_avg[i]
                    exp_avg_sq[i] = v if touched else exp_avg_sq[i]
                    param[i] = p if touched else param[i]

    return update

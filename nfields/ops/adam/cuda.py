"""One step of Adam on CUDA (Triton).

Mapping. One program a run of BLOCK entries, one pass over memory where PyTorch's operations make
ten: 16 bytes read and 12 written an entry. With skip_zero a run without gradient costs its 4 bytes
of gradient alone; of a hash grid that is most of the finest levels. A float16 copy costs 2 bytes of
writing an entry that changes.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit
def adam_kernel(
    param_ptr, grad_ptr, exp_avg_ptr, exp_avg_sq_ptr, copy_ptr, scaling_ptr, numbers_ptr, size,
    rate, root2, lr, num_steps, keep1, keep2, eps, weight_decay, SKIP_ZERO: tl.constexpr,
    HAS_COPY: tl.constexpr, SCALED: tl.constexpr, LOADED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """rate = lr / (1 - b1^t), root2 = sqrt(1 - b2^t); computed here if steps were left out."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    if LOADED:
        rate = tl.load(numbers_ptr).to(tl.float32)
        root2 = tl.load(numbers_ptr + 1).to(tl.float32)
        lr = tl.load(numbers_ptr + 2).to(tl.float32)
        num_steps = tl.load(numbers_ptr + 3).to(tl.float32)
    inverse = 1.0
    if SCALED:
        inverse = tl.load(scaling_ptr)
        size = tl.where(inverse != 0.0, size, 0)  # the step is left out: for no entry
        t = num_steps - tl.load(scaling_ptr + 1)
        rate = lr / (1.0 - tl.exp2(t * tl.log2(keep1)))
        root2 = tl.sqrt(1.0 - tl.exp2(t * tl.log2(keep2)))
    mask = index < size
    gradient = tl.load(grad_ptr + index, mask=mask, other=0.0) * inverse
    # NaN is not 0: it must reach the parameter, where it is found.
    touched = mask & (gradient != 0.0) if SKIP_ZERO else mask
    if tl.max(touched.to(tl.int32), axis=0) > 0:
        p = tl.load(param_ptr + index, mask=touched, other=0.0)
        m = tl.load(exp_avg_ptr + index, mask=touched, other=0.0)
        v = tl.load(exp_avg_sq_ptr + index, mask=touched, other=0.0)
        g = gradient + weight_decay * p
        m = keep1 * m + (1 - keep1) * g
        v = keep2 * v + (1 - keep2) * g * g
        p = p - rate * m / (tl.sqrt(v) / root2 + eps)
        tl.store(param_ptr + index, p, mask=touched)
        tl.store(exp_avg_ptr + index, m, mask=touched)
        tl.store(exp_avg_sq_ptr + index, v, mask=touched)
        if HAS_COPY:
            tl.store(copy_ptr + index, p.to(tl.float16), mask=touched)


def adam(
    param: Tensor, grad: Tensor, exp_avg: Tensor, exp_avg_sq: Tensor, copy: Tensor | None,
    scaling: Tensor | None, numbers: Tensor | None, rate: float, root2: float, lr: float, t: float,
    beta1: float, beta2: float, eps: float, weight_decay: float, skip_zero: bool,
) -> None:  # fmt: skip
    """Changes param, both moments and the copy, all contiguous."""
    size = param.numel()
    if size == 0:
        return
    assert param.dtype == grad.dtype == torch.float32 or param.dtype == torch.float64
    adam_kernel[(triton.cdiv(size, BLOCK),)](
        param, grad.contiguous(), exp_avg, exp_avg_sq, param if copy is None else copy,
        param if scaling is None else scaling, param if numbers is None else numbers, size, rate,
        root2, lr, t, beta1, beta2, eps, weight_decay, SKIP_ZERO=skip_zero,
        HAS_COPY=copy is not None, SCALED=scaling is not None, LOADED=numbers is not None,
        BLOCK=BLOCK,
    )  # fmt: skip

"""Operation adam: one step of Adam on one tensor, in place.

Contract
    param, grad, exp_avg, exp_avg_sq   same shape, dtype and device; all but grad are changed
    num_steps   1 for the first step
    skip_zero   entries whose gradient is exactly 0 keep value and moments (tiny-cuda-nn does so for
                grids: most entries see no sample in a step and would drift on stale moments)
    scaling     None, or (2,) float32 on the same device (nfields/loss_scale.py): what the gradient
                is multiplied by, 0 leaves the step out, and how many steps were left out before
    copy        None, or param in float16, which CUDA's kernel keeps equal to it
    numbers     None, or (4,) float64 on the same device, what `step_numbers` says of lr, betas and
                num_steps, which then do not count: a step in a CUDA graph finds them there

Not differentiable. Deterministic for any number of threads. NaN gradients make NaN parameters.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from torch import Tensor

from nfields.ops.adam import cpu
from nfields.ops.adam.reference import adam_reference, step_numbers
from nfields.ops.backend import cuda_function, uses_reference, uses_triton

__all__ = ["adam", "step_numbers"]

_ON_DEVICE = (0.0, 1.0, 0.0, 1.0)  # for a kernel that finds its numbers in memory

_adam_on_cuda = cuda_function("nfields.ops.adam.cuda:adam")


def adam(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    weight_decay: float,
    num_steps: int,
    skip_zero: bool,
    scaling: Tensor | None = None,
    copy: Tensor | None = None,
    numbers: Tensor | None = None,
    backend: str = "auto",
) -> None:
    """Changes param, both moments and the copy; see the module's contract."""
    known = _ON_DEVICE if numbers is not None else step_numbers(lr, betas, num_steps)
    options = (*betas, eps, weight_decay, skip_zero)
    tensors = (param, grad, exp_avg, exp_avg_sq)
    is_flat = all(tensor.is_contiguous() for tensor in (param, exp_avg, exp_avg_sq))
    if uses_reference(backend, "adam", param) or not is_flat:
        adam_reference(*tensors, scaling, known if numbers is None else numbers, *options)
        return
    if uses_triton(param):
        _adam_on_cuda(*tensors, copy, scaling, numbers, *known, *options)
        return
    if numbers is not None:
        known = numbers.tolist()
    rate, root2, lr, t = known
    if scaling is not None:
        inverse, left_out = scaling.tolist()
        if inverse == 0:
            return
        tensors = (param, grad * inverse, *tensors[2:])
        rate, root2, *_ = step_numbers(lr, betas, round(t - left_out))
    arrays = [tensor.detach().contiguous().view(-1).numpy() for tensor in tensors]
    kind = arrays[0].dtype.type
    beta1, beta2 = betas
    if not len(arrays[0]):
        return
    cpu.adam_kernel(len(arrays[0]) > cpu.SMALL, skip_zero)(
        *arrays, kind(rate), kind(beta1), kind(beta2), kind(root2), kind(eps), kind(weight_decay)
    )

"""One step of Adam in plain PyTorch: the definition.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
    p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

with g the gradient plus weight_decay p (L2, arXiv:1412.6980). t counts steps; those that `scaling`
left out do not count.
"""

import torch
from torch import Tensor


def adam_reference(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    scaling: Tensor | None,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    num_steps: int,
    skip_zero: bool,
) -> None:
    touched = (grad != 0).to(grad.dtype) if skip_zero else grad.new_ones(())
    t: Tensor | int = num_steps
    if scaling is not None:
        inverse, left_out = scaling.to(grad.dtype)
        is_taken = inverse != 0
        touched = touched * is_taken
        grad = torch.where(is_taken, grad * inverse, 0)
        t = (num_steps - left_out).clamp(min=1)
    correction1, correction2 = 1 - beta1**t, 1 - beta2**t
    grad = grad.add(param, alpha=weight_decay)
    exp_avg.lerp_(grad, touched * (1 - beta1))
    exp_avg_sq.lerp_(grad * grad, touched * (1 - beta2))
    scale = exp_avg_sq.sqrt().div_(correction2**0.5).add_(eps)
    param.sub_((lr / correction1) * (exp_avg * touched) / scale)

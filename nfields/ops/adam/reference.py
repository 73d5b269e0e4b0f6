"""One step of Adam in plain PyTorch: the definition.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
    p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

with g the gradient plus weight_decay p (L2, arXiv:1412.6980). t counts steps; those that `scaling`
left out do not count.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def step_numbers(
    lr: float, betas: tuple[float, float], num_steps: int
) -> tuple[float, float, float, float]:
    """What changes from step to step: lr / (1 - b1^t), sqrt(1 - b2^t), lr and t."""
    beta1, beta2 = betas
    root2 = (1 - beta2**num_steps) ** 0.5
    return lr / (1 - beta1**num_steps), root2, lr, float(num_steps)


def adam_reference(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    scaling: Tensor | None,
    numbers: Sequence[float] | Tensor,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    skip_zero: bool,
) -> None:
    """`numbers` are those of `step_numbers`, or a tensor of them."""
    touched = (grad != 0).to(grad.dtype) if skip_zero else grad.new_ones(())
    rate, root2, lr, t = numbers
    if scaling is not None:
        inverse, left_out = scaling.to(grad.dtype)
        is_taken = inverse != 0
        touched = touched * is_taken
        grad = torch.where(is_taken, grad * inverse, 0)
        t = (t - left_out).clamp(min=1)
        rate, root2 = lr / (1 - beta1**t), (1 - beta2**t) ** 0.5
    grad = grad.add(param, alpha=weight_decay)
    exp_avg.lerp_(grad, touched * (1 - beta1))
    exp_avg_sq.lerp_(grad * grad, touched * (1 - beta2))
    scale = exp_avg_sq.sqrt().div_(root2).add_(eps)
    param.sub_(rate * (exp_avg * touched) / scale)

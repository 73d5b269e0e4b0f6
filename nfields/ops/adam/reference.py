"""One step of Adam in plain PyTorch: the definition.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
    p <- p - lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

with g the gradient plus weight_decay p (L2, arXiv:1412.6980).
"""

from torch import Tensor


def adam_reference(
    param: Tensor,
    grad: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    num_steps: int,
    skip_zero: bool,
) -> None:
    correction1, correction2 = 1 - beta1**num_steps, 1 - beta2**num_steps
    touched = (grad != 0).to(grad.dtype) if skip_zero else grad.new_ones(())
    grad = grad.add(param, alpha=weight_decay)
    exp_avg.lerp_(grad, touched * (1 - beta1))
    exp_avg_sq.lerp_(grad * grad, touched * (1 - beta2))
    scale = exp_avg_sq.sqrt().div_(correction2**0.5).add_(eps)
    param.addcdiv_(exp_avg * touched, scale, value=-lr / correction1)

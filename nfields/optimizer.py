"""Adam for neural fields: named parameter groups, grid entries without gradient left alone.

    m <- b1 m + (1 - b1) g,   v <- b2 v + (1 - b2) g^2,
    p <- p - lr * (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)

with g the gradient plus weight_decay * p (L2, arXiv:1412.6980). In a sparse group, entries whose
gradient is exactly zero keep their value and their moments: most entries of a hash grid see no
sample in a step, and would otherwise drift on stale moments. t counts steps of the whole tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class ParameterGroup:
    """Parameters that share options; `is_sparse`: entries with a gradient of 0 are skipped."""

    name: str
    params: list[nn.Parameter]
    lr: float
    weight_decay: float = 0.0
    is_sparse: bool = False


class Adam(torch.optim.Optimizer):
    """Adam whose state (step, exp_avg, exp_avg_sq) exists from the start, so that it can be loaded.

    Each group carries `initial_lr`; who schedules sets group["lr"] = group["initial_lr"] * factor.
    """

    def __init__(self, groups: Sequence[ParameterGroup], betas: tuple[float, float], eps: float):
        options = [
            {
                "name": group.name,
                "params": group.params,
                "lr": group.lr,
                "initial_lr": group.lr,
                "weight_decay": group.weight_decay,
                "is_sparse": group.is_sparse,
            }
            for group in groups
            if group.params
        ]
        super().__init__(options, {"betas": tuple(betas), "eps": eps})
        for group in self.param_groups:
            for param in group["params"]:
                self.state[param] = {
                    "step": torch.zeros((), dtype=torch.int64),
                    "exp_avg": torch.zeros_like(param),
                    "exp_avg_sq": torch.zeros_like(param),
                }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns nothing, after one step on every gradient there is; takes no closure."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    _update(param, self.state[param], group)


def _update(param: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    grad, exp_avg, exp_avg_sq = param.grad, state["exp_avg"], state["exp_avg_sq"]
    assert grad is not None
    beta1, beta2 = group["betas"]
    state["step"] += 1
    num_steps = int(state["step"])
    correction1, correction2 = 1 - beta1**num_steps, 1 - beta2**num_steps
    touched = (grad != 0) if group["is_sparse"] else None
    if group["weight_decay"] != 0:
        grad = grad.add(param, alpha=group["weight_decay"])
    if touched is None:
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        update = exp_avg
    else:
        touched = touched.to(grad.dtype)
        exp_avg.lerp_(grad, touched * (1 - beta1))
        exp_avg_sq.lerp_(grad * grad, touched * (1 - beta2))
        update = exp_avg * touched
    scale = exp_avg_sq.sqrt().div_(correction2**0.5).add_(group["eps"])
    param.addcdiv_(update, scale, value=-group["lr"] / correction1)

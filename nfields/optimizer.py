"""Adam for neural fields: named parameter groups, grid entries without gradient left alone.

The step itself is nfields/ops/adam. In a sparse group, entries whose gradient is exactly zero keep
their value and their moments. t counts steps of the whole tensor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.ops.adam import adam, step_numbers
from nfields.ops.half_copy import kept_copy

# Parameters of a step, each with its group's options.
Due = Sequence[tuple[dict[str, Any], Tensor]]


@dataclass
class ParameterGroup:
    """Parameters that share options.

    is_sparse      entries with a gradient of 0 are skipped
    betas          Adam's two decays; None: the trainer's
    final_lr_part  by the end of the budget the rate has fallen, evenly in its logarithm, to this
                   part of what it would be
    pull           every step takes lr * pull of the values away (decoupled weight decay,
                   arXiv:1711.05101): what a gradient says less clearly than its noise goes to zero
    """

    name: str
    params: list[nn.Parameter]
    lr: float
    weight_decay: float = 0.0
    is_sparse: bool = False
    betas: tuple[float, float] | None = None
    final_lr_part: float = 1.0
    pull: float = 0.0


class Adam(torch.optim.Optimizer):
    """Adam whose state (step, exp_avg, exp_avg_sq) exists from the start, so that it can be loaded.

    `set_rates` schedules them.
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
                "betas": group.betas or betas,
                "final_lr_part": group.final_lr_part,
                "pull": group.pull,
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

    def set_rates(self, factor: float, progress: float) -> None:
        """Sets every group's rate, after the used part of the budget, to factor times its own."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * factor * group["final_lr_part"] ** progress

    @torch.no_grad()
    def step(self, closure: None = None, scaling: Tensor | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Returns nothing, after one step on every gradient there is; takes no closure.

        `scaling` is what gradients were scaled by: `nfields.loss_scale.LossScale.judge`.
        """
        due = self.due()
        self.count(due)
        self.update(due, scaling, None)

    def due(self) -> list[tuple[dict[str, Any], Tensor]]:
        """The parameters that have a gradient, each with its group."""
        pairs = [(group, param) for group in self.param_groups for param in group["params"]]
        return [(group, param) for group, param in pairs if param.grad is not None]

    def count(self, due: Due) -> None:
        """Counts a step of these parameters."""
        for _, param in due:
            self.state[param]["step"] += 1

    def numbers(self, due: Due) -> Float[Tensor, "params 4"]:
        """What changes from step to step, for the next one: float64 rows of `step_numbers`."""
        steps = [int(self.state[param]["step"]) + 1 for _, param in due]
        rows = [
            step_numbers(group["lr"], group["betas"], step)
            for (group, _), step in zip(due, steps, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float64).view(-1, 4)

    @torch.no_grad()
    def update(
        self, due: Due, scaling: Tensor | None, numbers: Float[Tensor, "params 4"] | None
    ) -> None:
        """Changes weights and moments, with `numbers` on their device or those of the host."""
        for index, (group, param) in enumerate(due):
            state = self.state[param]
            assert param.grad is not None, f"{group['name']} has no gradient"
            if group["pull"] > 0:
                lr = group["lr"] if numbers is None else numbers[index, 2]
                param.mul_(1 - lr * group["pull"])
            adam(
                param.detach(),
                param.grad,
                state["exp_avg"],
                state["exp_avg_sq"],
                lr=group["lr"],
                betas=group["betas"],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
                num_steps=int(state["step"]) if numbers is None else 0,
                skip_zero=group["is_sparse"],
                scaling=scaling,
                copy=kept_copy(param),
                numbers=None if numbers is None else numbers[index],
            )

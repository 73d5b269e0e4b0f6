"""What the trainer sees of a task: batches in, named losses and measures out.

A task says what the values of a field mean. It never knows which model it was given, nor the
optimiser. State that decides the future of a run (an occupancy grid, the number of rays) lives in
buffers, so that `state_dict()` is complete and resuming equals never having stopped.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nfields.model.field import Field
from nfields.optimizer import ParameterGroup


@dataclass
class StepResult:
    """What one training step computed; the total loss is the sum of `losses`.

    On a GPU numbers stay there, as tensors: nobody waits for them.
    """

    losses: dict[str, Tensor]  # named scalars, already weighted
    # Shown and logged as means over the steps between two log lines.
    measures: Mapping[str, float | Tensor]
    num_samples: int | Tensor  # evaluations of the field
    num_items: int  # rays, pixels or points of the batch


def measure(value: Tensor) -> float | Tensor:
    """A number for the log; on a GPU it stays there, as nobody waits for it."""
    return value.item() if value.device.type == "cpu" else value.detach()


class Task(nn.Module, ABC):
    """A contract without behaviour: every task implements all of it.

    All randomness comes from the generator that is passed in (a CPU generator of the trainer).
    The trainer runs `before_step`, `batch`, `losses`, `after_step` once for nothing, to compile
    kernels, and puts parameters, buffers and the generator back: no state may hide elsewhere.
    """

    in_dim: int
    out_dim: int
    # True: several processes share an evaluation, False: the first does it alone.
    shares_evaluation = False
    # Set by a trainer that captures steps as CUDA graphs: a batch is then to have the shapes of the
    # one before, if it can.
    holds_shapes = False
    data: Any  # its `notes`, sentences about what was skipped or assumed, are shown at the start

    @abstractmethod
    def prepare(self, model: Field, generator: torch.Generator) -> None:
        """Initialises the model from real samples; called once for a new run, never on resume."""

    @abstractmethod
    def before_step(self, model: Field, step: int, generator: torch.Generator) -> None:
        """Runs what a step needs first, such as an occupancy update; counts as training time."""

    @abstractmethod
    def batch(self, generator: torch.Generator) -> Any:
        """Draws one training batch, on the device of the task: a tensor or a NamedTuple of them."""

    @abstractmethod
    def losses(self, model: Field, batch: Any) -> StepResult:
        """Returns losses and measures of a batch; changes neither the model nor the task.

        On a GPU it may run once for many batches of the same shapes (nfields/step_graph.py): what
        it reads besides the batch is then to be tensors that are changed in place.
        """

    @abstractmethod
    def after_step(self, model: Field, result: StepResult, step: int) -> None:
        """Adapts the task to the step just done, such as the number of rays of the next one."""

    @abstractmethod
    def halve_step(self) -> str | None:
        """Halves what a step computes, as its memory ran out; returns the option and its new value.

        None, and nothing changes, where half of it would be nothing.
        """

    @abstractmethod
    def validate(self, model: Field, generator: torch.Generator | None) -> dict[str, float]:
        """Returns measures on a few held-out items, such as {"psnr": 30.1}, in seconds."""

    @abstractmethod
    def evaluate(self, model: Field, folder: Path, limit: int | None) -> dict[str, Any]:
        """Returns all metrics (flat means, "per_image", "protocol"); pictures go to `folder`."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """Returns the groups of the task's own parameters (heads); may be empty."""

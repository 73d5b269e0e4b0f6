"""Everything that decides the future of a run, and how it is saved, loaded and put back.

That is: weights and buffers of model and task, the optimiser's moments, the average of the weights,
the scale of the loss,
the states of the random generators, the counts of steps, seconds and samples, the last validation
and the sums behind the next line of the log.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from nfields.checkpoint import (
    CheckpointError,
    changed_options,
    copy_tensors,
    named_tensors,
    read_state,
    read_tensors,
    write_checkpoint,
)
from nfields.ema import WeightAverage
from nfields.loss_scale import LossScale
from nfields.model.field import Field
from nfields.optimizer import Adam
from nfields.run_folder import RunFolder
from nfields.running_mean import RunningMean
from nfields.task.task import Task


@dataclass
class TrainingState:
    """The parts of a run in the middle of training; `generator` lives on the CPU."""

    model: Field
    task: Task
    optimizer: Adam
    average: WeightAverage | None
    generator: torch.Generator
    loss_scale: LossScale | None = None  # of trainer.precision=fp16
    step: int = 0
    num_samples: int | Tensor = 0  # a tensor on a GPU
    compile_seconds: float = 0.0
    prepare_seconds: float = 0.0
    peak_memory_bytes: int = 0
    validation: dict[str, float] = field(default_factory=dict)
    running: RunningMean = field(default_factory=RunningMean)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Returns what owns weights and buffers, under the names that checkpoints use."""
        return {"model": self.model, "task": self.task}

    def save(self, run: RunFolder, seconds: float) -> None:
        """Writes the checkpoint of a run; the one before survives if this fails."""
        tensors = {
            "weights": named_tensors(self.modules),
            "optimizer": optimizer_tensors(self.optimizer),
            "random": self._random_states(),
        }
        if self.average is not None:
            tensors["ema"] = self.average.averages
        if self.loss_scale is not None:
            tensors["loss_scale"] = {"numbers": self.loss_scale.numbers}
        state = {
            "step": self.step,
            "seconds": seconds,
            "num_samples": int(self.num_samples),
            "compile_seconds": self.compile_seconds,
            "prepare_seconds": self.prepare_seconds,
            "peak_memory_bytes": self.peak_memory_bytes,
            "num_averaged": 0 if self.average is None else self.average.num_updates,
            "validation": self.validation,
            "running": self.running.state(),
            "config": run.config(),
        }
        write_checkpoint(run.checkpoint, tensors, state)

    def load(self, source: RunFolder, config: Mapping[str, Any]) -> float:
        """Returns the seconds of training so far, after taking over the checkpoint of `source`.

        `config` holds the options of the present run, to name those that changed in an error.
        """
        folder = source.checkpoint
        state = read_state(folder)
        changes = changed_options(state, config)
        if ("ema.safetensors" in state["files"]) != (self.average is not None):
            was, now = ("on", "null") if self.average is None else ("null", "on")
            raise CheckpointError(
                f"trainer.ema was {was} when {folder} was written and is {now} now; set it back"
            )
        targets = {
            "weights": named_tensors(self.modules),
            "optimizer": optimizer_tensors(self.optimizer),
        }
        if self.average is not None:
            targets["ema"] = self.average.averages
            self.average.num_updates = state["num_averaged"]
        if self.loss_scale is not None and "loss_scale.safetensors" in state["files"]:
            targets["loss_scale"] = {"numbers": self.loss_scale.numbers}
        for name, target in targets.items():
            copy_tensors(folder, read_tensors(folder, name), target, changes)
        self._load_random_states(read_tensors(folder, "random"))
        self.step = state["step"]
        self.num_samples = state["num_samples"]
        self.compile_seconds = state["compile_seconds"]
        self.prepare_seconds = state["prepare_seconds"]
        self.peak_memory_bytes = state["peak_memory_bytes"]
        self.validation = state["validation"]
        self.running.load_state(state["running"])
        return state["seconds"]

    @contextmanager
    def put_back(self) -> Iterator[None]:
        """Lets anything happen inside the context and undoes it after: a rehearsal of a step."""
        kept = [
            *(p for module in self.modules.values() for p in module.parameters()),
            *optimizer_tensors(self.optimizer).values(),
            *([] if self.loss_scale is None else [self.loss_scale.numbers]),
        ]
        copies = [tensor.detach().clone() for tensor in kept]
        # A step may replace a buffer by another tensor, even of another size.
        buffers = [
            (part, name, buffer, buffer.clone())
            for module in self.modules.values()
            for part in module.modules()
            for name, buffer in part.named_buffers(recurse=False)
        ]
        random_states = self._random_states()
        try:
            yield
        finally:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                for tensor, copy in zip(kept, copies, strict=True):
                    tensor.copy_(copy)
                for part, name, buffer, copy in buffers:
                    setattr(part, name, buffer.copy_(copy))
            self._load_random_states(random_states)

    def tensors(self) -> list[Tensor]:
        """Returns all tensors that decide the future, but for the states of random generators."""
        averages = {} if self.average is None else self.average.averages
        named = (named_tensors(self.modules), optimizer_tensors(self.optimizer), averages)
        scale = [] if self.loss_scale is None else [self.loss_scale.numbers]
        return [*(tensor for part in named for tensor in part.values()), *scale]

    def bad_weights(self) -> list[str]:
        """Returns the names of parameters that hold NaN or infinite values."""
        return [
            f"{prefix}.{name}"
            for prefix, module in self.modules.items()
            for name, param in module.named_parameters()
            if not bool(torch.isfinite(param).all())
        ]

    def _random_states(self) -> dict[str, Tensor]:
        # The global states only matter to models and tasks that break the rule and use them.
        states = {"generator": self.generator.get_state(), "torch": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            for index, state in enumerate(torch.cuda.get_rng_state_all()):
                states[f"cuda.{index}"] = state
        return states

    def _load_random_states(self, states: Mapping[str, Tensor]) -> None:
        self.generator.set_state(states["generator"])
        torch.set_rng_state(states["torch"])
        for index in range(torch.cuda.device_count() if torch.cuda.is_initialized() else 0):
            if f"cuda.{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda.{index}"], index)


def optimizer_tensors(optimizer: Adam) -> dict[str, Tensor]:
    """Returns the optimiser's state as {"grid.0.exp_avg": ...}: group, parameter, moment."""
    return {
        f"{group['name']}.{index}.{key}": value
        for group in optimizer.param_groups
        for index, param in enumerate(group["params"])
        for key, value in optimizer.state[param].items()
    }


def named_parameters(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Returns all parameters, under the names that checkpoints use."""
    return {
        f"{prefix}.{name}": param
        for prefix, module in modules.items()
        for name, param in module.named_parameters()
    }

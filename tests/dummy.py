"""A field and a task as small as they get, with every kind of state a real one has.

The field is a table on [-1, 1] plus a linear readout; the task fits it to sin(4 x). The task adapts
its batch size and keeps a grid that random updates fill, as tasks with rays do.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import ParameterGroup
from nfields.run_folder import RunFolder
from nfields.task.task import StepResult, Task
from nfields.trainer import Trainer

NUM_ENTRIES = 32


class DummyField(Field):
    """Looks up the nearest of `num_entries` entries; most of them get no gradient in a step."""

    def __init__(self, num_entries: int = NUM_ENTRIES, lr: float = 0.05):
        super().__init__()
        self.in_dim, self.out_dim, self.hidden_dim, self.lr = 1, 1, 4, lr
        self.table = nn.Parameter(torch.zeros(num_entries, 4))
        self.readout = nn.Linear(4, 1)

    def forward(
        self, x: Float[Tensor, "n d"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n c"]:
        assert groups is None
        index = ((x[:, 0] + 1) / 2 * (len(self.table) - 1)).round().long()
        return self.readout(self.table[index])

    def kernels(self, x: Float[Tensor, "n d"]) -> Kernels | None:
        return None

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        with torch.no_grad():
            self.table.normal_(generator=generator)
            self.readout.weight.normal_(generator=generator)
            self.readout.bias.zero_()

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup("table", [self.table], self.lr, is_sparse=True),
            ParameterGroup("readout", [*self.readout.parameters()], self.lr, weight_decay=1e-4),
        ]


class DummyTask(Task):
    """Fits sin(4 x); `calls` records what the trainer asked for, and is no state of the run."""

    grid: Tensor
    num_items: Tensor
    num_steps: Tensor

    def __init__(self, bad_step: int | None = None, bad_value: float = float("nan")):
        super().__init__()
        self.in_dim, self.out_dim, self.data = 1, 1, None
        self.bad_step, self.bad_value = bad_step, bad_value
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("grid", torch.zeros(8))
        self.register_buffer("num_items", torch.tensor(4))
        self.register_buffer("num_steps", torch.tensor(0))
        self.most_items = 8
        self.calls: list[str] = []

    def prepare(self, model: nn.Module, generator: torch.Generator) -> None:
        self.calls.append("prepare")
        assert isinstance(model, DummyField)
        model.initialize(Samples.uniform(torch.rand(16, 1, generator=generator)), generator)

    def before_step(self, model: nn.Module, step: int, generator: torch.Generator) -> None:
        self.calls.append("before_step")
        self.grid = self.grid * 0.9 + torch.rand(8, generator=generator)

    def batch(self, generator: torch.Generator) -> Any:
        return torch.rand(min(int(self.num_items), self.most_items), 1, generator=generator) * 2 - 1

    def losses(self, model: nn.Module, batch: Any) -> StepResult:
        error = model(batch) * self.scale - torch.sin(4 * batch)
        fit = (error**2).mean() * (1 + 0.01 * self.grid.mean())
        if self.bad_step is not None and int(self.num_steps) == self.bad_step:
            fit = fit * self.bad_value
        losses = {"fit": fit, "size": 1e-3 * (self.scale - 1) ** 2}
        return StepResult(losses, {"psnr": float(-10 * fit.detach().log10())}, 10, len(batch))

    def after_step(self, model: nn.Module, result: StepResult, step: int) -> None:
        self.num_steps += 1
        self.num_items.fill_(4 + int(result.losses["fit"].item() * 1e4) % 5)

    def halve_step(self) -> str | None:
        self.calls.append("halve_step")
        if self.most_items < 2:
            return None
        self.most_items //= 2
        return f"task.most_items={self.most_items}"

    def validate(self, model: nn.Module, generator: torch.Generator | None) -> dict[str, float]:
        self.calls.append("validate")
        assert not model.training
        x = torch.rand(64, 1, generator=generator) * 2 - 1
        with torch.no_grad():
            error = model(x) * self.scale - torch.sin(4 * x)
        return {"psnr": float(-10 * (error**2).mean().log10())}

    def evaluate(self, model: nn.Module, folder: Path, limit: int | None) -> dict[str, Any]:
        return dict(self.validate(model, torch.Generator().manual_seed(0)))

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("scale", [self.scale], 0.01)]


def make_trainer(**changes: Any) -> Trainer:
    """Returns a trainer with short intervals; `changes` are options of Trainer."""
    options: dict[str, Any] = {
        "max_steps": 30,
        "max_time": None,
        "stop_at": {},
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "deterministic": False,
        "cuda_graph": "auto",
        "betas": (0.9, 0.99),
        "eps": 1e-15,
        "warmup_steps": 5,
        "decay": "exponential",
        "decay_start": 0.5,
        "final_lr_factor": 0.1,
        "ema": None,
        "log_every": 4,
        "eval_every": None,
        "checkpoint_every": None,
        "progress_every": 1000.0,
        "snapshots": 0,
        "viewer": False,
    }
    return Trainer(**(options | changes))


def fit(
    path: Path,
    task: DummyTask | None = None,
    field: DummyField | None = None,
    resume_from: RunFolder | None = None,
    loggers: Sequence[Any] = (),
    **changes: Any,
) -> tuple[Any, DummyField, DummyTask]:
    """Returns summary, field and task of a run in `path` with seed 3."""
    torch.manual_seed(0)  # noqa: TID251 - checkpoints hold the global state too; tests compare it
    task, field = task or DummyTask(), field or DummyField()
    summary = make_trainer(**changes).fit(
        task, field, RunFolder(path), loggers, seed=3, resume_from=resume_from
    )
    return summary, field, task

"""The smallest task, model and data there are, for tests of what stands above them.

The task is to fit y = x on [-1, 1]; the model has two numbers. The classes pose as the module
nfields.probe, since a configuration may name nothing outside nfields.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import ParameterGroup
from nfields.task.task import StepResult
from nfields.task.task import Task as TaskContract

PAIR = ["task=probe", "model=probe"]

FILES = {
    "task/probe.yaml": """\
defaults:
  - override /data@_global_.data: first
_target_: nfields.probe.Task
rate: 1.0
head: task
""",
    "model/probe.yaml": """\
_target_: nfields.probe.Model
num_levels: 4
backend: auto
sizes: [1, 2]
bound: null
decoder: {_target_: nfields.probe.Decoder, width: 8}
""",
    "model_task/probe_probe.yaml": """\
# @package _global_
task: {head: pair, rate: 2.0}
model: {num_levels: 5}
""",
    "data/first.yaml": "{_target_: nfields.probe.Data, path: null, source: first}",
    "data/second.yaml": "{_target_: nfields.probe.Data, path: null, source: second}",
    "experiment/probe.yaml": """\
# @package _global_
defaults:
  - override /data: second
  - override /task: probe
  - override /model: probe
seed: 7
task: {head: experiment}
trainer: {max_steps: 11}
""",
    "experiment/values.yaml": """\
# @package _global_
task: {head: experiment}
""",
}


class Data:
    def __init__(self, *, path: str | None, source: str):
        self.source = source

    def card(self) -> dict[str, Any]:
        return {"class": "nfields.probe.Data", "source": self.source}

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> "Data":
        return cls(path=None, source=card["source"])


class Task(TaskContract):
    in_dim = 1
    out_dim = 1

    def __init__(self, *, data: Data, rate: float, head: str):
        super().__init__()
        self.data = data

    def prepare(self, model: nn.Module, generator: torch.Generator) -> None:
        pass

    def before_step(self, model: nn.Module, step: int, generator: torch.Generator) -> None:
        pass

    def batch(self, generator: torch.Generator) -> Tensor:
        return 2 * torch.rand(16, 1, generator=generator) - 1

    def losses(self, model: nn.Module, batch: Tensor) -> StepResult:
        return StepResult({"fit": (model(batch) - batch).square().mean()}, {}, 16, 16)

    def after_step(self, model: nn.Module, result: StepResult, step: int) -> None:
        pass

    def halve_step(self) -> str | None:
        return None

    def validate(self, model: nn.Module, generator: torch.Generator | None) -> dict[str, float]:
        return {"psnr": 20.0}

    def evaluate(self, model: nn.Module, folder: Path, limit: int | None) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "picture.png").write_bytes(b"")
        return {"psnr": 20.0, "per_image": [], "protocol": {"source": self.data.source}}

    def parameter_groups(self) -> list[ParameterGroup]:
        return []


class Decoder:
    def __init__(self, *, width: int):
        self.width = width


class Model(Field):
    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        num_levels: int,
        backend: Literal["auto", "reference"],
        sizes: Sequence[int],
        bound: float | None,
        decoder: Decoder,
    ):
        super().__init__()
        if num_levels > 16:
            raise ConfigError(f"model.num_levels={num_levels} exceeds 16; lower it")
        self.in_dim, self.out_dim, self.sizes, self.decoder = in_dim, out_dim, sizes, decoder
        self.readout = nn.Linear(in_dim, out_dim)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(self, x: Tensor, groups: GroupReadout | None = None) -> Tensor:
        return self.readout(x)

    def kernels(self, x: Tensor) -> Kernels | None:
        return None

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        pass

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("readout", list(self.readout.parameters()), lr=0.01)]


def install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The override that adds the probe to the configurations, whose files are put into `folder`."""
    module = ModuleType("nfields.probe")
    for kind in (Task, Model, Decoder, Data):
        monkeypatch.setattr(kind, "__module__", "nfields.probe")
        setattr(module, kind.__name__, kind)
    module.__dict__["exit"] = sys.exit  # something that is only imported there
    monkeypatch.setitem(sys.modules, "nfields.probe", module)
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return f"hydra.searchpath=[file://{folder}]"

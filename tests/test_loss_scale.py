"""trainer.precision=fp16: the scale of the loss changes no step, and the host waits for none."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import nfields.loss_scale
from nfields.checkpoint import read_tensors
from nfields.config import compose
from nfields.errors import ConfigError
from nfields.loss_scale import START, LossScale
from nfields.ops.backend import matrix_products
from nfields.ops.half_copy import kept_copy
from nfields.run_folder import RunFolder
from nfields.trainer import Trainer, TrainingDiverged
from tests.device_waits import counted_waits, on_meta
from tests.distributed_worker import RUNS
from tests.dummy import DummyField, DummyTask, make_trainer


class BadGradients(DummyTask):
    """A task with a gradient that is not finite in some steps; its loss is finite."""

    def __init__(self, bad_steps: Any):
        super().__init__()
        self.bad_steps = bad_steps

    def before_step(self, model: nn.Module, step: int, generator: torch.Generator) -> None:
        super().before_step(model, step, generator)
        self.is_bad = step in self.bad_steps

    def losses(self, model: nn.Module, batch: Any) -> Any:
        result = super().losses(model, batch)
        if self.is_bad:
            name = next(iter(result.losses))
            result.losses[name] = Explode.apply(result.losses[name])
        return result


class Explode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient * math.inf


def scaled_trainer(**changes: Any) -> Trainer:
    """A trainer with a scale of the loss on the CPU, where users are refused one."""
    trainer = make_trainer(**changes)
    trainer.precision = "fp16"
    return trainer


def fit(path: Path, trainer: Trainer, task: DummyTask, resume: bool = False) -> DummyField:
    field = DummyField()
    folder = RunFolder(path)
    trainer.fit(task, field, folder, (), seed=3, resume_from=folder if resume else None)
    return field


def numbers(path: Path) -> list[float]:
    return read_tensors(RunFolder(path).checkpoint, "loss_scale")["numbers"].tolist()


def test_a_power_of_two_changes_no_bit(tmp_path: Path) -> None:
    plain = fit(tmp_path / "plain", make_trainer(), DummyTask())
    scaled = fit(tmp_path / "scaled", scaled_trainer(), DummyTask())
    for expected, found in zip(plain.parameters(), scaled.parameters(), strict=True):
        assert torch.equal(found, expected)
    assert numbers(tmp_path / "scaled") == [START, 30, 0]


def test_bad_gradients_leave_their_steps_out(tmp_path: Path) -> None:
    field = fit(tmp_path, scaled_trainer(), BadGradients({3, 4, 10}))
    assert numbers(tmp_path) == [START / 8, 19, 3]
    assert all(p.isfinite().all() for p in field.parameters())


def test_a_resumed_run_goes_on_to_the_bit(tmp_path: Path) -> None:
    def train(name: str, max_steps: int, resume: bool = False) -> DummyField:
        trainer = scaled_trainer(max_steps=max_steps, decay="constant")
        return fit(tmp_path / name, trainer, BadGradients({3, 10, 20}), resume)

    whole = train("whole", 30)
    train("parts", 15)
    assert numbers(tmp_path / "parts") == [START / 4, 4, 2]
    parts = train("parts", 30, resume=True)
    assert numbers(tmp_path / "parts") == numbers(tmp_path / "whole") == [START / 8, 9, 3]
    for found, expected in zip(parts.parameters(), whole.parameters(), strict=True):
        assert torch.equal(found, expected)


def test_the_scale_doubles_after_good_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nfields.loss_scale, "GROWTH_STEPS", 3)
    scale, parameter = LossScale(torch.device("cpu")), nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    found = []
    for _ in range(7):
        scale.judge([parameter])
        found.append(scale.value() / START)
    assert found == [1, 1, 2, 2, 2, 4, 4]
    for _ in range(40):
        scale.judge([parameter])
    assert scale.value() == nfields.loss_scale.LARGEST


def test_judgement_is_what_the_optimiser_takes() -> None:
    scale, parameter = LossScale(torch.device("cpu")), nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([1.0, math.nan])
    assert scale.judge([parameter]).tolist() == [0, 0]
    parameter.grad = torch.tensor([1.0, 2.0])
    assert scale.judge([parameter]).tolist() == [2 / START, 1]
    assert scale.of(torch.tensor(3.0)).item() == 3 * START / 2


def test_gradients_that_are_never_finite_stop_the_run(tmp_path: Path) -> None:
    with pytest.raises(TrainingDiverged, match="gradients are not finite by step 28"):
        fit(tmp_path, scaled_trainer(max_steps=100), BadGradients(range(100)))


def test_on_the_cpu_float16_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"precision=fp16 is for CUDA, .*device=cpu is the CPU"):
        make_trainer(precision="fp16")


@pytest.mark.parametrize("task_name", ["nerf", "image"])
def test_no_step_in_float16_waits(task_name: str) -> None:
    words = [w for w in RUNS[task_name] if not w.startswith(("model", "trainer"))]
    cfg = compose([*words, "model=hashgrid"])
    task, model, optimizer, generator = on_meta(cfg)
    scale = LossScale(torch.device("meta"))
    with counted_waits() as found, matrix_products("fp16"):
        for _ in range(2):
            result = task.losses(model, task.batch(generator))
            optimizer.zero_grad(set_to_none=True)
            scale.of(torch.stack([*result.losses.values()]).sum()).backward()
            optimizer.step(scaling=scale.judge(model.parameters()))
    assert found == []
    copy = kept_copy(model.encoder.table)
    assert copy is not None and copy.dtype == torch.float16

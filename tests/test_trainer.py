"""The trainer on a dummy task: budgets, schedule, clock, logs, divergence, averages, groups."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from nfields.checkpoint import load_weights
from nfields.errors import ConfigError
from nfields.optimizer import ParameterGroup
from nfields.run_folder import RunFolder
from nfields.trainer import TrainingDiverged
from tests.dummy import DummyField, DummyTask, fit, make_trainer


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    fit(tmp_path, max_steps=200, log_every=20)
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < 0.1 * losses[0]


def test_log_lines_hold_means_since_the_line_before(tmp_path: Path) -> None:
    fit(tmp_path / "each", max_steps=8, log_every=1)
    fit(tmp_path / "four", max_steps=8, log_every=4)
    each, four = lines(tmp_path / "each"), lines(tmp_path / "four")
    assert [line["step"] for line in four] == [4, 8]
    for name in ("loss", "loss_fit", "loss_size", "psnr", "samples", "items"):
        mean = sum(line[name] for line in each[4:8]) / 4
        assert four[1][name] == pytest.approx(mean, rel=1e-6)


def test_last_line_is_that_of_the_last_step(tmp_path: Path) -> None:
    fit(tmp_path, max_steps=10, log_every=4)
    assert [line["step"] for line in lines(tmp_path)] == [4, 8, 10]


def test_learning_rate_follows_the_schedule(tmp_path: Path) -> None:
    fit(tmp_path, max_steps=40, log_every=1, warmup_steps=3, decay_start=0.5, final_lr_factor=0.01)
    rates = [line["lr"] for line in lines(tmp_path)]
    assert rates[:4] == pytest.approx([0.05 * f for f in (0.25, 0.5, 0.75, 1.0)])
    assert rates[30] == pytest.approx(0.05 * 0.1)


def test_notes_of_the_data_are_shown(tmp_path: Path, capsys: Any) -> None:
    task = DummyTask()
    task.data = SimpleNamespace(notes=["3 images are missing"])
    fit(tmp_path, task=task, max_steps=1)
    assert "3 images are missing\n" in capsys.readouterr().out


def test_zero_learning_rate_changes_no_weight(tmp_path: Path) -> None:
    before = DummyField(lr=0.0)
    _, field, _ = fit(tmp_path / "none", field=before, max_steps=0)
    start = field.table.clone()
    _, field, _ = fit(tmp_path / "some", field=DummyField(lr=0.0), max_steps=10)
    assert torch.equal(field.table, start)


def test_no_steps_leave_a_checkpoint_to_evaluate(tmp_path: Path) -> None:
    summary, field, task = fit(tmp_path, max_steps=0)
    assert summary.steps == 0 and summary.train_seconds < 0.1
    assert task.calls == ["prepare"]
    other = DummyField()
    load_weights(RunFolder(tmp_path).checkpoint, {"model": other, "task": DummyTask()}, {})
    assert torch.equal(other.table, field.table)


def test_time_budget_ends_training(tmp_path: Path) -> None:
    summary, _, _ = fit(tmp_path, max_steps=None, max_time="0.2s", log_every=50)
    assert 0.2 <= summary.train_seconds < 0.5
    assert "max_time" in summary.stop_reason
    assert lines(tmp_path)[-1]["lr"] < 0.5 * 0.05  # the schedule followed the time


def test_target_ends_training_at_a_validation(tmp_path: Path) -> None:
    summary, _, _ = fit(tmp_path, max_steps=2000, stop_at={"psnr": 12.0}, eval_every=10)
    assert summary.steps < 2000 and summary.steps % 10 == 0
    assert "stop_at" in summary.stop_reason
    measured = [line["validation_psnr"] for line in lines(tmp_path) if "validation_psnr" in line]
    assert measured[-1] >= 12.0 > max(measured[:-1], default=0.0)


def test_unknown_target_is_refused_before_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"stop_at\.iou.*it measures psnr"):
        fit(tmp_path, stop_at={"iou": 0.9}, eval_every=10)
    assert lines(tmp_path) == []


def test_clock_stands_during_compilation_and_validation(tmp_path: Path) -> None:
    class SlowTask(DummyTask):
        def losses(self, model: nn.Module, batch: Any) -> Any:
            if self.calls.count("before_step") == 1:  # the rehearsal: a kernel compiles
                time.sleep(0.3)
            return super().losses(model, batch)

        def validate(self, model: nn.Module, generator: torch.Generator | None) -> dict[str, float]:
            time.sleep(0.3)
            return super().validate(model, generator)

    summary, _, _ = fit(tmp_path, task=SlowTask(), max_steps=10, eval_every=5)
    assert summary.compile_seconds > 0.29
    assert summary.train_seconds < 0.2


def test_rehearsal_and_validation_leave_no_trace(tmp_path: Path, capsys: Any) -> None:
    summary, field, task = fit(tmp_path / "a", max_steps=5, eval_every=1)
    assert task.calls.count("before_step") == 6 and int(task.num_steps) == 5
    assert "compiling kernels, once" in capsys.readouterr().out

    # The same by hand, without a trainer.
    generator = torch.Generator().manual_seed(3)
    plain_task, plain_field = DummyTask(), DummyField()
    plain_task.prepare(plain_field, generator)
    trainer = make_trainer(max_steps=5)
    from nfields.optimizer import Adam

    groups = [*plain_field.parameter_groups(), *plain_task.parameter_groups()]
    optimizer = Adam(groups, (0.9, 0.99), 1e-15)
    for step in range(5):
        for group in optimizer.param_groups:
            factor = trainer.schedule.factor(trainer.budget.progress(step, 0.0), step)
            group["lr"] = group["initial_lr"] * factor
        plain_task.before_step(plain_field, step, generator)
        batch = plain_task.batch(generator)
        result = plain_task.losses(plain_field, batch)
        optimizer.zero_grad()
        torch.stack([*result.losses.values()]).sum().backward()
        optimizer.step()
        plain_task.after_step(plain_field, result, step)
    assert torch.equal(plain_field.table, field.table)
    assert torch.equal(plain_task.grid, task.grid)
    assert summary.steps == 5


def test_training_is_the_same_with_and_without_validation(tmp_path: Path) -> None:
    _, one, _ = fit(tmp_path / "a", max_steps=12, eval_every=3, log_every=1)
    _, two, _ = fit(tmp_path / "b", max_steps=12)
    assert torch.equal(one.table, two.table)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_bad_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path, value: float) -> None:
    task = DummyTask(bad_step=7, bad_value=value)
    with pytest.raises(TrainingDiverged, match=r"NaN .*step 8 \(fit\).*step 7 .*was kept"):
        fit(tmp_path, task=task, checkpoint_every=0)
    state = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert state["step"] == 7
    field = DummyField()
    load_weights(tmp_path / "checkpoint", {"model": field, "task": DummyTask()}, {})
    assert bool(torch.isfinite(field.table).all())


def test_bad_weights_are_never_saved(tmp_path: Path) -> None:
    class Poison(DummyTask):
        def after_step(self, model: nn.Module, result: Any, step: int) -> None:
            super().after_step(model, result, step)
            if int(self.num_steps) == 5:
                with torch.no_grad():
                    self.scale.fill_(float("nan"))

    with pytest.raises(TrainingDiverged, match=r"task\.scale became NaN.*step 4 .*was kept"):
        fit(tmp_path, task=Poison(), checkpoint_every=0)
    assert json.loads((tmp_path / "checkpoint" / "state.json").read_text())["step"] == 4


def test_batch_without_a_sample_is_an_error(tmp_path: Path) -> None:
    class Empty(DummyTask):
        def losses(self, model: nn.Module, batch: Any) -> Any:
            result = super().losses(model, batch)
            result.losses = {name: loss.detach() for name, loss in result.losses.items()}
            return result

    with pytest.raises(TrainingDiverged, match="no sample of the batch was in the scene"):
        fit(tmp_path, task=Empty())


def test_average_is_evaluated_and_kept_beside_the_weights(tmp_path: Path) -> None:
    _, raw, _ = fit(tmp_path / "off", max_steps=20)
    seen = []

    class Watching(DummyTask):
        def validate(self, model: nn.Module, generator: torch.Generator | None) -> dict[str, float]:
            assert isinstance(model, DummyField)
            seen.append(model.table.detach().clone())
            return super().validate(model, generator)

    _, averaged, _ = fit(tmp_path / "on", task=Watching(), max_steps=20, ema=0.9, eval_every=20)
    assert not torch.equal(raw.table, averaged.table)
    assert torch.equal(seen[-1], averaged.table)
    loaded = DummyField()
    checkpoint = tmp_path / "on" / "checkpoint"
    load_weights(checkpoint, {"model": loaded, "task": DummyTask()}, {})
    assert torch.equal(loaded.table, averaged.table)
    from nfields.checkpoint import read_tensors

    assert torch.equal(read_tensors(checkpoint, "weights")["model.table"], raw.table)


def test_summary_is_written(tmp_path: Path) -> None:
    summary, field, _ = fit(tmp_path, max_steps=6)
    written = RunFolder(tmp_path).summary()
    assert written["steps"] == 6 and written["num_samples"] == 60
    assert written["parameters"] == sum(p.numel() for p in field.parameters()) + 1
    assert written["peak_memory_bytes"] > 50e6
    assert written["train_seconds"] == summary.train_seconds > 0


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"max_steps": None}, "max_steps and trainer.max_time"),
        ({"max_time": "soon"}, "trainer.max_time='soon'"),
        ({"stop_at": {"psnr": 30}}, "trainer.eval_every is null"),
        ({"device": "tpu"}, "trainer.device='tpu'"),
        ({"threads": 0}, "trainer.threads=0"),
        ({"threads": 100_000}, "trainer.threads=100000"),
        ({"betas": (0.9, 1.0)}, "trainer.betas"),
        ({"eps": 0.0}, "trainer.eps"),
        ({"ema": 1.0}, "trainer.ema"),
        ({"log_every": 0}, "trainer.log_every"),
        ({"eval_every": 0}, "trainer.eval_every"),
        ({"checkpoint_every": "x"}, "trainer.checkpoint_every"),
    ],
)
def test_bad_option_is_named(tmp_path: Path, changes: dict[str, Any], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        fit(tmp_path, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_cuda_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda.*trainer\.device=cpu"):
        fit(tmp_path, device="cuda")


def test_threads_hold_for_torch_and_numba(tmp_path: Path) -> None:
    import numba

    before = torch.get_num_threads()
    try:
        summary, _, _ = fit(tmp_path, max_steps=1, threads=1)
        assert summary.threads == torch.get_num_threads() == numba.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_parameter_in_no_group_is_found(tmp_path: Path) -> None:
    class Forgetful(DummyField):
        def parameter_groups(self) -> list[ParameterGroup]:
            return super().parameter_groups()[:1]

    with pytest.raises(AssertionError, match=r"model\.readout\.weight is in 0 parameter groups"):
        fit(tmp_path, field=Forgetful())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_on_a_gpu_lowers_the_loss(tmp_path: Path, precision: str) -> None:
    class OnDevice(DummyTask):
        def batch(self, generator: torch.Generator) -> Any:
            return super().batch(generator).to(self.scale.device)

        def before_step(self, model: nn.Module, step: int, generator: torch.Generator) -> None:
            self.calls.append("before_step")

    fit(
        tmp_path, task=OnDevice(), device="cuda", precision=precision, max_steps=200, log_every=20
    )  # fmt: skip
    losses = [line["loss"] for line in lines(tmp_path)]
    assert losses[-1] < 0.1 * losses[0]

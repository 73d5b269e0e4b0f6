"""Resuming equals never having stopped, to the bit, however training stopped."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nfields.checkpoint import CheckpointError, read_state, read_tensors
from nfields.run_folder import RunFolder
from nfields.trainer import TrainingInterrupted
from tests.dummy import DummyField, DummyTask, fit

REPOSITORY = Path(__file__).resolve().parents[1]
RUN_IN_PROCESS = """
import sys
from pathlib import Path
from tests.dummy import DummyTask, fit
from nfields.trainer import TrainingInterrupted
import time

class Slow(DummyTask):
    def after_step(self, model, result, step):
        super().after_step(model, result, step)
        if int(self.num_steps) >= 9:
            print("nine steps done", flush=True)
            time.sleep(0.2)

try:
    fit(Path(sys.argv[1]), task=Slow(), max_steps=1000, ema=0.9, eval_every=6,
        checkpoint_every=float(sys.argv[2]))
except TrainingInterrupted as stop:
    print(stop)
    sys.exit(stop.exit_code)
"""


class Stopping(DummyTask):
    """Sends this process a signal in its n-th step, after which the trainer has to stop."""

    def __init__(self, num_steps: int, number: int = signal.SIGINT, times: int = 1):
        super().__init__()
        self.stop_after, self.number, self.times = num_steps, number, times

    def after_step(self, model: nn.Module, result: Any, step: int) -> None:
        super().after_step(model, result, step)
        if self.calls.count("before_step") == self.stop_after + 1:  # one more: the rehearsal
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def timeless_lines(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def assert_same_run(one: Path, two: Path) -> None:
    assert timeless_lines(one) == timeless_lines(two)
    files = sorted(file.name for file in (one / "checkpoint").iterdir())
    assert files == sorted(file.name for file in (two / "checkpoint").iterdir())
    for name in (Path(file).stem for file in files if file.endswith(".safetensors")):
        left, right = (read_tensors(path / "checkpoint", name) for path in (one, two))
        assert left.keys() == right.keys()
        differing = [key for key in left if not torch.equal(left[key], right[key])]
        assert not differing, f"{name}: {differing}"
    left, right = (read_state(path / "checkpoint") for path in (one, two))
    for key in ("step", "num_samples", "num_averaged", "validation", "running"):
        assert left[key] == right[key], key


@pytest.mark.parametrize("stop", [1, 8, 13, 29])
def test_interrupted_and_resumed_equals_never_stopped(tmp_path: Path, stop: int) -> None:
    options: dict[str, Any] = {"max_steps": 30, "ema": 0.9, "eval_every": 6, "log_every": 4}
    fit(tmp_path / "whole", **options)
    run = RunFolder(tmp_path / "parts")
    with pytest.raises(TrainingInterrupted) as caught:
        fit(run.path, task=Stopping(stop), **options)
    assert caught.value.step == stop and caught.value.exit_code == 130
    assert not run.summary_file.exists()
    summary, _, task = fit(run.path, resume_from=run, **options)
    assert "prepare" not in task.calls
    assert summary.steps == 30
    assert_same_run(tmp_path / "whole", run.path)


def test_a_difference_would_be_noticed(tmp_path: Path) -> None:
    fit(tmp_path / "one", max_steps=9)
    fit(tmp_path / "two", task=DummyTask(), field=DummyField(lr=0.0500001), max_steps=9)
    with pytest.raises(AssertionError):
        assert_same_run(tmp_path / "one", tmp_path / "two")


@contextmanager
def training_process(path: Path, checkpoint_every: float) -> Iterator[subprocess.Popen[str]]:
    """Yields a process that has done nine steps of a training that takes long."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN_IN_PROCESS, str(path), str(checkpoint_every)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if line.startswith("nine"):
                break
        else:
            pytest.fail("the training process ended before it was ready:\n" + "".join(seen))
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_killed_and_resumed_equals_never_stopped(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "killed")
    with training_process(run.path, 0.0) as process:
        process.kill()
    reached = read_state(run.checkpoint)["step"]
    assert 7 <= reached < 1000
    # Steps after the checkpoint were logged, and the last line was cut off by the kill.
    with run.metrics_file.open("a") as file:
        file.write(json.dumps({"step": reached + 4, "loss": 99.0}) + '\n{"step": 40, "lo')
    options: dict[str, Any] = {"max_steps": 1000, "ema": 0.9, "eval_every": 6}
    with pytest.raises(TrainingInterrupted):
        fit(run.path, task=Stopping(20), resume_from=run, **options)
    with pytest.raises(TrainingInterrupted):
        fit(tmp_path / "whole", task=Stopping(reached + 20), **options)
    assert_same_run(tmp_path / "whole", run.path)


@pytest.mark.slow
def test_sigterm_saves_and_prints_how_to_go_on(tmp_path: Path) -> None:
    with training_process(tmp_path, 1000.0) as process:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 143
    assert f"python train.py resume={tmp_path}" in output
    assert read_state(tmp_path / "checkpoint")["step"] >= 9


def test_second_signal_stops_at_once_unsaved(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, task=Stopping(5, times=2))
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "checkpoint").exists()


def test_handlers_are_restored(tmp_path: Path) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    fit(tmp_path / "done", max_steps=2)
    with pytest.raises(TrainingInterrupted):
        fit(tmp_path / "stopped", task=Stopping(1, signal.SIGTERM))
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(fit(tmp_path, max_steps=3)[0]))
    thread.start()
    thread.join()
    assert results[0].steps == 3


def test_signal_during_preparation_saves_the_start(tmp_path: Path) -> None:
    class Early(DummyTask):
        def prepare(self, model: nn.Module, generator: torch.Generator) -> None:
            super().prepare(model, generator)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    fit(tmp_path / "whole", max_steps=6)
    run = RunFolder(tmp_path / "parts")
    with pytest.raises(TrainingInterrupted, match="saved at step 0"):
        fit(run.path, task=Early(), max_steps=6)
    fit(run.path, resume_from=run, max_steps=6)
    assert_same_run(tmp_path / "whole", run.path)


def test_nothing_to_do_is_said_and_changes_nothing(tmp_path: Path, capsys: Any) -> None:
    run = RunFolder(tmp_path)
    _, trained, _ = fit(tmp_path, max_steps=8, ema=0.5)
    before = run.metrics_file.read_bytes(), (run.checkpoint / "state.json").read_bytes()
    summary, field, _ = fit(tmp_path, resume_from=run, max_steps=5, ema=0.5)
    assert "nothing to do at step 8: trainer.max_steps=5 reached" in capsys.readouterr().out
    assert summary.steps == 8
    assert torch.equal(field.table, trained.table)
    assert before == (run.metrics_file.read_bytes(), (run.checkpoint / "state.json").read_bytes())


def test_finished_run_goes_on_with_more_steps(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    first, _, _ = fit(tmp_path, max_steps=8)
    second, _, task = fit(tmp_path, resume_from=run, max_steps=12)
    assert second.steps == 12 and int(task.num_steps) == 12
    assert second.train_seconds > first.train_seconds
    assert second.num_samples == 120


def test_seconds_go_on_from_the_checkpoint(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    first, _, _ = fit(tmp_path, max_steps=None, max_time=0.1)
    second, _, _ = fit(tmp_path, resume_from=run, max_steps=None, max_time=0.2)
    assert second.steps > first.steps
    assert 0.2 <= second.train_seconds < 0.4


def test_other_run_can_be_the_start(tmp_path: Path) -> None:
    fit(tmp_path / "one", max_steps=8)
    fit(tmp_path / "two", resume_from=RunFolder(tmp_path / "one"), max_steps=12)
    assert [line["step"] for line in timeless_lines(tmp_path / "two")] == [12]
    assert read_state(tmp_path / "one" / "checkpoint")["step"] == 8


@pytest.mark.parametrize(("before", "now"), [(None, 0.9), (0.9, None)])
def test_changed_average_is_refused(tmp_path: Path, before: Any, now: Any) -> None:
    fit(tmp_path, max_steps=2, ema=before)
    with pytest.raises(CheckpointError, match=r"trainer\.ema was"):
        fit(tmp_path, resume_from=RunFolder(tmp_path), max_steps=4, ema=now)


def test_changed_shape_names_the_option(tmp_path: Path) -> None:
    run = RunFolder.create(
        tmp_path, config={"model": {"num_entries": 32, "lr": 0.05}}, overrides=[], data={}
    )
    fit(tmp_path, max_steps=2)
    run.write_config({"model": {"num_entries": 40, "lr": 0.05}}, [])
    with pytest.raises(CheckpointError) as caught:
        fit(tmp_path, field=DummyField(40), resume_from=run, max_steps=4)
    assert "model.num_entries: 32, now 40" in str(caught.value)
    assert "model.table: (32, 4) in the checkpoint, (40, 4) in the run" in str(caught.value)
    assert "model.lr" not in str(caught.value)


def test_resume_without_checkpoint_is_explained(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no checkpoint \(state.json is missing\)"):
        fit(tmp_path, resume_from=RunFolder(tmp_path))

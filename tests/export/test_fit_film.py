"""Frames of a fit: which steps have one; stopping and resuming leaves the same sequence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nfields.errors import ConfigError
from nfields.export import encode as encoding
from nfields.export.fit_film import FitFilm
from nfields.run_folder import RunFolder
from nfields.trainer import TrainingInterrupted
from tests.dummy import DummyTask, fit
from tests.test_training_resume import Stopping, assert_same_run


class Shown(DummyTask):
    """A picture whose grey is the number of steps done; looks at nothing that decides the run."""

    def snapshot(self, model: nn.Module) -> np.ndarray:
        assert not model.training and not self.training
        return np.full((20, 30, 3), int(self.num_steps) * 5, np.uint8)

    def batch(self, generator: torch.Generator) -> Any:
        assert self.training  # as before the look
        return super().batch(generator)


class ShownStopping(Stopping, Shown):
    """Stops, and can be looked at."""


def frames(path: Path) -> list[int]:
    return [int(file.stem[5:]) for file in sorted((path / "snapshots").glob("step_*.png"))]


@pytest.mark.parametrize("per_doubling", [1, 3, 8, 100])
def test_frames_are_the_powers_of_two_and_as_many_between(per_doubling: int) -> None:
    film = FitFilm(Path(), per_doubling)
    due = [step for step in range(5000) if film.is_due(step)]
    powers = {round(2 ** (k / per_doubling)) for k in range(13 * per_doubling)}
    assert due == sorted({0} | {step for step in powers if step < 5000})
    assert {0, 1, 2, 4, 1024, 4096} <= set(due)
    assert sum(2048 < step <= 4096 for step in due) == per_doubling


def test_frames_show_their_step_and_the_last_one_is_the_end(tmp_path: Path) -> None:
    fit(tmp_path, task=Shown(), max_steps=11, snapshots=1)
    assert frames(tmp_path) == [0, 1, 2, 4, 8, 11]
    for step in frames(tmp_path):
        with Image.open(tmp_path / "snapshots" / f"step_{step:08d}.png") as frame:
            assert np.asarray(frame)[-1, -1].tolist() == [5 * step] * 3
    assert (tmp_path / "snapshots" / "fit.mp4").stat().st_size > 500


def test_film_changes_nothing_of_the_run(tmp_path: Path) -> None:
    options: dict[str, Any] = {"max_steps": 20, "ema": 0.9, "eval_every": 6}
    fit(tmp_path / "without", **options)
    fit(tmp_path / "with", task=Shown(), snapshots=4, **options)
    assert_same_run(tmp_path / "without", tmp_path / "with")


@pytest.mark.parametrize("stop", [1, 5, 8])
def test_resumed_film_is_that_of_never_stopping(tmp_path: Path, stop: int) -> None:
    options: dict[str, Any] = {"max_steps": 20, "snapshots": 2}
    fit(tmp_path / "whole", task=Shown(), **options)
    run = RunFolder(tmp_path / "parts")
    with pytest.raises(TrainingInterrupted):
        fit(run.path, task=ShownStopping(stop), **options)
    assert not (run.path / "snapshots" / "fit.mp4").exists()
    fit(run.path, task=Shown(), resume_from=run, **options)
    assert frames(run.path) == frames(tmp_path / "whole")


def test_frames_of_steps_that_were_lost_are_removed(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(TrainingInterrupted):
        fit(tmp_path, task=ShownStopping(6), max_steps=20, snapshots=1)
    FitFilm(tmp_path / "snapshots", 1).add(99, 1.0, np.zeros((20, 30, 3), np.uint8))
    fit(tmp_path, task=Shown(), resume_from=run, max_steps=9, snapshots=1)
    assert frames(tmp_path) == [0, 1, 2, 4, 8, 9]


def test_finished_run_goes_on_with_its_film(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    fit(tmp_path, task=Shown(), max_steps=5, snapshots=1)
    first = (tmp_path / "snapshots" / "fit.mp4").read_bytes()
    fit(tmp_path, task=Shown(), resume_from=run, max_steps=17, snapshots=1)
    assert frames(tmp_path) == [0, 1, 2, 4, 5, 8, 16, 17]
    assert (tmp_path / "snapshots" / "fit.mp4").read_bytes() != first


def test_film_that_fails_does_not_cost_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(encoding, "MP4_OPTIONS", ["-no_such_option"])
    summary, _, _ = fit(tmp_path, task=Shown(), max_steps=3, snapshots=1)
    assert summary.steps == 3 and RunFolder(tmp_path).has_checkpoint()
    assert "no film of the fit: the video cannot be encoded" in capsys.readouterr().out


def test_tasks_without_pictures_and_bad_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.snapshots=8: this task has no picture"):
        fit(tmp_path, max_steps=3, snapshots=8)
    with pytest.raises(ConfigError, match=r"trainer\.snapshots=-1 must be"):
        fit(tmp_path, task=Shown(), max_steps=3, snapshots=-1)

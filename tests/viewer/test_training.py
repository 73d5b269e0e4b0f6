"""A training that is watched is the same training; whatever happens in the view, it goes on."""

import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nfields.errors import ConfigError
from nfields.render.cameras import Cameras
from tests.dummy import DummyTask, fit, make_trainer
from tests.viewer.scenes import FakeBrowser, ball

pytest.importorskip("viser", reason="viser is not installed: pip install 'nfields[viewer]'")

import nfields.viewer.training as training


def free_port() -> int:
    with socket.socket() as test:
        test.bind(("127.0.0.1", 0))
        return test.getsockname()[1]


class SeenTask(DummyTask):
    """The dummy, which shows a ball."""

    fails = False

    def render_view(
        self, model: Any, cameras: Cameras, view: int, background: str | None = None
    ) -> dict[str, Tensor]:
        assert not model.training and not self.training
        if self.fails:
            raise RuntimeError("cannot be drawn")
        look = ball(cameras)
        depth = torch.from_numpy(look.depth)
        return {
            "rgb": torch.from_numpy(look.rgb) / 255, "depth": depth,
            "opacity": depth.isfinite().float(),
        }  # fmt: skip


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> FakeBrowser:
    """A browser that looks at every training from its start."""
    found = FakeBrowser(1)

    class Watched(training.TrainingView):
        def __init__(self, *args: Any, **options: Any):
            super().__init__(*args, **options)
            self.page._connect(found)
            views.append(self)

    views: list[training.TrainingView] = []
    monkeypatch.setattr(training, "TrainingView", Watched)
    monkeypatch.setattr(found, "views", views, raising=False)
    return found


def weights(result: Any) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in result[2].parameters()]


def test_a_watched_training_ends_with_the_same_bits(tmp_path: Path, browser: FakeBrowser) -> None:
    alone = fit(tmp_path / "alone", task=SeenTask(), max_steps=30, ema=0.9)
    assert not browser.pictures
    seen = fit(tmp_path / "seen", task=SeenTask(), max_steps=30, ema=0.9, viewer=free_port())
    assert browser.pictures
    for one, other in zip(weights(alone), weights(seen), strict=True):
        assert torch.equal(one, other)


def test_a_view_that_fails_does_not_end_the_training(
    tmp_path: Path, browser: FakeBrowser, capsys: pytest.CaptureFixture[str]
) -> None:
    task = SeenTask()
    task.fails = True
    summary, _, _ = fit(tmp_path, task=task, max_steps=12, viewer=free_port())
    assert summary.steps == 12
    assert "live view: RuntimeError: cannot be drawn (the training goes on)" in (
        capsys.readouterr().out.replace("\n", " ")
    )


def test_a_browser_that_breaks_does_not_end_the_training(
    tmp_path: Path, browser: FakeBrowser
) -> None:
    browser.breaks = True
    summary, _, _ = fit(tmp_path, task=SeenTask(), max_steps=12, viewer=free_port())
    assert summary.steps == 12


def test_pause_holds_the_training_until_it_goes_on(tmp_path: Path, browser: FakeBrowser) -> None:
    paused_at: list[int] = []

    class PausedTask(SeenTask):
        def after_step(self, model: Any, result: Any, step: int) -> None:
            super().after_step(model, result, step)
            if step == 5 and not paused_at:
                paused_at.append(step)
                views[-1].is_paused = True
                threading.Timer(0.5, go_on).start()

    def go_on() -> None:
        views[-1].is_paused = False

    views: Any = browser.views  # pyright: ignore
    start = time.perf_counter()
    summary, _, _ = fit(tmp_path, task=PausedTask(), max_steps=12, viewer=free_port())
    assert paused_at and summary.steps == 12
    assert time.perf_counter() - start > 0.5
    assert summary.train_seconds < 0.5  # the clock stood


def test_a_paused_training_goes_on_when_nobody_looks(tmp_path: Path, browser: FakeBrowser) -> None:
    class PausedTask(SeenTask):
        def after_step(self, model: Any, result: Any, step: int) -> None:
            super().after_step(model, result, step)
            if step == 5:
                views[-1].is_paused = True
                threading.Timer(0.3, lambda: views[-1].page._disconnect(browser)).start()

    views: Any = browser.views  # pyright: ignore
    summary, _, _ = fit(tmp_path, task=PausedTask(), max_steps=12, viewer=free_port())
    assert summary.steps == 12


def test_wrong_ports_and_tasks_are_refused_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.viewer=70000"):
        make_trainer(viewer=70000)
    with pytest.raises(ConfigError, match="a live view needs a task"):
        fit(tmp_path, max_steps=3, viewer=free_port())
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ConfigError, match="cannot be used"):
            fit(tmp_path, task=SeenTask(), max_steps=3, viewer=other.getsockname()[1])

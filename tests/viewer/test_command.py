"""The view of a stored run: trained longer from its page, and there again afterwards."""

from pathlib import Path
from typing import Any

import pytest

from nfields.checkpoint import read_state
from nfields.errors import DataError
from nfields.run import train
from nfields.run_folder import RunFolder
from tests.stored import make_run
from tests.viewer.test_training import free_port

pytest.importorskip("viser", reason="viser is not installed: pip install 'nfields[viewer]'")

from nfields.viewer import command


@pytest.fixture
def clicked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Somebody who asks for 0.2 s of training on the first page, and for the end on the second.

    The list is what each page says of training.
    """
    seen: list[str] = []

    class Clicked(command.StartPanel):
        def __init__(self, page: Any, message: str):
            super().__init__(page, message)
            seen.append(message)
            if len(seen) == 2:
                page.close()
                raise KeyboardInterrupt
            self.wanted_seconds = 0.2

    monkeypatch.setattr(command, "StartPanel", Clicked)
    return seen


def look(run: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        command.main([f"run={run}", f"port={free_port()}", "device=cpu"])


@pytest.mark.slow
def test_a_click_trains_the_run_longer(tmp_path: Path, clicked: list[str]) -> None:
    run = tmp_path / "run"
    train(
        ["task=nerf", "model=hashgrid", "data=toy_scene", "data.resolution=16", "data.num_train=4",
         "data.num_test=1", "task.grid_cells=32", "trainer.max_steps=2", f"run_dir={run}"]
    )  # fmt: skip
    before = read_state(RunFolder(run).checkpoint)
    look(run)
    after = read_state(RunFolder(run).checkpoint)
    assert after["step"] > before["step"] == 2
    assert before["seconds"] + 0.2 <= after["seconds"] < before["seconds"] + 5
    assert clicked == ["", ""]


def test_what_prevents_a_training_is_said_on_the_page_that_comes_back(
    tmp_path: Path, clicked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(words: list[str]) -> None:
        given.extend(words)
        raise DataError("the pictures are gone")

    given: list[str] = []
    monkeypatch.setattr(command, "train", fails)
    run = make_run(tmp_path / "run")
    look(run)
    assert clicked == ["", "the pictures are gone"]
    assert {f"resume={run}", "trainer.max_time=2.700", "trainer.max_steps=null"} < set(given)

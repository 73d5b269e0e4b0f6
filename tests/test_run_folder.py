"""Run folders: what goes in comes out, wherever the folder is; what is no run folder is refused."""

import json
from pathlib import Path

import pytest

from nfields.errors import ConfigError, DataError
from nfields.run_folder import RunFolder
from tests.dummy import fit

CONFIG = {"seed": 0, "model": {"levels": 8, "lr": 0.01, "kind": None}}


def test_files_come_back_after_the_folder_was_moved(tmp_path: Path) -> None:
    run = RunFolder.create(
        tmp_path / "one", config=CONFIG, overrides=["model.levels=8"], data={"class": "X", "n": 3}
    )
    fit(run.path, max_steps=4)
    run.path.rename(tmp_path / "elsewhere")
    moved = RunFolder.load(tmp_path / "elsewhere")
    assert moved.config() == CONFIG
    assert moved.overrides() == ["model.levels=8"]
    assert moved.data_card() == {"class": "X", "n": 3}
    assert moved.summary()["steps"] == 4
    assert [line["step"] for line in moved.metrics()] == [4]
    assert moved.has_checkpoint()
    assert str(tmp_path) not in (moved.path / "checkpoint" / "state.json").read_text()


def test_environment_names_versions_and_hardware(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", config=CONFIG, overrides=[], data={})
    environment = json.loads(run.environment_file.read_text())
    assert {"python", "torch", "numba"} <= environment["versions"].keys()
    assert environment["num_cores"] >= 1 and environment["memory_bytes"] > 1e8


def test_folder_of_another_run_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, config=CONFIG, overrides=[], data={})
    with pytest.raises(ConfigError, match=rf"already holds a run.*resume={tmp_path}"):
        RunFolder.create(tmp_path, config=CONFIG, overrides=[], data={})


def test_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        RunFolder.create(tmp_path / "file" / "run", config=CONFIG, overrides=[], data={})


def test_missing_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        RunFolder.load(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"it has no config\.yaml"):
        RunFolder.load(tmp_path)


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_broken_config_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(DataError, match=r"config\.yaml"):
        RunFolder.load(tmp_path).config()


def test_broken_and_missing_json_is_named(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, config=CONFIG, overrides=[], data={})
    run.data_file.write_text('{"a": ')
    with pytest.raises(DataError, match=r"data\.json is not readable json"):
        run.data_card()
    with pytest.raises(DataError, match=r"summary\.json is missing"):
        run.summary()


def test_rewritten_config_leaves_no_other_file(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path / "run", config=CONFIG, overrides=[], data={})
    before = sorted(run.path.iterdir())
    run.write_config({**CONFIG, "seed": 1}, ["seed=1"])
    assert run.config()["seed"] == 1
    assert sorted(run.path.iterdir()) == before

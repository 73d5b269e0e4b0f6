"""The command line as a user meets it: help, mistakes, sweeps, exit codes."""

import sys
from pathlib import Path

import pytest
import yaml

from nfields import cli
from nfields.config import TrainConfig, config_folder
from nfields.errors import DataError
from tests.probe import PAIR, install


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The overrides for a tiny run in an empty folder, which is made the current one."""
    search_path = install(tmp_path / "configs", monkeypatch)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return [search_path, *PAIR, "trainer.max_time=null", "trainer.max_steps=3"]


def exit_code(*words: str) -> object:
    with pytest.raises(SystemExit) as caught:
        cli.train(words)
    return caught.value.code


def run_folders(task: str = "probe", model: str = "probe") -> list[Path]:
    return sorted(Path("outputs", task, model).glob("*"))


def config_of(folder: Path) -> dict:
    return yaml.safe_load((folder / "config.yaml").read_text())


def test_help_names_every_group_and_key(capsys):
    assert exit_code("--help") == 0
    text = capsys.readouterr().out
    groups = {folder.name for folder in config_folder().iterdir() if folder.is_dir()}
    groups -= {"model_task", "export"}  # not chosen by the user; not of train.py
    for name in [*groups, *TrainConfig.__dataclass_fields__.keys() - {"choices"}]:
        assert name in text
    assert "python train.py task=nerf model=rbfnet" in text
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 120


def test_help_is_there_without_torch(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "nfields.run", raising=False)
    exit_code("--help")
    assert "nfields.run" not in sys.modules


def test_cfg_job_prints_what_a_run_would_have(probe, capsys):
    cli.train(["--cfg", "job", *probe, "seed=5", "trainer.stop_at.psnr=30"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["seed"] == 5
    assert printed["trainer"]["stop_at"] == {"psnr": 30}
    assert printed["model"]["num_levels"] == 5
    assert "hydra" not in printed


def test_mistakes_are_a_message_and_exit_code_2(probe, capsys):
    assert exit_code(*probe, "model.num_level=3", "sead=1") == 2
    text = capsys.readouterr().err
    assert "did you mean model.num_levels?" in text
    assert "did you mean seed?" in text
    assert "Traceback" not in text
    assert not Path("outputs").exists()


def test_mistakes_in_cfg_are_a_message_and_exit_code_2(probe, capsys):
    assert exit_code("--cfg", "job", *probe, "sead=1") == 2
    assert "did you mean seed?" in capsys.readouterr().err


def test_error_of_a_constructor_is_a_message_and_exit_code_2(probe, capsys):
    assert exit_code(*probe, "model.num_levels=17") == 2
    assert "error: model.num_levels=17 exceeds 16; lower it" in capsys.readouterr().err


def test_debugging_shows_the_traceback(probe, monkeypatch):
    monkeypatch.setenv("NFIELDS_DEBUG", "1")
    with pytest.raises(ValueError, match="exceeds 16"):
        cli.train([*probe, "model.num_levels=17"])


def test_a_mistake_of_ours_is_not_hidden(probe, monkeypatch):
    monkeypatch.setattr("nfields.run.train", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.train(probe)


def test_wrong_data_is_a_message_and_exit_code_2(probe, monkeypatch, capsys):
    def fail(_: object) -> None:
        raise DataError("photo.png: not an image")

    monkeypatch.setattr("nfields.run.train", fail)
    assert exit_code(*probe) == 2
    assert capsys.readouterr().err == "error: photo.png: not an image\n"


def test_a_run_leaves_its_folder_and_nothing_else(probe, capsys):
    cli.train([*probe, "seed=5", "name=mine"])
    assert [path.name for path in Path().iterdir()] == ["outputs"]
    [folder] = run_folders()
    assert folder.name.endswith("_mine")
    assert config_of(folder)["seed"] == 5
    text = capsys.readouterr().out
    assert str(folder) in text
    assert str(folder / "evaluation" / "picture.png") in text
    assert "\x1b" not in text


def test_run_dir_is_used(probe):
    cli.train([*probe, "run_dir=here"])
    assert (Path("here") / "config.yaml").is_file()


def test_a_used_run_dir_is_refused(probe, capsys):
    cli.train([*probe, "run_dir=here"])
    assert exit_code(*probe, "run_dir=here") == 2
    assert "resume=here" in capsys.readouterr().err


@pytest.mark.slow
def test_a_sweep_makes_one_folder_a_run(probe):
    cli.train(["-m", *probe, "seed=0,1", "task.rate=1,2"])
    configs = [config_of(folder) for folder in run_folders()]
    found = {(config["seed"], config["task"]["rate"]) for config in configs}
    assert found == {(0, 1.0), (0, 2.0), (1, 1.0), (1, 2.0)}


def test_a_sweep_with_a_mistake_in_its_last_run_starts_none(probe, capsys):
    assert exit_code("-m", *probe, "model.num_levels=4,many") == 2
    assert "model.num_levels = 'many'" in capsys.readouterr().err
    assert run_folders() == []


def test_a_sweep_into_one_folder_is_refused(probe, capsys):
    assert exit_code("-m", *probe, "seed=0,1", "run_dir=here") == 2
    assert "run_dir=here" in capsys.readouterr().err
    assert not Path("here").exists()


@pytest.mark.slow
def test_a_sweep_may_tell_its_folders_apart(probe):
    cli.train(["-m", *probe, "seed=0,1", "run_dir=here/${seed}"])
    assert config_of(Path("here/1"))["seed"] == 1


@pytest.mark.slow
def test_a_failed_run_does_not_end_a_sweep(probe, capsys):
    assert exit_code("-m", *probe, "model.num_levels=17,4") == 2
    assert [config_of(folder)["model"]["num_levels"] for folder in run_folders()] == [4]
    text = capsys.readouterr().err
    assert "1 runs of the sweep failed" in text
    assert "model.num_levels=17" in text


@pytest.mark.slow
def test_files_of_a_users_own_folder_are_found(probe, tmp_path):
    search_path, *rest = probe
    cli.train([f"--config-dir={tmp_path / 'configs'}", *rest])
    cli.train([f"--config-dir={tmp_path / 'configs'}", "-m", *rest, "seed=1,2"])
    assert search_path and len(run_folders()) == 3


def test_another_main_config_is_refused(probe, capsys):
    assert exit_code(*probe, "--config-name=mine") == 2
    assert "--config-dir" in capsys.readouterr().err


def test_interrupted_training_exits_with_the_code_of_its_signal(probe, monkeypatch, capsys):
    from nfields.interrupt import TrainingInterrupted

    def stop(_: object) -> None:
        raise TrainingInterrupted(15, 7, Path("outputs/x"))

    monkeypatch.setattr("nfields.run.train", stop)
    assert exit_code(*probe) == 143
    assert "resume=outputs/x" in capsys.readouterr().err


def call(*words: str) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["nfields", *words])
        try:
            cli.main()
        except SystemExit as stop:
            return stop.code
    return 0


def test_nfields_lists_its_commands(capsys):
    assert call() == 0
    text = capsys.readouterr().out
    for script in cli.script_folder().glob("*.py"):
        assert f"  {script.stem} " in text
        assert cli.summary(script)


def test_nfields_train_is_train(probe):
    assert call("train", *probe) == 0
    assert len(run_folders()) == 1


def test_unknown_command_names_the_known_ones(capsys):
    assert call("trian") == 2
    assert "did you mean train?" in capsys.readouterr().err


@pytest.mark.parametrize("script", sorted(cli.script_folder().glob("*.py")), ids=lambda p: p.stem)
def test_a_script_without_options_says_what_it_needs(script, tmp_path, monkeypatch, capsys):
    """No traceback: help, or a message that names the option."""
    monkeypatch.chdir(tmp_path)
    if script.stem == "benchmark":
        pytest.skip("runs without options, for minutes")
    assert call(script.stem) in (0, 2)
    shown = capsys.readouterr()
    assert "=" in shown.out + shown.err

"""Which run goes on, with which configuration, and that it goes on exactly where it stopped."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf
from safetensors.torch import load_file

import nfields
from nfields.errors import ConfigError, DataError
from nfields.resume import configure, newer_options
from nfields.run import run_dir, train
from nfields.run_folder import RunFolder
from nfields.stored_run import load_run
from tests.probe import PAIR, install


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The overrides for a tiny run in an empty folder, which is made the current one."""
    search_path = install(tmp_path / "configs", monkeypatch)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return [search_path, *PAIR, "trainer.max_time=null", "trainer.max_steps=4"]


def unfinished(folder: Path) -> Path:
    """The run in `folder` as if it had been stopped: saved, but without its summary."""
    (folder / "summary.json").unlink()
    return folder


def runs() -> list[Path]:
    return sorted(Path("outputs/probe/probe").glob("*"))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "checkpoint" / "weights.safetensors")


def test_resumed_run_has_the_bits_of_one_that_never_stopped(probe):
    schedule = "trainer.decay=constant"
    train([*probe, schedule, "trainer.max_steps=9", "run_dir=whole"])
    train([*probe, schedule, "trainer.max_steps=4", "run_dir=parts"])
    assert not torch.equal(
        weights(Path("whole"))["model.readout.weight"],
        weights(Path("parts"))["model.readout.weight"],
    )
    train(["resume=parts", "trainer.max_steps=9"])
    whole, parts = weights(Path("whole")), weights(Path("parts"))
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name])


def test_configuration_of_a_resumed_run_comes_from_its_folder(probe):
    train([*probe, "seed=5", "task.head=mine", "run_dir=here"])
    cfg, run = configure(["resume=here", "trainer.max_steps=8"])
    assert run == RunFolder(Path("here"))
    assert (cfg.seed, cfg.task.head, cfg.trainer.max_steps) == (5, "mine", 8)
    assert cfg.choices.model == "probe"


def test_options_that_came_after_a_run_are_off_in_it(tmp_path):
    config: Any = OmegaConf.to_container(nfields.compose(["task=nerf", "task.cone=0.5"]))
    expected = config["task"].pop("sky")
    run = RunFolder.create(tmp_path / "run", config=config, overrides=[], data={})
    cfg, _ = configure([f"resume={run.path}", "task.sky.degree=1"])
    assert dict(cfg.task.sky) == expected | {"degree": 1} and cfg.task.cone == 0.5


def test_options_inside_others_that_came_or_went_do_not_shut_a_run_out(tmp_path):
    config: Any = OmegaConf.to_container(nfields.compose(["task=nerf", "task.poses.lr=0.007"]))
    expected = dict(config["task"]["poses"])
    del config["task"]["poses"]["pull"]
    config["task"]["poses"]["weight"] = config["task"]["exposure"]["weight"] = 0.01
    run = RunFolder.create(tmp_path / "run", config=config, overrides=[], data={})
    cfg, _ = configure([f"resume={run.path}"])
    assert OmegaConf.to_container(cfg.task.poses) == expected and "weight" not in cfg.task.exposure


def test_a_folder_that_was_moved_can_be_resumed(probe):
    train([*probe, "run_dir=here"])
    shutil.move("here", "there")
    train(["resume=there", "trainer.max_steps=8"])
    assert not Path("here").exists()
    assert RunFolder(Path("there")).summary()["steps"] == 8


def test_repeating_a_choice_is_allowed_and_changing_it_is_not(probe):
    train([*probe, "run_dir=here"])
    configure([*probe, "resume=here"])
    with pytest.raises(ConfigError, match=r"data=second: the run in here has data=first"):
        configure(["data=second", "resume=here"])


def test_mistakes_are_reported_for_a_resumed_run_too(probe):
    train([*probe, "run_dir=here"])
    with pytest.raises(ConfigError, match="2 problems") as caught:
        configure(["resume=here", "trainer.max_step=8", "seed=x"])
    assert "did you mean trainer.max_steps?" in str(caught.value)


def test_a_folder_without_a_run_is_refused(probe):
    Path("empty").mkdir()
    for name in ("empty", "nothing"):
        with pytest.raises(DataError, match=name):
            configure([f"resume={name}"])


def test_a_run_without_a_checkpoint_is_refused(probe):
    train([*probe, "run_dir=here"])
    shutil.rmtree("here/checkpoint")
    with pytest.raises(DataError, match="checkpoint"):
        train(["resume=here"])


def test_a_config_file_from_elsewhere_cannot_name_code(probe):
    train([*probe, "run_dir=here"])
    file = Path("here/config.yaml")
    config = yaml.safe_load(file.read_text())
    config["model"] = {"_target_": "os.system", "command": "true"}
    file.write_text(yaml.safe_dump(config))
    for command in (lambda: configure(["resume=here"]), lambda: load_run("here")):
        with pytest.raises(ConfigError, match=r"model\._target_ = 'os\.system'"):
            command()


def test_a_config_file_with_foreign_keys_is_refused(probe):
    train([*probe, "run_dir=here"])
    with Path("here/config.yaml").open("a") as file:
        file.write("epochs: 3\n")
    with pytest.raises(DataError, match="epochs"):
        configure(["resume=here"])


def test_auto_starts_a_new_run_if_there_is_none(probe):
    cfg, run = configure([*probe, "resume=auto"])
    assert run is None
    assert cfg.resume == "auto"


def test_auto_takes_the_unfinished_run(probe):
    train(probe)
    [first] = runs()
    unfinished(first)
    train([*probe, "resume=auto"])
    assert runs() == [first]


def test_auto_leaves_a_finished_run(probe):
    train([*probe, "resume=auto"])
    train([*probe, "resume=auto"])
    assert len(runs()) == 2


@pytest.mark.parametrize("other", ["seed=1", "task.head=other", "data=second", "model.bound=2"])
def test_auto_leaves_a_run_that_learns_something_else(probe, other):
    train(probe)
    unfinished(runs()[0])
    assert configure([*probe, other, "resume=auto"])[1] is None


def test_auto_takes_a_run_with_another_budget(probe):
    train(probe)
    unfinished(runs()[0])
    cfg, run = configure([*probe, "trainer.max_steps=50", "resume=auto"])
    assert run is not None
    assert cfg.trainer.max_steps == 50


def test_auto_takes_the_latest(probe):
    for _ in range(2):
        train(probe)
    first, second = map(unfinished, runs())
    _, run = configure([*probe, "resume=auto"])
    assert run is not None and run.path == second != first


def test_auto_in_a_given_folder_looks_there(probe):
    train([*probe, "run_dir=here"])
    unfinished(Path("here"))
    _, run = configure([*probe, "run_dir=here", "resume=auto"])
    assert run == RunFolder(Path("here"))


def test_run_folders_never_collide(probe):
    cfg, _ = configure(probe)
    assert len({run_dir(cfg) for _ in range(200)}) == 200


def test_stored_run_has_the_weights_and_no_images(probe):
    train([*probe, "data=second", "run_dir=here"])
    stored = load_run("here")
    assert stored.step == 4
    assert stored.data.source == "second"
    expected = weights(Path("here"))["model.readout.weight"]
    assert torch.equal(stored.model.state_dict()["readout.weight"], expected)


def test_stored_run_reads_the_data_where_it_is_told_to(probe, monkeypatch):
    train([*probe, "run_dir=here"])
    stored = load_run("here", needs_images=True, overrides=["data.path=moved"])
    assert stored.config.data.path == "moved"


def test_stored_run_without_weights_is_refused(probe):
    train([*probe, "run_dir=here"])
    (Path("here") / "checkpoint" / "weights.safetensors").write_bytes(b"not weights")
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        load_run("here")


def test_metrics_stand_in_the_folder(probe):
    metrics = train([*probe, "run_dir=here"])
    assert metrics["psnr"] == 20.0
    assert (Path("here") / "evaluation" / "metrics.json").is_file()


def test_no_evaluation_if_none_is_wanted(probe):
    train([*probe, "run_dir=here", "eval_limit=0"])
    assert not (Path("here") / "evaluation").exists()


def test_option_that_is_not_by_default_as_before_is_as_before_for_earlier_runs() -> None:
    task: dict[str, Any] = {"_target_": "nfields.task.nerf.NerfTask", "max_rays": 100}
    newer = newer_options({"choices": {"task": "nerf"}, "task": task})["task"]
    assert newer["samples_per_ray"] is None and newer["grid_cells"] == 128
    assert newer["contraction_radius"] == 1 and newer["depth_weight"] == 0
    assert newer["sky"]["mode"] == "black" and newer["sky"]["degree"] == 2
    task["sky"] = {"_target_": newer["sky"]["_target_"], "mode": "learned"}
    sky = newer_options({"choices": {"task": "nerf"}, "task": task})["task"]["sky"]
    assert OmegaConf.merge({"sky": sky}, {"sky": task["sky"]}).sky.mode == "learned"
    task["samples_per_ray"] = 4
    assert (
        "samples_per_ray" not in newer_options({"choices": {"task": "nerf"}, "task": task})["task"]
    )

"""What compare trains: which runs, in which folders, which of them again."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from nfields.compare.training import Budget, plan, quoted, train_all
from nfields.config import compose
from nfields.errors import ConfigError
from nfields.overrides import parse
from tests.compare_runs.made import make_run

FREE = Budget(parameters=None, seconds=None, steps=None, tolerance=0.05)
WORDS = ["task=image", "model=siren", "model.width=8,16", "seed=0,1", "data.downscale=16"]


def finish(words: Sequence[str]) -> int:
    """Stands for a run of train.py that ends well: its folder says so."""
    cfg = compose(words)
    folder = make_run(Path(str(cfg.run_dir)), seed=cfg.seed)
    (folder / "config.yaml").write_text(yaml.safe_dump(config_of(words)))
    return 0


def config_of(words: Sequence[str]):
    from omegaconf import OmegaConf

    return OmegaConf.to_container(compose(words))


def test_all_combinations_with_the_seeds_outermost(tmp_path):
    jobs = plan(WORDS, FREE, tmp_path)
    assert [job.folder.name for job in jobs] == [
        "model=siren,model.width=8,seed=0",
        "model=siren,model.width=16,seed=0",
        "model=siren,model.width=8,seed=1",
        "model=siren,model.width=16,seed=1",
    ]
    assert [job.config["model"]["width"] for job in jobs] == [8, 16, 8, 16]


@pytest.mark.slow
def test_budgets_of_time_and_steps_replace_those_of_the_trainer(tmp_path):
    [job, *_] = plan(WORDS, Budget(None, 60.0, None, 0.05), tmp_path)
    assert (job.config["trainer"]["max_time"], job.config["trainer"]["max_steps"]) == (60, None)
    [job, *_] = plan(WORDS, Budget(None, None, 70, 0.05), tmp_path)
    assert (job.config["trainer"]["max_time"], job.config["trainer"]["max_steps"]) == (None, 70)
    with pytest.raises(ConfigError, match="say it twice"):
        plan([*WORDS, "trainer.max_time=5"], Budget(None, 60.0, None, 0.05), tmp_path)


@pytest.mark.slow
def test_parameters_are_matched_for_each_model(tmp_path):
    words = ["task=image", "model=siren,fourier", "seed=0,1", "data.downscale=16"]
    jobs = plan(words, Budget(20_000, None, None, 0.05), tmp_path)
    sizes = [job.matched.parameters for job in jobs if job.matched is not None]
    assert len(sizes) == 4 and all(19_000 <= size <= 20_000 for size in sizes)
    widths = [job.config["model"]["width"] for job in jobs]
    assert widths[:2] == widths[2:] and widths[0] != widths[1]
    with pytest.raises(ConfigError, match=r"model\.width is what budget\.params sets"):
        plan([*words, "model.width=3"], Budget(20_000, None, None, 0.05), tmp_path)


@pytest.mark.slow
def test_a_rerun_skips_what_is_finished_and_goes_on_with_what_is_not(tmp_path):
    started: list[str] = []

    def run(words):
        started.append(" ".join(words))
        return finish(words)

    said: list[str] = []
    jobs = plan(WORDS, FREE, tmp_path)
    assert train_all(jobs[:2], said.append, run) == [] and len(started) == 2
    (jobs[1].folder / "summary.json").unlink()  # stopped before it was saved
    assert train_all(plan(WORDS, FREE, tmp_path), said.append, run) == []
    assert len(started) == 5 and sum("skipped" in line for line in said) == 1

    (jobs[2].folder / "checkpoint").mkdir()
    (jobs[2].folder / "summary.json").unlink()  # stopped, and saved
    started.clear()

    def go_on(words):
        started.extend(words)
        (jobs[2].folder / "summary.json").write_text("{}")
        return 0

    assert train_all(jobs, said.append, go_on) == []
    assert started == [f"resume={quoted(jobs[2].folder)}"]


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_others_but_ctrl_c_does(tmp_path):
    jobs = plan(WORDS, FREE, tmp_path)
    codes = iter([2, 0, 130])

    def run(words):
        code = next(codes)
        return finish(words) if code == 0 else code

    with pytest.raises(SystemExit) as stopped:
        train_all(jobs, lambda _: None, run)
    assert stopped.value.code == 130
    assert [job.folder.exists() for job in jobs] == [False, True, False, False]
    failed = train_all(jobs[:1], lambda _: None, lambda words: 2)
    assert failed == jobs[:1]


@pytest.mark.slow
def test_a_folder_with_other_runs_is_refused(tmp_path):
    train_all(plan(WORDS, FREE, tmp_path), lambda _: None, finish)
    plan(WORDS, FREE, tmp_path)
    with pytest.raises(ConfigError, match=r"model\.num_layers=4 there, 2 now; give another folder"):
        plan([*WORDS, "model.num_layers=2"], FREE, tmp_path)


@pytest.mark.parametrize("name", ["a=b,c=d", "it's", r"back\slash", "[x] {y}"])
def test_folders_of_any_name_reach_hydra_unchanged(name):
    [override] = parse([f"run_dir={quoted(Path('out') / name)}"])
    assert override.value() == f"out/{name}"

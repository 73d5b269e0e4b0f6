"""Which runs are compared, and which are refused."""

import json
import os

import pytest

from nfields.compare.runs import check_protocols, collect, protocol_differences
from nfields.errors import ConfigError, DataError
from tests.compare_runs.made import make_run


def test_every_finished_run_below_a_folder_is_found_once(tmp_path):
    for seed in range(3):
        make_run(tmp_path / "deep" / f"{seed}", seed=seed)
    collected = collect([tmp_path, tmp_path / "deep" / "1"])
    assert sorted(run.seed for run in collected.runs) == [0, 1, 2] and not collected.skipped


def test_unfinished_and_unevaluated_runs_are_skipped_with_what_to_do(tmp_path):
    make_run(tmp_path / "good")
    (make_run(tmp_path / "stopped", seed=1) / "summary.json").unlink()
    (make_run(tmp_path / "unmeasured", seed=2) / "evaluation" / "metrics.json").unlink()
    collected = collect([tmp_path])
    assert [run.folder.name for run in collected.runs] == ["good"]
    reasons = {folder.rpartition("/")[2]: reason for folder, reason in collected.skipped.items()}
    assert "resume=" in reasons["stopped"] and "evaluate.py run=" in reasons["unmeasured"]


def test_a_repeated_seed_counts_once_and_the_newest(tmp_path):
    old = make_run(tmp_path / "z_old", psnr=10)
    new = make_run(tmp_path / "a_new", psnr=20)
    os.utime(old / "summary.json", (1, 1))
    collected = collect([tmp_path])
    assert [run.folder for run in collected.runs] == [new] and str(old) in collected.skipped
    os.utime(new / "summary.json", (0, 0))
    assert [run.folder for run in collect([tmp_path]).runs] == [old]


def test_a_folder_without_runs_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no run folder in or below it"):
        collect([tmp_path])
    with pytest.raises(DataError, match="no folder"):
        collect([tmp_path / "absent"])


def test_runs_of_a_sweep_are_those_with_its_words_that_started_later(tmp_path):
    sweep = tmp_path / "outputs" / "sweep" / "2026-01-02_00-00-00"
    sweep.mkdir(parents=True)
    words = ["task=image", "seed=0,1"]
    (sweep / "multirun.yaml").write_text(json.dumps({"hydra": {"overrides": {"task": words}}}))
    folders = {
        "2026-01-01_00-00-00": ["task=image", "seed=0"],  # before it
        "2026-01-02_00-00-01": ["task=image", "seed=0"],
        "2026-01-02_00-00-02": ["task=image", "seed=7"],  # not of it
        "2026-01-02_00-00-03": ["task=image", "seed=1", "hydra.searchpath=[file:///x]"],
        "2026-01-02_00-00-04": ["task=image", "seed=0"],  # the same words again, later
    }
    for seed, (name, given) in enumerate(folders.items()):
        run = make_run(tmp_path / "outputs" / "image" / "siren" / name, seed=seed)
        (run / "overrides.yaml").write_text(json.dumps(given))
    found = [run.folder.name for run in collect([sweep]).runs]
    assert found == ["2026-01-02_00-00-01", "2026-01-02_00-00-03"]


def test_different_protocols_are_refused_by_the_keys_that_differ(tmp_path):
    make_run(tmp_path / "white")
    make_run(tmp_path / "black", seed=1, protocol={"background": "black"})
    with pytest.raises(ConfigError) as caught:
        check_protocols(collect([tmp_path]).runs)
    text = str(caught.value)
    assert "background:" in text and "white  in" in text and "mix_protocols=true" in text
    assert "metrics.psnr" not in text


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ({"protocol": {"metrics": {"psnr": "peak 255"}}}, "metrics.psnr"),
        ({"protocol": {"extra": 1}}, "extra"),
        ({"data": "other.png"}, "data.path"),
    ],
)
def test_any_difference_in_measuring_counts(tmp_path, kind, key):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", **kind)
    assert list(protocol_differences(collect([tmp_path]).runs)) == [key]


def test_seed_folder_and_progress_do_not_make_runs_incomparable(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", seed=1)
    runs = collect([tmp_path]).runs
    check_protocols(runs)
    assert runs[0].options == runs[1].options

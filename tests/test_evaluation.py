import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from nfields.errors import ConfigError, DataError
from nfields.evaluation import evaluate, main
from nfields.run_folder import RunFolder
from nfields.stored_run import load_run
from tests.stored import make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def metrics_of(run: Path, folder: str = "evaluation") -> dict[str, Any]:
    return json.loads((run / folder / "metrics.json").read_text())


def test_metrics_file_has_means_images_protocol_and_what_training_took(run, capsys):
    main([f"run={run}"])
    stored = metrics_of(run)
    assert set(stored) == {
        *("psnr", "ssim", "flip", "render_seconds", "per_image", "protocol", "evaluate_seconds"),
        *("steps", "train_seconds", "parameters", "peak_memory_bytes", "device"),
    }
    assert (stored["steps"], stored["train_seconds"], stored["peak_memory_bytes"]) == (
        500,
        2.5,
        456,
    )
    assert len(stored["per_image"]) == stored["protocol"]["num_images"] == 3
    assert stored["psnr"] == pytest.approx(sum(row["psnr"] for row in stored["per_image"]) / 3)
    assert stored["protocol"]["resolution"] == [16, 16]
    assert len(list((run / "evaluation").glob("*_comparison.png"))) == 1
    printed = capsys.readouterr().out
    assert f"{stored['psnr']:.6g}" in printed and "background" in printed


def test_options_of_the_task_reach_it_and_leave_the_usual_figures_alone(run):
    main([f"run={run}"])
    usual = metrics_of(run)
    main([f"run={run}", "split=train", "background=black", "limit=2"])
    assert metrics_of(run) == usual
    other = metrics_of(run, "evaluation/background=black,limit=2,split=train")
    assert other["protocol"]["split"] == "train" and other["protocol"]["background"] == "black"
    assert len(other["per_image"]) == 2 and other["psnr"] != usual["psnr"]


def test_out_takes_the_results(run, tmp_path):
    main([f"run={run}", f"out={tmp_path / 'results'}"])
    assert (tmp_path / "results" / "metrics.json").exists() and not (run / "evaluation").exists()


def test_a_moved_run_measures_the_same(run, tmp_path):
    main([f"run={run}"])
    shutil.move(run, tmp_path / "moved")
    before = metrics_of(tmp_path / "moved")
    main([f"run={tmp_path / 'moved'}"])
    assert metrics_of(tmp_path / "moved")["per_image"] == before["per_image"]


def test_missing_data_set_is_asked_for_by_its_option(tmp_path):
    options = {"_target_": "nfields.data.posed_images.open_posed_images", "path": "/no/such/chair"}
    defaults = {"downscale": 1, "holdout": 8, "allow_outside": False, "masks": "exclude"}
    run = make_run(tmp_path / "run", data=options | defaults)
    with pytest.raises(DataError, match=r"(?s)/no/such/chair.*where it is now: data.path=<folder>"):
        main([f"run={run}"])
    with pytest.raises(DataError, match="/not/here/either"):
        main([f"run={run}", "data.path=/not/here/either"])


def test_stopped_run_is_measured_with_what_its_checkpoint_tells(run):
    (run / "summary.json").unlink()
    stored = load_run(run, needs_images=True, device="cpu")
    result = evaluate(stored.task, stored.model, RunFolder(run), 1)
    assert (result["steps"], result["train_seconds"], result["parameters"]) == (500, 2.5, 1)


def test_training_mode_is_put_back(run):
    stored = load_run(run, needs_images=True, device="cpu")
    stored.model.train()
    evaluate(stored.task, stored.model, RunFolder(run), 1)
    assert stored.model.training


def test_limit_zero_returns_the_facts_and_writes_nothing(run):
    stored = load_run(run, device="cpu")
    result = evaluate(stored.task, stored.model, RunFolder(run), 0)
    assert result["steps"] == 500 and "psnr" not in result and not (run / "evaluation").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["limti=3"], r"limti=3: no such option; did you mean limit\?"),
        (["backgroud=black"], r"backgroud=black: no such option; did you mean background\?"),
        (["background=pink"], "background = 'pink': must be one of 'white', 'black'"),
        (["limit=many"], "limit = 'many': must be a whole number or null"),
        (["limit=0"], "limit=0 would evaluate nothing"),
        (["limit=-1"], "limit=-1 must be 0 or more"),
        (["test"], "test: not of the form key=value"),
        (["data.resolutoin=3"], "data.resolution"),
    ],
)
def test_wrong_options_are_named(run, words, message):
    with pytest.raises(ConfigError, match=message):
        main([f"run={run}", *words])
    assert not (run / "evaluation").exists()


def test_all_wrong_options_are_named_at_once(run):
    with pytest.raises(ConfigError) as caught:
        main([f"run={run}", "limti=3", "background=pink"])
    assert "limti" in str(caught.value) and "pink" in str(caught.value)


def test_run_must_be_given_and_be_one(run, tmp_path):
    with pytest.raises(ConfigError, match="run is missing"):
        main(["limit=3"])
    with pytest.raises(DataError, match="is not a run folder"):
        main([f"run={tmp_path}"])
    shutil.rmtree(run / "checkpoint")
    with pytest.raises(DataError, match="holds no checkpoint"):
        main([f"run={run}"])


def test_results_that_cannot_be_written_are_a_clear_error(run, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        main([f"run={run}", f"out={tmp_path / 'taken'}"])


def test_help_names_the_options(capsys):
    main([])
    assert "data.path" in capsys.readouterr().out

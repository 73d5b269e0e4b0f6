"""Means over items, and which sets of runs have none."""

import json

import pytest

from nfields.compare.averages import averaged
from nfields.compare.command import main
from nfields.compare.runs import collect
from nfields.errors import ConfigError
from tests.compare_runs.made import make_run


@pytest.fixture
def runs(tmp_path):
    """Two models, two seeds, two pictures of different sizes; picture b is 10 dB harder."""
    for model, base in (("siren", 30), ("rbfnet", 34)):
        for seed in range(2):
            for data, harder, size in (("a.png", 0, [4, 6]), ("b.png", 10, [6, 4])):
                make_run(
                    tmp_path / "runs" / f"{model}-{seed}-{data}",
                    model=model, seed=seed, psnr=base + seed - harder, data=data,
                    protocol={"resolution": size}, seconds=10 + harder,
                )  # fmt: skip
    return tmp_path / "runs"


def test_a_row_is_the_mean_over_items_and_its_spread_that_of_seeds(runs, tmp_path, capsys):
    main([f"runs={runs}", "mean_over=data.path", f"out={tmp_path / 'out'}"])
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    rows = {row["label"]: row for row in stored["rows"]}
    assert rows["siren"]["measures"]["psnr"]["mean"] == pytest.approx(25.5)
    assert rows["siren"]["measures"]["psnr"]["std"] == pytest.approx(0.5**0.5)  # of 25 and 26
    assert rows["rbfnet"]["measures"]["psnr"]["count"] == 2
    assert rows["rbfnet"]["facts"]["train_seconds"]["mean"] == 15
    assert "mean over=2 of data.path (a.png, b.png)" in capsys.readouterr().out


def test_curves_are_means_of_what_was_logged_at_the_same_step(runs):
    mean = next(run for run in averaged(collect([runs]).runs, "data.path", False) if run.seed == 0)
    base = {"siren": 25, "rbfnet": 29}[mean.choices["model"]]
    assert [line["step"] for line in mean.log] == [25, 50, 100]
    assert mean.log[0]["psnr"] == pytest.approx(base - 5 / 25)


def test_a_row_that_lacks_an_item_is_refused(runs):
    found = [run for run in collect([runs]).runs if run.folder.name != "siren-1-b.png"]
    with pytest.raises(ConfigError, match=r"\(seed 1\) has no run with data\.path=b\.png"):
        averaged(found, "data.path", False)


def test_an_item_measured_differently_in_two_rows_is_refused(runs, tmp_path):
    make_run(tmp_path / "c", model="fourier", data="a.png", protocol={"resolution": [1, 1]})
    found = [
        run for run in collect([runs, tmp_path / "c"]).runs if run.options["data.path"] == "a.png"
    ]
    with pytest.raises(ConfigError, match="resolution"):
        averaged(found, "data.path", False)


def test_an_option_that_does_not_exist_gets_the_nearest(runs):
    with pytest.raises(ConfigError, match=r"did you mean data\.path"):
        averaged(collect([runs]).runs, "data.pth", False)

"""Rows, statistics, the three formats, the front."""

import csv
import io

import numpy as np
import pytest

from nfields.compare.pareto import is_lower_better, pareto_front
from nfields.compare.runs import collect
from nfields.compare.table import (
    Statistic,
    comma_separated,
    latex,
    make_rows,
    markdown,
    options_of_models,
)
from tests.compare_runs.made import make_run


def test_mean_and_std_are_those_of_numpy():
    values = [29.1, 30.4, 31.7, 28.2]
    statistic = Statistic.of(values)
    assert statistic.mean == pytest.approx(np.mean(values))
    assert statistic.std == pytest.approx(np.std(values, ddof=1))
    assert Statistic.of([3.0]).std is None


def test_four_digits_and_a_spread_to_the_same_place():
    assert str(Statistic(30.5279, 0.9613, 3)) == "30.53 ± 0.96"
    assert str(Statistic(0.95704, 0.00211, 3)) == "0.9570 ± 0.0021"
    assert str(Statistic(0.039513, None, 1)) == "0.03951"
    assert str(Statistic(173451.0, None, 1)) == "173,451"
    assert str(Statistic(0.0, None, 1)) == "0.0000"


def test_seeds_share_a_row_and_options_tell_rows_apart(tmp_path):
    for seed in range(3):
        make_run(tmp_path / f"a{seed}", seed=seed, psnr=30 + seed)
        make_run(tmp_path / f"b{seed}", seed=seed, options={"width": 10})
        make_run(tmp_path / f"c{seed}", seed=seed, options={"width": 9})
        make_run(tmp_path / f"d{seed}", seed=seed, model="rbfnet", options={"depth": 7})
    rows = make_rows(collect([tmp_path]).runs)
    assert [row.label for row in rows] == ["siren", "siren, width 9", "siren, width 10", "rbfnet"]
    assert list(rows[0].names) == ["model", "model.width"]  # rbfnet alone has a depth
    assert [len(row.runs) for row in rows] == [3, 3, 3, 3]
    psnr = rows[0].measure("psnr")
    assert psnr is not None and (psnr.mean, psnr.std, psnr.count) == (31, 1, 3)


def test_what_goes_with_the_model_is_noted_and_no_name(tmp_path):
    make_run(tmp_path / "a", task={"pixels_per_step": 4096})
    make_run(tmp_path / "b", model="rbfnet", task={"pixels_per_step": 16384})
    rows = make_rows(collect([tmp_path]).runs)
    assert [row.label for row in rows] == ["siren", "rbfnet"]
    assert options_of_models(rows) == {"task.pixels_per_step": {"siren": "4096", "rbfnet": "16384"}}
    make_run(tmp_path / "c", task={"pixels_per_step": 10})
    rows = make_rows(collect([tmp_path]).runs)
    assert [row.label for row in rows] == [
        "siren, pixels_per_step 10",
        "siren, pixels_per_step 4096",
        "rbfnet, pixels_per_step 16384",
    ]
    assert options_of_models(rows) == {}


def test_a_measure_that_one_run_lacks_is_not_averaged(tmp_path):
    make_run(tmp_path / "a", seed=0)
    make_run(tmp_path / "b", seed=1, psnr=float("nan"))
    [row] = make_rows(collect([tmp_path]).runs)
    assert row.measure("psnr") is None and row.measure("flip") is not None


def test_mixed_protocols_are_told_apart_in_columns(tmp_path):
    make_run(tmp_path / "a")
    make_run(tmp_path / "b", protocol={"background": "black"})
    rows = make_rows(collect([tmp_path]).runs)
    assert [row.label for row in rows] == ["siren, black", "siren, white"]
    assert "| black |" in markdown(rows)


def test_markdown_escapes_what_would_break_the_table(tmp_path):
    make_run(tmp_path / "a", options={"note": "x|y"})
    make_run(tmp_path / "b", options={"note": "z"})
    lines = markdown(make_rows(collect([tmp_path]).runs)).splitlines()
    assert r"x\|y" in lines[2]
    assert {line.replace(r"\|", "").count("|") for line in lines} == {lines[0].count("|")}


def test_latex_escapes_what_means_something_there(tmp_path):
    make_run(tmp_path / "a", options={"note": r"50%_{x}\&~^$#"})
    make_run(tmp_path / "b", options={"note": "z"})
    make_run(tmp_path / "c", options={"note": "z"}, seed=1)
    text = latex(make_rows(collect([tmp_path]).runs))
    escaped = r"50\%\_\{x\}\textbackslash{}\&\textasciitilde{}\textasciicircum{}\$\#"
    assert escaped in text and r"$30.00 \pm 0.00$" in text
    assert text.count(r"\\") == 3 and r"\toprule" in text


def test_csv_has_all_digits_and_reads_back(tmp_path):
    make_run(tmp_path / "a", psnr=30.123456789, options={"note": 'a,"b"\nc'})
    make_run(tmp_path / "b", psnr=31.123456789, seed=1, options={"note": 'a,"b"\nc'})
    make_run(tmp_path / "c", psnr=5.0, options={"note": "d"})
    first, second = csv.DictReader(
        io.StringIO(comma_separated(make_rows(collect([tmp_path]).runs)))
    )
    assert first["model.note"] == 'a,"b"\nc'
    assert float(first["psnr"]) == pytest.approx(30.623456789, abs=1e-12)
    assert float(first["psnr std"]) == pytest.approx(np.std([0, 1], ddof=1))
    assert second["psnr std"] == "" and first["seeds"] == "2"
    assert float(first["peak memory, MB"]) == 5


def test_front_of_known_points():
    costs, quality = [1, 2, 3, 4, 2], [10, 30, 20, 40, 29]
    assert pareto_front(costs, quality) == [0, 1, 3]
    assert pareto_front(costs, quality, lower_is_better=True) == [0]


def test_equal_points_are_both_on_the_front_and_a_percent_of_cost_is_nothing():
    assert pareto_front([1, 1], [5, 5]) == [0, 1]
    assert pareto_front([60.01, 60.3], [30, 31]) == [1]
    assert pareto_front([60, 70], [30, 31]) == [0, 1]
    assert pareto_front([], []) == []


def test_errors_are_better_low():
    assert is_lower_better("chamfer_l1") and is_lower_better("normal_error_deg")
    assert is_lower_better("flip") and is_lower_better("render_seconds")
    assert not is_lower_better("psnr") and not is_lower_better("accuracy")

"""Which curves are drawn; how rows look."""

import json

import numpy as np

from nfields.compare.plot import COSTS, Measure, curve_key, draw, styles
from nfields.compare.runs import collect
from nfields.compare.table import make_rows
from tests.compare_runs.made import make_run

PSNR = Measure("psnr", lower_is_better=False)


def add_lines(run, lines):
    with (run / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def rows_of(folder):
    return make_rows(collect([folder]).runs)


def test_validations_stand_over_training_batches(tmp_path):
    for model in ("siren", "fourier"):
        run = make_run(tmp_path / model, model=model)
        assert curve_key(rows_of(tmp_path), "psnr") == "psnr"
        add_lines(run, [{"step": s, "seconds": s / 10, "validation_psnr": s} for s in (50, 100)])
    assert curve_key(rows_of(tmp_path), "psnr") == "validation_psnr"
    assert curve_key(rows_of(tmp_path), "ssim") is None


def test_a_run_with_one_line_is_a_point_beside_the_curves_of_others(tmp_path):
    make_run(tmp_path / "a")
    short = make_run(tmp_path / "b", model="fourier")
    (short / "metrics.jsonl").write_text(json.dumps({"step": 1, "seconds": 1, "psnr": 9}) + "\n")
    rows = rows_of(tmp_path)
    figure = draw(rows, COSTS[1], PSNR)
    curves = [line for line in figure.axes[0].lines if len(np.asarray(line.get_xdata())) == 3]
    assert len(rows) == 2 and len(curves) == 1


def test_the_curve_is_the_mean_over_seeds_where_all_have_values(tmp_path):
    make_run(tmp_path / "a", seed=0, psnr=20)
    long = make_run(tmp_path / "b", seed=1, psnr=30)
    add_lines(long, [{"step": 200, "seconds": 20, "psnr": 31}])
    figure = draw(rows_of(tmp_path), COSTS[1], PSNR)
    [curve] = [line for line in figure.axes[0].lines if len(np.asarray(line.get_xdata())) == 3]
    assert list(np.asarray(curve.get_xdata())) == [25, 50, 100]
    expected = [25 - 5 / 25, 25 - 5 / 50, 25 - 5 / 100]
    assert np.allclose(np.asarray(curve.get_ydata(), dtype=float), expected)


def test_a_model_has_one_colour_and_its_variants_other_dashes(tmp_path):
    for model in ("siren", "fourier"):
        for width in (8, 16):
            make_run(tmp_path / f"{model}{width}", model=model, options={"width": width})
    looks = styles(rows_of(tmp_path))
    assert looks[0].color == looks[1].color != looks[2].color == looks[3].color
    assert looks[0].dash != looks[1].dash
    only = styles(rows_of(tmp_path)[:2])
    assert only[0].color != only[1].color  # one model: its variants have the colours

"""The command compare, from words to files."""

import json

import pytest

from nfields.compare.command import default_folder, main
from nfields.errors import ConfigError
from tests.compare_runs.made import make_run


def test_table_plots_and_json_are_written(tmp_path, capsys):
    for seed in range(3):
        for model, psnr in (("siren", 30), ("rbfnet", 35)):
            run = tmp_path / "runs" / f"{model}{seed}"
            make_run(run, model=model, seed=seed, psnr=psnr + seed, parameters=1000 + psnr)
    (make_run(tmp_path / "runs" / "stopped", seed=9) / "summary.json").unlink()
    main([f"runs={tmp_path / 'runs'}", f"out={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert "31.00 ± 1.00" in printed and "background=white" in printed
    assert "1 runs were skipped" in printed and "not finished" in printed
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {
        *("table.md", "table.csv", "table.tex", "compare.json"),
        *("quality_train_seconds.png", "quality_steps.png", "quality_parameters.png"),
    }
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    rows = {row["label"]: row for row in stored["rows"]}
    assert rows["siren"]["measures"]["psnr"] == {"mean": 31, "std": 1, "count": 3}
    assert [run["seed"] for run in rows["rbfnet"]["runs"]] == [0, 1, 2]
    assert stored["pareto_fronts"]["parameters"] == [["rbfnet"]]  # within a percent: equal cost
    assert len(stored["skipped"]) == 1


def test_mixed_protocols_need_a_word(tmp_path, capsys):
    make_run(tmp_path / "a" / "1")
    make_run(tmp_path / "b" / "1", protocol={"background": "black"})
    words = [f"runs={tmp_path / 'a'},{tmp_path / 'b'}", f"out={tmp_path / 'out'}"]
    with pytest.raises(ConfigError, match="not measured alike"):
        main(words)
    assert not (tmp_path / "out").exists()
    main([*words, "mix_protocols=true"])
    printed = capsys.readouterr().out
    assert "NOT measured alike: background differ" in printed
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert len(stored["pareto_fronts"]["parameters"]) == 2  # one a protocol


def test_one_run_without_a_log_is_a_comparison(tmp_path):
    run = make_run(tmp_path / "a")
    (run / "metrics.jsonl").unlink()
    main([f"runs={run}", f"out={tmp_path / 'out'}", "metric=flip"])
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert stored["measure"] == {"name": "flip", "lower_is_better": True}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["model=siren", "budget.prams=3"], r"budget.prams: no such budget; did you mean"),
        (["model=siren", "budget.params=[1]"], r"budget.params = \[1\]: must be"),
        (["model=siren", "budget.seconds=soon"], "budget.seconds='soon' is not a duration"),
        (["model=siren", "budget.tolerance=1%"], "no effect without budget.params"),
        (["model=siren", "run_dir=x"], "give out=FOLDER"),
        (["runs=x", "model=siren"], "nothing is trained"),
        (["runs=x", "budget.steps=3"], "nothing is trained"),
        (["runs=x", "better=maybe"], "must be one of 'auto', 'higher', 'lower'"),
        (["siren"], "not of the form key=value"),
        (["model=sirne"], "did you mean siren"),
    ],
)
def test_wrong_words_are_named(words, message):
    with pytest.raises(ConfigError, match=message):
        main(words)


def test_a_measure_that_is_not_there_is_named(tmp_path):
    make_run(tmp_path / "a")
    with pytest.raises(ConfigError, match=r"metric=psrn: not measured; did you mean psnr\?"):
        main([f"runs={tmp_path}", f"out={tmp_path / 'out'}", "metric=psrn"])


def test_more_seeds_and_models_stay_in_one_folder():
    one = default_folder(["task=image", "model=a", "seed=0"], "image")
    assert one == default_folder(["seed=0,1", "model=a,b", "task=image"], "image")
    assert one != default_folder(["task=image", "model=a", "seed=0", "model.lr=1"], "image")


def test_help_names_the_budgets(capsys):
    main([])
    assert "budget.params" in capsys.readouterr().out


@pytest.mark.slow
def test_training_at_equal_budgets_end_to_end_and_again(tmp_path, capfd):
    words = ["task=image", "model=siren,fourier", "model.num_layers=1", "data.downscale=16"]
    words += [
        "budget.params=2k",
        "budget.tolerance=10%",
        "budget.steps=3",
        "trainer.log_every=1",
        "task.num_pictures=0",
    ]
    words += ["trainer.threads=1", f"out={tmp_path / 'out'}"]
    main(words)
    assert "2 runs" in capfd.readouterr().out
    stored = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["label"] for row in stored["rows"]] == ["siren", "fourier"]
    for row in stored["rows"]:
        assert row["facts"]["steps"]["mean"] == 3
        assert 1800 <= row["facts"]["parameters"]["mean"] <= 2000
    folders = [run["folder"] for row in stored["rows"] for run in row["runs"]]
    assert {stored["matched"][folder]["parameters"] for folder in folders} == {
        row["facts"]["parameters"]["mean"] for row in stored["rows"]
    }
    main(words)
    assert capfd.readouterr().out.count("skipped") == 2

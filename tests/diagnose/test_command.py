"""The command diagnose, from words to files."""

import json
import time

import pytest
import torch

from nfields.diagnose import command, gradient, throughput
from nfields.diagnose.command import main
from nfields.diagnose.slice import Slice
from nfields.errors import ConfigError
from nfields.run import train
from tests.diagnose.fields import ReluField

WORDS = ["task=image", "data.downscale=16", "trainer.threads=1"]
SMALL = [*WORDS, "model=siren", "model.width=8", "model.num_layers=1"]


def diagnosis(folder):
    return json.loads((folder / "diagnose.json").read_text())


@pytest.fixture
def few_points(monkeypatch):
    """A tangent kernel of fewer points: with types checked, its passes are slow."""
    monkeypatch.setattr(command, "KERNEL_SIDE", {1: 32, 2: 6})


@pytest.mark.slow
def test_all_parts_are_written(tmp_path, capsys, few_points):
    main([*SMALL, "steps=4", f"out={tmp_path}"])
    names = {"spectrum.png", "ntk.png", "throughput.png", "gradient.png", "diagnose.json"}
    assert {file.name for file in tmp_path.iterdir()} == names
    stored = diagnosis(tmp_path)
    assert stored["spectrum"]["steps"] == [0, 1, 2, 3, 4]
    assert len(stored["ntk"]["eigenvalues"]) == 32 and stored["gradient"]["is_good"]
    assert {rate["backend"] for rate in stored["throughput"]["rates"]} == {"kernels", "reference"}
    printed = capsys.readouterr().out
    assert "condition number" in printed and "cycles" in printed and "comparisons agree" in printed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "dim"),
    [("rbfnet", 1), ("hashgrid", 1), ("neurbf", 1), ("fourier", 1), ("rbfnet", 2)],
)
def test_every_model_on_lines_and_planes(model, dim, tmp_path, few_points):
    words = [f"model={model}", f"dim={dim}", "steps=3", "what=spectrum,ntk,gradient"]
    words += ["model.num_kernels=300"] if model == "neurbf" else []
    main([*WORDS, *words, f"out={tmp_path}"])
    stored = diagnosis(tmp_path)
    assert stored["gradient"]["is_good"] and stored["ntk"]["effective_rank"] > 1
    assert stored["dim"] == dim and "throughput" not in stored


@pytest.mark.slow
def test_unit_vectors_are_diagnosed_on_a_circle(tmp_path, few_points):
    words = ["task=sphere", "model=sh_siren", "steps=3", "what=spectrum,ntk,gradient"]
    main([*words, "trainer.threads=1", f"out={tmp_path}"])
    stored = diagnosis(tmp_path)
    assert stored["domain"] == "sphere" and stored["gradient"]["is_good"]


@pytest.mark.slow
def test_a_wrong_gradient_ends_with_exit_code_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gradient, "KERNEL_TOLERANCE", 0.0)
    with pytest.raises(SystemExit) as stopped:
        main([*SMALL, "what=gradient", f"out={tmp_path}"])
    assert stopped.value.code == 1 and "WRONG" in capsys.readouterr().out
    assert not diagnosis(tmp_path)["gradient"]["is_good"]


@pytest.mark.slow
def test_a_trained_run_is_diagnosed_with_its_weights(tmp_path, few_points):
    run = tmp_path / "run"
    train(
        [*SMALL, f"run_dir={run}", "trainer.max_steps=3", "trainer.max_time=null", "eval_limit=0"]
    )
    main([f"run={run}", "what=ntk"])
    trained = diagnosis(run / "diagnosis")["ntk"]["eigenvalues"]
    main([*SMALL, "what=ntk", f"out={tmp_path / 'new'}"])
    assert trained != diagnosis(tmp_path / "new")["ntk"]["eigenvalues"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["what=spectre"], r"what=spectre: no such part; did you mean"),
        (["dim=3"], "dim = 3: must be one of 1, 2"),
        (["steps=0"], "steps=0: must be at least 1"),
        (["domain=sphere"], "the field has 2 coordinates, not 3"),
        (["model.widht=3"], r"model\.width"),
        (["siren"], "not of the form key=value"),
    ],
)
def test_wrong_words_are_named(words, message):
    with pytest.raises(ConfigError, match=message):
        main([*SMALL, *words])


def test_a_backend_that_takes_too_long_is_not_asked_for_more(monkeypatch):
    class Slow(ReluField):
        def forward(self, x, groups=None):
            time.sleep(0.02)
            return super().forward(x, groups)

    monkeypatch.setattr(throughput, "TOO_LONG_SECONDS", 0.03)
    models = {"fast": ReluField((2, 4, 1)), "slow": Slow((2, 4, 1))}
    rates = throughput.throughput(
        models, Slice(1, 2, False), torch.device("cpu"), batch_sizes=(8, 16), repeats=3
    )
    assert [(rate.backend, rate.batch_size) for rate in rates] == [
        ("fast", 8),
        ("slow", 8),
        ("fast", 16),
    ]
    assert 8 / 0.02 > rates[1].forward_backward > 0


def test_help_names_the_parts(capsys):
    main([])
    assert "spectrum" in capsys.readouterr().out

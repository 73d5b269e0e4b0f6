"""image: a picture is learned, rendered at any size, and measured as a whole."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nfields
from nfields.config import build
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import Adam, ParameterGroup
from nfields.task.image import ImageTask
from tests.data.test_picture_file import written


def make(path: Path, *overrides: str) -> tuple[ImageTask, Field]:
    cfg = nfields.compose(["task=image", "model=rbfnet", f"data.path={path}", *overrides])
    task = build(cfg.task, data=build(cfg.data))
    return task, build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim)


@pytest.fixture
def waves(tmp_path: Path) -> Path:
    """A smooth picture, 96 x 64, RGB."""
    y, x = np.mgrid[:64, :96]
    channels = [np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)]
    values = (np.stack(channels, axis=2) * 0.4 + 0.5) * 255
    path = tmp_path / "waves.png"
    Image.fromarray(values.astype(np.uint8)).save(path)
    return path


@pytest.mark.parametrize("loss", ["l2", "l1", "huber"])
@pytest.mark.slow
def test_a_smooth_picture_is_learned(waves: Path, loss: str, tmp_path: Path) -> None:
    task, model = make(waves, f"task.loss={loss}", "task.pixels_per_step=2048")
    generator = torch.Generator().manual_seed(0)
    task.prepare(model, generator)
    optimizer = Adam(model.parameter_groups(), (0.9, 0.99), 1e-15)
    for _ in range(120):
        result = task.losses(model, task.batch(generator))
        optimizer.zero_grad()
        result.losses["value"].backward()
        optimizer.step()
    metrics = task.evaluate(model, tmp_path / "out", None, flip=False)
    assert metrics["psnr"] > 32
    assert abs(metrics["psnr"] - task.validate(model, None)["psnr"]) < 0.01
    assert task.render(model, 30, 20).shape == (20, 30, 3)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 4)])
@pytest.mark.slow
def test_grey_and_alpha_have_their_own_channels(mode: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new(mode, (20, 12), 90 if mode == "L" else (90, 60, 30, 128)).save(path)
    task, model = make(path)
    assert task.out_dim == channels
    task.prepare(model, torch.Generator().manual_seed(0))
    metrics = task.evaluate(model, tmp_path / "out", None, flip=False)
    assert metrics["protocol"]["resolution"] == [20, 12]


class Noted(Field):
    """Remembers the samples it is initialised from; half of the truth everywhere."""

    def __init__(self, out_dim: int):
        super().__init__()
        self.in_dim, self.out_dim = 2, out_dim
        self.readout = torch.nn.Linear(1, out_dim)

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        self.samples = samples

    def forward(self, x: torch.Tensor, groups: GroupReadout | None = None) -> torch.Tensor:
        return self.readout(x[:, :1])

    def kernels(self, x: torch.Tensor) -> Kernels | None:
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        return []


def test_model_is_initialised_where_the_picture_changes(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, 30:] = 200
    Image.fromarray(pixels).save(tmp_path / "edge.png")
    task, _ = make(tmp_path / "edge.png")
    model = Noted(3)
    task.prepare(model, torch.Generator().manual_seed(0))
    x, weights = model.samples.x, model.samples.weights
    assert torch.equal(x, task.data.pixel_coords(torch.arange(2400)))  # every pixel once
    assert weights.mean().item() == pytest.approx(1)
    is_edge = x[:, 0].abs() < 2 / 60
    assert (weights[is_edge] > 10).all() and (weights[~is_edge] == 0).all()


def test_large_pictures_give_a_sample_of_their_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 600), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    task, _ = make(tmp_path / "large.png")
    model = Noted(1)
    task.prepare(model, torch.Generator().manual_seed(0))
    assert model.samples.x.shape == (1 << 18, 2)
    assert model.samples.weights.mean().item() == pytest.approx(1, abs=1e-5)
    assert len(model.samples.x.unique(dim=0)) > 0.8 * (1 << 18)


def test_constant_pictures_weigh_all_pixels_alike(tmp_path: Path) -> None:
    Image.new("RGB", (20, 12), (9, 9, 9)).save(tmp_path / "flat.png")
    task, _ = make(tmp_path / "flat.png")
    model = Noted(3)
    task.prepare(model, torch.Generator().manual_seed(0))
    assert (model.samples.weights == 1).all()


@pytest.mark.parametrize("transfer", ["srgb", "linear"])
def test_metrics_are_of_what_a_screen_shows(tmp_path: Path, transfer: str) -> None:
    """A constant field against a picture of light beyond 1, by hand from the definition."""
    light = np.full((16, 24, 3), 4.0, np.float32)
    light[:, 12:] = 0.2140411  # a screen shows 0.5
    path = written(tmp_path / "bright.exr", light)
    task, _ = make(path, f"data.transfer={transfer}")
    model = Noted(3)
    with torch.no_grad():
        model.readout.weight.zero_()
        model.readout.bias.fill_(0.75 if transfer == "srgb" else 0.5225216)
    found = task.evaluate(model, tmp_path / "out", None)
    assert found["psnr"] == pytest.approx(-20 * np.log10(0.25), abs=1e-3)
    assert found["protocol"]["range"] == "both clipped to [0, 1]"
    assert task.validate(model, None)["psnr"] == pytest.approx(found["psnr"], abs=1e-3)


def test_validation_measures_alpha_over_white_as_evaluation_does(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    task, model = make(tmp_path / "a.png")
    task.prepare(model, torch.Generator().manual_seed(0))
    found = task.evaluate(model, tmp_path / "out", None, flip=False)
    assert task.validate(model, None)["psnr"] == pytest.approx(found["psnr"], abs=1e-3)


def test_pictures_are_written_unless_none_are_wanted(waves: Path, tmp_path: Path) -> None:
    task, model = make(waves)
    task.prepare(model, torch.Generator().manual_seed(0))
    task.evaluate(model, tmp_path / "none", None, num_pictures=0)
    assert not (tmp_path / "none").exists()
    task.evaluate(model, tmp_path / "out", None)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "image.png", "image_error.png", "image_comparison.png", "kernels.png",
    }  # fmt: skip


def test_snapshots_are_small_and_of_one_shape(tmp_path: Path) -> None:
    Image.new("RGB", (1500, 700)).save(tmp_path / "a.png")
    task, model = make(tmp_path / "a.png")
    task.prepare(model, torch.Generator().manual_seed(0))
    assert task.snapshot(model).shape == (239, 512, 3)


@pytest.mark.slow
def test_fifteen_megapixels_stay_below_one_and_a_half_gigabytes(tmp_path: Path) -> None:
    """Training, metrics and pictures of a 15-megapixel file, in a process of its own."""
    smooth = np.random.default_rng(0).integers(0, 256, (27, 54, 3), dtype=np.uint8)
    Image.fromarray(smooth).resize((5400, 2700)).save(tmp_path / "large.png", compress_level=1)
    words = ["task=image", "model=hashgrid", f"data.path={tmp_path / 'large.png'}",
             "trainer.max_steps=5", f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    code = (
        "import sys; from nfields.machine import peak_memory_bytes; from nfields.run import train\n"
        "train(sys.argv[1:]); print('peak', peak_memory_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True
    )
    peak = int(done.stdout.rpartition("peak ")[2])
    assert peak < 1.5e9

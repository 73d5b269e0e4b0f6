"""image: a picture is learned, rendered at any size, and measured as a whole."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nfields
from nfields.config import build
from nfields.model.field import Field
from nfields.optimizer import Adam
from nfields.task.image import ImageTask


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
def test_grey_and_alpha_have_their_own_channels(mode: str, channels: int, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.new(mode, (20, 12), 90 if mode == "L" else (90, 60, 30, 128)).save(path)
    task, model = make(path)
    assert task.out_dim == channels
    task.prepare(model, torch.Generator().manual_seed(0))
    metrics = task.evaluate(model, tmp_path / "out", None, flip=False)
    assert metrics["protocol"]["resolution"] == [20, 12]

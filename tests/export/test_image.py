"""what=image: a stored picture at any size and depth; what is written is what the model says."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

import nfields
from nfields.checkpoint import named_tensors, write_checkpoint
from nfields.config import build
from nfields.data.picture_file import read_picture
from nfields.data.transfer_curve import linear_from_srgb
from nfields.errors import ConfigError, DataError
from nfields.export import image as exporting
from nfields.export.command import main
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import ParameterGroup
from nfields.run_folder import RunFolder
from nfields.task.image import ImageTask
from tests.data.test_picture_file import written
from tests.stored import make_run


class RampField(Field):
    """Channel k is scale (0.4 + 0.05 k) + 0.2 x + 0.1 y."""

    def __init__(self, *, in_dim: int, out_dim: int):
        super().__init__()
        self.in_dim, self.out_dim = in_dim, out_dim
        self.scale = nn.Parameter(torch.ones(()))

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out_dim"]:
        return torch.stack(
            [ramp(x[:, 0], x[:, 1], k, self.scale) for k in range(self.out_dim)], dim=1
        )

    def kernels(self, x: Float[Tensor, "n in_dim"]) -> Kernels | None:
        return None

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        pass

    def parameter_groups(self) -> list[ParameterGroup]:
        return []


def stored(path: Path, picture: Path, scale: float = 1.0) -> Path:
    """A run of a ramp, fitted to this picture; a configuration names nothing outside nfields."""
    module = ModuleType("nfields.ramp")
    RampField.__module__ = "nfields.ramp"
    vars(module)["RampField"] = RampField
    sys.modules["nfields.ramp"] = module
    cfg = nfields.compose(["task=image", "model=rbfnet", f"data.path={picture}"])
    config: Any = OmegaConf.to_container(cfg)
    config["model"] = {"_target_": "nfields.ramp.RampField"}
    data = build(cfg.data)
    task = build(cfg.task, data=data)
    model = RampField(in_dim=2, out_dim=task.out_dim)
    with torch.no_grad():
        model.scale.fill_(scale)
    run = RunFolder.create(path, config=config, overrides=[], data=data.card())
    weights = named_tensors({"model": model, "task": task})
    state = {"step": 5, "seconds": 1.0, "config": config}
    write_checkpoint(run.checkpoint, {"weights": weights}, state)
    return path


def ramp(x: Any, y: Any, k: int, scale: Any) -> Any:
    return scale * (0.4 + 0.05 * k) + 0.2 * x + 0.1 * y


def expected(width: int, height: int, num_channels: int, scale: float = 1.0) -> np.ndarray:
    x = (2 * np.arange(width) + 1) / width - 1
    y = (2 * np.arange(height)[:, None] + 1) / height - 1
    return np.stack([ramp(x, y, k, scale) for k in range(num_channels)], axis=2)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "small.png"
    Image.new("RGB", (12, 8), (90, 60, 30)).save(path)
    return path


def read(file: Path) -> np.ndarray:
    return read_picture(file).codes.astype(np.float64)


@pytest.mark.parametrize("band", [1, 100, 1 << 20])
def test_ramp_at_double_size_is_the_ramp(
    tmp_path: Path, picture: Path, band: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_BAND", band)
    run = stored(tmp_path / "run", picture)
    main([f"run={run}", "what=image", "width=24", "bits=16", "device=cpu"])
    found = read(run / "image" / "24x16.png")
    np.testing.assert_allclose(found / 65535, expected(24, 16, 3), atol=2e-5)


def test_own_size_and_eight_bits_are_the_default(tmp_path: Path, picture: Path) -> None:
    run = stored(tmp_path / "run", picture)
    main([f"run={run}", "what=image", "device=cpu"])
    found = read(run / "image" / "12x8.png")
    assert np.abs(found - expected(12, 8, 3) * 255).max() <= 0.51


def test_exr_holds_light_beyond_one(tmp_path: Path) -> None:
    light = np.full((8, 12, 3), 2.0, np.float32)
    run = stored(tmp_path / "run", written(tmp_path / "a.exr", light), scale=3.0)
    main([f"run={run}", "what=image", "bits=32", "device=cpu"])
    found = read(run / "image" / "12x8.exr")
    np.testing.assert_allclose(found, linear_from_srgb(expected(12, 8, 3, 3.0)), rtol=1e-4)
    assert found.max() > 1.5


@pytest.mark.parametrize("suffix", ["png", "tif", "exr"])
def test_alpha_comes_back_straight(tmp_path: Path, suffix: str) -> None:
    Image.new("RGBA", (12, 8), (90, 60, 30, 128)).save(tmp_path / "a.png")
    run = stored(tmp_path / "run", tmp_path / "a.png")
    out = tmp_path / f"out.{suffix}"
    main([f"run={run}", "what=image", f"out={out}", "bits=16", "device=cpu"])
    found = read(out)
    wanted = expected(12, 8, 4)
    if suffix == "exr":
        wanted[..., :3] = linear_from_srgb(wanted[..., :3])
        np.testing.assert_allclose(found, wanted, atol=2e-3)
    else:
        np.testing.assert_allclose(found / 65535, wanted, atol=5e-5)


def test_jpeg_has_alpha_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (12, 8), (90, 60, 30, 128)).save(tmp_path / "a.png")
    run = stored(tmp_path / "run", tmp_path / "a.png")
    main([f"run={run}", "what=image", f"out={tmp_path / 'b.jpg'}", "device=cpu"])
    wanted = expected(12, 8, 4)
    over_white = wanted[..., :3] * wanted[..., 3:] + 1 - wanted[..., 3:]
    assert np.abs(read(tmp_path / "b.jpg") / 255 - over_white).max() < 0.03


def test_deep_pictures_come_out_deep(tmp_path: Path) -> None:
    deep = written(tmp_path / "a.png", np.full((8, 12, 3), 30000, np.uint16))
    run = stored(tmp_path / "run", deep)
    main([f"run={run}", "what=image", "height=4", "device=cpu"])
    assert read_picture(run / "image" / "6x4.png").codes.dtype == np.uint16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["width=0"], "width=0 must be at least 1"),
        (["bits=12"], "bits = 12: must be one of 8, 16, 32"),
        (["bits=32", "out=a.png"], r"bits=32: \.png holds 8 or 16 bits"),
        (["out=a.gif"], r"out=a\.gif must end in"),
        (["widht=3"], r"did you mean width\?"),
    ],
)
def test_wrong_options_are_named(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(["run=none", "what=image", *words])


def test_place_that_cannot_be_written_is_named(tmp_path: Path, picture: Path) -> None:
    run = stored(tmp_path / "run", picture)
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"b\.png cannot be written: .*out=<file>"):
        main([f"run={run}", "what=image", f"out={tmp_path / 'taken' / 'b.png'}", "device=cpu"])


def test_failed_rendering_leaves_the_old_file(
    tmp_path: Path, picture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, out = stored(tmp_path / "run", picture), tmp_path / "new" / "b.png"
    main([f"run={run}", "what=image", f"out={out}", "device=cpu"])
    before = out.read_bytes()
    monkeypatch.setattr(exporting, "_BAND", 12)

    def failing(*_: Any) -> np.ndarray:
        raise RuntimeError("no more")

    monkeypatch.setattr(ImageTask, "render_rows", failing)
    with pytest.raises(RuntimeError, match="no more"):
        main([f"run={run}", "what=image", f"out={out}", "device=cpu"])
    assert out.read_bytes() == before and list(out.parent.iterdir()) == [out]


def test_tasks_without_a_picture_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "ball")
    with pytest.raises(ConfigError, match="what=image needs a task with a picture"):
        main([f"run={run}", "what=image", "device=cpu"])

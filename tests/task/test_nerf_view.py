"""Looking at a radiance field in one kernel gives what training's operations give."""

import math

import pytest
import torch

import nfields
from nfields.config import build
from nfields.errors import ConfigError
from nfields.model.field import Field
from nfields.task.nerf import NerfTask

SMALL = [
    "task=nerf", "data=toy_scene", "data.resolution=48", "data.num_train=6", "data.num_test=1",
    "task.grid_cells=32", "task.steps_per_unit=64",
]  # fmt: skip


def make(*overrides: str) -> tuple[NerfTask, Field]:
    """A task whose cells are all occupied and a field with something in it."""
    cfg = nfields.compose([*SMALL, "task.visual_hull=false", *overrides])
    task = build(cfg.task, data=build(cfg.data))
    model = build(cfg.model, in_dim=3, out_dim=task.out_dim)
    task.prepare(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "table" in name:
                parameter.mul_(8)
        model.readout.weight.mul_(4)
        model.readout.bias[0] = 1.0
    return task, model


@pytest.mark.slow  # compiles the kernels of two models
@pytest.mark.parametrize(
    "words",
    [
        ["model=rbfnet"],
        ["model=rbfnet", "model.decoder=mlp", "task.sh_degree=1"],
        ["model=hashgrid", "model.interpolation=smoothstep", "model.num_layers=2"],
        ["model=hashgrid", "task.background=black", "task.cone=0.01"],
    ],
)
def test_fused_and_plain_give_the_same_picture(words: list[str]) -> None:
    task, model = make(*words)
    cameras = task.data.cameras["test"]
    task.renderer = "plain"
    plain = task.render_view(model, cameras, 0)
    task.renderer = "fused"
    fused = task.render_view(model, cameras, 0)
    assert 0.01 < float(plain["opacity"].mean()) < 0.99 and float(plain["rgb"].std()) > 0.02
    for name in ("rgb", "opacity"):
        assert float((fused[name] - plain[name]).abs().max()) < 1e-3
    seen = plain["depth"].isfinite() & fused["depth"].isfinite()
    assert float((fused["depth"] - plain["depth"])[seen].abs().max()) < 1e-3
    measured = [task.validate(model, None)["psnr"]]
    task.renderer = "plain"
    measured.append(task.validate(model, None)["psnr"])
    assert math.isclose(*measured, abs_tol=0.01)


def test_auto_takes_what_there_is_and_fused_says_what_is_missing() -> None:
    task, model = make("model=siren")
    task.render_view(model, task.data.cameras["test"], 0)
    task.renderer = "fused"
    with pytest.raises(ConfigError, match=r"task\.renderer=fused: the model is no grid"):
        task.render_view(model, task.data.cameras["test"], 0)
    task, model = make("model=rbfnet", "task.backend=reference", "task.renderer=fused")
    with pytest.raises(ConfigError, match=r"task\.backend=reference"):
        task.render_view(model, task.data.cameras["test"], 0)
    with pytest.raises(ConfigError, match=r"task\.renderer"):
        make("task.renderer=quick")

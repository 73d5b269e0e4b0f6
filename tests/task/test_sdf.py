"""sdf: losses and metrics of fields whose error is known, and runs that learn a surface."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imageio.v3 import imread
from jaxtyping import Float
from torch import Tensor, nn

import nfields
from nfields import config, stored_run
from nfields.errors import ConfigError
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import ParameterGroup
from nfields.run import train
from nfields.task.sdf import DistanceBatch, PointBatch, SdfTask
from tests.data.solids import ball, write


class Ball(Field):
    """What makes the task's field the distance to a ball of some radius, plus a bias."""

    in_dim, out_dim = 3, 1

    def __init__(self, radius: float, bias: float = 0.0):
        super().__init__()
        self.radius, self.bias = radius, bias
        self.readout = nn.Linear(1, 1)

    def forward(
        self, x: Float[Tensor, "n 3"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n 1"]:
        length = x.norm(dim=1, keepdim=True)
        # Taken back: what the task adds before it is prepared, a ball of radius 0.
        return length - self.radius + self.bias - torch.sqrt(length**2 + 0.01)

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        self.samples = samples

    def kernels(self, x: Float[Tensor, "n 3"]) -> Kernels | None:
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        return []


def make(*overrides: str) -> SdfTask:
    cfg = nfields.compose(["task=sdf", "model=rbfnet", *overrides])
    return config.build(cfg.task, data=config.build(cfg.data))


@pytest.fixture(scope="session")
def ball_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ball of radius 50 about (100, 0, 0); in our frame its radius is 0.9."""
    mesh = ball(50, (100, 0, 0), subdivisions=5)
    return write(mesh, tmp_path_factory.mktemp("ball") / "ball.ply")


def test_loss_is_relative_to_the_distance(ball_file: Path) -> None:
    task = make(f"data.path={ball_file}", "task.relative_floor=0.05")
    batch = task.batch(torch.Generator().manual_seed(0))
    assert isinstance(batch, DistanceBatch)
    loss = task.losses(Ball(0.9, bias=0.02), batch).losses["distance"].item()
    expected = (0.02 / (batch.distances.abs() + 0.05)).mean().item()
    assert loss == pytest.approx(expected, rel=1e-2)
    # Half of the points lie on the surface.
    assert (batch.distances == 0).float().mean() == 0.5


def test_metrics_of_a_ball_too_small(ball_file: Path) -> None:
    measured = make(f"data.path={ball_file}").validate(Ball(0.8), None)
    volumes = [4 / 3 * np.pi * r**3 / 8 for r in (0.8, 0.9)]  # as parts of the box
    assert measured["iou"] == pytest.approx((0.8 / 0.9) ** 3, abs=0.01)
    assert measured["sign_accuracy"] == pytest.approx(1 - volumes[1] + volumes[0], abs=0.01)
    assert measured["distance_error"] == pytest.approx(0.1, rel=0.01)
    assert measured["distance_error_near"] == pytest.approx(0.1, rel=0.01)


def test_exact_field_has_no_error(ball_file: Path) -> None:
    measured = make(f"data.path={ball_file}").validate(Ball(0.9), None)
    assert measured["iou"] > 0.998  # the mesh is a little smaller than the ball
    assert measured["sign_accuracy_near"] > 0.99
    assert measured["distance_error"] < 5e-4


def test_models_are_placed_by_weights_that_favour_the_surface(ball_file: Path) -> None:
    task, model = make(f"data.path={ball_file}"), Ball(0.9)
    task.prepare(model, torch.Generator().manual_seed(0))
    weights, distance = model.samples.weights, (model.samples.x.norm(dim=1) - 0.9).abs()
    assert weights.mean().item() == pytest.approx(1, rel=1e-4)
    assert weights[distance < 1e-3].mean() > 3 * weights[distance > 0.1].mean()


def test_surface_takes_the_field_to_the_users_frame(ball_file: Path) -> None:
    surface = make(f"data.path={ball_file}").surface(Ball(0.9))
    x = torch.tensor([[0.9, 0, 0], [0, 0, 0.45]])
    assert torch.allclose(surface.distance(x), torch.tensor([0.0, -0.45]), atol=1e-6)
    user = torch.cat([x.double(), torch.ones(2, 1)], dim=1) @ surface.to_user.T
    expected = torch.tensor([[150.0, 0, 0, 1], [100, 0, 25, 1]])
    assert torch.allclose(user.float(), expected, atol=0.05)


def test_true_surface_is_that_of_the_mesh(ball_file: Path) -> None:
    task = make(f"data.path={ball_file}")
    truth = task.true_surface()
    assert truth is not None
    x = torch.tensor([[0.9, 0, 0], [0, 0, 0.45], [0, -1.0, 0]])
    assert torch.allclose(truth.distance(x), torch.tensor([0.0, -0.45, 0.1]), atol=2e-3)
    assert torch.equal(truth.to_user, task.surface(Ball(0.9)).to_user)


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    usual = [
        "trainer.max_steps=150",
        "trainer.max_time=null",
        "task.points_per_step=8192",
        "task.picture_size=48",
    ]
    return train(["task=sdf", "model=rbfnet", f"run_dir={folder}", *usual, *overrides])


@pytest.mark.slow
def test_a_mesh_is_learned(ball_file: Path, tmp_path: Path) -> None:
    metrics = run(tmp_path / "run", f"data.path={ball_file}")
    assert metrics["iou"] > 0.98
    assert metrics["distance_error_near"] < 4e-3
    stored = json.loads((tmp_path / "run" / "evaluation" / "metrics.json").read_text())
    assert "pictures" not in stored["protocol"]  # it says there why there are none
    for name in ("shaded.png", "error.png", "sections.png"):
        picture = imread(tmp_path / "run" / "evaluation" / name)
        assert picture.std() > 10  # not blank
    loaded = stored_run.load_run((tmp_path / "run").rename(tmp_path / "moved"))
    assert isinstance(loaded.task, SdfTask)
    truth = make(f"data.path={ball_file}").data
    assert torch.equal(loaded.task.surface(loaded.model).to_user, truth.to_user)
    # Neurons still answer: features grow many times over, and made for the start they fall silent.
    kernels = loaded.model.kernels(truth.require_samples().test_near)
    assert kernels is not None and kernels.responses is not None
    assert (kernels.responses > 0.01).double().mean() > 0.3


@pytest.mark.slow
def test_places_of_unknown_side_say_nothing_of_the_distance(ball_file: Path) -> None:
    task = make(f"data.path={ball_file}", "data.num_points=2000")
    batch = task.batch(torch.Generator().manual_seed(0))
    assert isinstance(batch, PointBatch)
    known = batch._replace(distances=batch.anywhere.norm(dim=1) - 0.9)
    half = known.distances.clone()
    half[::2] = torch.nan
    exact, wrong = Ball(0.9), Ball(0.9, bias=0.1)
    assert task.losses(exact, batch._replace(distances=half)).losses["distance"].item() < 1e-3
    relative = (0.1 / (half[1::2].abs() + task.relative_floor)).mean().item()
    found = task.losses(wrong, batch._replace(distances=half)).losses["distance"].item()
    assert found == pytest.approx(task.point_weights["distance"] * relative, rel=1e-3)


@pytest.mark.slow
def test_oriented_points_become_the_surface_and_nothing_else(tmp_path: Path) -> None:
    """A hash grid left to SIREN's losses keeps bodies where the ball it begins from was."""
    words = ["experiment=sdf_points_hashgrid", "model=hashgrid", "data.num_points=5000"]
    words += ["model.num_levels=4", "model.max_resolution=64", "trainer.max_steps=200"]
    words += ["task.mesh_resolution=64", "task.num_surface_points=5000"]
    metrics = run(tmp_path / "run", *words)
    assert metrics["is_watertight"] and metrics["hausdorff"] < 0.03
    assert metrics["chamfer_l1"] < 0.004 and metrics["distance_error"] < 0.03


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.points_per_step=2", r"task\.points_per_step=2"),
        ("task.relative_floor=0", r"task\.relative_floor=0"),
        ("task.picture_size=8", r"task\.picture_size=8"),
    ],
)
def test_bad_options_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(override)

"""sphere: functions are learned, measured by area, drawn, and exported without their data."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

import nfields
from nfields import config, stored_run
from nfields.data.sphere_file import SphereData
from nfields.errors import ConfigError, DataError
from nfields.export.map import MapExport
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import ParameterGroup
from nfields.run import train
from nfields.task.sphere import SphereTask

LAT, LON = np.arange(-87.0, 90, 6), np.arange(-177.0, 180, 6)


class Answer(Field):
    """A field that gives one answer everywhere, or z times it."""

    def __init__(self, values: list[float], is_linear: bool = False):
        super().__init__()
        self.in_dim, self.out_dim, self.is_linear = 3, len(values), is_linear
        self.readout = nn.Linear(1, len(values))
        self.values = torch.tensor(values)
        self.seen: list[Tensor] = []

    def forward(
        self, x: Float[Tensor, "n d"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n c"]:
        self.seen.append(x)
        return self.values * x[:, 2:] if self.is_linear else self.values.expand(len(x), -1)

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        self.samples = samples

    def kernels(self, x: Float[Tensor, "n d"]) -> Kernels | None:
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        return []


def make(path: Path | None = None, *overrides: str) -> SphereTask:
    where = [] if path is None else [f"data.path={path}"]
    cfg = nfields.compose(["task=sphere", "model=rbfnet", "task.map_width=0", *where, *overrides])
    return config.build(cfg.task, data=config.build(cfg.data))


@pytest.fixture
def cap(tmp_path: Path) -> Path:
    """True within 30 degrees of the north pole."""
    values = np.repeat((LAT > 60)[:, None], len(LON), axis=1)
    np.savez(tmp_path / "cap.npz", lat=LAT, lon=LON, values=values)
    return tmp_path / "cap.npz"


@pytest.fixture
def heights(tmp_path: Path) -> Path:
    """1000 + 50 z, where z = sin(lat)."""
    values = np.repeat(1000 + 50 * np.sin(np.radians(LAT))[:, None], len(LON), axis=1)
    np.savez(tmp_path / "heights.npz", lat=LAT, lon=LON, values=values)
    return tmp_path / "heights.npz"


@pytest.mark.parametrize("answer", [0, 1])
def test_accuracy_of_a_constant_is_the_area_it_is_right_on(
    cap: Path, answer: int, tmp_path: Path
) -> None:
    task = make(cap, "data.num_train=null", "data.num_test=null")
    metrics = task.evaluate(Answer([1.0 - answer, float(answer)]), tmp_path, None)
    area = (1 - np.sin(np.radians(60))) / 2  # of the cap; its rows are a sixth of all
    assert metrics["accuracy"] == pytest.approx(area if answer else 1 - area, rel=1e-9)
    # Rows at 75, 81, 87 degrees: all of the northern cap, none of the southern.
    assert metrics["accuracy_polar"] == pytest.approx(0.5, rel=1e-9)
    assert metrics["per_class"]["True"] == {"accuracy": float(answer), "share": pytest.approx(area)}
    assert json.loads(json.dumps(metrics)) == metrics


def test_errors_are_in_the_users_units_and_by_area(heights: Path, tmp_path: Path) -> None:
    task = make(heights, "data.num_train=null", "data.num_test=null")
    mean, std = task.data.mean[0], task.data.std[0]
    metrics = task.evaluate(Answer([(1000 - mean) / std]), tmp_path, None)
    # z is uniform on [-1, 1]: the mean of z^2 is 1/3, of |z| 1/2. The grid's error is h^2 / 24.
    assert metrics["rmse"] == pytest.approx(50 / 3**0.5, rel=2e-3)
    assert metrics["mae"] == pytest.approx(25, rel=2e-3)
    assert metrics["r2"] == pytest.approx(0, abs=1e-6)
    # The cells of the rows from 75 degrees on reach down to 72, and up to z = 1.
    low = np.sin(np.radians(72))
    polar = 50 * ((1 + low + low**2) / 3) ** 0.5
    assert metrics["rmse_polar"] == pytest.approx(polar, rel=2e-3)
    right = task.evaluate(Answer([50 / std], is_linear=True), tmp_path, None)
    assert right["rmse"] < 50 * 1e-5
    assert right["r2"] == pytest.approx(1)
    assert metrics["protocol"]["num_points"] == len(LAT) * len(LON)
    assert metrics["protocol"]["weights"] == "area each point stands for"


def test_losses_weigh_by_area(heights: Path) -> None:
    task = make(heights, "data.num_train=null", "data.num_test=null")
    result = task.losses(Answer([0.0]), task.batch(torch.Generator()))
    # Of standardised values: their variance over the area, which is 1.
    assert result.losses["value"].item() == pytest.approx(1, rel=1e-5)
    assert result.measures["rmse"] == pytest.approx(task.data.std[0], rel=1e-5)


@pytest.mark.parametrize("loss", ["l2", "l1", "huber"])
def test_losses_of_an_error_of_one_half(heights: Path, loss: str) -> None:
    task = make(heights, f"task.loss={loss}")
    batch = task.batch(torch.Generator())
    batch = batch._replace(values=torch.full_like(batch.values, 0.5))
    expected = {"l2": 0.25, "l1": 0.5, "huber": 0.1 * (0.5 - 0.05)}[loss]
    assert task.losses(Answer([0.0]), batch).losses["value"].item() == pytest.approx(expected)


def test_coordinates_are_unit_vectors_or_degrees_over_their_range() -> None:
    lat, lon = np.array([0.0, 0, 90, -45]), np.array([0.0, 90, 17, -180])
    h = 0.5**0.5
    expected = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [-h, 0, -h]])
    assert torch.allclose(make().coords_at(lat, lon), expected, atol=1e-7)
    task = make(None, "task.coordinates=lonlat")
    expected = torch.tensor([[0.0, 0], [0.5, 0], [17 / 180, 1], [-1, -0.5]])
    assert torch.allclose(task.coords_at(lat, lon), expected)
    assert (make().in_dim, task.in_dim) == (3, 2)


def test_batches_are_all_points_or_a_draw() -> None:
    task = make(None, "data.num_train=500", "data.num_test=100")
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert task.batch(generator).coords is task.coords  # nothing is drawn or copied
    assert torch.equal(before, generator.get_state())
    few = make(None, "data.num_train=500", "data.num_test=100", "task.points_per_step=20")
    first, second = few.batch(generator), few.batch(generator)
    assert first.coords.shape == (20, 3)
    assert not torch.equal(first.coords, second.coords)


def test_samples_count_more_where_classes_meet(cap: Path, heights: Path) -> None:
    task, model = make(cap), Answer([0.0, 1.0])
    task.prepare(model, torch.Generator().manual_seed(0))
    samples = model.samples
    assert samples.weights.mean().item() == pytest.approx(1, rel=1e-5)
    latitude = torch.asin(samples.x[:, 2].clamp(-1, 1)).rad2deg()
    border = (latitude - 60).abs() < 4
    assert samples.weights[border].mean() > 1.3 * samples.weights[~border].mean()
    task, model = make(heights), Answer([0.0])
    task.prepare(model, torch.Generator().manual_seed(0))
    # |grad z| = cos(lat)
    slope = torch.sqrt(1 - model.samples.x[:, 2] ** 2)
    assert torch.corrcoef(torch.stack([slope, model.samples.weights]))[0, 1] > 0.7


def test_two_values_at_one_place_keep_weights_finite(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("lat,lon,value\n" + "1,2,3.5\n" * 5 + "1,2,4.5\n" * 5)
    task, model = make(tmp_path / "a.csv"), Answer([0.0])
    task.prepare(model, torch.Generator())
    assert model.samples.weights.isfinite().all()


def run(folder: Path, *overrides: str) -> dict[str, Any]:
    usual = ["trainer.max_steps=150", "trainer.max_time=null", "task.map_width=120"]
    return train(["task=sphere", "model=rbfnet", f"run_dir={folder}", *usual, *overrides])


@pytest.mark.slow
def test_checkerboard_is_learned_drawn_and_exported_without_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    metrics = run(folder, "data.num_test=3000")
    # 16 classes: 1/16 by chance. The default, in 150 steps, reaches 0.93.
    assert metrics["accuracy"] > 0.88
    assert metrics["accuracy_polar"] > 0.75
    assert len(metrics["per_class"]) == 16
    stored = json.loads((folder / "evaluation" / "metrics.json").read_text())
    assert stored["protocol"]["coordinates"] == "cartesian"
    assert {f.name for f in (folder / "evaluation").glob("*.png")} == {"map.png", "comparison.png"}
    with Image.open(folder / "evaluation" / "comparison.png") as sheet:
        assert sheet.width > 3 * 120

    def forbidden(*args: object, **options: object) -> None:
        raise AssertionError("the data was read")

    monkeypatch.setattr(SphereData, "__init__", forbidden)
    moved = folder.rename(tmp_path / "moved")
    stored_field = stored_run.load_run(moved)
    (file,) = MapExport(width=120, center=0, coastlines=None, out=None).export(stored_field)
    with Image.open(file) as again, Image.open(moved / "evaluation" / "map.png") as first:
        assert np.array_equal(np.asarray(again), np.asarray(first))


def test_a_smooth_function_is_learned_in_its_units(heights: Path, tmp_path: Path) -> None:
    metrics = run(tmp_path / "run", f"data.path={heights}", "trainer.max_steps=100")
    assert metrics["rmse"] < 2.5  # of a standard deviation of 29
    assert metrics["r2"] > 0.99


def test_lonlat_learns_too(heights: Path, tmp_path: Path) -> None:
    metrics = run(tmp_path / "run", f"data.path={heights}", "task.coordinates=lonlat")
    assert metrics["r2"] > 0.99


def test_pictures_of_the_globe_have_a_psnr(tmp_path: Path) -> None:
    y, x = np.mgrid[:30, :60]
    pixels = np.stack([y * 8, 255 - y * 8, 128 + 60 * np.sin(x / 60 * 2 * np.pi)], axis=2)
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
    metrics = run(tmp_path / "run", f"data.path={tmp_path / 'a.png'}", "trainer.max_steps=60")
    assert metrics["psnr"] > 22
    assert metrics["psnr"] == pytest.approx(-20 * np.log10(metrics["rmse"]), abs=1)


def test_validation_is_quick_and_near_the_evaluation(tmp_path: Path) -> None:
    task = make(None, "data.num_test=100000")
    model = Answer([0.0] * 15 + [1.0])
    start = time.perf_counter()
    quick = task.validate(model, None)
    assert time.perf_counter() - start < 2
    assert sum(len(x) for x in model.seen) <= 1 << 14
    assert quick["accuracy"] == pytest.approx(
        task.evaluate(model, tmp_path, None)["accuracy"], abs=0.01
    )


def test_limit_spreads_over_the_sphere(heights: Path, tmp_path: Path) -> None:
    metrics = make(heights).evaluate(Answer([0.0]), tmp_path, 50)
    assert 40 <= metrics["protocol"]["num_points"] <= 50
    assert metrics["rmse"] == pytest.approx(50 / 3**0.5, rel=0.2)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("task.points_per_step=0", r"task\.points_per_step=0"),
        ("task.map_width=10", r"task\.map_width=10"),
        ("task.loss=l1", r"task\.loss=l1 has no effect on classes"),
    ],
)
def test_bad_options_are_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(None, override)


def test_coastlines_are_read_before_the_training(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"land\.json cannot be read"):
        make(None, f"task.coastlines={tmp_path / 'land.json'}")


def test_classes_and_selections_can_be_given_on_the_command_line(cap: Path) -> None:
    task = make(cap, "data.classes={rest: false, cap: [true]}")
    assert task.data.class_names == ["rest", "cap"]
    task = make(cap, "data.classes.rest=false", "data.classes.cap=true")
    assert task.data.class_names == ["rest", "cap"]


def test_what_map_needs_a_function_on_the_sphere() -> None:
    for options, said in (
        ({"width": 10}, "width=10"), ({"center": 500}, "center=500"), ({"out": "a.jpg"}, r"\.png"),
    ):  # fmt: skip
        usual: dict[str, Any] = {"width": 200, "center": 0, "coastlines": None, "out": None}
        with pytest.raises(ConfigError, match=said):
            MapExport(**(usual | options))  # pyright: ignore[reportArgumentType]

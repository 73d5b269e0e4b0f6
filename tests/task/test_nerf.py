"""nerf: renders what it should for fields known in closed form; trains; restores without images."""

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import nfields
from nfields.config import build
from nfields.data.posed_images import PosedImages, SceneTransform
from nfields.errors import DataError
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import Adam, ParameterGroup
from nfields.render.harmonics import spherical_harmonics
from nfields.task import nerf, nerf_surface, nerf_view
from nfields.task.nerf import NerfTask, _mean_of
from nfields.task.task import StepResult
from tests.compare import assert_matches
from tests.task.marble import HandMade

DATA = ["data=toy_scene", "data.resolution=48", "data.num_train=16", "data.num_test=2"]
SMALL = ["task.grid_cells=32", "task.samples_per_step=4096", "task.steps_per_unit=48"]
MODEL = ["model.num_levels=4", "model.log2_entries=13", "model.max_resolution=64"]


def make(*overrides: str) -> tuple[NerfTask, Field]:
    cfg = nfields.compose(["task=nerf", "model=rbfnet", *DATA, *SMALL, *MODEL, *overrides])
    task = build(cfg.task, data=build(cfg.data))
    return task, build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim)


class Constant(Field):
    """The same density (log) and coefficients everywhere."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.in_dim, self.out_dim = 3, len(values)
        self.readout = torch.nn.Linear(1, len(values))
        with torch.no_grad():
            self.readout.weight.zero_()
            self.readout.bias.copy_(values)

    def forward(self, x: Tensor, groups: GroupReadout | None = None) -> Tensor:
        if groups is None:
            return self.readout.bias.expand(len(x), -1)
        if groups.offsets is None:
            return groups.bias.expand(len(x), -1)
        return groups.bias[torch.repeat_interleave(groups.offsets.diff())]

    def kernels(self, x: Tensor) -> Kernels | None:
        return None

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        pass

    def parameter_groups(self) -> list[ParameterGroup]:
        return []


def test_constant_field_has_the_opacity_of_its_thickness() -> None:
    task, _ = make("task.visual_hull=false", "task.density_bias=0.0", "task.steps_per_unit=512")
    values = torch.zeros(task.out_dim)
    values[0] = math.log(0.7)
    origins = torch.tensor([[0.0, 0.0, -3.0]])
    directions = torch.tensor([[0.0, 0.0, 1.0]])
    seen = task.render_plain(
        Constant(values), origins, directions, torch.full((1,), 0.0), torch.ones(1, 3)
    )
    expected = torch.tensor([1 - math.exp(-0.7 * 2)])  # the scene box is two units thick
    assert_matches(seen.opacity, expected, atol=1e-5)  # 1024 factors in float32
    # All coefficients 0: colour one half, over a white background.
    assert_matches(seen.rgb[0], 1 - 0.5 * expected.expand(3), atol=1e-5)


def test_colour_follows_the_direction_as_the_harmonics_say() -> None:
    task, _ = make("task.visual_hull=false", "task.density_bias=4.0")
    values = torch.zeros(task.out_dim)
    values[1 + 2] = 3.0  # red, l = 1, m = 0: 0.4886 z
    directions = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, -1.0]])
    seen = task.render_plain(
        Constant(values), -3 * directions, directions, torch.zeros(2), torch.zeros(2, 3)
    )
    z = torch.tensor([1.0, -1.0])
    assert_matches(seen.rgb[:, 0], torch.sigmoid(3 * 0.4886025119029199 * z), atol=1e-4)
    assert_matches(seen.rgb[:, 1], torch.full((2,), 0.5), atol=1e-4)


@pytest.mark.slow
def test_backends_render_the_same() -> None:
    task, model = make()
    task.prepare(model, torch.Generator().manual_seed(0))
    batch = task.batch(torch.Generator().manual_seed(1))
    found = task.losses(model, batch).losses["rgb"]
    for part in (task, model, model.encoder):
        setattr(part, "backend", "reference")  # noqa: B010 - modules hide their attributes
    expected = task.losses(model, batch).losses["rgb"]
    assert_matches(found, expected, rtol=1e-4)  # float32 through some thousand samples


def test_rays_rendered_without_waiting_are_those_rendered_with_it() -> None:
    task, model = make("model.decoder=mlp")
    generator = torch.Generator().manual_seed(0)
    task.prepare(model, generator)
    task.num_rays.fill_(256)
    batch = task.batch(generator)
    rays = (batch.origins, batch.directions, batch.jitter, batch.background)
    with torch.no_grad():
        plain = task.render_plain(model, *rays)
        assert isinstance(plain.num_samples, int)
        samples, _ = task.march(*rays[:3])
        for capacity in (plain.num_samples + 500, plain.num_samples, plain.num_samples // 3):
            unseen = task.render_plain(model, *rays, capacity=capacity)
            assert int(unseen.num_samples) == plain.num_samples
            assert unseen.is_whole is not None
            assert torch.equal(
                unseen.is_whole,
                (samples.offsets[1:] < capacity) | torch.tensor(plain.num_samples <= capacity),
            )
            kept = unseen.is_whole
            for found, expected in zip(unseen[:3], plain[:3], strict=True):
                assert_matches(found[kept], expected[kept], num_operations=100)
    assert 20 < int(kept.sum()) < 236


def test_rays_without_room_for_their_samples_have_no_part_in_the_loss() -> None:
    values = torch.arange(12.0).view(4, 3)
    chosen = torch.tensor([True, False, True, False])
    assert float(_mean_of(values, chosen)) == pytest.approx((0 + 1 + 2 + 6 + 7 + 8) / 6)
    assert float(_mean_of(values, torch.zeros(4, dtype=torch.bool))) == 0
    poisoned = values.clone()
    poisoned[1] = math.nan
    assert float(_mean_of(poisoned, chosen)) == pytest.approx(4.0)


def test_numbers_of_a_gpu_move_the_rays_some_steps_later() -> None:
    task, model = make("task.max_rays=100000")
    before = int(task.num_rays)
    seen = []
    for samples in (8192, 2048, 4096, 4096, 4096, 4096):
        result = StepResult({}, {}, torch.tensor(samples), before)
        task.after_step(model, result, 0)
        seen.append(int(task.num_rays))
    assert seen == [before] * 4 + [before // 2, before * 2]
    task.to("meta")
    assert task.num_rays.device.type == task.grid.phase.device.type == "cpu"
    assert task.grid.bits.is_meta


def test_hull_sets_the_field_on_the_object() -> None:
    task, model = make()
    task.prepare(model, torch.Generator().manual_seed(0))
    assert 0.3 < float(task.field_scale) <= 1.0
    assert len(task.grid.candidates()) < 0.5 * task.grid.optical_depth.numel()


def train(task: NerfTask, model: Field, steps: int) -> None:
    generator = torch.Generator().manual_seed(0)
    task.prepare(model, generator)
    optimizer = Adam(model.parameter_groups(), (0.9, 0.99), 1e-15)
    for step in range(steps):
        task.before_step(model, step, generator)
        result = task.losses(model, task.batch(generator))
        optimizer.zero_grad(set_to_none=True)
        torch.stack([*result.losses.values()]).sum().backward()
        optimizer.step()
        task.after_step(model, result, step)


@pytest.mark.parametrize("decoder", ["rbf", "mlp"])
@pytest.mark.slow
def test_a_short_training_reaches_a_quality_floor(decoder: str, tmp_path: Path) -> None:
    task, model = make(f"model.decoder={decoder}")
    train(task, model, 150)
    metrics = task.evaluate(model, tmp_path, None, flip=False)
    assert metrics["psnr"] > 18.5  # a white picture has 12
    assert metrics["protocol"]["background"] == "white"
    assert (tmp_path / "comparison.png").exists()
    assert task.validate(model, None)["psnr"] > 18
    # Depth is exact in the generated scene: most of the surface is found.
    cameras = task.data.cameras["test"]
    assert task.data.truth is not None
    truth = task.data.truth["test"][0]["depth"]
    depth = task.render_view(model, cameras, 0)["depth"]
    both = depth.isfinite() & truth.isfinite()
    assert both.sum() > 0.8 * truth.isfinite().sum()
    assert (depth - truth)[both].abs().median() < 0.1


def test_rays_follow_the_samples_wanted() -> None:
    task, model = make()
    train(task, model, 20)
    generator = torch.Generator().manual_seed(3)
    samples = [task.losses(model, task.batch(generator)).num_samples for _ in range(3)]
    assert all(0.5 * 4096 < number < 2 * 4096 for number in samples)


def test_without_images_it_renders_but_does_not_evaluate(tmp_path: Path) -> None:
    task, model = make()
    task.prepare(model, torch.Generator().manual_seed(0))
    bare = PosedImages.from_card(task.data.card())
    cfg = nfields.compose(["task=nerf", *SMALL])
    other = build(cfg.task, data=bare)
    other.load_state_dict(task.state_dict())
    first = task.render_view(model, task.data.cameras["test"], 0)["rgb"]
    assert torch.equal(other.render_view(model, bare.cameras["test"], 0)["rgb"], first)
    with pytest.raises(DataError, match=r"data\.path"):
        other.evaluate(model, tmp_path, None)


@pytest.mark.slow
def test_seconds_of_a_view_are_without_the_compilation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call compiles, here for a second."""
    task, model = make()
    task.prepare(model, torch.Generator().manual_seed(0))
    waits = [1.0]
    draw = nerf.render_rays

    def drawn(*args: Any) -> Any:
        time.sleep(waits.pop() if waits else 0)
        return draw(*args)

    draw(task, model, torch.zeros(1, 3), torch.tensor([[1.0, 0, 0]]), None)
    monkeypatch.setattr(nerf, "render_rays", drawn)
    monkeypatch.setattr(nerf_view, "render_rays", drawn)
    metrics = task.evaluate(model, tmp_path, 1, flip=False)
    assert not waits and metrics["per_image"][0]["render_seconds"] < 1


def test_cameras_that_never_see_the_scene_are_an_error() -> None:
    task, model = make()
    away = task.data.cameras["train"].camera_to_world
    away[:, :, 2] *= -1  # every camera turns round
    away[:, :, 0] *= -1
    assert task.data.images is not None
    task.data.images["train"] = [torch.zeros_like(i) for i in task.data.images["train"]]
    with pytest.raises(DataError, match="no cell of the scene"):
        task.prepare(model, torch.Generator().manual_seed(0))


class Shell(HandMade):
    """Density exp(3 - 40 (|x| - 0.5)); red is where it is looked at along +x."""

    def __init__(self, out_dim: int):
        super().__init__(2, out_dim)
        with torch.no_grad():
            self.readout.weight[1 + 3, 1] = -10.0  # of red, the harmonic proportional to -x

    def hidden(self, x: Tensor) -> Tensor:
        return torch.stack([3 - 40 * (x.norm(dim=1) - 0.5), torch.ones(len(x))], dim=1)


def test_surface_is_where_the_density_has_its_level_and_outside_of_empty_cells() -> None:
    task, _ = make("task.visual_hull=false", "task.density_bias=0.0")
    model = Shell(task.out_dim)
    surface = task.surface_at(model, 20.0)
    radius = 0.5 + (3 - math.log(20.0)) / 40
    points = torch.tensor([[radius, 0, 0], [0, 0.9, 0], [0, 0.3, 0]])
    found = surface.distance(points)
    assert_matches(found[0], torch.tensor(0.0), atol=1e-5)
    assert found[1] > 0 > found[2] and not surface.is_distance
    task.grid._set_bits(torch.zeros(0, dtype=torch.int64))
    assert (surface.distance(points) > 0).all()


class Hollow(Shell):
    """A wall around nothing: what no camera sees is as empty as what is outside."""

    def hidden(self, x: Tensor) -> Tensor:
        wall = 5 - 40 * ((x.norm(dim=1) - 0.45).abs() - 0.06)
        return torch.stack([wall, torch.ones(len(x))], dim=1)


def test_solid_surface_has_nothing_inside_and_is_the_same_outside() -> None:
    task, _ = make("task.visual_hull=false", "task.density_bias=0.0", "task.steps_per_unit=64")
    hollow = task.surface_at(Hollow(task.out_dim), 20.0)
    assert hollow.solid is not None
    solid = hollow.solid()
    directions = torch.nn.functional.normalize(torch.randn(500, 3), dim=1)
    radius = torch.linspace(0.02, 0.9, 500)[:, None]
    points = radius * directions
    before, after = hollow.distance(points), solid.distance(points)
    cavity, outside = radius[:, 0] < 0.3, radius[:, 0] > 0.6
    assert (before[cavity] > 0).all() and (after[cavity] < 0).all()
    assert (after[outside] > 0).all()
    unchanged = (before <= 0) | outside
    assert unchanged.sum() > 200 and torch.equal(before[unchanged], after[unchanged])
    assert "counts as inside" in solid.notes[-1]


def test_cameras_on_one_side_do_not_tell_what_is_inside() -> None:
    """All that is behind the ball is hidden from them, as is what is in it."""
    task, _ = make("task.visual_hull=false", "task.density_bias=0.0")
    cameras = task.data.cameras["train"]
    pose = cameras.camera_to_world[:1].expand(len(cameras), 3, 4)
    task.data.cameras["train"] = replace(cameras, camera_to_world=pose)
    surface = task.surface_at(Shell(task.out_dim), 20.0)
    assert surface.solid is None
    assert "all cameras are on one side" in surface.notes[-1]


def test_photographs_of_a_place_do_not_tell_what_is_inside() -> None:
    task, _ = make("task.visual_hull=false", "task.density_bias=0.0")
    task.data.has_alpha = False
    assert task.surface_at(Shell(task.out_dim), 20.0).solid is None


def test_chosen_level_is_where_rays_lose_half_of_their_light(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """exp(3 - k r) / k = ln 2 at density k ln 2 along straight rays; at less on slanted ones."""
    task, _ = make("task.visual_hull=false", "task.density_bias=0.0", "task.steps_per_unit=128")
    monkeypatch.setattr(nerf_surface, "_NUM_RAYS", 2048)
    (note,) = task.surface(Shell(task.out_dim)).notes
    density = float(note.split("surface at density ")[1].split()[0])
    assert 0.3 * 40 * math.log(2) < density < 1.1 * 40 * math.log(2)


def test_colour_of_the_surface_is_that_seen_from_straight_above() -> None:
    task, _ = make("task.visual_hull=false", "task.density_bias=0.0")
    surface = task.surface_at(Shell(task.out_dim), 20.0)
    assert surface.color is not None
    right, left = surface.color(torch.tensor([[0.5, 0, 0], [-0.5, 0, 0]])).detach()
    harmonic = spherical_harmonics(torch.tensor([[1.0, 0, 0]]), 3)[0, 3]  # along +x, as on the left
    expected = torch.sigmoid(-10 * harmonic)
    assert abs(float(harmonic)) > 0.4
    assert_matches(left[0], expected, atol=1e-3)
    assert_matches(right[0], 1 - expected, atol=1e-3)
    assert_matches(right[1:], torch.full((2,), 0.5), atol=1e-6)


def test_surface_comes_with_the_way_to_the_frame_of_the_data() -> None:
    task, _ = make("task.visual_hull=false")
    turn = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))  # COLMAP's scenes are turned
    task.data.transform = SceneTransform(0.5, (0.1, 0.2, 0.3), turn)
    surface = task.surface_at(Shell(task.out_dim), 20.0)
    points = torch.rand(5, 3)
    ours = torch.cat([points, torch.ones(5, 1)], dim=1).double()
    expected = task.data.transform.to_user(points)
    assert_matches((ours @ surface.to_user.T)[:, :3].float(), expected, atol=1e-6)

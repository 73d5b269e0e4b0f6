"""What photographs need of task=nerf: learned cameras, exposures and sky. No correction changes
nothing; known errors are found again in a scene known in closed form; gradients are right.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch
from torch import Tensor

import nfields
from nfields.config import build
from nfields.errors import ConfigError
from nfields.model.field import Field
from nfields.optimizer import Adam
from nfields.render.cameras import Cameras, project, rays
from nfields.render.lenses import FISHEYE, PERSPECTIVE
from nfields.task.nerf import NerfTask
from nfields.task.nerf_background import Sky
from nfields.task.nerf_batch import draw_batch
from nfields.task.nerf_exposure import Exposure, ExposureMode, fit_gain
from nfields.task.nerf_loss import (
    contracted_distance,
    depth_loss,
    depth_weight_of,
    within_box,
)
from nfields.task.nerf_poses import Intrinsics, PoseRefinement, rotations
from tests.compare import assert_matches
from tests.task.marble import make, photographs


def train_corrections(task: NerfTask, model: Field, steps: int, lr: float) -> None:
    """Trains nothing but the task's own parameters; the field is the true one."""
    generator = torch.Generator().manual_seed(0)
    groups = [replace(group, lr=lr) for group in task.parameter_groups()]
    optimizer = Adam(groups, (0.9, 0.99), 1e-15)
    task.poses.before_step(1 << 20)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = lr * 0.02 ** (step / steps)
        result = task.losses(model, task.batch(generator))
        optimizer.zero_grad(set_to_none=True)
        torch.stack([*result.losses.values()]).sum().backward()
        optimizer.step()
        task.after_step(model, result, step)


@pytest.mark.slow
def test_corrections_of_nothing_change_no_loss() -> None:
    plain, model = make()
    full, _ = make(
        "task.poses.refine=true", "task.poses.intrinsics=each", "task.exposure.mode=affine"
    )
    full.poses.before_step(1 << 20)
    for task in (plain, full):
        task.num_rays.fill_(64)
    first, second = (task.batch(torch.Generator().manual_seed(1)) for task in (plain, full))
    assert second.camera is not None and first.camera is None
    expected = plain.losses(model, first).losses["rgb"]
    found = full.losses(model, second).losses["rgb"]
    assert_matches(found, expected, rtol=1e-5)


def test_corrections_wait_for_their_step() -> None:
    task, _ = make("task.poses.refine=true", "task.poses.start_step=10")
    task.poses.before_step(9)
    assert task.batch(torch.Generator().manual_seed(0)).camera is None
    task.poses.before_step(10)
    assert task.batch(torch.Generator().manual_seed(0)).camera is not None
    again, _ = make("task.poses.refine=true", "task.poses.start_step=10")
    again.load_state_dict(task.state_dict())
    assert again.batch(torch.Generator().manual_seed(0)).camera is not None


@pytest.mark.slow
def test_a_known_error_of_the_poses_is_found_again() -> None:
    """Nine tenths of what shows, in pixels: a turn and a shift to the side look almost alike."""
    task, model = make("task.poses.refine=true", "task.poses.pull=0")
    truth = task.data.cameras["train"]
    random = torch.Generator().manual_seed(5)
    error = 0.03 * torch.randn(2, 6, 3, generator=random)
    turn, shift = error - error.mean(dim=1, keepdim=True)
    pose = truth.camera_to_world.clone()
    pose[:, :, :3] = rotations(turn) @ pose[:, :, :3]
    pose[:, :, 3] += shift
    task.data.cameras["train"] = replace(truth, camera_to_world=pose)
    train_corrections(task, model, 250, lr=4e-3)
    wrong = task.data.cameras["train"]
    points = 0.6 * torch.nn.functional.normalize(torch.randn(200, 3, generator=random), dim=1)

    def pixels_off(cameras: Cameras) -> float:
        pairs = [(project(cameras, i, points)[0], project(truth, i, points)[0]) for i in range(6)]
        return float(torch.stack([(a - b).norm(dim=1).mean() for a, b in pairs]).mean())

    assert pixels_off(task.poses.refined(wrong)) < 0.1 * pixels_off(wrong)


@pytest.mark.slow
@pytest.mark.parametrize("intrinsics", ["shared", "each"])
def test_a_known_error_of_the_lens_is_found_again(intrinsics: str) -> None:
    task, model = make(f"task.poses.intrinsics={intrinsics}", "task.poses.pull=0")
    truth = task.data.cameras["train"]
    wrong = replace(truth, focal=truth.focal * 1.05, center=truth.center + 1.5)
    task.data.cameras["train"] = wrong
    train_corrections(task, model, 200, lr=4e-3)
    found = task.poses.refined(wrong)
    assert (found.focal / truth.focal - 1).abs().max() < 0.005
    assert (found.center - truth.center).abs().max() < 0.15


def distorted(homography: Tensor | None) -> Cameras:
    """A bent perspective lens and a fisheye, turned and moved."""
    turn = rotations(torch.tensor([[0.1, 0.2, -0.1], [0.3, -0.2, 0.1]]))
    return Cameras(
        camera_to_world=torch.cat([turn, torch.tensor([[[0.1], [0.2], [0.3]]] * 2)], dim=2),
        focal=torch.tensor([[50.0, 52.0], [30.0, 30.0]]),
        center=torch.tensor([[32.0, 31.0], [30.0, 33.0]]),
        distortion=torch.tensor([[0.05, -0.02, 1e-3, 2e-3], [0.02, 0.0, 0.0, 0.0]]),
        sizes=torch.tensor([[64, 64], [64, 64]]),
        lens=torch.tensor([PERSPECTIVE, FISHEYE]),
        homography=homography,
    )


def refinement(cameras: Cameras, intrinsics: Intrinsics) -> PoseRefinement:
    """Corrections of these cameras that nothing holds back."""
    poses = PoseRefinement(
        refine=True, intrinsics=intrinsics, lr=1.0, final_lr_part=1.0, betas=[0.9, 0.99],
        pull=0.0, start_step=0,
    )  # fmt: skip
    poses.start(cameras)
    return poses


@pytest.mark.parametrize("has_homography", [False, True])
def test_rays_and_gradients_are_those_of_the_refined_cameras(has_homography: bool) -> None:
    """Against central differences of render.cameras.rays, which knows nothing of corrections."""
    ndc = torch.tensor([[0.9, 0, 0, 0], [0, 0.8, 0, 0], [0, 0, -1.0, -2.0], [0, 0, -1.0, 0]])
    cameras = distorted(ndc if has_homography else None)
    poses = refinement(cameras, "each")
    generator = torch.Generator().manual_seed(0)
    for parameter in poses.parameters():
        parameter.data = 0.03 * torch.randn(parameter.shape, generator=generator)
    view = torch.arange(12) % 2
    pixels = 16 + 32 * torch.rand(12, 2, generator=generator)
    weights = torch.randn(2, 12, 3, generator=generator)

    def exact() -> Tensor:
        found = rays(poses.refined(cameras), view, pixels)
        return (weights.double() * torch.stack(found).double()).sum()

    found = poses(poses.rays(cameras, view, pixels), cameras.homography)
    for part, expected in zip(found, rays(poses.refined(cameras), view, pixels), strict=True):
        assert_matches(part.detach(), expected, atol=2e-5)
    (weights * torch.stack(found)).sum().backward()
    for parameter in poses.parameters():
        gradient = parameter.grad
        assert gradient is not None
        flat = parameter.data.view(-1)
        for i in range(len(flat)):
            kept, h = float(flat[i]), 5e-3
            flat[i] = kept + h
            above = exact()
            flat[i] = kept - h
            below = exact()
            flat[i] = kept
            expected = (above - below) / (2 * h)
            assert abs(float(gradient.view(-1)[i] - expected)) < 0.02 * max(1.0, abs(expected))


def test_a_similarity_of_all_cameras_is_no_correction() -> None:
    cameras = distorted(None)
    poses = refinement(cameras, "given")
    assert poses.turns is not None and poses.shifts is not None
    place = cameras.camera_to_world[:, :, 3] + torch.tensor([[0.0], [0.7]])  # not all in one place
    cameras = replace(cameras, camera_to_world=cameras.camera_to_world.clone())
    cameras.camera_to_world[:, :, 3] = place
    poses.start(cameras)
    turn = torch.tensor([[0.3, -0.2, 0.1]]).expand(2, 3)
    poses.turns.data.copy_(turn)
    poses.shifts.data.copy_(torch.linalg.cross(turn, place) + 0.4 * place + 0.2)
    assert_matches(poses.refined(cameras).camera_to_world, cameras.camera_to_world, atol=1e-6)
    poses.turns.data[0, 0] += 0.01
    assert (poses.refined(cameras).camera_to_world - cameras.camera_to_world).abs().max() > 1e-3


def test_pixels_without_a_ray_leave_gradients_finite() -> None:
    poses = refinement(distorted(None), "shared")
    view, pixels = torch.tensor([1, 1]), torch.tensor([[33.0, 33.0], [5000.0, 33.0]])
    _, directions = poses(poses.rays(distorted(None), view, pixels), None)
    assert directions[0].isfinite().all() and directions[1].isnan().all()
    directions[0].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in poses.parameters())
    assert poses.turns is not None and poses.turns.grad is not None


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["gain", "affine"])
def test_a_known_change_of_exposure_is_found_again(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, model = make(f"task.exposure.mode={mode}", "task.exposure.pull=0")
    gains = torch.tensor([[0.5, 0.7, 0.8, 1.0, 0.6, 0.9]]).T * torch.tensor([[1.0, 0.95, 0.9]])
    for gain, image in zip(gains, task.data.require_images("train"), strict=True):
        image.copy_((image * gain).round())
    # The mean look is that of the field: darken it, as training would have done.
    mean = gains.log().mean(dim=0).exp() if mode == "gain" else gains.mean(dim=0)
    render = task.render_plain

    def darker(*args, **options):
        seen = render(*args, **options)
        return seen._replace(rgb=seen.rgb * mean)

    monkeypatch.setattr(task, "render_plain", darker)
    train_corrections(task, model, 150, lr=5e-2)
    own = task.exposure.corrections().detach()
    if mode == "gain":
        assert_matches(own.exp() * mean, gains, atol=0.02)
    else:
        color = torch.tensor([0.3, 0.6, 0.5])
        shown = task.exposure.apply_to(color.expand(6, 3), own)
        assert_matches(shown, color * gains / mean, atol=0.04)


def test_gain_of_a_picture_is_fitted_by_least_squares() -> None:
    prediction = torch.rand(100, 3)
    gain = torch.tensor([0.5, 1.0, 1.5])
    assert_matches(fit_gain(prediction, prediction * gain), gain)
    assert_matches(fit_gain(torch.zeros(3, 3), torch.ones(3, 3)), torch.zeros(3))


def test_evaluation_says_what_it_did_with_look_and_cameras(tmp_path: Path) -> None:
    task, model = make("task.exposure.mode=gain", "task.poses.refine=true")
    protocol = task.evaluate(model, tmp_path, 1, flip=False)["protocol"]
    assert protocol["appearance"].startswith("interpolated between the training pictures")
    assert protocol["cameras"] == "as given"
    image = task.data.require_images("test")[0]
    image.copy_((image * torch.tensor([0.5, 0.7, 0.9])).round())
    plain = task.evaluate(model, tmp_path, 1, flip=False)
    fitted = task.evaluate(model, tmp_path, 1, flip=False, appearance="left_half")
    assert fitted["psnr"] > 40 > plain["psnr"]
    assert fitted["protocol"]["appearance"].endswith("right half measured")
    assert fitted["per_image"][0]["measured"] == 0.5


@pytest.mark.slow
def test_sky_learns_the_colour_behind_the_ball() -> None:
    task, model = make("task.sky.mode=learned", "task.sky.degree=1")
    for split in ("train", "test"):
        cameras = task.data.cameras[split]
        for view, image in enumerate(task.data.require_images(split)):
            opacity = task.render_view(model, cameras, view)["opacity"][:, :, None]
            sky = torch.tensor([0.2, 0.5, 0.8]) * (1 - opacity) * 255
            image.copy_((image * opacity + sky).clamp(0, 255).round())
    before = task.validate(model, None)["psnr"]
    train_corrections(task, model, 60, lr=0.2)
    assert task.validate(model, None)["psnr"] > max(28.0, before + 5)


def test_random_sky_is_for_training_only() -> None:
    task, model = make("task.sky.mode=random")
    batch = task.batch(torch.Generator().manual_seed(0))
    assert batch.background.std() > 0.2
    corner = task.render_view(model, task.data.cameras["test"], 0)["rgb"][0, 0]
    assert (corner == 0).all()  # its ray meets no cell


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.sky.mode=learned", "data=toy_scene", "data.resolution=8"], "for photographs"),
        (["task.poses.lr=0"], "task.poses: lr=0 must be above 0"),
        (["task.exposure.pull=-1"], "pull=-1 at least 0"),
        (["task.sky.mode=blue"], "must be one of 'black', 'random', 'learned'"),
    ],
)
def test_wrong_options_are_named(overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        cfg = nfields.compose(["task=nerf", *overrides])
        build(cfg.task, data=build(cfg.data))


def test_parts_that_are_off_have_no_state() -> None:
    """So checkpoints of versions without them fit."""
    task, _ = make()
    assert not [
        key for key in task.state_dict() if key.split(".")[0] in ("sky", "exposure", "poses")
    ]
    assert list(task.parameters()) == [] and task.parameter_groups() == []
    assert isinstance(task.sky, Sky) and isinstance(task.exposure, Exposure)


def test_contracted_distance_is_the_identity_near_and_below_one_far() -> None:
    t = torch.tensor([0.0, 0.5, 1.0, 2.0, 1e9])
    assert_matches(contracted_distance(t), torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0]))


def test_depth_loss_is_zero_only_for_opaque_rays_at_the_right_distance() -> None:
    distance = torch.tensor([2.0, 3.0, torch.nan])
    right = depth_loss(distance.nan_to_num(7.0), torch.ones(3), distance)
    assert float(right) == 0
    for depth, opacity in (([2.2, 3.0, 0.0], [1.0, 1.0, 0.0]), ([1.0, 3.0, 0.0], [0.5, 1.0, 0.0])):
        assert float(depth_loss(torch.tensor(depth), torch.tensor(opacity), distance)) > 0.01
    unknown = torch.full((3,), torch.nan)
    assert float(depth_loss(torch.ones(3), torch.zeros(3), unknown)) == 0


def test_spread_and_depth_are_losses_of_their_own_and_leave_colour_alone() -> None:
    task, model = make("task.distortion_weight=0.1")
    task.depth_weight = 0.2
    task.data.depths["train"] = [torch.full((28, 28), 2.5) for _ in range(6)]
    losses = task.losses(model, task.batch(torch.Generator().manual_seed(0))).losses
    plain, _ = make()
    expected = plain.losses(model, plain.batch(torch.Generator().manual_seed(0))).losses
    assert_matches(losses["rgb"].detach(), expected["rgb"].detach(), rtol=1e-6)
    # A ball of radius 0.6 seen through soft walls: less than its own thickness, in sides of 2.
    assert 0 < losses["distortion"].item() < 0.1 * 0.6 / 3
    assert losses["depth"].item() > 0


def test_rays_without_room_for_their_samples_are_not_asked_for_a_depth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    task, model = make()
    task.depth_weight = 1.0
    batch = task.batch(torch.Generator().manual_seed(0))
    rays = (batch.origins, batch.directions, batch.jitter, batch.background)
    with torch.no_grad():
        whole = task.render_plain(model, *rays)
        room = int(whole.num_samples) // 2
        kept = task.render_plain(model, *rays, capacity=room).is_whole
    assert kept is not None and 0 < int(kept.sum()) < len(kept)
    # The others are wrong by far, and would count if they were asked.
    right = whole.depth / whole.opacity.clamp_min(1e-6)
    known = torch.where(kept, right, 1.15 * right)
    known = known.where(whole.opacity > 0.5, torch.nan)
    batch = batch._replace(depth=known)
    monkeypatch.setattr(task, "_capacity", lambda origins: room)
    found = task.losses(model, batch).losses["depth"]
    asked = torch.where(kept, known, torch.nan)
    expected = depth_loss(whole.depth, whole.opacity, asked)
    assert_matches(found.detach(), expected, rtol=1e-4)  # float32 through some hundred samples


def test_depths_that_lead_out_of_the_box_are_unknown() -> None:
    origins = torch.tensor([[0.0, 0.0, 3.0]]).expand(4, 3)
    directions = torch.tensor([[0.0, 0.0, -1.0]]).expand(4, 3)
    distance = torch.tensor([0.5, 1.5, 4.5, torch.nan])
    assert within_box(distance, origins, directions, 2.0).tolist()[1:3] == [1.5, 4.5]
    assert within_box(distance, origins, directions, 2.0).isnan().tolist() == [
        True,
        False,
        False,
        True,
    ]
    assert within_box(distance, origins, directions, 1.0).isnan().all()


def test_depths_of_points_are_used_unless_told_otherwise() -> None:
    data = photographs(2)
    assert depth_weight_of(data, None) == 0
    points = torch.zeros(28, 28).to_sparse_coo()
    data.depths["train"] = [points, None]
    assert depth_weight_of(data, None) > 0
    assert depth_weight_of(data, 0) == 0
    assert depth_weight_of(data, 0.3) == 0.3
    data.depths["train"] = [points.to_dense(), None]  # maps may have another scale
    assert depth_weight_of(data, None) == 0
    cameras = data.cameras["train"]
    data.depths["train"] = [points, None]
    data.cameras["train"] = replace(cameras, homography=torch.eye(4))
    assert depth_weight_of(data, None) == 0


def test_a_pixel_that_is_cut_out_has_no_depth() -> None:
    data = photographs(2)
    assert data.images is not None
    for split, images in data.images.items():
        data.images[split] = [torch.cat([i, torch.zeros_like(i[..., :1])], dim=2) for i in images]
    data.has_alpha = True
    data.images["train"][0][:, :14, 3] = 255
    data.depths["train"] = [torch.ones(28, 28), None]
    sky = Sky(mode="black", degree=0, lr=1.0)
    poses = build(nfields.compose(["task=nerf"]).task.poses)
    batch = draw_batch(data, poses, sky, "white", 500, torch.Generator().manual_seed(0))
    assert batch.depth is not None
    known = batch.depth.isfinite()
    assert 50 < int(known.sum()) < 200  # a quarter of all pixels
    assert (batch.view_index[known] == 0).all()


def test_depth_weight_needs_depths() -> None:
    with pytest.raises(ConfigError, match="have no depths"):
        make("task.depth_weight=0.1")


def exposures(mode: ExposureMode, num_views: int) -> Exposure:
    exposure = Exposure(mode=mode, lr=1.0, final_lr_part=1.0, pull=0.0)
    exposure.start(num_views)
    return exposure


@pytest.mark.parametrize("mode", ["gain", "affine"])
def test_common_change_of_all_pictures_is_no_correction(mode: Literal["gain", "affine"]) -> None:
    exposure = exposures(mode, 3)
    assert exposure.values is not None
    exposure.values.data.fill_(0.3)
    rgb = torch.rand(3, 3)
    assert_matches(exposure.apply_to(rgb, exposure.corrections()).detach(), rgb, atol=1e-6)


def test_exposure_leaves_what_was_put_behind_a_picture_alone() -> None:
    exposure = exposures("gain", 2)
    shown = exposure.apply_to(torch.full((1, 3), 0.75), torch.full((1, 3), 0.5).log(), 0.25)
    assert_matches(shown, torch.full((1, 3), 0.5))  # half of the light, 0.5, and all of the rest


def test_steady_exposure_of_a_held_out_picture_is_told_by_its_neighbors() -> None:
    exposure = exposures("gain", 9)
    assert exposure.values is not None
    names = [f"{i}.jpg" for i in range(12) if i % 4]  # 10.jpg comes after 9.jpg
    at = torch.tensor([i for i in range(12) if i % 4])
    exposure.values.data.copy_(0.02 * at[:, None] * torch.tensor([1.0, 2.0, -1.0]))
    told = exposure.of_others(names, ["8.jpg", "4.jpg"])
    expected = 0.02 * (torch.tensor([8.0, 4.0]) - at.float().mean())[:, None]
    assert_matches(told, expected * torch.tensor([1.0, 2.0, -1.0]), atol=1e-6)


def test_where_order_tells_nothing_a_held_out_picture_has_the_mean_look() -> None:
    exposure = exposures("gain", 40)
    assert exposure.values is not None
    exposure.values.data.copy_((-1.0) ** torch.arange(40)[:, None] * 0.3)
    told = exposure.of_others([f"{i}_a" for i in range(40)], ["7_b"])
    assert_matches(told, torch.zeros(1, 3))


def test_experiment_for_photographs_turns_on_what_they_need() -> None:
    task = nfields.compose(["experiment=photographs", "data.path=somewhere"]).task
    assert task.sky.mode == "learned" and task.exposure.mode == "none"
    assert task.distortion_weight > 0 and task.space == "box"

"""The generated scene: its pictures, depths and normals agree with its own distance."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from nfields.data import toy_scene
from nfields.data.image_reader import area_filter
from nfields.data.posed_images import PosedImages, open_posed_images
from nfields.data.posed_views import seen
from nfields.data.toy_scene import read_toy_scene, scene_distance, scene_normal
from nfields.errors import ConfigError
from nfields.render.cameras import project, view_rays


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> PosedImages:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NFIELDS_CACHE", str(tmp_path_factory.mktemp("cache")))
        return read_toy_scene(resolution=48, num_train=4, num_test=2, seed=0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NFIELDS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def truth_of(scene: PosedImages, view: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points, normals (n, 3) and ray directions of the pixels that hit something."""
    assert scene.truth is not None
    truth = scene.truth["train"][view]
    origins, directions = view_rays(scene.cameras["train"], view)
    depth = truth["depth"].view(-1)
    hit = depth.isfinite()
    points = origins[hit] + depth[hit, None] * directions[hit]
    return points, truth["normals"].view(-1, 3)[hit], directions[hit]


def test_depth_ends_on_the_surface(scene: PosedImages) -> None:
    for view in range(4):
        points, _, _ = truth_of(scene, view)
        assert len(points) > 500
        # Rays, depths and points are float32 numbers of size 3: 2e-7 each.
        assert scene_distance(points.double()).abs().max() < 1e-6


def test_nothing_lies_before_the_depth(scene: PosedImages) -> None:
    """Independent of tracing: the distance is sampled densely along every ray."""
    assert scene.truth is not None
    for view in range(4):
        origins, directions = view_rays(scene.cameras["train"], view)
        depth = scene.truth["train"][view]["depth"].view(-1)
        fractions = torch.linspace(0, 0.999, 200)
        t = torch.where(depth.isfinite(), depth, 5.0)[:, None] * fractions
        points = origins[:, None] + t[..., None] * directions[:, None]
        assert scene_distance(points).min() > -1e-6


def test_normals_are_the_slope_of_the_distance(scene: PosedImages) -> None:
    for view in range(4):
        points, normals, _ = truth_of(scene, view)
        points = points.double()
        step = 1e-4 * torch.eye(3, dtype=torch.float64)
        slope = torch.stack(
            [(scene_distance(points + h) - scene_distance(points - h)) / 2e-4 for h in step],
            dim=1,
        )
        # Two solids touch, and creases are sharper than the step, in a few places only.
        error = (slope - normals.double()).norm(dim=1)
        assert error.median() < 1e-3
        assert (error < 1e-2).double().mean() > 0.97
        torch.testing.assert_close(scene_normal(points).float(), normals, atol=1e-3, rtol=0)


def test_normals_are_unit_and_face_the_camera(scene: PosedImages) -> None:
    for view in range(4):
        _, normals, directions = truth_of(scene, view)
        torch.testing.assert_close(normals.norm(dim=1), torch.ones(len(normals)))
        assert (normals * directions).sum(dim=1).max() < 1e-3


def test_distance_grows_at_most_as_fast_as_the_way(generator: torch.Generator) -> None:
    a, b = (2.4 * torch.rand(2, 20_000, 3, generator=generator, dtype=torch.float64) - 1.2).unbind()
    difference = (scene_distance(a) - scene_distance(b)).abs()
    assert (difference <= (a - b).norm(dim=1) + 1e-9).all()


def test_distance_outside_is_exact(generator: torch.Generator) -> None:
    """Going the distance against the normal there ends on the surface."""
    points = 2 * torch.rand(5000, 3, generator=generator, dtype=torch.float64) - 1
    distance = scene_distance(points)
    points, distance = points[distance > 0], distance[distance > 0]
    foot = points - distance[:, None] * scene_normal(points)
    error = scene_distance(foot).abs()
    # On the ridges between two solids the normal is one of two; elsewhere it is the gradient.
    assert (error < 1e-7).double().mean() > 0.999


def test_scene_lies_in_the_box(generator: torch.Generator) -> None:
    points = 4 * torch.rand(20_000, 3, generator=generator) - 2
    outside = points[points.abs().amax(dim=1) >= 0.95]
    assert scene_distance(outside).min() > 0
    assert (scene_distance(points / 2) < 0).any()


def test_alpha_is_the_share_of_samples_that_hit(scene: PosedImages) -> None:
    assert scene.truth is not None
    for image, truth in zip(scene.require_images("train"), scene.truth["train"], strict=True):
        alpha = image[..., 3]
        assert set(alpha.unique().tolist()) <= {0, 64, 128, 191, 255}
        hit = truth["depth"].isfinite()
        assert bool((image[alpha == 0] == 0).all())
        # A pixel whose four samples agree has the same at its centre, but for thin things.
        agree = (hit == (alpha > 0))[(alpha == 0) | (alpha == 255)]
        assert agree.double().mean() > 0.999


def test_pictures_are_averages_of_finer_pictures(scene: PosedImages) -> None:
    cameras = scene.cameras["train"][:2]
    fine = toy_scene.render(cameras.resized(192, 192))
    for image, truth in zip(scene.require_images("train"), fine["colors"], strict=False):
        coarse = area_filter(truth, 4).astype(np.float64)
        found = image.numpy().astype(np.float64)
        difference = np.abs(found - coarse) * (coarse[..., 3:] / 255)
        # Four samples of a pixel against sixty-four: only edges and highlights differ.
        assert difference.mean() < 4
        assert np.median(difference[coarse[..., 3] == 255]) <= 2


def test_depth_at_a_finer_resolution_is_the_same_surface(scene: PosedImages) -> None:
    """Pixel centres of every third picture size coincide: column 3 i + 1 of 144 is i of 48."""
    assert scene.truth is not None
    fine = toy_scene.render(scene.cameras["train"][:1].resized(144, 144))
    expected = scene.truth["train"][0]["depth"]
    found = torch.from_numpy(fine["depth"][0])[1::3, 1::3]
    both = found.isfinite() & expected.isfinite()
    assert (found.isfinite() == expected.isfinite()).double().mean() > 0.999
    difference = (found - expected)[both].abs()
    assert (difference < 1e-4).double().mean() > 0.99


def test_all_cameras_see_the_box_from_above(scene: PosedImages) -> None:
    for cameras in scene.cameras.values():
        assert bool(seen(cameras, 1).all())
        assert bool((cameras.camera_to_world[:, 2, 3] > -0.2).all())
        for view in range(len(cameras)):
            pixels, _ = project(cameras, view, torch.tensor([[0.0, 0.0, -0.18]]))
            torch.testing.assert_close(pixels, torch.tensor([[24.0, 24.0]]), atol=1e-3, rtol=0)


def test_user_frame_has_cameras_at_the_distance_of_blender(scene: PosedImages) -> None:
    place = scene.cameras["test"].camera_to_world[:, :, 3]
    centre = torch.tensor([0.0, 0.0, -0.18])
    distance = (scene.transform.to_user(place) - scene.transform.to_user(centre)).norm(dim=1)
    torch.testing.assert_close(distance, torch.full((2,), 4.03))


def test_cached_scene_is_the_rendered_one(cache: Path) -> None:
    options = {"resolution": 12, "num_train": 2, "num_test": 1, "seed": 3}
    first = read_toy_scene(**options)
    assert len(list(cache.iterdir())) == 1
    again = read_toy_scene(**options)
    assert len(list(cache.iterdir())) == 1
    assert torch.equal(first.require_images("train")[1], again.require_images("train")[1])
    assert first.truth is not None and again.truth is not None
    assert torch.equal(first.truth["test"][0]["normals"], again.truth["test"][0]["normals"])


def test_other_options_are_another_scene(cache: Path) -> None:
    for seed in (0, 1):
        read_toy_scene(resolution=8, num_train=1, num_test=1, seed=seed)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"\x80\x04pickle"])
def test_damaged_cache_is_rendered_again(cache: Path, content: bytes) -> None:
    options = {"resolution": 8, "num_train": 1, "num_test": 1, "seed": 0}
    first = read_toy_scene(**options)
    file = next(cache.iterdir())
    file.write_bytes(content)
    again = read_toy_scene(**options)
    assert torch.equal(first.require_images("train")[0], again.require_images("train")[0])
    assert again.notes == []
    assert file.stat().st_size > 1000


def test_cache_that_cannot_be_written_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("NFIELDS_CACHE", str(tmp_path / "file" / "cache"))
    data = read_toy_scene(resolution=8, num_train=1, num_test=1, seed=0)
    assert "could not be kept" in data.notes[0]
    assert os.environ["NFIELDS_CACHE"] in data.notes[0]


@pytest.mark.usefixtures("cache")
def test_it_is_what_posed_images_without_a_path_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(toy_scene.DEFAULTS, "num_train", 2)
    monkeypatch.setitem(toy_scene.DEFAULTS, "num_test", 1)
    data = open_posed_images(path=None, downscale=8, holdout=8, allow_outside=False, masks="exclude")
    assert data.cameras["train"].size(0) == (25, 25)
    assert data.truth is not None


@pytest.mark.parametrize("name", ["resolution", "num_train", "num_test"])
def test_bad_options_are_refused(name: str) -> None:
    options = {"resolution": 8, "num_train": 1, "num_test": 1, "seed": 0}
    with pytest.raises(ConfigError, match=f"data.{name}=0"):
        read_toy_scene(**{**options, name: 0})
    with pytest.raises(ConfigError, match=r"data\.seed=-1"):
        read_toy_scene(**{**options, "seed": -1})

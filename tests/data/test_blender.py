"""The NeRF-synthetic format: splits, units, alpha."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from nfields.data.blender import read_blender
from nfields.data.image_reader import area_filter
from nfields.data.posed_images import PosedImages
from nfields.errors import ConfigError, DataError
from nfields.render.cameras import rays
from tests.data.scene_folder import HEIGHT, POSE, WIDTH, picture, write_blender


def read(path: Path, downscale: int = 1, scene_scale: float | None = None) -> PosedImages:
    return read_blender(
        path=str(path), downscale=downscale, allow_outside=False, scene_scale=scene_scale
    )


def test_pictures_keep_their_pixels_and_alpha(tmp_path: Path) -> None:
    data = read(write_blender(tmp_path, splits=("train", "val", "test")))
    assert data.has_alpha
    assert list(data.cameras) == ["train", "val", "test"]
    assert data.names["test"] == ["test/r_0", "test/r_1"]
    for i, image in enumerate(data.require_images("train")):
        assert np.array_equal(image.numpy(), picture(i, 4))


def test_user_box_of_one_and_a_half_is_our_unit_box(tmp_path: Path) -> None:
    data = read(write_blender(tmp_path))
    corners = data.transform.to_ours(torch.tensor([[-1.5, -1.5, -1.5], [1.5, 1.5, 1.5]]))
    torch.testing.assert_close(corners, torch.tensor([[-1.0] * 3, [1.0] * 3]))
    assert data.aabb_scale == 1


@pytest.mark.parametrize("scene_scale", [0.25, 2 / 3, 1.0])
def test_scale_moves_cameras_and_keeps_directions(tmp_path: Path, scene_scale: float) -> None:
    data = read(write_blender(tmp_path), scene_scale=scene_scale)
    place = data.cameras["train"].camera_to_world[0, :, 3]
    torch.testing.assert_close(place, scene_scale * torch.tensor(POSE)[:3, 3])
    torch.testing.assert_close(data.transform.to_user(place), torch.tensor(POSE)[:3, 3])
    _, directions = rays(data.cameras["train"], torch.tensor([0]), torch.tensor([[3.0, 2.0]]))
    assert directions.tolist() == [[0, 0, -1]]


@pytest.mark.parametrize("downscale", [1, 2, 3, 4])
def test_downscale_keeps_the_field_of_view_of_what_is_left(tmp_path: Path, downscale: int) -> None:
    data = read(write_blender(tmp_path), downscale)
    cameras = data.cameras["train"]
    width, height = WIDTH // downscale, HEIGHT // downscale
    assert cameras.size(0) == (width, height)
    # Where the picture is cut, it is cut at the right and the bottom: the left edge stays.
    tangent = cameras.center[0] / cameras.focal[0]
    torch.testing.assert_close(tangent, torch.tensor([WIDTH / 2, HEIGHT / 2]) / 5.0)
    expected = area_filter(picture(0, 4), downscale)
    assert np.array_equal(data.require_images("train")[0].numpy(), expected)


def test_missing_test_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"transforms_test\.json does not exist.*train"):
        read(write_blender(tmp_path, splits=("train",)))


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path=.*nothing_here is no folder"):
        read(tmp_path / "nothing_here")


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"transforms_train\.json does not exist.*nothing"):
        read(tmp_path)


def test_missing_pictures_are_skipped_and_noted(tmp_path: Path) -> None:
    write_blender(tmp_path)
    (tmp_path / "train" / "r_0.png").unlink()
    data = read(tmp_path)
    assert data.names["train"] == ["train/r_1"]
    assert "1 of 2 frames of transforms_train.json have no image file" in data.notes[0]


def test_cameras_that_never_see_the_box_are_an_error(tmp_path: Path) -> None:
    write_blender(tmp_path)
    file = tmp_path / "transforms_train.json"
    meta = json.loads(file.read_text())
    for frame in meta["frames"]:
        frame["transform_matrix"] = [
            [-1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, -1.0, 4.0], [0, 0, 0, 1],
        ]  # fmt: skip
    file.write_text(json.dumps(meta))
    with pytest.raises(DataError, match=r"no train camera sees the scene box.*-1\.5.*scene_scale"):
        read(tmp_path)


@pytest.mark.parametrize("scene_scale", [0.0, -1.0, math.inf, math.nan])
def test_bad_scale_is_refused(tmp_path: Path, scene_scale: float) -> None:
    with pytest.raises(ConfigError, match=r"data\.scene_scale"):
        read(tmp_path, scene_scale=scene_scale)


@pytest.mark.parametrize("downscale", [0, -2])
def test_bad_downscale_is_refused(tmp_path: Path, downscale: int) -> None:
    with pytest.raises(ConfigError, match=r"data\.downscale"):
        read(tmp_path, downscale)


@pytest.mark.slow
def test_chair(shared_data: Path) -> None:
    data = read(shared_data / "nerf" / "chair_400", 8)
    assert {split: len(cameras) for split, cameras in data.cameras.items()} == {
        "train": 100, "val": 10, "test": 50,
    }  # fmt: skip
    assert data.has_alpha
    assert data.notes == []
    assert data.cameras["train"].size(0) == (50, 50)
    # The README of the scenes: cameras 4.03 from the centre, which every one looks at.
    cameras = data.cameras["train"]
    distance = cameras.camera_to_world[:, :, 3].norm(dim=1)
    torch.testing.assert_close(distance, torch.full((100,), 4.0311 * 2 / 3), rtol=1e-4, atol=0)
    origins, directions = rays(cameras, torch.arange(100), cameras.center)
    assert (origins + distance[:, None] * directions).abs().max() < 1e-4

"""transforms.json: instant-ngp's frame, lenses, splits."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from nfields.data.posed_images import PosedImages
from nfields.data.transforms import read_transforms
from nfields.errors import ConfigError, DataError
from nfields.render.cameras import project, rays
from tests.data.capture_folder import around, write_instant_ngp
from tests.data.scene_folder import POSE, frame, picture, write_transforms


def read(
    path: Path,
    *,
    downscale: int = 1,
    holdout: int = 8,
    allow_outside: bool = False,
    frame: Literal["auto", "box", "none"] = "auto",
    aabb_scale: int | None = None,
    scene_scale: float | None = None,
    near: float | None = None,
) -> PosedImages:
    return read_transforms(
        path=str(path),
        downscale=downscale,
        holdout=holdout,
        allow_outside=allow_outside,
        frame=frame,
        aabb_scale=aabb_scale,
        scene_scale=scene_scale,
        near=near,
        masks="exclude",
    )


def test_unit_cube_of_instant_ngp_is_our_box(tmp_path: Path) -> None:
    """x -> 0.33 x + 0.5 goes to the unit cube, whose corners are our -1 and 1."""
    data = read(write_transforms(tmp_path))
    unit = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.5, 0.25, 0.75]])
    ours = data.transform.to_ours((unit - 0.5) / 0.33)
    torch.testing.assert_close(ours, 2 * unit - 1)


def test_scale_and_offset_of_the_file_override(tmp_path: Path) -> None:
    data = read(write_transforms(tmp_path, scale=0.25, offset=[0.5, 0.25, 0.75]))
    found = data.transform.to_ours(torch.tensor([[1.0, 0.0, 0.0]]))
    torch.testing.assert_close(found, torch.tensor([[0.5, -0.5, 0.5]]))
    place = data.cameras["train"].camera_to_world[0, :, 3]
    torch.testing.assert_close(data.transform.to_user(place), torch.tensor(POSE)[:3, 3])


def test_every_eighth_by_name_is_held_out(tmp_path: Path) -> None:
    frames = [frame(i) for i in reversed(range(17))]
    data = read(write_transforms(tmp_path, num=17, frames=frames))
    assert data.names["test"] == ["images/000.png", "images/008.png", "images/016.png"]
    assert len(data.names["train"]) == 14
    assert "every 8th view" in data.notes[-1]
    for name, image in zip(data.names["train"], data.require_images("train"), strict=True):
        assert np.array_equal(image.numpy(), picture(int(name[7:10])))


def test_split_of_the_file_is_taken(tmp_path: Path) -> None:
    names = [f"images/{i:03d}.png" for i in range(3)]
    folder = write_transforms(
        tmp_path, train_filenames=names[1:], val_filenames=["./" + names[0]], test_filenames=[]
    )
    data = read(folder)
    assert data.names == {"train": names[1:], "test": names[:1]}
    assert not any("held out" in note for note in data.notes)


def test_empty_split_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"split 'test' is empty.*3 frames"):
        read(write_transforms(tmp_path, test_filenames=["images/099.png"]))


def test_one_picture_is_too_few(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="only one frame"):
        read(write_transforms(tmp_path, num=1))


def test_missing_aabb_scale_is_assumed_and_noted(tmp_path: Path) -> None:
    data = read(write_transforms(tmp_path, aabb_scale=None))
    assert data.aabb_scale == 1
    assert "has no aabb_scale: 1 is assumed" in data.notes[0]
    assert read(tmp_path, aabb_scale=8).aabb_scale == 8


@pytest.mark.parametrize("value", [3, 0, -1, 256, 1.5, "4"])
def test_bad_aabb_scale_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(DataError, match=r"transforms\.json: aabb_scale"):
        read(write_transforms(tmp_path, aabb_scale=value))


def test_bad_options_are_refused(tmp_path: Path) -> None:
    write_transforms(tmp_path)
    with pytest.raises(ConfigError, match=r"data\.aabb_scale=3 must be a power of two"):
        read(tmp_path, aabb_scale=3)
    with pytest.raises(ConfigError, match=r"data\.holdout=1 must be >= 2"):
        read(tmp_path, holdout=1)
    with pytest.raises(ConfigError, match=r"data\.near=-1\.0"):
        read(tmp_path, near=-1.0)
    with pytest.raises(ConfigError, match=r"data\.scene_scale=0\.0"):
        read(tmp_path, scene_scale=0.0)


@pytest.mark.parametrize("offset", [[1, 2], "0", [1, 2, "3"], [0, 0, float("nan")]])
def test_bad_offset_is_refused(tmp_path: Path, offset: Any) -> None:
    with pytest.raises(DataError, match=r"transforms\.json: offset"):
        read(write_transforms(tmp_path, offset=offset))


def test_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"transforms\.json does not exist"):
        read(tmp_path)


def test_one_picture_with_alpha_gives_all_four_channels(tmp_path: Path) -> None:
    write_transforms(tmp_path)
    Image.fromarray(picture(0, 4)).save(tmp_path / "images" / "000.png")
    data = read(tmp_path)
    assert data.has_alpha
    assert data.num_channels == 4
    assert bool((data.require_images("train")[0][..., 3] == 255).all())
    assert np.array_equal(data.require_images("test")[0].numpy(), picture(0, 4))


def test_grey_picture_is_converted_with_a_note(tmp_path: Path) -> None:
    write_transforms(tmp_path)
    Image.fromarray(picture(1)[..., 0]).save(tmp_path / "images" / "001.png")
    data = read(tmp_path)
    assert data.require_images("train")[0].shape[2] == 3
    assert any("1 of 3 pictures are grey" in note and "001.png" in note for note in data.notes)


def test_lens_that_folds_the_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lens k1=-3.*folds the picture"):
        read(write_transforms(tmp_path, k1=-3.0))


def test_ordinary_lens_is_taken(tmp_path: Path) -> None:
    data = read(write_transforms(tmp_path, k1=-0.2, k2=0.03, p1=0.001, p2=-0.001))
    assert data.cameras["train"].is_distorted


def test_cameras_that_look_away_are_counted(tmp_path: Path) -> None:
    away = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, -9.0], [0, 0, 0, 1.0]]
    frames = [frame(0), frame(1), frame(2, transform_matrix=away)]
    data = read(write_transforms(tmp_path, frames=frames))
    assert any("1 of 2 train cameras do not see the scene box" in note for note in data.notes)


def test_fox(shared_data: Path) -> None:
    data = read(shared_data / "nerf" / "fox", downscale=8)
    assert len(data.cameras["train"]) + len(data.cameras["test"]) == 50
    assert len(data.cameras["test"]) == 7
    assert any("17 of 67 frames" in note for note in data.notes)
    assert data.aabb_scale == 4
    assert not data.has_alpha
    cameras = data.cameras["train"]
    assert cameras.size(0) == (1080 // 8, 1920 // 8)
    torch.testing.assert_close(cameras.focal[0] * 8, torch.tensor([1375.52, 1374.49]))
    # Every camera sees the middle of the box, near which the fox is.
    pixels = torch.stack([project(cameras, i, torch.zeros(1, 3))[0][0] for i in range(43)])
    assert bool(((pixels > 0) & (pixels < cameras.sizes)).all())


@pytest.mark.slow
def test_fox_rays_come_back_to_their_pixels(shared_data: Path) -> None:
    cameras = read(shared_data / "nerf" / "fox", downscale=4).cameras["test"]
    generator = torch.Generator().manual_seed(0)
    pixels = torch.rand(1000, 2, generator=generator) * cameras.sizes[3]
    origins, directions = rays(cameras, torch.full((1000,), 3), pixels)
    found, _ = project(cameras, 3, origins + 2 * directions)
    assert (found - pixels).abs().max() < 1e-3


def test_box_of_the_file_is_the_unit_cube(tmp_path: Path) -> None:
    data = read(write_transforms(tmp_path, aabb=[[-1, 0, 1], [3, 2, 2]]))
    found = data.transform.to_ours(torch.tensor([[-1.0, 0, 1], [3.0, 2, 2]]))
    torch.testing.assert_close(found, torch.tensor([[-1.0, -0.5, -0.25], [1.0, 0.5, 0.25]]))


@pytest.mark.parametrize("aabb", [[1, 2], "box", [[0, 0, 0], [1, 1, 0]], [[0, 0, 0], [1, 1, "x"]]])
def test_bad_box_is_refused(tmp_path: Path, aabb: Any) -> None:
    with pytest.raises(DataError, match=r"transforms\.json: aabb="):
        read(write_transforms(tmp_path, aabb=aabb))


def test_offset_may_be_one_number(tmp_path: Path) -> None:
    data = read(write_transforms(tmp_path, offset=0.25))
    assert data.transform.offset == (-0.5, -0.5, -0.5)


def test_mitsuba_camera_looks_along_plus_z(tmp_path: Path) -> None:
    """Axes left, up, forward: at z = -2 of the file, looking along +z, it sees the middle."""
    pose = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, -2.0], [0, 0, 0, 1.0]]
    frames = [frame(i, transform_matrix=pose) for i in range(3)]
    data = read(write_transforms(tmp_path, frames=frames, normal_mts_args=[1]))
    cameras = data.cameras["train"]
    point = data.transform.to_ours(torch.tensor([[0.3, 0.1, 0.0]]))
    pixels, depth = project(cameras, 0, point)
    # x grows to the left of the picture, y upwards; focal length 5 at a distance of 2.
    torch.testing.assert_close(pixels, torch.tensor([[3 - 0.75, 2 - 0.25]]))
    assert bool(depth > 0)


def test_file_without_a_frame_gets_a_box_around_what_is_looked_at(tmp_path: Path) -> None:
    capture = around(center=(10.0, 20.0, 30.0), distance=50.0)
    data = read(write_instant_ngp(tmp_path, capture, aabb_scale=None))
    middle = data.transform.to_ours(torch.tensor([10.0, 20.0, 30.0]))
    assert middle.abs().max() < 1e-4
    places = torch.cat([cameras.camera_to_world[:, :, 3] for cameras in data.cameras.values()])
    distance = places.norm(dim=1) / data.aabb_scale
    assert float(distance.max()) == pytest.approx(1 / 1.5, abs=0.01)
    assert any("frame=box: from the cameras alone" in note for note in data.notes)
    assert "1 is assumed" in read(tmp_path, frame="none").notes[0]


def test_fisheye_of_a_frame_and_panoramas(tmp_path: Path) -> None:
    frames = [
        frame(0, camera_model="OPENCV_FISHEYE", k1=0.1, k2=0.02, k3=0.003, k4=0.0004),
        frame(1, is_fisheye=True, k1=0.1),
        frame(2, camera_model="EQUIRECTANGULAR", fl_x=None),
        frame(3, latlong=True),
    ]
    data = read(write_transforms(tmp_path, num=4, frames=frames), holdout=4)
    assert data.cameras["test"].lens.tolist() == [1]
    torch.testing.assert_close(
        data.cameras["test"].distortion[0], torch.tensor([0.1, 0.02, 0.003, 0.0004])
    )
    train = data.cameras["train"]
    assert train.lens.tolist() == [1, 2, 2]
    _, directions = rays(train, torch.tensor([1, 2]), torch.tensor([[3.0, 2.0], [0.0, 2.0]]))
    torch.testing.assert_close(
        directions, torch.tensor([[0.0, 0.0, -1.0], [0.0, 0.0, 1.0]]), atol=1e-6, rtol=0
    )


def test_circle_of_a_fisheye_is_masked(tmp_path: Path) -> None:
    """theta_d ends at 0.98 where k1 = -0.3 turns it back: 3 of 6 pixels across the middle."""
    folder = write_transforms(tmp_path, fl_x=1.5, camera_model="OPENCV_FISHEYE", k1=-0.3)
    mask = read(folder).mask("test", 0)
    assert mask is not None
    assert mask[:, 0].tolist() == [False] * 4
    assert bool(mask[1:3, 2:4].all())
    # rays of the pixels left are there
    assert any("have a mask" in note for note in read(folder).notes)


def test_masks_and_depth_maps_of_the_file_are_read(tmp_path: Path) -> None:
    write_transforms(tmp_path)
    values = np.zeros((4, 6), np.uint8)
    values[2] = 255
    Image.fromarray(values).save(tmp_path / "mask.png")
    Image.fromarray(values).save(tmp_path / "images" / "dynamic_mask_001.png")
    Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(tmp_path / "depth.png")
    frames = [frame(0, mask_path="mask.png"), frame(1, depth_file_path="depth.png"), frame(2)]
    data = read(write_transforms(tmp_path, frames=frames, ply_file_path="points.ply"))
    test, train = data.mask("test", 0), data.mask("train", 0)
    assert test is not None and train is not None
    assert test.sum() == 6
    assert train.sum() == 18
    assert data.mask("train", 1) is None
    depth = data.depths["train"][0]
    assert depth is not None
    # one user unit along the axis, 0.66 of ours; the rays of the corners are longer
    assert 0.66 <= float(depth.min()) < 0.67 < float(depth.max())
    notes = " ".join(data.notes)
    for words in ("ply_file_path is not used", "1 of 3 pictures have a depth map", "2 of 3 pict"):
        assert words in notes
    batch = data.sample_pixels(100, torch.Generator().manual_seed(0))
    assert batch.depth is not None
    assert torch.equal(batch.depth.isfinite(), batch.view_index == 0)


def test_bad_masks_are_refused(tmp_path: Path) -> None:
    frames = [frame(0), frame(1, mask_path="nowhere.png")]
    with pytest.raises(DataError, match=r"frames\[1\].*mask_path=nowhere\.png does not exist"):
        read(write_transforms(tmp_path, frames=frames))
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "nowhere.png")
    with pytest.raises(DataError, match="the mask has 3 x 3 pixels"):
        read(tmp_path)
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path.parent / "other.png")
    frames = [frame(0), frame(1, mask_path="../other.png")]
    with pytest.raises(DataError, match="leaves the data folder"):
        read(write_transforms(tmp_path, frames=frames))


def test_picture_named_twice_is_said(tmp_path: Path) -> None:
    frames = [frame(0), frame(1), frame(1)]
    notes = read(write_transforms(tmp_path, frames=frames)).notes
    assert any("named more than once (first: 001.png)" in note for note in notes)

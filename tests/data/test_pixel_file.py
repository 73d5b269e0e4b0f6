"""Masks and depth maps: what counts, what is refused, and how pixels are drawn under them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nfields.data.image_reader import ImageHeader
from nfields.data.pixel_file import DepthFile, MaskFile
from nfields.data.pixel_table import PixelTable
from nfields.errors import DataError
from nfields.render.cameras import Cameras, project, view_rays
from nfields.render.lenses import EQUIRECTANGULAR, FISHEYE, PERSPECTIVE

HEADER = ImageHeader(Path("photo.png"), 6, 4, False, ())


def save(path: Path, values: np.ndarray) -> Path:
    Image.fromarray(values).save(path)
    return path


def cameras_of(lens: int) -> Cameras:
    return Cameras(
        camera_to_world=torch.eye(4)[None, :3],
        focal=torch.tensor([[6 / (2 * math.pi), 4 / math.pi]])
        if lens == EQUIRECTANGULAR
        else torch.tensor([[5.0, 5.0]]),
        center=torch.tensor([[3.0, 2.0]]),
        distortion=torch.zeros(1, 4),
        sizes=torch.tensor([[6, 4]]),
        lens=torch.tensor([lens]),
    )


@pytest.mark.parametrize("channels", [None, 3, 4])
def test_black_pixels_are_left_out(tmp_path: Path, channels: int | None) -> None:
    values = np.zeros((4, 6), np.uint8)
    values[1, 2:] = 255
    if channels is not None:
        values = np.repeat(values[..., None], channels, axis=2)
        if channels == 4:
            values[..., 3] = 255  # opaque black is black
    file = save(tmp_path / "mask.png", values)
    mask = MaskFile(file).read(HEADER, 1)
    assert mask.nonzero().tolist() == [[1, 2], [1, 3], [1, 4], [1, 5]]
    assert torch.equal(MaskFile(file, is_inverted=True).read(HEADER, 1), ~mask)


def test_block_counts_only_if_all_its_pixels_do(tmp_path: Path) -> None:
    values = np.full((4, 6), 255, np.uint8)
    values[0, 1] = 0
    mask = MaskFile(save(tmp_path / "mask.png", values)).read(HEADER, 2)
    assert mask.tolist() == [[False, True, True], [True, True, True]]


def test_mask_of_another_size_is_refused(tmp_path: Path) -> None:
    file = save(tmp_path / "mask.png", np.zeros((3, 6), np.uint8))
    with pytest.raises(DataError, match=r"mask\.png: the mask has 6 x 3 pixels.*6 x 4"):
        MaskFile(file).read(HEADER, 1)


def test_broken_mask_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mask.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"mask\.png is not an image"):
        MaskFile(tmp_path / "mask.png").read(HEADER, 1)
    (tmp_path / "depth.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"depth\.npy cannot be decoded"):
        DepthFile(tmp_path / "depth.npy", 1.0).read(HEADER, cameras_of(PERSPECTIVE), 0, 1, 1.0)


@pytest.mark.parametrize("lens", [PERSPECTIVE, FISHEYE])
def test_depth_of_a_wall_puts_points_on_the_wall(tmp_path: Path, lens: int) -> None:
    """Two metres in front, in millimetres, in a scene of half a unit a metre: z = -1."""
    file = save(tmp_path / "depth.png", np.full((4, 6), 2000, np.uint16))
    cameras = cameras_of(lens)
    depth = DepthFile(file, 1e-3).read(HEADER, cameras, 0, 1, 0.5)
    origins, directions = view_rays(cameras, 0)
    points = origins + depth.view(-1, 1) * directions
    torch.testing.assert_close(points[:, 2], torch.full((24,), -1.0))
    _, distance = project(cameras, 0, points)
    torch.testing.assert_close(distance, depth.view(-1))


def test_depth_of_a_panorama_is_the_distance(tmp_path: Path) -> None:
    np.save(tmp_path / "depth.npy", np.full((4, 6), 3.0, np.float32))
    file = DepthFile(tmp_path / "depth.npy", 1.0)
    assert bool((file.read(HEADER, cameras_of(EQUIRECTANGULAR), 0, 1, 1.0) == 3).all())


def test_unknown_depth_is_nan_and_blocks_take_one_pixel(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float64).reshape(4, 6)
    values[3, 3] = np.inf
    np.save(tmp_path / "depth.npy", values)
    file = DepthFile(tmp_path / "depth.npy", 1.0)
    whole = file.read(HEADER, cameras_of(EQUIRECTANGULAR), 0, 1, 1.0)
    assert whole.isnan().nonzero().tolist() == [[0, 0], [3, 3]]
    small = file.read(HEADER, cameras_of(EQUIRECTANGULAR).downscaled(2), 0, 2, 1.0)
    torch.testing.assert_close(
        small, torch.tensor([[7.0, 9.0, 11.0], [19.0, math.nan, 23.0]]), equal_nan=True
    )


def test_depth_of_several_channels_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "depth.npy", np.zeros((4, 6, 3)))
    with pytest.raises(DataError, match="one value a pixel"):
        DepthFile(tmp_path / "depth.npy", 1.0).read(HEADER, cameras_of(PERSPECTIVE), 0, 1, 1.0)
    with pytest.raises(DataError, match="depth map has 6 x 4 pixels"):
        np.save(tmp_path / "depth.npy", np.zeros((4, 6)))
        header = replace(HEADER, width=5)
        DepthFile(tmp_path / "depth.npy", 1.0).read(header, cameras_of(PERSPECTIVE), 0, 1, 1.0)


def images(num: int) -> list[torch.Tensor]:
    """Pictures of 3 x 5 pixels whose values say which picture, row and column they are."""
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")
    return [
        torch.stack([torch.full((3, 5), i), rows, columns], dim=2).to(torch.uint8)
        for i in range(num)
    ]


def test_masked_pixels_are_never_drawn_and_the_others_alike(generator: torch.Generator) -> None:
    masks = [torch.zeros(3, 5, dtype=torch.bool), None, torch.zeros(3, 5, dtype=torch.bool)]
    masks[2][1, 4] = True  # pyright: ignore[reportOptionalSubscript]
    batch = PixelTable(images(3), masks).sample(16_000, generator)
    code = batch.values.long() @ torch.tensor([100, 10, 1])
    drawn, counts = code.unique(return_counts=True)
    assert drawn.tolist() == [100 + 10 * y + x for y in range(3) for x in range(5)] + [214]
    assert torch.equal(batch.values[:, 0].long(), batch.view_index)
    # Binomial counts of mean 1000 have a standard deviation of at most 31.
    assert (counts - 1000).abs().max() < 5 * 31


def test_depth_belongs_to_its_pixel(generator: torch.Generator) -> None:
    depths = [None, torch.arange(15.0).view(3, 5)]
    batch = PixelTable(images(2), None, depths).sample(500, generator)
    assert batch.depth is not None
    known = batch.view_index == 1
    assert bool(batch.depth[~known].isnan().all())
    row, column = batch.values[known, 1].long(), batch.values[known, 2].long()
    assert torch.equal(batch.depth[known], (5 * row + column).float())


def test_masks_that_leave_nothing_are_refused() -> None:
    nothing = [torch.zeros(3, 5, dtype=torch.bool)]
    with pytest.raises(DataError, match="leave out every pixel"):
        PixelTable(images(1), nothing)

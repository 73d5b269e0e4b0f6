"""A picture as data: coordinates, values, kinds of files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nfields.data
from nfields.data.image_file import ImageData
from nfields.errors import ConfigError, DataError
from tests.data.test_image_reader import GREY, RGB, RGBA


def saved(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


@pytest.mark.parametrize("pixels", [RGB, RGBA, GREY])
def test_eight_bit_values_are_divided_by_255(tmp_path: Path, pixels: np.ndarray) -> None:
    data = ImageData(path=saved(tmp_path / "a.png", pixels), downscale=1)
    expected = pixels.reshape(5, 7, -1).astype(np.float32) / 255
    assert np.array_equal(data.require_image().numpy(), expected)
    assert (data.width, data.height, data.num_channels) == (7, 5, expected.shape[2])


def test_sixteen_bit_grey_keeps_all_bits(tmp_path: Path) -> None:
    deep = (np.arange(35, dtype=np.uint16) * 1801).reshape(5, 7)
    data = ImageData(path=saved(tmp_path / "a.png", deep), downscale=1)
    expected = deep[..., None].astype(np.float32) / 65535
    assert np.array_equal(data.require_image().numpy(), expected)


def test_photograph_without_a_path() -> None:
    data = ImageData(path=None, downscale=4)
    assert data.require_image().shape == (128, 128, 3)
    assert "astronaut" in data.source


def test_each_side_spans_minus_one_to_one() -> None:
    data = ImageData(path=None, downscale=256)
    assert data.pixel_coords(torch.arange(4)).tolist() == [
        [-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5],
    ]  # fmt: skip


def test_samples_are_pixels_at_their_coordinates(
    tmp_path: Path, generator: torch.Generator
) -> None:
    data = ImageData(path=saved(tmp_path / "a.png", RGBA), downscale=1)
    coords, values = data.sample_pixels(200, generator)
    column = ((coords[:, 0] + 1) * 7 / 2).floor().long()
    row = ((coords[:, 1] + 1) * 5 / 2).floor().long()
    assert torch.equal(values, data.require_image()[row, column])


def test_one_sample_for_every_pixel_takes_every_pixel_once(generator: torch.Generator) -> None:
    data = ImageData(path=None, downscale=64)
    coords, _ = data.sample_pixels(64, generator)
    assert torch.equal(coords, data.pixel_coords(torch.arange(64)))


def test_every_pixel_is_equally_likely(tmp_path: Path, generator: torch.Generator) -> None:
    data = ImageData(path=saved(tmp_path / "a.png", GREY), downscale=1)
    coords = torch.cat([data.sample_pixels(17, generator).coords for _ in range(4000)])
    _, counts = coords.unique(dim=0, return_counts=True)
    assert len(counts) == 35
    # Stratified counts vary less than binomial ones, whose standard deviation is below 44.
    assert (counts - 17 * 4000 / 35).abs().max() < 5 * 44


def test_downscale_averages_blocks_and_weighs_by_alpha(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)
    pixels[0, 0], pixels[1, 1] = (200, 100, 50, 255), (100, 0, 0, 255)
    data = ImageData(path=saved(tmp_path / "a.png", pixels), downscale=2)
    expected = torch.tensor([[[150 / 255, 50 / 255, 25 / 255, 0.5]]])
    torch.testing.assert_close(data.require_image(), expected)


def test_orientation_of_the_camera_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right to see it upright
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    data = ImageData(path=str(tmp_path / "a.png"), downscale=1)
    assert np.array_equal((data.require_image() * 255).round().numpy(), np.rot90(RGB, -1))


def test_card_restores_size_without_pixels() -> None:
    data = ImageData(path=None, downscale=8)
    restored = nfields.data.restore(json.loads(json.dumps(data.card())))
    assert isinstance(restored, ImageData)
    assert restored.card() == data.card()
    with pytest.raises(DataError, match=r"not at hand.*data\.path="):
        restored.require_image()


def test_bad_files_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path=.*is no file"):
        ImageData(path=str(tmp_path), downscale=1)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match=r"a\.png is not an image"):
        ImageData(path=str(tmp_path / "a.png"), downscale=1)
    with pytest.raises(ConfigError, match=r"data\.downscale=0"):
        ImageData(path=None, downscale=0)
    with pytest.raises(ConfigError, match=r"data\.downscale=600 leaves nothing"):
        ImageData(path=None, downscale=600)
    with pytest.raises(DataError, match="card is incomplete"):
        nfields.data.restore({"class": "nfields.data.image_file.ImageData"})

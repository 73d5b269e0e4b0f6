"""A picture as data: coordinates, values, sampling, slopes, cards."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import sobel

import nfields.data
from nfields.data.image_file import ImageData
from nfields.errors import ConfigError, DataError
from tests.data.test_image_reader import GREY, RGB, RGBA
from tests.data.test_picture_file import written


def opened(path: str | Path | None, downscale: int = 1, transfer: str = "srgb") -> ImageData:
    path = None if path is None else str(path)
    return ImageData(path=path, downscale=downscale, transfer=transfer)  # pyright: ignore


def saved(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


def whole(data: ImageData) -> np.ndarray:
    return data.require_pixels().rows(0, data.height)


@pytest.mark.parametrize("pixels", [RGB, RGBA, GREY])
def test_eight_bit_values_are_divided_by_255(tmp_path: Path, pixels: np.ndarray) -> None:
    data = opened(saved(tmp_path / "a.png", pixels))
    expected = pixels.reshape(5, 7, -1).astype(np.float32) / 255
    np.testing.assert_array_equal(whole(data), expected)
    assert (data.width, data.height, data.num_channels) == (7, 5, expected.shape[2])


def test_precision_is_that_of_the_file(tmp_path: Path) -> None:
    assert opened(saved(tmp_path / "a.png", RGB)).precision == "uint8"
    deep = written(tmp_path / "b.png", RGB.astype(np.uint16) * 257)
    assert opened(deep).precision == "uint16"
    light = written(tmp_path / "c.exr", RGB.astype(np.float16) / 99)
    assert opened(light).precision == "float"


def test_photograph_without_a_path() -> None:
    data = opened(None, downscale=4)
    assert whole(data).shape == (128, 128, 3)
    assert "astronaut" in data.source


def test_each_side_spans_minus_one_to_one() -> None:
    data = opened(None, downscale=256)
    assert data.pixel_coords(torch.arange(4)).tolist() == [
        [-0.5, -0.5], [0.5, -0.5], [-0.5, 0.5], [0.5, 0.5],
    ]  # fmt: skip


def test_samples_are_pixels_at_their_coordinates(
    tmp_path: Path, generator: torch.Generator
) -> None:
    data = opened(saved(tmp_path / "a.png", RGBA))
    coords, values = data.sample_pixels(200, generator)
    column = ((coords[:, 0] + 1) * 7 / 2).floor().long()
    row = ((coords[:, 1] + 1) * 5 / 2).floor().long()
    np.testing.assert_array_equal(values, whole(data)[row, column])


def test_one_sample_for_every_pixel_takes_every_pixel_once(generator: torch.Generator) -> None:
    data = opened(None, downscale=64)
    coords, _ = data.sample_pixels(64, generator)
    assert torch.equal(coords, data.pixel_coords(torch.arange(64)))


def test_every_pixel_is_equally_likely(tmp_path: Path, generator: torch.Generator) -> None:
    data = opened(saved(tmp_path / "a.png", GREY))
    coords = torch.cat([data.sample_pixels(17, generator).coords for _ in range(4000)])
    _, counts = coords.unique(dim=0, return_counts=True)
    assert len(counts) == 35
    # Stratified counts vary less than binomial ones, whose standard deviation is below 44.
    assert (counts - 17 * 4000 / 35).abs().max() < 5 * 44


def test_samples_come_from_the_generator_alone() -> None:
    data = opened(None)
    first, again, other = (
        data.sample_pixels(500, torch.Generator().manual_seed(seed)).coords for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_downscale_averages_blocks_and_weighs_by_alpha(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 4), dtype=np.uint8)
    pixels[0, 0], pixels[1, 1] = (200, 100, 50, 255), (100, 0, 0, 255)
    data = opened(saved(tmp_path / "a.png", pixels), downscale=2)
    expected = [[[150 / 255, 50 / 255, 25 / 255, 0.5]]]
    np.testing.assert_allclose(whole(data), expected, atol=1e-6)


@pytest.mark.parametrize("transfer", ["srgb", "linear"])
def test_downscale_averages_what_is_fitted(tmp_path: Path, transfer: str) -> None:
    path = written(tmp_path / "a.exr", RGB.astype(np.float32) / 99)
    full, half = (whole(opened(path, factor, transfer)) for factor in (1, 2))
    expected = full[:4, :6].reshape(2, 2, 3, 2, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(half, expected, rtol=1e-5)


def test_orientation_of_the_camera_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn a quarter to the right to see it upright
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    found = (whole(opened(tmp_path / "a.png")) * 255).round()
    np.testing.assert_array_equal(found, np.rot90(RGB, -1).astype(np.float32))


@pytest.mark.parametrize("pixels", [RGB, RGBA, GREY])
def test_slopes_are_the_sobel_magnitude_over_channels(tmp_path: Path, pixels: np.ndarray) -> None:
    data = opened(saved(tmp_path / "a.png", pixels))
    values = whole(data).astype(np.float64)
    squares = [
        sobel(channel, axis=axis, mode="nearest") ** 2
        for channel in np.moveaxis(values, 2, 0)
        for axis in (0, 1)
    ]
    expected = np.sqrt(np.sum(squares, axis=0)).ravel()
    index = np.array([34, 0, 6, 17, 17])
    np.testing.assert_allclose(data.slopes(index), expected[index], rtol=1e-5)
    np.testing.assert_allclose(data.slopes(np.arange(35)), expected, rtol=1e-5)


def test_screens_show_clipped_srgb_over_white(tmp_path: Path) -> None:
    data = opened(saved(tmp_path / "a.png", RGBA), transfer="linear")
    values = np.array([[[0.2140411, 3.0, -1.0, 0.5]]], np.float32)
    np.testing.assert_allclose(data.displayed(values), [[[0.75, 1.0, 0.5]]], atol=1e-4)
    grey = opened(saved(tmp_path / "b.png", GREY))
    shown = grey.displayed(np.full((2, 2, 1), 0.3, np.float32))
    np.testing.assert_allclose(shown, np.full((2, 2, 3), 0.3), atol=1e-6)


def test_card_restores_all_but_pixels() -> None:
    data = opened(None, downscale=8, transfer="linear")
    restored = nfields.data.restore(json.loads(json.dumps(data.card())))
    assert isinstance(restored, ImageData)
    assert restored.card() == data.card()
    with pytest.raises(DataError, match=r"not at hand.*data\.path="):
        restored.require_pixels()


def test_bad_files_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path=.*is no file"):
        opened(tmp_path)
    (tmp_path / "a.png").write_text("no picture")
    with pytest.raises(DataError, match=r"a\.png is not an image that can be read .*allowed are"):
        opened(tmp_path / "a.png")
    with pytest.raises(ConfigError, match=r"data\.downscale=0"):
        opened(None, downscale=0)
    with pytest.raises(ConfigError, match=r"data\.downscale=600 leaves nothing"):
        opened(None, downscale=600)
    with pytest.raises(DataError, match="card is incomplete"):
        nfields.data.restore({"class": "nfields.data.image_file.ImageData"})
    card = opened(None, downscale=64).card() | {"transfer": "gamma"}
    with pytest.raises(DataError, match="transfer='gamma'"):
        nfields.data.restore(card)

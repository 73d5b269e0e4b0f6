import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nfields.errors import DataError
from nfields.export import picture
from nfields.export.picture import ErrorScale


def image(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def read(file: Path) -> np.ndarray:
    with Image.open(file) as opened:
        return np.asarray(opened)


def test_png_holds_the_rounded_colours(tmp_path):
    rgb = torch.tensor([[[0.0, 0.5, 1.0], [0.2, 0.998, 1.7]]])
    picture.save_png(tmp_path / "made" / "a.png", rgb)
    np.testing.assert_array_equal(
        read(tmp_path / "made" / "a.png"), [[[0, 128, 255], [51, 254, 255]]]
    )


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3), (5, 7, 4), (1, 1, 3)])
def test_png_of_8_bit_values_returns_them(tmp_path, shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    picture.save_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), pixels)


def test_failed_write_keeps_the_old_file_and_says_what_to_do(tmp_path, monkeypatch):
    file = tmp_path / "a.png"
    picture.save_png(file, image(0))
    before = file.read_bytes()

    def full(self: Path, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    message = r"a.png cannot be written: No space left on device; free .* MB and run the same"
    with pytest.raises(DataError, match=message):
        picture.save_png(file, image(1))
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]


def test_side_by_side_keeps_every_picture():
    first, second = picture.to_uint8(image(0)), picture.to_uint8(image(1, 12, 9))
    row = picture.side_by_side([first, second])
    assert row.shape == (20, 30 + picture.GAP + 9, 3)
    np.testing.assert_array_equal(row[:, :30], first)
    np.testing.assert_array_equal(row[:12, -9:], second)
    assert (row[12:, -9:] == 255).all() and (row[:, 30:34] == 255).all()


@pytest.mark.parametrize("width", [1, 40, 400])
def test_label_is_ink_on_paper_above_an_untouched_picture(width):
    pixels = picture.to_uint8(image(0, 10, width))
    got = picture.labelled(pixels, "a label longer than forty pixels")
    np.testing.assert_array_equal(got[-10:], pixels)
    strip = got[:-10]
    assert len(strip) >= 12
    if width > 1:
        assert strip.min() < 150 and (strip == 255).all(2).mean() > 0.4


def test_comparison_shows_truth_prediction_and_error_in_this_order():
    truth, prediction = image(0, 50, 60), image(1, 50, 60)
    error = np.zeros((50, 60), np.float32)
    error[10, 20] = 0.5
    strip = picture.comparison(
        truth, torch.from_numpy(prediction), error, ErrorScale("FLIP", 0.5), "30 dB"
    )
    pixels = strip[-50:]
    step = 60 + picture.GAP
    np.testing.assert_array_equal(pixels[:, :60], picture.to_uint8(truth))
    np.testing.assert_array_equal(pixels[:, step : step + 60], picture.to_uint8(prediction))
    errors = pixels[:, 2 * step :]
    assert errors.shape[1] == 60
    np.testing.assert_array_equal(errors[10, 20], [252, 253, 191])  # the top of magma
    assert (errors[0] == [0, 0, 4]).all()


def test_contact_sheet_has_a_cell_for_every_picture():
    pictures = [picture.to_uint8(image(i, 20 + 5 * i, 30)) for i in range(5)]
    sheet = picture.contact_sheet(
        pictures, [f"view {i}" for i in range(5)], columns=3, cell_width=40
    )
    assert sheet.shape[1] == 3 * 40 + 2 * picture.GAP
    flat = np.full((10, 10, 3), 7, np.uint8)
    one = picture.contact_sheet([flat], ["flat"], columns=3, cell_width=40)
    assert (one[-40:] == 7).all() and one.shape[1] == 40


def test_depth_codes_return_the_depth(tmp_path):
    depth = torch.linspace(1.25, 4.75, 600).view(20, 30)
    opacity = torch.ones(20, 30)
    opacity[:5] = 0.2
    depth[19, 29] = float("inf")  # what exact scenes say of the background
    picture.save_depth(tmp_path, "view", depth, opacity)
    card = json.loads((tmp_path / "view_depth.json").read_text())["codes16"]
    codes = read(tmp_path / "view_depth16.png").astype(np.float64)
    got = card["near"] + (card["far"] - card["near"]) * (codes - 1) / 65534
    is_seen = ((opacity >= 0.5) & depth.isfinite()).numpy()
    np.testing.assert_array_equal(codes > 0, is_seen)
    np.testing.assert_allclose(got[is_seen], depth.numpy()[is_seen], atol=3.5 / 65534)


def test_depth_picture_is_red_near_blue_far_and_clear_where_nothing_is(tmp_path):
    depth = np.linspace(2, 3, 600, dtype=np.float32).reshape(20, 30)
    opacity = np.ones((20, 30), np.float32)
    opacity[10] = 0.0
    picture.save_depth(tmp_path, "view", depth, opacity)
    rgba = read(tmp_path / "view_depth.png").astype(int)
    assert rgba[0, 0, 0] > rgba[0, 0, 2] and rgba[-1, -1, 2] > rgba[-1, -1, 0] + 5
    assert (rgba[10, :, 3] == 0).all() and (rgba[:10, :, 3] == 255).all()
    card = json.loads((tmp_path / "view_depth.json").read_text())
    assert card["picture"]["near"] == pytest.approx(2.01, abs=0.01)


@pytest.mark.parametrize("value", [2.0, np.inf, np.nan])
def test_depth_without_any_spread_is_still_a_picture(tmp_path, value):
    picture.save_depth(tmp_path, "flat", np.full((4, 6), value, np.float32), None)
    assert read(tmp_path / "flat_depth.png").shape == (4, 6, 4)
    assert (read(tmp_path / "flat_depth16.png") > 0).all() == np.isfinite(value)


def test_folder_that_is_a_file_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(DataError, match=r"taken/a.png cannot be written: "):
        picture.save_png(tmp_path / "taken" / "a.png", image(1))

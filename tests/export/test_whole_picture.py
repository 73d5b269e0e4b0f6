"""One large picture: metrics, error map and crops, the same wherever the bands are cut."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nfields import metrics
from nfields.export import whole_picture
from nfields.export.color_map import colorize
from nfields.export.whole_picture import compare_picture, worst_places

PROTOCOL = {"split": "all pixels", "background": "none", "color_space": "sRGB"}


def pair(height: int = 150, width: int = 230) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    truth = random.random((height, width, 3), np.float32)
    prediction = truth * 0.9
    prediction[20:60, 30:70] = 1 - truth[20:60, 30:70]
    return prediction, truth


def compare(prediction: np.ndarray, truth: np.ndarray, folder: Path | None) -> dict[str, Any]:
    height, width, _ = truth.shape
    return compare_picture(
        lambda first, last: prediction[first:last],
        lambda first, last: truth[first:last],
        width,
        height,
        folder=folder,
        protocol=PROTOCOL,
    )


def read(file: Path) -> np.ndarray:
    with Image.open(file) as opened:
        return np.asarray(opened.convert("RGB"))


@pytest.mark.parametrize("band", [1, 5000, 1 << 20])
@pytest.mark.slow
def test_metrics_are_those_of_the_whole(
    band: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole_picture, "_BAND", band)
    prediction, truth = pair()
    found = compare(prediction, truth, tmp_path)
    assert found["psnr"] == pytest.approx(metrics.psnr(prediction, truth), abs=1e-6)
    assert found["ssim"] == pytest.approx(metrics.ssim(prediction, truth), abs=1e-6)
    mean, error = metrics.flip(prediction, truth)
    assert found["flip"] == pytest.approx(mean, abs=1e-6)
    assert found["protocol"]["resolution"] == [230, 150] and len(found["per_image"]) == 1
    expected = np.rint(prediction * 255).astype(np.uint8)
    np.testing.assert_array_equal(read(tmp_path / "image.png"), expected)
    drawn = read(tmp_path / "image_error.png").astype(int)
    colors = colorize(error / 0.5, "magma").astype(int)
    assert np.abs(drawn - colors).max() <= 8  # the error has 8 bits in the picture


def test_pictures_are_written_only_with_a_folder(tmp_path: Path) -> None:
    prediction, truth = pair()
    assert compare(prediction, truth, None).keys() == compare(prediction, truth, tmp_path).keys()
    assert {file.name for file in tmp_path.iterdir()} == {
        "image.png", "image_error.png", "image_comparison.png", "image_crops.png",
    }  # fmt: skip


def test_large_pictures_have_a_reduced_overview(tmp_path: Path) -> None:
    prediction, truth = pair(40, 2000)
    compare(prediction, truth, tmp_path)
    overview = read(tmp_path / "image_comparison.png")
    assert overview.shape[1] < 3 * 700
    assert read(tmp_path / "image.png").shape == (40, 2000, 3)
    assert not (tmp_path / "image_crops.png").exists()  # lower than a crop


def test_worst_places_are_where_the_error_is() -> None:
    errors = np.full((400, 600), 3, np.uint8)
    errors[200:296, 240:336] = 200
    errors[0:96, 480:576] = 150
    found = worst_places(errors, num=2, size=96)
    assert found.tolist() == [[240, 192], [480, 0]]  # on a raster of 24 pixels


def test_worst_places_keep_apart_and_end_with_the_error() -> None:
    errors = np.random.default_rng(0).integers(0, 255, (500, 500), dtype=np.uint8)
    places = worst_places(errors, num=3, size=96)
    assert len(places) == 3
    for i in range(3):
        for j in range(i):
            assert np.abs(places[i] - places[j]).max() >= 96
    assert len(worst_places(np.zeros((500, 500), np.uint8))) == 0
    assert len(worst_places(errors[:96, :96])) == 0
    assert len(worst_places(errors[:3])) == 0

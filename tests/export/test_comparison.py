import json

import numpy as np
import pytest
import torch
from PIL import Image

from nfields import metrics
from nfields.export.comparison import ComparedImage, compare_images

PROTOCOL = {"split": "test", "background": "white", "color_space": "sRGB"}


def images(num: int, errors: list[float] | None = None, size: tuple[int, int] = (24, 32)):
    generator = torch.Generator().manual_seed(0)
    for i in range(num):
        truth = torch.rand(*size, 3, generator=generator) * 0.5
        error = errors[i] if errors is not None else 0.1
        yield ComparedImage(f"test/view_{i}", truth + error, truth, seconds=0.5 + i)


def test_mean_psnr_is_the_mean_of_the_psnr_of_each_image():
    result = compare_images(images(2, [0.1, 0.01]), folder=None, protocol=PROTOCOL)
    assert [row["psnr"] for row in result["per_image"]] == pytest.approx([20.0, 40.0], abs=1e-3)
    assert result["psnr"] == pytest.approx(30.0, abs=1e-3)  # of the mean error: 22.97
    assert result["render_seconds"] == 1.0


def test_result_is_json_with_names_and_protocol():
    result = compare_images(images(3), folder=None, protocol=PROTOCOL)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert [row["name"] for row in result["per_image"]] == [f"test/view_{i}" for i in range(3)]
    assert set(result) == {"psnr", "ssim", "flip", "render_seconds", "per_image", "protocol"}
    protocol = result["protocol"]
    assert {key: protocol[key] for key in PROTOCOL} == PROTOCOL
    assert protocol["num_images"] == 3 and protocol["resolution"] == [32, 24]
    assert set(protocol["metrics"]) == {"psnr", "ssim", "flip", "perceptual"}
    assert protocol["metrics"]["perceptual"].startswith("FLIP; no LPIPS")


def test_equal_images_stay_finite():
    result = compare_images(images(2, [0.0, 0.1]), folder=None, protocol=PROTOCOL)
    assert result["psnr"] == pytest.approx((metrics.PSNR_CAP + 20) / 2, abs=1e-3)


def test_predictions_beyond_the_range_are_clamped_as_a_screen_does():
    truth = torch.ones(16, 16, 3)
    item = ComparedImage("bright", truth * 1.7, truth)
    result = compare_images([item], folder=None, protocol=PROTOCOL)
    assert result["psnr"] == metrics.PSNR_CAP and "render_seconds" not in result


def test_without_flip_nothing_of_it_is_reported():
    result = compare_images(images(1), folder=None, protocol=PROTOCOL, with_flip=False)
    assert "flip" not in result and "flip" not in result["protocol"]["metrics"]
    assert result["protocol"]["metrics"]["perceptual"].startswith("none; no LPIPS")


def test_images_too_small_for_ssim_have_none():
    result = compare_images(images(2, size=(6, 40)), folder=None, protocol=PROTOCOL)
    assert result["ssim"] is None and result["psnr"] == pytest.approx(20, abs=1e-3)


@pytest.mark.parametrize(("num_pictures", "expected"), [(2, 2), (0, 0), (None, 3)])
def test_pictures_of_the_first_images_are_written(tmp_path, num_pictures, expected):
    compare_images(images(3), folder=tmp_path, protocol=PROTOCOL, num_pictures=num_pictures)
    names = {file.name for file in tmp_path.iterdir()}
    wanted = {f"test_view_{i}{end}" for i in range(expected) for end in (".png", "_comparison.png")}
    assert names == wanted | ({"comparison.png"} if expected > 1 else set())


def test_prediction_picture_holds_the_prediction(tmp_path):
    item = next(images(1))
    compare_images([item], folder=tmp_path, protocol=PROTOCOL)
    with Image.open(tmp_path / "test_view_0.png") as picture:
        got = np.asarray(picture)
    np.testing.assert_array_equal(got, np.rint(item.prediction.numpy() * 255))


def test_depth_is_written_where_there_is_one(tmp_path):
    truth = torch.zeros(16, 16, 3)
    depth = torch.linspace(1, 2, 256).view(16, 16)
    item = ComparedImage("a", truth, truth, depth=depth, opacity=torch.ones(16, 16))
    compare_images([item], folder=tmp_path, protocol=PROTOCOL)
    assert {"a_depth.png", "a_depth16.png", "a_depth.json"} <= {f.name for f in tmp_path.iterdir()}


def test_images_of_many_sizes_are_listed():
    mixed = [*images(1), *images(1, size=(20, 14))]
    result = compare_images(mixed, folder=None, protocol=PROTOCOL)
    assert result["protocol"]["resolution"] == [[14, 20], [32, 24]]


def test_no_image_at_all_is_refused():
    with pytest.raises(ValueError, match="no image to evaluate"):
        compare_images([], folder=None, protocol=PROTOCOL)


def test_protocol_without_background_is_our_own_mistake():
    with pytest.raises(AssertionError, match="background"):
        compare_images(images(1), folder=None, protocol={"split": "test", "color_space": "sRGB"})

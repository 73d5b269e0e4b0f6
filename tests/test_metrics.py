import math

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from nfields import metrics


def random_image(seed: int, height: int = 24, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


@pytest.mark.parametrize(
    ("error", "decibels"), [(0.1, 20.0), (0.01, 40.0), (1.0, 0.0), (0.5, 6.0205999)]
)
def test_constant_error_has_the_psnr_of_its_square(error, decibels):
    truth = np.zeros((12, 15, 3), np.float32)
    assert metrics.psnr(truth + np.float32(error), truth) == pytest.approx(decibels, abs=1e-5)


def test_psnr_averages_over_pixels_and_channels():
    truth = np.zeros((10, 10, 3), np.float32)
    prediction = truth.copy()
    prediction[3, 4, 1] = 1.0  # one of 300 values is wrong by 1
    assert metrics.psnr(prediction, truth) == pytest.approx(10 * math.log10(300), abs=1e-9)


def test_equal_images_are_perfect_in_every_metric():
    image = random_image(0)
    assert metrics.psnr(image, image) == math.inf
    assert metrics.finite_psnr(math.inf) == metrics.PSNR_CAP
    assert metrics.finite_psnr(31.5) == 31.5
    assert metrics.ssim(image, image) == pytest.approx(1.0, abs=1e-6)
    mean, error = metrics.flip(image, image)
    assert mean == 0.0 and error.shape == image.shape[:2] and not error.any()


def test_psnr_and_ssim_are_symmetric():
    first, second = random_image(1), random_image(2)
    assert metrics.psnr(first, second) == metrics.psnr(second, first)
    assert metrics.ssim(first, second) == pytest.approx(metrics.ssim(second, first), abs=1e-6)
    assert metrics.flip(first, second)[0] == pytest.approx(metrics.flip(second, first)[0], abs=1e-5)


def test_all_metrics_are_equivariant_to_mirroring():
    first, second = random_image(1), random_image(2)
    mirrored = first[:, ::-1], second[:, ::-1]
    assert metrics.psnr(*mirrored) == pytest.approx(metrics.psnr(first, second))
    assert metrics.ssim(*mirrored) == pytest.approx(metrics.ssim(first, second), abs=1e-5)
    error, flipped = metrics.flip(first, second)[1], metrics.flip(*mirrored)[1]
    np.testing.assert_allclose(flipped[:, ::-1], error, atol=1e-4)


def test_ssim_of_two_constant_images_is_the_luminance_term():
    a, b = 0.25, 0.75
    first, second = np.full((20, 20, 3), a, np.float32), np.full((20, 20, 3), b, np.float32)
    c1 = 0.01**2
    assert metrics.ssim(first, second) == pytest.approx(
        (2 * a * b + c1) / (a * a + b * b + c1), abs=1e-5
    )


def test_ssim_is_the_formula_with_an_eleven_tap_window():
    """An independent float64 evaluation of Wang et al. 2004, Eq. 13, on the pixels where the window
    fits.
    """
    x, y = random_image(3).astype(np.float64), random_image(4).astype(np.float64)
    taps = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    taps /= taps.sum()

    def blur(image: np.ndarray) -> np.ndarray:
        return correlate1d(correlate1d(image, taps, axis=0), taps, axis=1)[5:-5, 5:-5]

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    structure = (2 * covariance + 9e-4) / (var_x + var_y + 9e-4)
    got = metrics.ssim(x.astype(np.float32), y.astype(np.float32))
    assert got == pytest.approx(float((luminance * structure).mean()), abs=1e-5)


def test_flip_of_black_and_white_is_nearly_one():
    black, white = np.zeros((64, 64, 3), np.float32), np.ones((64, 64, 3), np.float32)
    assert 0.95 < metrics.flip(black, white)[0] <= 1.0


def test_flip_mean_is_the_mean_of_its_map_and_sees_only_the_changed_half():
    truth = random_image(5, 64, 64)
    prediction = truth.copy()
    prediction[:, :20] = 1 - prediction[:, :20]
    mean, error = metrics.flip(prediction, truth)
    assert mean == pytest.approx(float(error.mean()), abs=1e-6)
    assert (
        error[:, :10].mean() > 0.2 and not error[:, 40:].any()
    )  # the filters reach about ten pixels


def test_flip_uses_the_viewing_conditions_it_documents():
    default = 0.7 * 3840 / 0.7 * math.pi / 180  # distance * pixels / width, in pixels a degree
    assert pytest.approx(default, abs=0.01) == metrics.FLIP_PIXELS_PER_DEGREE


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.flip])
def test_tensors_in_double_and_strided_views_are_accepted(metric):
    first, second = random_image(6), random_image(7)
    wide = torch.zeros(30, 24, 3, dtype=torch.float64)
    wide.copy_(torch.from_numpy(first).permute(1, 0, 2))
    got = metric(wide.permute(1, 0, 2).requires_grad_(), torch.from_numpy(second))
    expected = metric(first, second)
    if metric is metrics.flip:
        got, expected = got[0], expected[0]
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.flip])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((20, 20), np.float32), "height, width, 3"),
        (np.zeros((20, 20, 4), np.float32), "Composite alpha"),
        (np.zeros((0, 20, 3), np.float32), "height, width, 3"),
        (np.zeros((20, 20, 3), np.uint8), "divide 8-bit values by 255"),
        (np.full((20, 20, 3), 255.0, np.float32), "from 255 to 255"),
        (np.full((20, 20, 3), -0.1, np.float32), "clamp it first"),
        (np.full((20, 20, 3), np.nan, np.float32), "from nan to nan"),
        (np.zeros((20, 21, 3), np.float32), "same size"),
    ],
)
def test_wrong_images_are_refused_with_the_reason(metric, image, message):
    with pytest.raises(ValueError, match=message):
        metric(image, np.zeros((20, 20, 3), np.float32))


def test_rounding_beyond_the_range_is_forgiven():
    image = np.full((12, 12, 3), 1.0 + 1e-6, np.float32)
    assert metrics.psnr(image, np.ones((12, 12, 3), np.float32)) == math.inf


def test_ssim_refuses_images_smaller_than_its_window():
    image = np.zeros((10, 40, 3), np.float32)
    with pytest.raises(ValueError, match="at least 11 x 11 pixels, these have 40 x 10"):
        metrics.ssim(image, image)


def test_masked_pixels_are_not_measured() -> None:
    """What the mask leaves out may be anything: the metrics are those of equal pictures there."""
    random = np.random.default_rng(0)
    truth = random.random((40, 40, 3), dtype=np.float32)
    prediction = np.clip(truth + 0.1 * random.random(truth.shape, dtype=np.float32), 0, 1)
    mask = np.ones((40, 40), bool)
    mask[:, 25:] = False
    other = prediction.copy()
    other[:, 25:] = random.random((40, 15, 3), dtype=np.float32)
    for metric in (metrics.psnr, metrics.ssim, lambda *a: metrics.flip(*a)[0]):
        assert metric(prediction, truth, mask) == metric(other, truth, mask)
        assert metric(other, truth, mask) != metric(other, truth)
    left = metrics.psnr(prediction[:, :25], truth[:, :25])
    assert metrics.psnr(prediction, truth, mask) == pytest.approx(left)
    assert metrics.ssim(prediction, truth, np.ones((40, 40), bool)) == pytest.approx(
        metrics.ssim(prediction, truth)
    )
    assert metrics.ssim(truth, truth, mask) == pytest.approx(1.0)

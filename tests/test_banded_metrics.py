"""Metrics in bands are those of the whole picture, wherever the bands are cut."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfields import metrics
from nfields.banded_metrics import BandedMetrics


def pair(height: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Smooth colours with noise, and the same with other noise."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 7
    base = np.stack([np.sin(x), np.cos(y), np.sin(x + y)], axis=2) * 0.3 + 0.5
    noise = random.normal(0, 0.1, (2, height, width, 3))
    first, second = np.clip(base + noise, 0, 1).astype(np.float32)
    return first, second


def banded(
    prediction: np.ndarray, truth: np.ndarray, cuts: list[int], with_flip: bool
) -> tuple[dict[str, float | None], np.ndarray]:
    height, width, _ = truth.shape
    measured = BandedMetrics(height, width, with_flip=with_flip)
    error, filled = np.full((height, width), np.nan, np.float32), 0
    edges = [0, *cuts, height]
    for first, last in pairwise(edges):
        start, part = measured.add(prediction[first:last], truth[first:last])
        assert start == filled
        error[start : start + len(part)] = part
        filled += len(part)
    return measured.result(), error


@given(st.integers(11, 80), st.integers(11, 40), st.data())
@settings(max_examples=40, deadline=None)
def test_bands_give_the_metrics_of_the_whole(height: int, width: int, data: st.DataObject) -> None:
    prediction, truth = pair(height, width)
    cuts = data.draw(st.lists(st.integers(1, height - 1), unique=True, max_size=6).map(sorted))
    found, error = banded(prediction, truth, cuts, with_flip=True)
    mean, expected = metrics.flip(prediction, truth)
    assert found["psnr"] == pytest.approx(metrics.psnr(prediction, truth), abs=1e-6)
    assert found["ssim"] == pytest.approx(metrics.ssim(prediction, truth), abs=1e-6)
    assert found["flip"] == pytest.approx(mean, abs=1e-6)
    np.testing.assert_allclose(error, expected, atol=1e-6)


def test_without_flip_the_error_is_the_mean_over_channels() -> None:
    prediction, truth = pair(30, 20)
    found, error = banded(prediction, truth, [3, 17], with_flip=False)
    np.testing.assert_array_equal(error, np.abs(prediction - truth).mean(axis=2))
    assert set(found) == {"psnr", "ssim"}


def test_equal_pictures_have_the_capped_psnr() -> None:
    _, truth = pair(20, 20)
    found, _ = banded(truth, truth, [7], with_flip=True)
    assert found["psnr"] == metrics.PSNR_CAP and found["flip"] == 0
    assert found["ssim"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(10, 40), (40, 10), (1, 1)])
def test_pictures_smaller_than_the_window_have_no_ssim(height: int, width: int) -> None:
    found, error = banded(*pair(height, width), [], with_flip=True)
    assert found["ssim"] is None and np.isfinite(error).all()


def test_missing_rows_are_our_own_mistake() -> None:
    prediction, truth = pair(30, 20)
    measured = BandedMetrics(30, 20, with_flip=False)
    measured.add(prediction[:20], truth[:20])
    with pytest.raises(AssertionError, match="10 of 30 rows"):
        measured.result()
    with pytest.raises(AssertionError, match="40 rows of a picture of 30"):
        measured.add(prediction[:20], truth[:20])

"""Pixels as stored and as floats: exact codes, curves, averages, sampling kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nfields.data import pixels_cpu
from nfields.data.pixels import Pixels
from nfields.data.pixels_cpu import draw_pixels
from nfields.data.transfer_curve import linear_from_srgb, srgb_from_linear

RANDOM = np.random.default_rng(0)


def every_code(dtype: str) -> np.ndarray:
    top = np.iinfo(dtype).max
    return np.arange(top + 1, dtype=dtype).reshape(-1, 16, 1)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_every_integer_code_is_its_fraction_of_the_largest(dtype: str) -> None:
    codes = every_code(dtype)
    pixels = Pixels(codes, is_linear=False, transfer="srgb")
    expected = codes.astype(np.float32) / np.iinfo(dtype).max
    np.testing.assert_array_equal(pixels.rows(0, pixels.height), expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_floats_stay_as_stored_where_light_is_fitted(dtype: str) -> None:
    codes = RANDOM.normal(0, 3, (6, 5, 4)).astype(dtype)
    pixels = Pixels(codes.copy(), is_linear=True, transfer="linear")
    np.testing.assert_array_equal(pixels.rows(0, 6), codes.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_light_is_fitted_under_the_curve_and_alpha_under_none(dtype: str) -> None:
    codes = RANDOM.random((6, 5, 4)).astype(dtype)
    values = Pixels(codes.copy(), is_linear=True, transfer="srgb").rows(0, 6)
    light = linear_from_srgb(values[..., :3].astype(np.float64))
    np.testing.assert_allclose(light, codes[..., :3], atol=1e-6)
    np.testing.assert_array_equal(values[..., 3], codes[..., 3].astype(np.float32))


def test_integers_become_light_if_that_is_fitted() -> None:
    codes = np.full((2, 3, 4), 188, np.uint8)
    values = Pixels(codes, is_linear=False, transfer="linear").rows(0, 2)
    assert values[0, 0].tolist() == pytest.approx([0.5029, 0.5029, 0.5029, 188 / 255], abs=1e-4)


def test_pixels_are_found_by_number() -> None:
    codes = RANDOM.integers(0, 65536, (7, 9, 3), dtype=np.uint16)
    pixels = Pixels(codes, is_linear=False, transfer="srgb")
    index = np.array([62, 0, 17, 17])
    np.testing.assert_array_equal(
        pixels[index], codes.reshape(-1, 3)[index].astype(np.float32) / 65535
    )
    assert pixels[np.zeros(0, np.int64)].shape == (0, 3)
    np.testing.assert_array_equal(pixels.rows(2, 5), pixels.rows(0, 7)[2:5])


@given(hnp.arrays(np.float64, 20, elements=st.floats(-50, 50)))
@settings(max_examples=50, deadline=None)
def test_curve_and_its_inverse_return_every_number(values: np.ndarray) -> None:
    np.testing.assert_allclose(linear_from_srgb(srgb_from_linear(values)), values, atol=1e-6)


def test_curve_passes_the_points_of_the_standard() -> None:
    light = np.array([0.0, 0.0031308, 0.2140411, 1.0, -1.0, 4.953831])
    expected = [0.0, 0.04045, 0.5, 1.0, -1.0, 2.0]
    np.testing.assert_allclose(srgb_from_linear(light), expected, atol=1e-5)


@pytest.mark.parametrize(("width", "height", "num"), [(37, 23, 40), (1, 50, 7), (64, 3, 192)])
@pytest.mark.parametrize("side", [1, 4, 100])
def test_each_equal_part_of_the_path_gives_one_pixel(
    width: int, height: int, num: int, side: int
) -> None:
    """The path is walked in plain Python, and the place of every drawn pixel on it looked up."""
    path = [
        row * width + column
        for first in range(0, height, side)
        for column in range(width)
        for row in range(first, min(height, first + side))
    ]
    assert sorted(path) == list(range(width * height))
    place = {pixel: i for i, pixel in enumerate(path)}
    index, coords = np.empty(num, np.int64), np.empty((num, 2), np.float32)
    for seed in range(30):
        draw_pixels(np.uint64(seed), width, height, side, index, coords)
        places = np.array([place[int(i)] for i in index])
        share = width * height / num
        assert (places + 1 > np.arange(num) * share - 1e-9).all()
        assert (places < (np.arange(num) + 1) * share).all()
        np.testing.assert_allclose(coords[:, 0], (2 * (index % width) + 1) / width - 1, atol=1e-6)
        np.testing.assert_allclose(coords[:, 1], (2 * (index // width) + 1) / height - 1, atol=1e-6)


def test_parts_are_about_square() -> None:
    index, coords = np.empty(64, np.int64), np.empty((64, 2), np.float32)
    spread = []
    for seed in range(300):
        draw_pixels(np.uint64(seed), 256, 256, 32, index, coords)
        spread.append(coords.copy())
    std = np.stack(spread).std(axis=0).mean(axis=0)
    # A square of side 1/4 (in [-1, 1]) has a standard deviation of 0.25 / sqrt(12) both ways.
    np.testing.assert_allclose(std, 0.25 / 12**0.5, rtol=0.05)


def test_threads_and_the_calling_thread_draw_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    num = 10000
    codes = RANDOM.integers(0, 256, (300, 200, 3), dtype=np.uint8)
    found = []
    for serial in (0, num):
        monkeypatch.setattr(pixels_cpu, "SERIAL", serial)
        index, coords = np.empty(num, np.int64), np.empty((num, 2), np.float32)
        pixels_cpu.draw_pixels(np.uint64(7), 200, 300, 2, index, coords)
        looked_up = Pixels(codes, is_linear=False, transfer="srgb")[index]
        light = Pixels(codes.astype(np.float32), is_linear=True, transfer="linear")
        found.append((index, coords, looked_up, light[index]))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)

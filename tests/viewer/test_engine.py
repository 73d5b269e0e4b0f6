"""The engine: pictures get better, fit the budget, can be cancelled; reprojection is geometry."""

import numpy as np
import pytest

from nfields.render.cameras import Cameras
from nfields.viewer.engine import Engine, Look, Picture, Request
from tests.viewer.scenes import ball, pose_at


class Clock:
    """Time that passes when something is drawn: `pixel_seconds` for each pixel."""

    def __init__(self, pixel_seconds: float):
        self.now, self.pixel_seconds, self.pixels = 0.0, pixel_seconds, 0

    def __call__(self) -> float:
        return self.now

    def draw(self, cameras: Cameras) -> Look:
        width, height = cameras.size(0)
        self.now += self.pixel_seconds * width * height
        self.pixels += width * height
        return ball(cameras)


def engine(pixel_seconds: float) -> tuple[Engine, Clock]:
    """An engine that knows its speed already."""
    clock = Clock(pixel_seconds)
    made = Engine(clock.draw, clock=clock)
    for azimuth in (0.0, 1.0):
        list(made.answer(Request(pose_at(azimuth), 40.0, 64, 64, "first")))
    return made, clock


def shown(made: Engine, request: Request) -> list[Picture]:
    return [picture for picture in made.answer(request) if picture is not None]


@pytest.mark.parametrize("pixel_seconds", [1e-7, 3e-6, 1e-3])
def test_pictures_get_better_and_the_last_is_the_whole(pixel_seconds: float) -> None:
    made, _ = engine(pixel_seconds)
    request = Request(pose_at(30), 40.0, 90, 61)
    pictures = shown(made, request)
    scales = [picture.scale for picture in pictures if not picture.is_reprojected]
    assert scales == sorted(scales) and scales[-1] == 1
    assert [picture.is_final for picture in pictures] == [False] * (len(pictures) - 1) + [True]
    whole = ball(request.cameras(90, 61))
    # In bands of rows: their cameras differ from the whole by the rounding of a float32.
    difference = np.abs(pictures[-1].look.rgb.astype(int) - whole.rgb)
    assert (difference > 1).mean() < 0.01


def test_first_picture_fits_the_budget_and_a_step_is_short() -> None:
    made, clock = engine(2e-6)  # 512 x 512 take half a second
    start = clock.now
    steps, before = [], start
    for picture in made.answer(Request(pose_at(0), 40.0, 512, 512)):
        steps.append(clock.now - before)
        before = clock.now
        if picture is not None and not picture.is_reprojected:
            break
    assert before - start <= 0.05
    assert max(steps) <= 0.025


def test_a_fast_field_is_drawn_in_one_go() -> None:
    made, _ = engine(1e-8)
    (picture,) = shown(made, Request(pose_at(0), 40.0, 256, 256))
    assert picture.is_final and picture.scale == 1


def test_what_a_call_costs_does_not_keep_moving_pictures_coarse() -> None:
    """4 ms a call and 10 million pixels a second: 256 x 256 take 11 ms, and are drawn at once."""
    clock = Clock(1e-7)

    def draw(cameras: Cameras) -> Look:
        clock.now += 4e-3
        return clock.draw(cameras)

    made = Engine(draw, clock=clock)
    first = None
    for azimuth in range(12):  # a new place before the second picture of the last one
        job = made.answer(Request(pose_at(azimuth), 40.0, 256, 256))
        first = next(picture for picture in job if picture is not None)
    assert first is not None and first.scale == 1 and not first.is_reprojected


def test_who_stops_asking_has_cancelled() -> None:
    made, clock = engine(1e-4)
    job = made.answer(Request(pose_at(0), 40.0, 256, 256))
    next(job)
    pixels = clock.pixels
    del job
    shown(made, Request(pose_at(10), 40.0, 8, 8))
    assert clock.pixels - pixels <= 3 * 64 + 64


def test_reprojected_from_the_same_place_is_the_same_picture() -> None:
    made, _ = engine(1e-3)
    last = shown(made, Request(pose_at(20), 40.0, 64, 64))[-1]
    first = shown(made, Request(pose_at(20), 40.0000001, 64, 64))[0]
    assert first.is_reprojected
    np.testing.assert_array_equal(first.look.rgb, last.look.rgb)


def test_reprojected_is_what_is_there() -> None:
    made, _ = engine(1e-3)
    shown(made, Request(pose_at(0), 40.0, 96, 96))
    request = Request(pose_at(12, distance=3.6), 40.0, 96, 96)
    first = shown(made, request)[0]
    truth = ball(request.cameras(96, 96))
    assert first.is_reprojected
    difference = np.abs(first.look.rgb.astype(int) - truth.rgb).max(axis=2)
    assert np.median(difference) <= 2 and (difference > 25).mean() < 0.08
    both = np.isfinite(first.look.depth) & np.isfinite(truth.depth)
    assert both.mean() > 0.2
    assert np.median(np.abs(first.look.depth[both] - truth.depth[both])) < 0.01


def test_a_coarse_picture_is_reprojected_without_gaps() -> None:
    made, _ = engine(1e-3)
    job = made.answer(Request(pose_at(0), 40.0, 256, 256))
    coarse = next(picture for picture in job if picture is not None)  # 1/16: 16 x 16 pixels
    assert coarse.scale == 1 / 16
    first = shown(made, Request(pose_at(3), 40.0, 256, 256))[0]
    assert not first.is_reprojected  # no sharper than what is drawn in time
    for picture in job:
        if picture is not None and picture.scale == 1 / 2:
            break
    first = shown(made, Request(pose_at(3), 40.0, 256, 256))[0]
    assert first.is_reprojected and first.look.depth.shape == (128, 128)
    assert np.isfinite(first.look.depth[54:74, 54:74]).all()


def test_the_same_again_goes_to_full_size_at_once() -> None:
    """A field in training: the picture must not become coarse every time it is drawn anew."""
    made, _ = engine(1e-3)
    shown(made, Request(pose_at(0), 40.0, 64, 64))
    (picture,) = shown(made, Request(pose_at(0), 40.0, 64, 64))
    assert picture.is_final and not picture.is_reprojected


def test_nothing_is_reprojected_after_a_turn_away_or_into_another_style() -> None:
    made, _ = engine(1e-3)
    shown(made, Request(pose_at(0), 40.0, 64, 64, "color"))
    assert not shown(made, Request(pose_at(0), 40.0, 64, 64, "depth"))[0].is_reprojected
    shown(made, Request(pose_at(0), 40.0, 64, 64, "depth"))
    away = pose_at(0)
    away[:3, 0], away[:3, 2] = -away[:3, 0], -away[:3, 2]
    assert not shown(made, Request(away, 40.0, 64, 64, "depth"))[0].is_reprojected


def test_one_pixel_and_a_camera_in_the_ball() -> None:
    made, _ = engine(1e-4)
    assert shown(made, Request(pose_at(0), 40.0, 1, 1))[-1].look.rgb.shape == (1, 1, 3)
    inside = shown(made, Request(pose_at(0, distance=0.5), 40.0, 32, 32))
    assert inside[-1].is_final
    assert shown(made, Request(pose_at(5, distance=0.5), 40.0, 32, 32))[-1].is_final

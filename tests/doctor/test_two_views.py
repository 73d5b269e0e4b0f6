"""The geometry of two views, against closed forms and a scene whose points are known."""

import numpy as np
import pytest

from nfields.doctor.two_views import depths, epipolar_angle, in_front, robust_essential


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def scene() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Points before two cameras at 0 and t, and the rays to them."""
    random = np.random.default_rng(0)
    points = random.uniform(-1, 1, (200, 3)) - [0, 0, 4]
    t = np.array([0.5, 0.1, -0.2])
    return points, unit(points), unit(points - t), np.broadcast_to(t, points.shape)


def test_rays_to_one_point_have_no_distance_and_meet_there(scene: tuple[np.ndarray, ...]) -> None:
    points, a, b, t = scene
    assert epipolar_angle(a, b, t).max() < 1e-12
    first, second = depths(a, b, t)
    np.testing.assert_allclose(first[:, None] * a, points, rtol=1e-9)
    np.testing.assert_allclose(t + second[:, None] * b, points, rtol=1e-9)
    assert in_front(a, b, t, 1e-3).all()
    assert not in_front(a, b, -t, 1e-3).any()


def test_distance_is_the_angle_to_turn_both_rays_by(scene: tuple[np.ndarray, ...]) -> None:
    """A ray turned out of the epipolar plane by x is x / sqrt(2) from it with equal parts for both,
    if both rays are as far from the baseline; far points are.
    """
    t = np.array([[1.0, 0, 0]])
    a = unit(np.array([[0.0, 0, -1]]))
    for x in (1e-4, 1e-3):
        b = unit(np.array([[0.0, np.tan(x), -1]]))
        assert epipolar_angle(a, b, t)[0] == pytest.approx(x / np.sqrt(2), rel=1e-3)


def test_scale_of_the_world_does_not_matter(scene: tuple[np.ndarray, ...]) -> None:
    _, a, b, t = scene
    b = unit(b + 0.01 * a[::-1])
    before = epipolar_angle(a, b, t)
    np.testing.assert_allclose(epipolar_angle(a, b, 1e4 * t), before, rtol=1e-9)
    np.testing.assert_allclose(epipolar_angle(b, a, -t), before, rtol=1e-9)


def test_cameras_in_one_place_fit_nothing(scene: tuple[np.ndarray, ...]) -> None:
    _, a, b, t = scene
    assert np.isinf(epipolar_angle(a, b, 0 * t)).all()


@pytest.mark.parametrize("focal_factor", [1.0, 1.5])
def test_wrong_matches_are_told_from_right_ones(
    scene: tuple[np.ndarray, ...], focal_factor: float
) -> None:
    """Whatever the focal length is taken for: the eight-point matrix is a fundamental one."""
    _, a, b, _ = scene
    a, b = (unit(rays * [1, 1, focal_factor]) for rays in (a, b))
    b[::4] = np.roll(b[::4], 1, axis=0)
    found = robust_essential(a, b, 1e-4, np.random.default_rng(0))
    wrong = np.arange(len(a)) % 4 == 0
    assert found[~wrong].all()
    assert found[wrong].mean() < 0.1


def test_fewer_than_eight_matches_agree_on_nothing() -> None:
    rays = unit(np.ones((7, 3)))
    assert not robust_essential(rays, rays, 1.0, np.random.default_rng(0)).any()

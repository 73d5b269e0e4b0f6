"""The generated solid: its distance and its samples against what both must fulfil."""

import numpy as np
from scipy.spatial import KDTree

from nfields.data.knot import KnotSurface


def test_distance_is_that_to_the_nearest_sample() -> None:
    knot, random = KnotSurface(), np.random.default_rng(0)
    samples, _ = knot.sample(200_000, random)
    points = random.uniform(-1, 1, (2000, 3))
    feet, distances = knot.closest(points)
    to_sample = KDTree(samples).query(points)[0]
    # Samples are about 3e-3 apart: they can be farther by the square of that over the distance.
    assert (to_sample >= np.abs(distances) - 1e-12).all()
    assert (to_sample - np.abs(distances)).max() < 8e-3
    assert np.allclose(np.linalg.norm(points - feet, axis=1), np.abs(distances), atol=1e-12)
    assert np.abs(knot.closest(feet)[1]).max() < 1e-12


def test_gradient_of_the_distance_has_length_one() -> None:
    knot, random, step = KnotSurface(), np.random.default_rng(1), 1e-6
    points = random.uniform(-1, 1, (2000, 3))
    slopes = [
        (knot.closest(points + step * e)[1] - knot.closest(points - step * e)[1]) / (2 * step)
        for e in np.eye(3)
    ]
    length = np.linalg.norm(slopes, axis=0)
    # But on the middle between two strands, where the direction jumps: a few in 10^5.
    assert np.median(np.abs(length - 1)) < 1e-6
    assert np.mean(np.abs(length - 1) > 1e-4) < 2e-3


def test_normal_of_the_nearest_place_is_the_gradient_of_the_distance() -> None:
    knot, random = KnotSurface(), np.random.default_rng(2)
    points = random.uniform(-1, 1, (2000, 3))
    feet, signed = knot.closest(points)
    distances, normals = knot.nearest_normals(points)
    assert np.allclose(distances, np.abs(signed), atol=1e-12)
    assert np.allclose(points - feet, signed[:, None] * normals, atol=1e-12)


def test_normals_point_outwards_by_the_distance() -> None:
    knot = KnotSurface()
    points, normals = knot.sample(5000, np.random.default_rng(0))
    for step in (-0.02, 0.02):
        assert np.allclose(knot.closest(points + step * normals)[1], step, atol=1e-12)
    assert (knot.is_inside(points - 0.01 * normals)).all()
    assert not (knot.is_inside(points + 0.01 * normals)).any()


def test_samples_are_uniform_over_the_area() -> None:
    # By the divergence theorem the mean of n over a closed surface is 0, that of x . n is 3 volume /
    # area. Tube: pi r^2 times the curve's length (Pappus), and 2 pi r times it.
    from nfields.data import knot as module

    points, normals = KnotSurface().sample(400_000, np.random.default_rng(0))
    assert np.abs(normals.mean(axis=0)).max() < 4e-3  # 1 / sqrt(3 n), four times
    t = np.linspace(0, 2 * np.pi, 20001)
    length = np.linalg.norm(np.diff(module._curve(t)[0], axis=0), axis=1).sum()
    tube, ball = module._TUBE, module._BALL
    volume = np.pi * tube**2 * length + 4 / 3 * np.pi * ball**3
    area = 2 * np.pi * tube * length + 4 * np.pi * ball**2
    assert np.isclose((points * normals).sum(axis=1).mean(), 3 * volume / area, rtol=0.02)

"""What oriented points say of places around: distances of a ball, of one with a hole, of few."""

import numpy as np
import pytest
import torch

from nfields.data import oriented_points
from nfields.data.oriented_points import OrientedPoints, estimated_distances

RADIUS = 0.8


def on_ball(num: int) -> tuple[np.ndarray, np.ndarray]:
    """Points of a ball, and normals."""
    normals = np.random.default_rng(0).normal(size=(num, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return RADIUS * normals, normals


def test_distances_of_a_ball_are_right_beyond_the_spacing_of_its_points() -> None:
    points, normals = on_ball(5000)
    places = np.random.default_rng(1).uniform(-1, 1, (20_000, 3))
    found = estimated_distances(points, normals, places)
    exact = np.linalg.norm(places, axis=1) - RADIUS
    spacing = (4 * np.pi * RADIUS**2 / len(points)) ** 0.5
    is_far = np.abs(exact) > spacing
    assert is_far.mean() > 0.8
    assert np.isfinite(found[is_far]).all()
    assert (np.sign(found) == np.sign(exact))[is_far].all()
    error = (np.abs(found) - np.abs(exact))[is_far]
    assert np.abs(error).max() < spacing
    # The nearest of scattered points is farther than the surface; on average that is made up for.
    assert abs(error.mean()) < 0.02 * spacing


def test_beside_the_points_the_side_is_not_known() -> None:
    points, normals = on_ball(5000)
    spacing = (4 * np.pi * RADIUS**2 / len(points)) ** 0.5
    beside = (RADIUS + 0.05 * spacing) * on_ball(5000)[1][::-1] + 0.3 * spacing
    assert np.isnan(estimated_distances(points, normals, beside)).mean() > 0.05


def test_a_hole_leaves_the_sides_elsewhere_known() -> None:
    points, normals = on_ball(5000)
    is_kept = points[:, 2] < 0.7 * RADIUS
    places = np.random.default_rng(1).uniform(-1, 1, (20_000, 3))
    found = estimated_distances(points[is_kept], normals[is_kept], places)
    exact = np.linalg.norm(places, axis=1) - RADIUS
    is_away = (places[:, 2] < 0) & (np.abs(exact) > 0.1)
    assert (np.sign(found) == np.sign(exact))[is_away].all()


def test_a_large_cloud_is_thinned_out_to_guess_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def watched(points: np.ndarray, *others: np.ndarray) -> np.ndarray:
        asked.append(len(points))
        return estimated_distances(points, *others)

    monkeypatch.setattr(oriented_points, "estimated_distances", watched)
    monkeypatch.setattr(oriented_points, "_MAX_POINTS", 500)
    monkeypatch.setattr(oriented_points, "NUM_ANYWHERE", 1000)
    made = OrientedPoints.of(*on_ball(5000), 0)
    assert len(made.points) == 5000 and asked == [500]
    places, distances = made.draw_anywhere(300, torch.Generator().manual_seed(0))
    exact = places.norm(dim=1) - RADIUS
    spacing = (4 * np.pi * RADIUS**2 / 500) ** 0.5
    is_far = exact.abs() > spacing
    assert is_far.float().mean() > 0.3
    assert torch.allclose(distances[is_far], exact[is_far], atol=spacing)


def test_points_at_one_place_have_distances() -> None:
    points = np.repeat([[0.0, 0, 0.5], [0, 0.5, 0]], 8, axis=0)
    found = estimated_distances(points, points / 0.5, np.array([[0.0, 0, 0.5], [0, 0, -0.9]]))
    assert found[1] > 0 and not found[0] > 1e-9

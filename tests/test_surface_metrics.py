"""Distances between surfaces against closed forms."""

import numpy as np
import pytest

from nfields.surface_metrics import (
    Nearest,
    SurfacePoints,
    compare_surfaces,
    iou,
    nearest,
    surface_figures,
)


def plane(height: float, n: int = 40) -> SurfacePoints:
    """A square grid on [0, 1]^2 at a height."""
    x = np.linspace(0, 1, n)
    points = np.stack([*np.meshgrid(x, x), np.full((n, n), height)], axis=-1).reshape(-1, 3)
    return SurfacePoints(points, np.tile([0.0, 0, 1], (n * n, 1)))


def sphere(radius: float, n: int = 4000, center: float = 0.0) -> SurfacePoints:
    """A Fibonacci lattice on a sphere: the same directions whatever the radius."""
    i = np.arange(n) + 0.5
    z, phi = 1 - 2 * i / n, np.pi * (1 + 5**0.5) * i
    r = np.sqrt(1 - z * z)
    normals = np.stack([r * np.cos(phi), r * np.sin(phi), z], axis=1)
    return SurfacePoints(normals * radius + center, normals)


def blob(seed: int) -> SurfacePoints:
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(500, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return SurfacePoints(rng.normal(size=(500, 3)) * [1, 2, 3], normals)


def test_surface_is_at_no_distance_from_itself():
    figures = compare_surfaces(blob(0), blob(0))
    assert figures["chamfer_l1"] == figures["chamfer_l2"] == figures["hausdorff"] == 0
    assert figures["fscore_0.005"] == figures["fscore_0.01"] == 1
    assert figures["normal_error_deg"] == pytest.approx(0, abs=1e-5)


def test_shifted_plane_is_off_by_the_shift_both_ways():
    d = 2**0.5
    figures = compare_surfaces(plane(0.01), plane(0.0))
    assert figures["chamfer_l1"] == pytest.approx(2 * 0.01 / d)
    assert figures["chamfer_l2"] == pytest.approx(2 * (0.01 / d) ** 2)
    assert figures["hausdorff"] == pytest.approx(0.01 / d)
    assert figures["fscore_0.005"] == 0 and figures["fscore_0.01"] == 1
    assert figures["normal_error_deg"] == pytest.approx(0, abs=1e-5)


def test_larger_sphere_is_off_by_the_difference_of_radii():
    figures = compare_surfaces(sphere(1.1), sphere(1.0))
    d = np.linalg.norm(np.ptp(sphere(1.0).points, axis=0))
    assert figures["chamfer_l1"] == pytest.approx(2 * 0.1 / d)
    assert figures["hausdorff"] == pytest.approx(0.1 / d)


def test_half_a_plane_has_full_precision_and_half_the_recall():
    whole = plane(0.0)
    left = whole.points[:, 0] < 0.5
    half = SurfacePoints(whole.points[left], whole.normals[left])
    figures = compare_surfaces(half, whole)
    share = 0.5
    assert figures["fscore_0.01"] == pytest.approx(2 * share / (1 + share))
    x = np.linspace(0, 1, 40)
    missing = np.maximum(x - x[x < 0.5].max(), 0)
    assert figures["chamfer_l1"] == pytest.approx(missing.mean() / 2**0.5)
    assert figures["hausdorff"] == pytest.approx(missing.max() / 2**0.5)


def test_figures_do_not_change_under_a_similarity():
    rotation, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    permutation = np.eye(3)[[2, 0, 1]]  # keeps the box of the truth, and so its diagonal

    def moved(surface: SurfacePoints, matrix: np.ndarray) -> SurfacePoints:
        return SurfacePoints(surface.points @ matrix * 7.5 + 300, surface.normals @ matrix)

    there, back = nearest(blob(0), blob(1)), nearest(blob(1), blob(0))
    expected = surface_figures(there, back, 2.0)
    a, b = moved(blob(0), rotation), moved(blob(1), rotation)
    again = surface_figures(nearest(a, b), nearest(b, a), 2.0 * 7.5)
    assert again == pytest.approx(expected, rel=1e-9)
    whole = compare_surfaces(moved(blob(0), permutation), moved(blob(1), permutation))
    assert whole == pytest.approx(compare_surfaces(blob(0), blob(1)), rel=1e-9)


def test_normal_error_is_the_mean_of_both_directions_in_degrees():
    """The published formula gives (30 + cos 90) / 2 here."""
    p2g = Nearest(np.zeros(2), np.full(2, np.cos(np.radians(90))))
    g2p = Nearest(np.zeros(3), np.full(3, np.cos(np.radians(30))))
    assert surface_figures(p2g, g2p, 1.0)["normal_error_deg"] == pytest.approx((90 + 30) / 2)


def test_surface_inside_out_has_a_normal_error_of_180_degrees():
    flipped = SurfacePoints(sphere(1.0).points, -sphere(1.0).normals)
    assert compare_surfaces(flipped, sphere(1.0))["normal_error_deg"] == pytest.approx(180)


def test_iou_of_overlapping_intervals():
    x = (np.arange(30_000) + 0.5) / 10_000  # [0, 3]
    assert iou((x < 2), (x > 1)) == pytest.approx(1 / 3)
    assert iou(x < 0, x < 0) == 1 and iou(x < 1, x > 2) == 0 and iou(x < 1, x < 1) == 1


@pytest.mark.parametrize("n", [0, 1])
def test_too_few_points_are_refused(n):
    few = SurfacePoints(np.zeros((n, 3)), np.zeros((n, 3)))
    with pytest.raises(ValueError, match=r"without points|single point"):
        compare_surfaces(plane(0.0), few)

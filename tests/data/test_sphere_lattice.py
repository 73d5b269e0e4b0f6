"""Lattices, HEALPix pixels and cells of grids cover the sphere evenly; draws are by area."""

import importlib.util

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfields.data.sphere_healpix import centers
from scipy.spatial import KDTree

from nfields.data.sphere_lattice import (
    Checkerboard,
    draw_by_area,
    tile_order,
    fibonacci_lattice,
    uniform_points,
    unit_vectors,
    wrapped,
)
from nfields.data.sphere_places import GridPlaces, PointPlaces


def moments(points: np.ndarray, weights: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Means of the coordinates and of their squares; on the whole sphere 0 and 1/3."""
    mean = np.average(points, axis=0, weights=weights)
    return mean, np.average(points**2, axis=0, weights=weights)


@pytest.mark.parametrize("num", [100, 1000, 20_000])
def test_fibonacci_lattice_is_uniform(num: int) -> None:
    points = unit_vectors(*fibonacci_lattice(num))
    mean, square = moments(points)
    assert abs(mean[2]) < 1e-12  # bands are symmetric
    # z^2: the midpoint rule on n bands, (1 - 1/n^2) / 3
    assert square[2] == pytest.approx((1 - 1 / num**2) / 3, abs=1e-12)
    # x, y: a low-discrepancy sum, of error O(1 / n); 1 / sqrt(n) is a random one's
    assert np.abs(mean[:2]).max() < 2 / num
    assert np.abs(square[:2] - 1 / 3).max() < 4 / num


def test_one_lattice_point_is_on_the_equator() -> None:
    latitudes, longitudes = fibonacci_lattice(1)
    assert (latitudes.tolist(), longitudes.tolist()) == ([0.0], [0.0])


def test_uniform_points_are_uniform() -> None:
    mean, square = moments(unit_vectors(*uniform_points(40_000, np.random.default_rng(0))))
    # Standard deviations: of z 1/sqrt(3 n), of z^2 sqrt(4/45 / n).
    assert np.abs(mean).max() < 4 * (1 / 3 / 40_000) ** 0.5
    assert np.abs(square - 1 / 3).max() < 4 * (4 / 45 / 40_000) ** 0.5


@pytest.mark.parametrize("is_nested", [False, True])
@pytest.mark.parametrize("nside", [1, 2, 8, 32])
def test_healpix_pixels_of_equal_weight_have_no_mean(nside: int, is_nested: bool) -> None:
    latitudes, longitudes = centers(nside, is_nested)
    assert len(latitudes) == 12 * nside**2
    points = unit_vectors(latitudes, longitudes)
    mean, square = moments(points)
    assert np.abs(mean).max() < 1e-12
    assert np.abs(square - 1 / 3).max() < 0.1 / nside**2
    assert len(np.unique(points.round(9), axis=0)) == len(points)


def test_nested_pixels_are_the_ring_ones_in_another_order() -> None:
    ring, nested = (unit_vectors(*centers(8, flag)).round(9) + 0.0 for flag in (False, True))
    assert np.array_equal(np.unique(ring, axis=0), np.unique(nested, axis=0))


def test_four_children_surround_their_nested_parent() -> None:
    parents, children = (unit_vectors(*centers(n, True)) for n in (8, 16))
    together = children.reshape(-1, 4, 3).mean(axis=1)
    together /= np.linalg.norm(together, axis=1, keepdims=True)
    # A quarter of the pixels' spacing, sqrt(4 pi / 768).
    assert np.linalg.norm(together - parents, axis=1).max() < 0.032


@pytest.mark.parametrize("ordering", ["ring", "nested"])
@pytest.mark.parametrize("nside", [1, 4, 16])
def test_healpix_centres_are_those_of_astropy(nside: int, ordering: str) -> None:
    if importlib.util.find_spec("astropy_healpix") is None:
        pytest.skip("astropy-healpix is not installed")
    from astropy_healpix import healpix_to_lonlat

    expected_lon, expected_lat = healpix_to_lonlat(np.arange(12 * nside**2), nside, order=ordering)
    latitudes, longitudes = centers(nside, ordering == "nested")
    assert np.abs(latitudes - np.degrees(expected_lat.value)).max() < 1e-11
    assert np.abs(wrapped(longitudes - np.degrees(expected_lon.value))).max() < 1e-11


@pytest.mark.parametrize("with_poles", [False, True])
def test_cells_of_a_grid_fill_the_sphere(with_poles: bool) -> None:
    latitudes = np.linspace(-90, 90, 19) if with_poles else np.arange(-85.0, 90, 10)
    places = GridPlaces(latitudes, np.arange(0.0, 360, 10))
    assert places.areas.sum() == pytest.approx(4 * np.pi, rel=1e-12)
    points = unit_vectors(*places.positions(np.arange(places.num)))
    mean, square = moments(points, places.areas)
    assert np.abs(mean).max() < 1e-12
    # The error of cells of 10 degrees, h^2 / 24 times a second derivative of at most 4.
    assert np.abs(square - 1 / 3).max() < np.radians(10) ** 2 / 6
    if not with_poles:
        weights = np.repeat(np.cos(np.radians(latitudes)), 36)
        assert np.allclose(places.areas / places.areas[0], weights / weights[0], rtol=1e-12)


def test_a_node_stands_for_its_own_position_and_cell() -> None:
    places = GridPlaces(np.arange(-88.0, 90, 8), np.arange(20.0, 380, 6))
    index = np.arange(places.num)
    latitudes, longitudes = places.positions(index)
    assert np.array_equal(places.nearest(latitudes, longitudes), index)
    assert np.array_equal(places.nearest(latitudes + 1.9, longitudes + 2.9), index)
    everywhere = places.nearest(*fibonacci_lattice(1000))
    assert (everywhere >= 0).all()
    assert (places.nearest(np.array([90.0, -90.0]), np.array([180.0, -180.0])) >= 0).all()


def test_nothing_stands_for_what_is_outside_a_region() -> None:
    places = GridPlaces(np.arange(40.0, 50, 1), np.arange(-5.0, 5, 1))
    assert (
        places.nearest(np.array([39.4, 50.0, 45, 45]), np.array([0.0, 0, 4.6, 175])).tolist()
        == [-1] * 4
    )
    points = PointPlaces(
        np.array([0.0] * 100), np.arange(0.0, 1, 0.01), covers=False, description=""
    )
    assert points.nearest(np.array([0.0, 60]), np.array([0.5, 0.5])).tolist() == [50, -1]


@given(st.floats(-720, 720))
def test_wrapped_longitudes_are_the_same_direction(longitude: float) -> None:
    found = float(wrapped(np.array([longitude]))[0])
    assert -180 <= found < 180
    assert abs(np.sin(np.radians((found - longitude) / 2))) < 1e-12


@given(st.integers(1, 40), st.integers(0, 2**20), st.data())
def test_draws_by_area_are_different_places_and_weigh_back(
    num: int, seed: int, data: st.DataObject
) -> None:
    areas = np.array(data.draw(st.lists(st.floats(1e-3, 1e3), min_size=num, max_size=40)))
    index, weights = draw_by_area(areas, num, np.random.default_rng(seed))
    assert len(np.unique(index)) == num == len(weights)
    assert np.mean(weights) == pytest.approx(1)
    if num == len(areas):
        assert np.allclose(weights, areas / areas.mean())


def test_the_mean_over_draws_is_that_over_the_area() -> None:
    areas = np.array([10.0, 1, 1, 1, 1, 1, 2, 3])
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8])
    random = np.random.default_rng(0)
    draws = [draw_by_area(areas, 4, random) for _ in range(4000)]
    # Horvitz and Thompson: sums over the draws, weighted by 1 / chance, are right in the mean.
    drawn = np.zeros(8)
    for index, _ in draws:
        drawn[index] += 1 / len(draws)
    expected = np.array([1.0, 0.3, 0.3, 0.3, 0.3, 0.3, 0.6, 0.9])
    assert np.abs(drawn - expected).max() < 4 * (0.25 / len(draws)) ** 0.5
    means = [np.average(values[index], weights=weights) for index, weights in draws]
    assert np.mean(means) == pytest.approx(np.average(values, weights=areas), abs=0.06)


@pytest.mark.parametrize("num", [1, 50, 5000])
def test_even_draws_have_one_point_a_tile(num: int) -> None:
    random = np.random.default_rng(0)
    latitudes, longitudes = fibonacci_lattice(100_000)
    order = tile_order(latitudes, longitudes, num, random)
    assert np.array_equal(np.sort(order), np.arange(100_000))
    index, weights = draw_by_area(np.ones(100_000), num, random, order)
    assert len(np.unique(index)) == num and np.allclose(weights, 1)
    num_bands = max(1, round((num / np.pi) ** 0.5))
    z = np.sin(np.radians(latitudes[index]))
    counts, _ = np.histogram(z, np.linspace(-1, 1, num_bands + 1))
    # Draws are 1 apart, bands num / num_bands long: one more or less, and one for the rounding of
    # 100,000 places into bands.
    assert np.abs(counts - num / num_bands).max() <= 2
    if num == 5000:
        vectors = unit_vectors(latitudes[index], longitudes[index])
        gaps = KDTree(vectors).query(vectors, k=2)[0][:, 1]
        alone = unit_vectors(*uniform_points(num, random))
        random_gaps = KDTree(alone).query(alone, k=2)[0][:, 1]
        assert gaps.mean() > 1.15 * random_gaps.mean()  # random: half the spacing of a lattice


def test_cells_of_the_checkerboard_are_of_200_points_and_touch_no_equals() -> None:
    board = Checkerboard()
    support = unit_vectors(*fibonacci_lattice(200))
    assert np.array_equal(board.labels(*fibonacci_lattice(200)), np.arange(200) % 16)
    latitudes, longitudes = fibonacci_lattice(40_000)
    points = unit_vectors(latitudes, longitudes)
    near = points @ support.T
    assert np.array_equal(board.labels(latitudes, longitudes), near.argmax(axis=1) % 16)
    first, second = np.argsort(near, axis=1)[:, :-3:-1].T
    is_border = near.max(axis=1) - np.take_along_axis(near, second[:, None], 1)[:, 0] < 1e-3
    assert is_border.sum() > 500
    assert (first % 16 != second % 16)[is_border].all()

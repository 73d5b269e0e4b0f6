import itertools

import numpy as np
import pytest

from nfields.render import tour


@pytest.mark.parametrize("seed", range(5))
def test_travelling_order_is_near_the_best_tour(seed):
    """Against all 5040 orders of seven points."""
    points = np.random.default_rng(seed).normal(size=(7, 3))

    def length(order: tuple[int, ...] | np.ndarray) -> float:
        return float(np.linalg.norm(np.diff(points[list(order)], axis=0), axis=1).sum())

    got = tour.travelling_order(points)
    assert sorted(got) == list(range(7))
    assert length(got) <= 1.15 * min(length(order) for order in itertools.permutations(range(7)))


def test_travelling_order_restores_a_shuffled_walk():
    t = np.random.default_rng(0).permutation(40)
    points = np.stack([np.cos(t / 13), np.sin(t / 13), t / 50], axis=1)
    walk = t[tour.travelling_order(points)]
    assert (np.abs(np.diff(walk)) == 1).all()


def test_spread_out_takes_both_ends_of_a_line_and_then_the_middle():
    points = np.array([[0.0, 0, 0], [1, 0, 0], [5, 0, 0], [9, 0, 0], [10.5, 0, 0]])
    assert set(tour.spread_out(points, 3)) == {0, 2, 4}
    assert sorted(tour.spread_out(np.zeros((4, 3)), 4)) == [0, 1, 2, 3]

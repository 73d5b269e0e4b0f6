"""assert_matches is seen to fail, so that a green test means something."""

import pytest
import torch

from tests.compare import assert_matches

EPS = torch.finfo(torch.float32).eps


def test_equal_tensors_match():
    x = torch.tensor([1.0, float("nan"), float("inf"), -0.0])
    assert_matches(x, x.clone())


def test_empty_tensors_match():
    assert_matches(torch.zeros(0, 3), torch.zeros(0, 3))


def test_one_rounding_matches_and_sixteen_do_not():
    x = torch.tensor([1.0])
    assert_matches(x + EPS, x)
    with pytest.raises(AssertionError):
        assert_matches(x + 16 * EPS, x)


def test_tolerance_follows_the_actual_dtype():
    x = torch.tensor([1.0], dtype=torch.float64)
    with pytest.raises(AssertionError):
        assert_matches(x + EPS, x)


def test_more_operations_allow_more():
    x = torch.tensor([1.0])
    assert_matches(x + 16 * EPS, x, num_operations=100)


def test_small_entries_are_judged_by_the_scale_of_the_sum():
    expected = torch.tensor([1.0, 0.0])
    assert_matches(expected + torch.tensor([0.0, EPS]), expected)
    with pytest.raises(AssertionError):
        assert_matches(expected + torch.tensor([0.0, EPS]), expected, scale=1e-3)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [
        (torch.zeros(2), torch.zeros(3)),
        (torch.zeros(1, 3), torch.zeros(3)),
        (torch.tensor([float("nan")]), torch.tensor([0.0])),
        (torch.tensor([float("inf")]), torch.tensor([-float("inf")])),
        (torch.tensor([1]), torch.tensor([2])),
        (torch.tensor([1], dtype=torch.int32), torch.tensor([1])),
        (torch.tensor([True]), torch.tensor([False])),
    ],
)
def test_what_differs_fails(actual, expected):
    with pytest.raises(AssertionError):
        assert_matches(actual, expected)

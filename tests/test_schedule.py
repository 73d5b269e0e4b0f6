"""The learning-rate factor: its ends, its warm-up and its closed forms."""

from typing import Any

import pytest

from nfields.errors import ConfigError
from nfields.schedule import Schedule


@pytest.mark.parametrize("decay", ["exponential", "cosine"])
def test_decay_goes_from_one_to_the_final_factor(decay: Any) -> None:
    schedule = Schedule(0, decay, 0.25, 0.1)
    assert schedule.factor(0.0, 0) == 1
    assert schedule.factor(0.25, 500) == 1
    assert schedule.factor(1.0, 2000) == pytest.approx(0.1, rel=1e-12)


def test_halfway_values_are_the_closed_forms() -> None:
    assert Schedule(0, "exponential", 0.5, 0.01).factor(0.75, 9) == pytest.approx(0.1)
    assert Schedule(0, "cosine", 0.5, 0.0).factor(0.75, 9) == pytest.approx(0.5)
    assert Schedule(0, "constant", 0.5, 0.01).factor(0.75, 9) == 1


def test_warmup_is_linear_in_steps() -> None:
    schedule = Schedule(3, "constant", 0.0, 1.0)
    assert [schedule.factor(0.0, step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


def test_decay_that_starts_at_the_end_never_starts() -> None:
    assert Schedule(0, "exponential", 1.0, 0.1).factor(1.0, 10) == 1


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ((-1, "cosine", 0.5, 0.1), "warmup_steps"),
        ((0, "cosine", 1.5, 0.1), "decay_start"),
        ((0, "cosine", 0.5, -0.1), "final_lr_factor"),
        ((0, "exponential", 0.5, 0.0), "final_lr_factor=0"),
    ],
)
def test_bad_option_is_named(options: tuple[Any, ...], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Schedule(*options)

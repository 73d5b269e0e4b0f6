"""Budgets: durations as people write them, and which limit comes first."""

import pytest

from nfields.budget import Budget, format_duration, parse_duration, parse_targets
from nfields.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("60s", 60),
        ("4m", 240),
        ("1h30m", 5400),
        ("1h2m3s", 3723),
        ("1.5h", 5400),
        (" 2 M ", 120),
        ("90", 90),
        (7.5, 7.5),
        (0, 0),
        (None, None),
    ],
)
def test_duration_is_read_as_written(text: str | float | int | None, seconds: float | None) -> None:
    assert parse_duration(text, "trainer.max_time") == seconds


@pytest.mark.parametrize("text", ["", "abc", "4x", "1h30", "30m1h", "-5s", "-1", -1, float("nan")])
def test_bad_duration_names_option_and_examples(text: str | float) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.max_time"):
        parse_duration(text, "trainer.max_time")


@pytest.mark.parametrize(("seconds", "text"), [(7.2, "7s"), (90.0, "1m30s"), (3720.0, "1h02m")])
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_progress_is_the_budget_used_up_most() -> None:
    budget = Budget(max_steps=100, max_seconds=10.0)
    assert budget.progress(50, 1.0) == 0.5
    assert budget.progress(50, 9.0) == 0.9
    assert budget.progress(200, 1.0) == 1.0


def test_progress_follows_time_without_steps() -> None:
    assert Budget(None, 60.0).progress(10_000, 15.0) == 0.25


@pytest.mark.parametrize(
    ("step", "seconds", "measured", "option"),
    [(100, 0.0, {}, "max_steps"), (0, 10.0, {}, "max_time"), (1, 1.0, {"psnr": 31.0}, "stop_at")],
)
def test_whichever_comes_first_stops(
    step: int, seconds: float, measured: dict[str, float], option: str
) -> None:
    budget = Budget(100, 10.0, parse_targets({"psnr": 30}))
    assert budget.stop_reason(1, 1.0, {"psnr": 29.0}) is None
    reason = budget.stop_reason(step, seconds, measured)
    assert reason is not None and option in reason


def test_target_with_less_than_sign_is_an_upper_bound() -> None:
    (target,) = parse_targets({"chamfer_l1": "<0.01"})
    assert target.is_reached({"chamfer_l1": 0.009}) and not target.is_reached({"chamfer_l1": 0.02})


def test_all_targets_must_be_reached() -> None:
    budget = Budget(100, None, parse_targets({"psnr": 30, "flip": "<0.1"}))
    assert budget.stop_reason(1, 0.0, {"psnr": 31.0, "flip": 0.2}) is None
    assert budget.stop_reason(1, 0.0, {"psnr": 31.0, "flip": 0.05}) is not None


def test_unknown_measure_lists_those_there_are() -> None:
    (target,) = parse_targets({"pnsr": 30})
    with pytest.raises(ConfigError, match=r"trainer\.stop_at\.pnsr.*measures flip, psnr"):
        target.is_reached({"psnr": 1.0, "flip": 1.0})


@pytest.mark.parametrize("bound", ["high", "", "1.2.3", ">"])
def test_bad_target_is_refused(bound: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.stop_at\.psnr"):
        parse_targets({"psnr": bound})


def test_budget_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_steps and trainer\.max_time are both null"):
        Budget(None, None, parse_targets({"psnr": 30}))


def test_zero_budgets_are_used_up_at_once() -> None:
    assert Budget(0, None).progress(0, 0.0) == 1.0
    assert Budget(None, 0.0).stop_reason(0, 0.0, {}) is not None


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="max_steps=-1"):
        Budget(-1, None)


def test_time_left_is_that_of_the_tighter_budget() -> None:
    assert Budget(100, 10.0).seconds_left(50, 1.0, steps_per_second=10.0) == 5.0
    assert Budget(100, 10.0).seconds_left(50, 8.0, steps_per_second=10.0) == 2.0
    assert Budget(100, None).seconds_left(50, 8.0, steps_per_second=0.0) == float("inf")

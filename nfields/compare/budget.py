"""Budgets: the size of a model that has a given number of parameters.

A model says which of its options makes it larger (`Field.size_option`); the number of parameters
grows with it, so the largest fitting value is found by bisection. Nothing is trained for that, and
nothing allocated: models are built on PyTorch's meta device where they allow it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from nfields.config import build
from nfields.config_check import fits, locate, type_hints
from nfields.errors import ConfigError
from nfields.model.field import Field
from nfields.task.task import Task

COUNT = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgG]?)")
FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
FRACTION = 0.001  # step of options that may be fractions (exponents): 0.07 % of the entries
LARGEST = 1 << 30
START = 16  # where an option that is null (the model decides) is started from


@dataclass(frozen=True)
class Matched:
    """The size found: `option`=`value` gives `parameters` (those of the task included)."""

    option: str
    value: float | int
    parameters: int


def parse_count(value: str | float | int, option: str) -> int:
    """A whole number above 0: 300k, 1.5M, 2000."""
    match = COUNT.fullmatch(str(value).strip())
    number = float(match[1]) * FACTORS[match[2].lower()] if match else 0.0
    if number < 1 or number != int(number):
        raise ConfigError(f"{option}={value} is not a number above 0; write 300k, 1.5M or 300000")
    return int(number)


def parse_fraction(value: str | float | int, option: str) -> float:
    """A fraction: 5%, 0.05."""
    text = str(value).strip()
    try:
        number = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        number = -1.0
    if not 0 <= number < 1:
        raise ConfigError(f"{option}={value} is not a fraction; write 5% or 0.05")
    return number


def match_parameters(cfg: DictConfig, task: Task, budget: int, tolerance: float) -> Matched:
    """The largest size of the model of `cfg` with at most `budget` parameters on this task.

    A ConfigError says what is possible if that is further below the budget than `tolerance`.
    """
    option = _build(cfg.model, task).size_option
    name, model = f"model.{option}", cfg.choices.model
    hint = type_hints(locate(cfg.model["_target_"]))[option]
    step = FRACTION if fits(0.5, hint) else 1
    start = cfg.model.get(option)
    start = START if start is None else start
    if not fits(start, float):
        raise ConfigError(f"{name}={start}: needs a number to start from, to fit budget.params")

    def count(index: int) -> int | None:
        node = OmegaConf.merge(cfg.model, {option: _value(index, step)})
        assert isinstance(node, DictConfig)
        try:
            return _count(node, task)
        except ConfigError:
            return None  # the model does not come in this size

    index, above = largest_within(count, round(start / step), budget, 1 if step == 1 else 1000)
    found = count(index) if index is not None else None
    if index is None or found is None or found < (1 - tolerance) * budget:
        possible = []
        for i in (index, above):
            size = count(i) if i is not None else None
            if i is not None and size is not None:
                possible.append(f"{size:,} ({name}={_value(i, step)})")
        raise ConfigError(
            f"model={model} cannot have {budget:,} parameters within {tolerance:.1%}; the nearest "
            f"are {' and '.join(possible)}. Give budget.params what all models can have, raise "
            "budget.tolerance, or change other options of this model"
        )
    return Matched(name, _value(index, step), found)


def largest_within(
    count: Callable[[int], int | None], start: int, budget: int, stride: int
) -> tuple[int | None, int | None]:
    """The largest index with count <= budget, and the smallest above it that is possible.

    `count` grows with its index; None is a size that does not exist, too small or too large. Steps
    away from `start` double from `stride` on where it is 1, and are `stride` long otherwise.
    Of indices with the same count the smallest is taken.
    """
    first = count(start)
    if first is None:
        raise ConfigError("the model cannot be built as configured")
    if first <= budget:
        low, high = start, None
        while high is None and low < LARGEST:
            next_index = 2 * low if stride == 1 else low + stride
            size = count(next_index)
            if size is None or size > budget:
                high = next_index
            else:
                low = next_index
        assert high is not None, "no model has so many sizes"
    else:
        low, high = None, start
        bottom = start
        while low is None and bottom > 1:
            bottom = bottom // 2 if stride == 1 else max(bottom - stride, 1)
            size = count(bottom)
            if size is None:
                break
            low, high = (bottom, high) if size <= budget else (None, bottom)
        if low is None:
            low, high = _smallest(count, bottom, high, budget)
            if low is None:
                return None, high
    while high - low > 1:
        middle = (low + high) // 2
        size = count(middle)
        low, high = (middle, high) if size is not None and size <= budget else (low, middle)
    above = high if count(high) is not None else None
    return _smallest_with_count(count, low), above


def _smallest(
    count: Callable[[int], int | None], bottom: int, high: int, budget: int
) -> tuple[int | None, int]:
    """An index above `bottom`, too small to exist, that is within the budget, if there is any."""
    while high - bottom > 1:
        middle = (bottom + high) // 2
        size = count(middle)
        if size is None:
            bottom = middle
        elif size <= budget:
            return middle, high
        else:
            high = middle
    return None, high


def _smallest_with_count(count: Callable[[int], int | None], index: int) -> int:
    size, low = count(index), 0
    while index - low > 1:
        middle = (low + index) // 2
        low, index = (low, middle) if count(middle) == size else (middle, index)
    return index


def _value(index: int, step: float | int) -> float | int:
    value = round(index * step, 3)
    return int(value) if value == int(value) else value


def _count(node: DictConfig, task: Task) -> int:
    parts = (_build(node, task), task)
    return sum(parameter.numel() for part in parts for parameter in part.parameters())


def _build(node: DictConfig, task: Task) -> Field:
    def make() -> Any:
        return build(node, in_dim=task.in_dim, out_dim=task.out_dim)

    try:
        with torch.device("meta"):
            return make()
    except (NotImplementedError, RuntimeError, TypeError):
        return make()  # its constructor looks at values; a meta tensor has none

"""When training stops: steps, seconds of training or a target, whichever comes first.

Progress is the used fraction of the budget that is used up most; schedules follow it. A target is
compared with what the task measures at a validation, so it never shortens the schedule.
"""

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from nfields.errors import ConfigError

DURATION = re.compile(
    r"(?:(?P<hours>\d+(?:\.\d+)?)h)?(?:(?P<minutes>\d+(?:\.\d+)?)m)?(?:(?P<seconds>\d+(?:\.\d+)?)s)?"
)
PLAIN_SECONDS = re.compile(r"\d+(?:\.\d+)?")
TARGET = re.compile(r"(?P<sign>[<>]?)=?\s*(?P<bound>[-+]?[\d.]+(?:[eE][-+]?\d+)?)")


def parse_duration(value: str | float | int | None, option: str) -> float | None:
    """Returns seconds: "60s", "4m", "1h30m", 90 and "90" are durations; None stays None.

    `option` is the full name that an error mentions, such as trainer.max_time.
    """
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip().lower().replace(" ", "")
        text += "s" if PLAIN_SECONDS.fullmatch(text) else ""
        match = DURATION.fullmatch(text)
        if match is None or not text:
            raise ConfigError(
                f"{option}={value!r} is not a duration; write seconds (90) or 60s, 4m, 1h30m"
            )
        parts = {unit: float(number or 0) for unit, number in match.groupdict().items()}
        seconds = parts["hours"] * 3600 + parts["minutes"] * 60 + parts["seconds"]
    else:
        seconds = float(value)
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{option}={value!r} must be a finite time of at least 0 s")
    return seconds


def format_duration(seconds: float) -> str:
    """Returns a time as people read it: 7.2 -> "7s", 90 -> "1m30s", 3720 -> "1h02m"."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


@dataclass(frozen=True)
class Target:
    """A bound on one measure: reached at or above it, or at or below it if `is_maximum`."""

    measure: str
    bound: float
    is_maximum: bool

    def is_reached(self, measured: Mapping[str, float]) -> bool:
        """Says whether the measure is good enough; a measure that the task lacks is an error."""
        if self.measure not in measured:
            raise ConfigError(
                f"trainer.stop_at.{self.measure}: this task does not measure {self.measure!r} at a "
                f"validation; it measures {', '.join(sorted(measured)) or 'nothing'}"
            )
        value = measured[self.measure]
        return value <= self.bound if self.is_maximum else value >= self.bound

    def __str__(self) -> str:
        return f"{self.measure} {'<=' if self.is_maximum else '>='} {self.bound:g}"


def parse_targets(stop_at: Mapping[str, float | int | str]) -> tuple[Target, ...]:
    """Returns targets: {"psnr": 30} means psnr >= 30, {"chamfer_l1": "<0.01"} means <= 0.01."""
    targets = []
    for measure, bound in stop_at.items():
        match = TARGET.fullmatch(str(bound).strip())
        try:
            number = float(match["bound"]) if match else None
        except ValueError:
            number = None
        if match is None or number is None:
            raise ConfigError(
                f"trainer.stop_at.{measure}={bound!r} is not a target; "
                'write a number to reach (30) or one to get below ("<0.01")'
            )
        targets.append(Target(measure, number, match["sign"] == "<"))
    return tuple(targets)


@dataclass(frozen=True)
class Budget:
    """What a run may use up; None means without limit."""

    max_steps: int | None
    max_seconds: float | None
    targets: tuple[Target, ...] = ()

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_seconds is None:
            raise ConfigError(
                "trainer.max_steps and trainer.max_time are both null, so training might never "
                "end; set one of them (a target in trainer.stop_at may never be reached)"
            )
        if self.max_steps is not None and self.max_steps < 0:
            raise ConfigError(f"trainer.max_steps={self.max_steps} must be at least 0")

    def progress(self, step: int, seconds: float) -> float:
        """Returns the used fraction of the budget, in [0, 1]."""
        used = 0.0
        if self.max_steps is not None:
            used = step / self.max_steps if self.max_steps > 0 else 1.0
        if self.max_seconds is not None:
            used = max(used, seconds / self.max_seconds if self.max_seconds > 0 else 1.0)
        return min(used, 1.0)

    def stop_reason(self, step: int, seconds: float, measured: Mapping[str, float]) -> str | None:
        """Returns why training is over, or None; `measured` is the last validation, {} if none."""
        if self.max_steps is not None and step >= self.max_steps:
            return f"trainer.max_steps={self.max_steps} reached"
        if self.max_seconds is not None and seconds >= self.max_seconds:
            return f"trainer.max_time={format_duration(self.max_seconds)} used up"
        if self.targets and measured and all(t.is_reached(measured) for t in self.targets):
            return f"trainer.stop_at reached ({', '.join(map(str, self.targets))})"
        return None

    def seconds_left(self, step: int, seconds: float, steps_per_second: float) -> float:
        """Returns the expected rest of the training time; infinite while the rate is unknown."""
        left = float("inf")
        if self.max_steps is not None and steps_per_second > 0:
            left = (self.max_steps - step) / steps_per_second
        if self.max_seconds is not None:
            left = min(left, self.max_seconds - seconds)
        return max(left, 0.0)


class Clock:
    """Seconds of training alone: it stands during evaluation, logs and checkpoints."""

    def __init__(self, seconds: float, device: torch.device):
        self._before = seconds
        self.device = device
        self._started: float | None = None

    @property
    def seconds(self) -> float:
        """Returns the seconds so far, running or not."""
        running = 0.0 if self._started is None else time.perf_counter() - self._started
        return self._before + running

    def start(self) -> None:
        """Starts counting; the device has nothing queued that belongs to something else."""
        self._synchronize()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Stops counting, after the device has done what the steps asked of it."""
        self._synchronize()
        self._before, self._started = self.seconds, None

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

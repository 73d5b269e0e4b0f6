"""One live line about a run: step, rate, samples a second, losses, measures and the time left.

On a terminal the line stays in place; elsewhere (a file, a pipe) a plain line comes now and then.
"""

import time
from collections import deque
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.text import Text

from nfields.budget import format_duration

LIVE_SECONDS = 0.2  # between two updates of the line; each costs about a millisecond
BAR_WIDTH = 16
HIDDEN = ("step", "seconds", "lr", "samples", "items")  # logged, but no news on the line


class Progress:
    """Draws from the loop itself, without a thread that would compete with training."""

    def __init__(self, console: Console, plain_seconds: float):
        self._console = console
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._every = LIVE_SECONDS if self._live is not None else plain_seconds
        self._next = 0.0
        self._history: deque[tuple[float, int, int]] = deque(maxlen=16)

    def __enter__(self) -> "Progress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def note(self, text: str) -> None:
        """Prints a line that stays, above the live one."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def is_due(self) -> bool:
        """Says whether it is time for a new line; costs a fraction of a microsecond."""
        return time.perf_counter() >= self._next

    def rate(self, seconds: float, step: int, num_samples: int) -> tuple[float, float]:
        """Returns steps and samples per second of training, over the last few updates."""
        self._history.append((seconds, step, num_samples))
        first_seconds, first_step, first_samples = self._history[0]
        elapsed = seconds - first_seconds
        if elapsed <= 0:
            return 0.0, 0.0
        return (step - first_step) / elapsed, (num_samples - first_samples) / elapsed

    def show(
        self,
        *,
        step: int,
        used: float,
        steps_per_second: float,
        samples_per_second: float,
        seconds_left: float,
        values: Mapping[str, float],
    ) -> None:
        """Draws the line; `used` is the used part of the budget in [0, 1]."""
        self._next = time.perf_counter() + self._every
        rates = f"{steps_per_second:.1f} steps/s  {_short(samples_per_second)} samples/s"
        # What a narrow terminal cuts off comes last; one named loss alone equals the total.
        terms = [name for name in values if name.startswith("loss_")]
        names = [name for name in values if name not in (*HIDDEN, *terms)]
        names += terms if len(terms) > 1 else []
        numbers = "  ".join(f"{name} {values[name]:.4g}" for name in names)
        left = f"{format_duration(seconds_left)} left" if seconds_left < 1e8 else ""
        parts = [left, f"step {step:,}", rates if steps_per_second > 0 else "", numbers]
        text = "  ".join(part for part in parts if part)
        if self._live is None:
            self.note(f"{used:4.0%}  {text}")
            return
        filled = round(used * BAR_WIDTH)
        bar = Text("━" * filled, style="green") + Text("━" * (BAR_WIDTH - filled), style="dim")
        line = bar + Text(f" {used:4.0%}  {text}")
        line.no_wrap, line.overflow = True, "ellipsis"
        self._live.update(line, refresh=True)


def _short(number: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return f"{number:.0f}"

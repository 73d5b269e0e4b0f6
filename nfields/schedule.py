"""The learning rate over a run: a linear warm-up in steps, then decay by the used budget.

    factor(p, s) = min(1, (s + 1) / (warmup_steps + 1)) * decay(x),
    x = (p - decay_start) / (1 - decay_start), at least 0,
    decay(x) = final_lr_factor^x                                          exponential
             = final_lr_factor + (1 - final_lr_factor) (1 + cos(pi x)) / 2      cosine

with p in [0, 1] the used fraction of the budget and s the number of steps done.
"""

import math
from dataclasses import dataclass
from typing import Literal

from nfields.errors import ConfigError


@dataclass(frozen=True)
class Schedule:
    """A factor on every group's learning rate."""

    warmup_steps: int
    decay: Literal["constant", "exponential", "cosine"]
    decay_start: float
    final_lr_factor: float

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ConfigError(f"trainer.warmup_steps={self.warmup_steps} must be at least 0")
        if self.decay not in ("constant", "exponential", "cosine"):
            raise ConfigError(
                f"trainer.decay={self.decay!r} must be constant, exponential or cosine"
            )
        if not 0 <= self.decay_start <= 1:
            raise ConfigError(
                f"trainer.decay_start={self.decay_start} must be in [0, 1], a part of the budget"
            )
        if not 0 <= self.final_lr_factor <= 1:
            raise ConfigError(f"trainer.final_lr_factor={self.final_lr_factor} must be in [0, 1]")
        if self.decay == "exponential" and self.final_lr_factor == 0:
            raise ConfigError(
                "trainer.final_lr_factor=0 is out of reach of trainer.decay=exponential; "
                "use 0.01 or trainer.decay=cosine"
            )

    def factor(self, progress: float, step: int) -> float:
        """Returns what to multiply the initial learning rates with, in [0, 1]."""
        warmup = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.decay == "constant" or progress <= self.decay_start:
            return warmup
        x = (progress - self.decay_start) / (1 - self.decay_start)
        if self.decay == "exponential":
            return warmup * self.final_lr_factor**x
        return warmup * (
            self.final_lr_factor + (1 - self.final_lr_factor) * (1 + math.cos(math.pi * x)) / 2
        )

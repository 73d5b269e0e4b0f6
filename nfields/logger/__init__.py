"""Where the numbers of a run go. metrics.jsonl is always written; others are chosen by config.

A new logger is one file here and one yaml in configs/logger, which puts it under its own name:
`logger=tensorboard`, `logger=[tensorboard,wandb]`. The trainer gets the instances of cfg.logger's
values.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from nfields.run_folder import RunFolder


class Logger(ABC):
    """Receives flat lines of numbers at a step: seconds, loss, measures, validation_* and lr."""

    @abstractmethod
    def start(self, run: RunFolder, step: int) -> None:
        """Opens the log of a run whose first `step` steps are done; later entries are dropped."""

    @abstractmethod
    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Records the values of one line; `step` never decreases."""

    @abstractmethod
    def close(self) -> None:
        """Writes out what is left; called however training ended."""

"""Ctrl-C and SIGTERM: the first asks training to stop after its step, the second stops at once."""

import shlex
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any


class TrainingInterrupted(Exception):
    """Training stopped on request and was saved; its text holds the command that resumes it.

    The command line prints the text and exits with `exit_code` (130 Ctrl-C, 143 SIGTERM).
    """

    def __init__(self, signal_number: int, step: int, run_folder: Path):
        name = "Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name
        super().__init__(
            f"stopped by {name} and saved at step {step}; go on with\n"
            f"    python train.py resume={shlex.quote(str(run_folder))}"
        )
        self.exit_code = 128 + signal_number
        self.step = step
        self.run_folder = run_folder


class Interrupt:
    """Notes signals while it is entered; without effect outside the main thread.

    `announce` is told, once, that the first signal was heard.
    """

    def __init__(self, announce: Callable[[str], None]):
        self.signal_number: int | None = None
        self._announce = announce
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.signal_number is not None:
            self._restore()
            raise KeyboardInterrupt
        self.signal_number = number
        self._announce("stopping: finishing this step, then saving (again: stop at once, unsaved)")

    def _restore(self) -> None:
        while self._previous:
            number, handler = self._previous.popitem()
            signal.signal(number, handler)

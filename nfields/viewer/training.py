"""A live view of a training: drawn between two steps, within a share of the time.

The clock of the training stands meanwhile. What goes wrong in the view is told once and the
training goes on; a training that was paused in a browser goes on when no browser is left.
"""

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Literal

from nfields.model.field import Field
from nfields.run_folder import RunFolder
from nfields.task.task import Task
from nfields.viewer.command import add_photographs, open_page
from nfields.viewer.page import Page
from nfields.viewer.panel import TrainingPanel

PORT = 8080
SHARE = 0.25  # of the time that pictures take at most, while the training is not paused
_REFRESH_SECONDS = 2.0  # between pictures of a camera that stands still, as the field gets better
_WORK_SECONDS = 0.1  # of work at a time: the first picture of a move fits


class TrainingView:
    """A page that the training loop gives some of its time."""

    def __init__(
        self,
        task: Task,
        model: Field,
        run: RunFolder,
        *,
        port: int,
        note: Callable[[str], None],
        share: float = SHARE,
    ):
        background: Literal["white", "black"] = "white"
        self._page, panel = open_page(
            task, model, run, host="127.0.0.1", port=port, background=background
        )
        add_photographs(panel, task, None)
        self._panel = TrainingPanel(self._page)
        self._note, self._share = note, share
        self._next_work = self._next_refresh = 0.0
        self._told: str | None = None
        note(f"live view: {self._page.address}")

    @property
    def page(self) -> Page:
        """What the browsers see."""
        return self._page

    @property
    def is_paused(self) -> bool:
        """True from a click on pause to one on continue, while somebody looks."""
        return self._panel.is_paused and self._page.has_browsers

    @is_paused.setter
    def is_paused(self, value: bool) -> None:
        self._panel.is_paused = value

    def is_due(self) -> bool:
        """True if there is something to draw and time for it. Costs a microsecond."""
        now = time.perf_counter()
        if self._panel.is_paused:
            return True
        if now < self._next_work or not self._page.has_browsers:
            return False
        return self._page.has_work or now >= self._next_refresh

    def work(
        self,
        step: int,
        seconds: float,
        values: Mapping[str, float],
        evaluated: Callable[[], AbstractContextManager[None]],
        is_over: Callable[[], bool],
    ) -> None:
        """Draws for a while; while it is paused, until it goes on or `is_over`."""
        started, worked = time.perf_counter(), _WORK_SECONDS
        try:
            with evaluated():
                self._panel.show(step, seconds, values)
                if started >= self._next_refresh and not self._page.has_work:
                    self._page.refresh()
                    self._next_refresh = started + _REFRESH_SECONDS
                self._page.work(_WORK_SECONDS)
                worked = time.perf_counter() - started
                while self.is_paused and not is_over():
                    self._page.work(_WORK_SECONDS)
                    if not self._page.has_work:
                        self._page.wait(_WORK_SECONDS)
        except Exception as error:  # whatever it is, the training is worth more
            self._tell(f"{type(error).__name__}: {error}")
        if self._page.last_error is not None:
            self._tell(self._page.last_error)
        # A pause is not held against the view.
        self._next_work = time.perf_counter() + worked * (1 - self._share) / self._share

    def _tell(self, message: str) -> None:
        if message != self._told:
            self._told = message
            self._note(f"live view: {message} (the training goes on)")

    def close(self) -> None:
        """Ends the page."""
        try:
            self._page.close()
        except Exception as error:
            self._tell(f"{type(error).__name__}: {error}")

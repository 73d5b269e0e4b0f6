"""The progress line: what it says on a terminal and elsewhere, and what it costs."""

import io
import time
from typing import Any

import pytest
from rich.console import Console

from nfields.progress import Progress

VALUES = {"loss": 0.0123456, "loss_color": 0.0123456, "psnr": 27.3111, "samples": 1e5, "lr": 0.1}


def show(progress: Progress, **changes: Any) -> None:
    line: dict[str, Any] = {
        "step": 1234,
        "used": 0.25,
        "steps_per_second": 7.12,
        "samples_per_second": 0.95e6,
        "seconds_left": 75.0,
        "values": VALUES,
    }
    progress.show(**(line | changes))


def plain_console() -> tuple[Console, io.StringIO]:
    text = io.StringIO()
    return Console(file=text, force_terminal=False, width=80), text


def test_plain_line_says_everything_in_one_line() -> None:
    console, text = plain_console()
    with Progress(console, plain_seconds=0.0) as progress:
        show(progress)
    assert text.getvalue() == (
        " 25%  1m15s left  step 1,234  7.1 steps/s  950.00 k samples/s  loss 0.01235  psnr 27.31\n"
    )


def test_named_losses_are_shown_if_there_are_several() -> None:
    console, text = plain_console()
    with Progress(console, plain_seconds=0.0) as progress:
        show(progress, values=VALUES | {"loss_distortion": 0.001})
    assert "psnr 27.31  loss_color 0.01235  loss_distortion 0.001\n" in text.getvalue()


def test_unknown_rate_and_time_are_left_out() -> None:
    console, text = plain_console()
    with Progress(console, plain_seconds=0.0) as progress:
        show(progress, steps_per_second=0.0, seconds_left=float("inf"), values={})
    assert text.getvalue() == " 25%  step 1,234\n"


def test_live_line_stays_on_a_terminal_and_notes_stay_above() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=60, _environ={"TERM": "xterm"})
    with Progress(console, plain_seconds=5.0) as progress:
        show(progress, values=dict.fromkeys("abcdefghijklmnopq", 1.0))
        progress.note("a note [with] brackets")
    output = text.getvalue()
    assert "a note [with] brackets" in output
    assert "25%" in output and "\n" not in output.split("25%")[1].split("step")[0]


def test_line_is_due_after_the_interval() -> None:
    console, _ = plain_console()
    progress = Progress(console, plain_seconds=0.05)
    assert progress.is_due()
    show(progress)
    assert not progress.is_due()
    time.sleep(0.06)
    assert progress.is_due()


def test_rate_is_that_of_the_last_updates() -> None:
    console, _ = plain_console()
    progress = Progress(console, plain_seconds=0.0)
    assert progress.rate(0.0, 0, 0) == (0.0, 0.0)
    assert progress.rate(2.0, 10, 1000) == (5.0, 500.0)
    for update in range(1, 40):
        progress.rate(2.0 + update, 10 + 20 * update, 0)
    assert progress.rate(42.0, 10 + 20 * 40, 0)[0] == pytest.approx(20.0)

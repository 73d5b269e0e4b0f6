"""The command view: a stored run in the browser."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console

from nfields.checkpoint import read_state
from nfields.config_check import raise_problems
from nfields.errors import ConfigError, DataError
from nfields.key_values import find_run, option_problems, read_words
from nfields.render.paths import up_direction
from nfields.run import train
from nfields.run_folder import RunFolder
from nfields.stored_run import load_run
from nfields.task.task import Task
from nfields.viewer.page import Page, require_free_port, require_viser
from nfields.viewer.panel import Panel, StartPanel
from nfields.viewer.subject import Subject

HELP = """\
usage: view.py run=FOLDER|latest [key=value ...]

Layers, photographs, a crop box, a camera path to render; "train longer" goes on with the training,
which can be watched and paused.

  run=FOLDER        the run folder that train.py named; latest: the last one under outputs/
  port=8080         where the browser finds the view
  host=127.0.0.1    this machine only; host=0.0.0.0 lets everybody in the network look
  background=white  behind transparent scenes: white or black
  device=auto       auto, cpu or cuda
  data.path=...     where the data set is now, for the small photographs; the view works without"""

_STEP_SECONDS = 0.2  # of work between two looks at Ctrl-C


def main(words: Sequence[str]) -> None:
    """The command view: serves a page until Ctrl-C."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not words or set(words) & {"-h", "--help", "help"}:
        console.print(HELP)
        return
    given = read_words(words)
    raise_problems(option_problems(given.options, [view], "view"))
    view(given.overrides, console, **given.options)


def view(
    overrides: Sequence[str],
    console: Console,
    *,
    run: str,
    port: int = 8080,
    host: str = "127.0.0.1",
    background: Literal["white", "black"] = "white",
    device: str = "auto",
) -> None:
    """Serves the page of a run, and trains it longer when somebody asks for it there.

    `overrides` change the run's configuration.
    """
    require_viser()
    require_free_port(host, port)
    folder, message = find_run(run), ""
    while True:
        read_state(folder.checkpoint)
        stored = load_run(folder.path, overrides=overrides, device=device)
        stored.task.eval()
        stored.model.eval()
        page, panel = open_page(
            stored.task, stored.model, folder, host=host, port=port, background=background
        )
        pictures = pictures_of(folder, overrides, console)
        add_photographs(panel, stored.task, pictures)
        start = StartPanel(page, message or ("" if pictures else "the data set is not at hand"))
        console.print(f"look at {page.address}   (Ctrl-C ends the view)")
        seconds = _serve(page, start, console)
        words = [*overrides, f"trainer.viewer={port}"]
        words += [] if device == "auto" else [f"trainer.device={device}"]
        message = train_longer(folder, seconds, words, console)


def _serve(page: Page, start: StartPanel, console: Console) -> float:
    """Draws until somebody wants so many seconds of training; ends the page."""
    told: str | None = None
    try:
        while start.wanted_seconds is None:
            page.work(_STEP_SECONDS)
            if page.last_error is not None and page.last_error != told:
                told = page.last_error
                console.print(f"error: {told}")
            if not page.has_work:
                page.wait(_STEP_SECONDS)
        return start.wanted_seconds
    finally:
        page.close()


def train_longer(
    folder: RunFolder, seconds: float, overrides: Sequence[str], console: Console
) -> str:
    """Goes on with a run for so many seconds, evaluates it; what prevented it, or ""."""
    total = read_state(folder.checkpoint)["seconds"] + seconds
    budget = [f"trainer.max_time={total:.3f}", "trainer.max_steps=null", "trainer.stop_at={}"]
    try:
        train([f"resume={folder.path}", *budget, *overrides])
    except (ConfigError, DataError) as error:
        console.print(f"error: {error}")
        return str(error)
    return ""


def open_page(
    task: Task,
    model: Any,
    folder: RunFolder,
    *,
    host: str,
    port: int,
    background: Literal["white", "black"],
) -> tuple[Page, Panel]:
    """The page of a run, with its panel."""
    cameras = getattr(task.data, "cameras", {})
    views = cameras.get("train", next(iter(cameras.values()), None))
    up = np.array([0.0, 1.0, 0.0]) if not views else up_direction(views)
    # Photographs have black behind them, and white holes in a reprojected one would flash.
    level = 255 if background == "white" and getattr(task.data, "has_alpha", True) else 0
    page = Page(
        Subject(task, model, background), cameras, host=host, port=port, up=up,
        title=f"nfields {folder.path.name}", background=(level, level, level),
    )  # fmt: skip
    panel = Panel(
        page,
        half_size=float(getattr(task.data, "aabb_scale", 1)),
        transform=getattr(task.data, "transform", None),
        run_folder=folder.path,
    )
    return page, panel


def pictures_of(folder: RunFolder, overrides: Sequence[str], console: Console) -> Any:
    """The data of the run with its pictures, None where they are not at hand."""
    try:
        return load_run(folder.path, needs_images=True, overrides=overrides, device="cpu").data
    except (ConfigError, DataError) as error:
        console.print(f"without photographs: {str(error).splitlines()[0]}")
        return None


def add_photographs(panel: Panel, task: Task, data: Any) -> None:
    """The training cameras as frusta; with small pictures where `data` has them."""
    source = task.data if data is None else data
    cameras = getattr(source, "cameras", {}).get("train")
    if cameras is None or len(cameras) == 0 or not cameras.is_perspective:
        return
    images = getattr(source, "images", None)
    panel.add_photographs(
        cameras.to(torch.device("cpu")), None if images is None else images["train"],
        source.names["train"],
    )  # fmt: skip

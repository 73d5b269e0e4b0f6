"""What every export is: options in the constructor, a stored run in, files out.

`what=video` is configs/export/video.yaml and nfields/export/video.py; a new export is two such
files.
"""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from rich.console import Console
from torch import Tensor

from nfields.errors import ConfigError
from nfields.model.field import Field
from nfields.render.cameras import Cameras
from nfields.render.surface import Surface
from nfields.stored_run import StoredRun


class Export(ABC):
    """A contract without behaviour; options are keyword-only arguments of the constructor."""

    @abstractmethod
    def export(self, run: StoredRun) -> list[Path]:
        """Writes the files of a run and returns them. The data of the run has no images."""


def say(text: str) -> None:
    """Tells the user something beside the files, on the error stream."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text)


class ExportInterrupted(Exception):
    """An export stopped on request; its text says what is kept and how to go on."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


@runtime_checkable
class RendersViews(Protocol):
    """What a task offers that can show its field through cameras."""

    def render_view(
        self, model: Field, cameras: Cameras, view: int, background: str | None = None
    ) -> dict[str, Tensor]:
        """The picture of a view: rgb (h, w, 3) in [0, 1], depth (h, w) along the ray, opacity (h,
        w); perhaps normals (h, w, 3), unit, in the world's axes.
        """
        ...


@runtime_checkable
class HasSurface(Protocol):
    """What a task offers whose field has a surface."""

    def surface(self, model: Field) -> Surface:
        """The surface, as a function that is zero there."""
        ...


@runtime_checkable
class RendersPicture(Protocol):
    """What a task offers whose field is a picture; its data says size, channels and transfer."""

    def render_rows(
        self, model: Field, first: int, last: int, width: int, height: int
    ) -> Float[np.ndarray, "rows width c"]:
        """Rows first .. last - 1 of the picture at any size; values as the model gives them."""
        ...


def surface_task(run: StoredRun, what: str) -> HasSurface:
    """The run's task, set to evaluation; a ConfigError that names `what` if without a surface."""
    task = run.task
    if not isinstance(task, HasSurface):
        raise ConfigError(
            f"what={what} needs a task with a surface, such as task=sdf; {run.folder.path} is of "
            f"task={run.config.choices.task}"
        )
    run.task.eval()
    run.model.eval()
    return task


def surface_of(run: StoredRun, what: str) -> Surface:
    """The surface of a run as it is evaluated; a ConfigError that names `what` if it has none."""
    return surface_task(run, what).surface(run.model)

"""A film of a fit: small pictures at steps that grow like powers of two, and their video.

A fit changes most at the start, so the frames lie evenly on the logarithm of the step. Which steps
have one follows from the step alone: a resumed training goes on with the sequence, and the frames
it repeats replace those that were there. Each is a file of its own, snapshots/step_00000128.png,
and the film, snapshots/fit.mp4, is made of all of them at the end.
"""

import math
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from nfields.errors import DataError
from nfields.export.encode import encode
from nfields.export.film import even_size, frame_file
from nfields.export.picture import labelled, save_png
from nfields.model.field import Field

_FPS = 12
_HOLD = 18  # times that the last frame is shown


@runtime_checkable
class TakesSnapshots(Protocol):
    """What a task offers that can show how far a fit is, while it is trained."""

    def snapshot(self, model: Field) -> UInt8[np.ndarray, "h w 3"]:
        """A small picture, made in a moment; of the same size every time."""
        ...


@dataclass(frozen=True)
class FitFilm:
    """The frames of a fit in a folder; `per_doubling` of them while the number of steps doubles."""

    folder: Path
    per_doubling: int

    def is_due(self, step: int) -> bool:
        """True for step 0 and the whole numbers nearest to 2^(k / per_doubling), k = 0, 1, ..."""
        if step == 0:
            return True
        k = round(self.per_doubling * math.log2(step))
        return round(2 ** (k / self.per_doubling)) == step

    def forget_after(self, step: int) -> None:
        """Removes frames of later steps: those of a training that went on and was not saved."""
        for file in self._frames():
            if int(file.stem.removeprefix("step_")) > step:
                file.unlink()

    def add(self, step: int, seconds: float, picture: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes a frame, with the step and the seconds of training above it."""
        frame = labelled(picture, f"step {step:,}   {seconds:.1f} s")
        save_png(self.folder / f"step_{step:08d}.png", even_size(frame))

    def make(self, announce: Callable[[str], None]) -> Path:
        """The film of the frames there are; the last one stays for a moment."""
        frames = self._frames()
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            numbered = Path(name)
            for i, file in enumerate(frames + frames[-1:] * _HOLD):
                shutil.copyfile(file, frame_file(numbered, i))
            num = len(frames) + _HOLD
            return encode(numbered, num, self.folder / "fit.mp4", _FPS, announce)

    def make_or_say_why_not(self, announce: Callable[[str], None]) -> None:
        """The film, at the end of a training, which must not be lost for it."""
        try:
            announce(f"film of the fit: {self.make(announce)}")
        except (DataError, OSError) as error:
            announce(f"no film of the fit: {error}")

    def _frames(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.png"))

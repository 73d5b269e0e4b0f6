"""A camera in, better and better pictures out: the view without a browser.

A request is answered by a generator of steps. Each step takes about `STEP_SECONDS` and gives a
picture, or None where a picture needs more steps. Who shows the pictures stops asking when the
camera has moved: that is all it takes to cancel. So one thread serves several browsers in turn, and
a training between two of its steps.

    1  the last picture seen from the new place (reproject_cpu.py), if it is sharper than step 2
    2  as many pixels as fit the budget, from 1/16 of the width up to all of them
    3  twice the width, and so on, up to full size

The same request again, as the field has changed, goes to full size at once: what is shown stays
until then.
"""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nfields.render.cameras import Cameras
from nfields.render.path_file import pinhole_cameras
from nfields.viewer.reproject_cpu import warp

Array = np.ndarray

BUDGET_SECONDS = 0.05  # of the first rendered picture: with its way to the browser, 15 a second
STEP_SECONDS = 0.02  # of a step: what a move, or a training, waits for at most
_COARSEST = 16  # parts of the width and height
_MEASURE_PIXELS = 2048  # fewer say nothing about the speed, only that it is not slower
_MIN_SEEN = 0.6  # part of the surfaces' pixels that must still be there in a reprojected picture


@dataclass(frozen=True)
class Look:
    """What is drawn: one view's colours (8 bit) and its depth along the ray, infinite: nothing."""

    rgb: UInt8[Array, "h w 3"]
    depth: Float[Array, "h w"]


Draw = Callable[[Cameras], Look]
"""Draws the only view of some cameras."""


@dataclass(frozen=True, eq=False)
class Request:
    """A picture that is wanted: perspective, with square pixels."""

    camera_to_world: Float[Array, "4 4"]
    fov_deg: float  # vertical, full angle
    width: int
    height: int
    style: object = None  # whatever else decides the picture; another one: nothing is reprojected

    def cameras(self, width: int, height: int) -> Cameras:
        """The camera in another size."""
        pose = self.camera_to_world[None].astype(np.float64)
        return pinhole_cameras(pose, np.array([self.fov_deg]), width, height)


@dataclass(frozen=True)
class Picture:
    """An answer: `scale` is the width rendered as a part of the width wanted."""

    look: Look
    scale: float
    is_reprojected: bool
    is_final: bool


class Engine:
    """Answers requests; keeps the last picture and how long a pixel takes."""

    def __init__(
        self,
        draw: Draw,
        *,
        background: tuple[int, int, int] = (255, 255, 255),
        budget_seconds: float = BUDGET_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._draw, self._clock = draw, clock
        self._background = np.array(background, np.uint8)
        self._budget = budget_seconds
        self._pixel_seconds: float | None = None
        self._is_warm = False  # the first picture compiles kernels, which is no measure
        self._last: tuple[Request, Look, float] | None = None  # with its scale

    def answer(self, request: Request) -> Iterator[Picture | None]:
        """Pictures of a request, worst first; None: one more step is done."""
        width, height = request.width, request.height
        scale = self._first_scale(width * height)
        if self._is_shown(request):
            scale = 1.0
        elif (seen := self._reprojected(request, scale)) is not None:
            yield Picture(seen[0], seen[1], is_reprojected=True, is_final=False)
            scale = max(scale, seen[1] / 2)  # anything coarser would look worse than what is shown
        while True:
            size = max(1, round(scale * width)), max(1, round(scale * height))
            parts = []
            for part in self._parts(request, *size):
                if parts:
                    yield None
                parts.append(part())
            look = Look(
                np.concatenate([part.rgb for part in parts]),
                np.concatenate([part.depth for part in parts]),
            )
            self._last = request, look, scale
            yield Picture(look, scale, is_reprojected=False, is_final=scale >= 1)
            if scale >= 1:
                return
            scale = min(1.0, max(2 * scale, self._first_scale(width * height)))

    def _first_scale(self, num_pixels: int) -> float:
        if self._pixel_seconds is None:
            return 1 / _COARSEST
        fits = (self._budget / (self._pixel_seconds * num_pixels)) ** 0.5
        return 1.0 if fits >= 1 else max(1 / _COARSEST, 0.5 ** math.ceil(math.log2(1 / fits)))

    def _parts(self, request: Request, width: int, height: int) -> Iterator[Callable[[], Look]]:
        """Bands of rows, each of about STEP_SECONDS."""
        cameras = request.cameras(width, height)
        row = 0
        while row < height:
            rows = height
            if self._pixel_seconds is not None:
                rows = int(STEP_SECONDS / (self._pixel_seconds * width))
            rows = min(max(rows, 8), height - row)
            if height - row - rows < 8:
                rows = height - row
            yield lambda first=row, count=rows: self._band(cameras, first, count)
            row += rows

    def _band(self, cameras: Cameras, first: int, count: int) -> Look:
        width, _ = cameras.size(0)
        band = replace(
            cameras,
            center=cameras.center - torch.tensor([0.0, first]),
            sizes=torch.tensor([[width, count]]),
        )
        started = self._clock()
        look = self._draw(band)
        seconds = (self._clock() - started) / (width * count)
        if not self._is_warm:
            self._is_warm = True
            return look
        known = self._pixel_seconds
        if known is None:
            self._pixel_seconds = seconds
        elif seconds < known or width * count >= _MEASURE_PIXELS:
            self._pixel_seconds = 0.5 * (known + seconds)
        return look

    def _is_shown(self, request: Request) -> bool:
        """True if the last picture is a finished one of the same request."""
        if self._last is None or self._last[2] < 1:
            return False
        last = self._last[0]
        return np.array_equal(last.camera_to_world, request.camera_to_world) and (
            last.fov_deg,
            last.width,
            last.height,
            last.style,
        ) == (request.fov_deg, request.width, request.height, request.style)

    def _reprojected(self, request: Request, scale: float) -> tuple[Look, float] | None:
        """The last picture from the new place, in its own size, and its scale.

        None if it is not sharper than `scale`, or shows too little of the new place.
        """
        if self._last is None or self._last[0].style != request.style or self._last[2] <= scale:
            return None
        last, look, scale = self._last
        if (last.width, last.height) != (request.width, request.height):
            return None
        height, width = look.depth.shape
        rgb = np.zeros((height, width, 3), np.uint8)
        depth = np.zeros((height, width), np.float32)
        seen = warp(
            look.rgb, look.depth, last.camera_to_world[:3], _focal(last.fov_deg, height),
            request.camera_to_world[:3], _focal(request.fov_deg, height), self._background, rgb,
            depth,
        )  # fmt: skip
        # Surfaces fill about as many pixels as before, unless they have moved out of the view.
        before = np.isfinite(look.depth).sum()
        return (Look(rgb, depth), scale) if seen >= max(_MIN_SEEN * before, 1) else None


def _focal(fov_deg: float, height: int) -> float:
    return 0.5 * height / float(np.tan(0.5 * np.radians(fov_deg)))


def look_of(view: dict[str, Tensor], rgb: UInt8[Array, "h w 3"]) -> Look:
    """Colours with the depth of a rendered view."""
    return Look(rgb, view["depth"].cpu().numpy().astype(np.float32))

"""The page in the browser (viser): pictures out, cameras in.

viser's threads only note what is wanted; every picture is drawn by whoever calls `work`: the main
thread of nfields view, or the trainer between two steps. So nothing is drawn while weights change,
and a page that fails or hangs holds nobody up.
"""

import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from typing import Any, Protocol, runtime_checkable

import numpy as np

from nfields.errors import ConfigError
from nfields.render.cameras import Cameras
from nfields.viewer.engine import Engine, Look, Picture, Request

Array = np.ndarray

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])  # viser's cameras look along +z with y down


def require_viser() -> Any:
    """The module viser, or a ConfigError that says how to get it."""
    try:
        import viser
    except ImportError as error:
        raise ConfigError(
            "the live view needs viser; install it with: pip install 'nfields[viewer]'"
        ) from error
    return viser


def require_free_port(host: str, port: int) -> None:
    """Raises ConfigError if nobody can listen there, with a port that is free."""
    if not 1 <= port <= 65535:
        raise ConfigError(f"port={port} must lie in 1..65535")
    try:
        with socket.socket() as test:
            test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            test.bind((host, port))
    except OSError as error:
        with socket.socket() as test:
            test.bind(("127.0.0.1", 0))
            free = test.getsockname()[1]
        raise ConfigError(
            f"host={host} port={port} cannot be used: {error.strerror}; another program may have "
            f"it, such as another view. Take another port, for example port={free}"
        ) from error


@runtime_checkable
class IsDrawn(Protocol):
    """What is looked at: nfields.viewer.subject.Subject, or a scene of a test."""

    can_crop: bool

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers there are."""
        ...

    def draw(self, cameras: Cameras, layer: Any, crop: Any) -> Look:
        """One view's layer, within a crop box (2, 3) or None."""
        ...


@dataclass
class Style:
    """What all browsers see: the layer, the crop box, and how large a picture is drawn."""

    layer: str = "color"
    crop: tuple[tuple[float, ...], tuple[float, ...]] | None = None  # lowest, highest
    max_size: int = 512
    version: int = 0  # of the weights: a new one asks for a new picture

    def key(self) -> tuple[object, ...]:
        """What a picture depends on, but the camera and the weights."""
        return self.layer, self.crop


@dataclass
class _Browser:
    client: Any
    engine: Engine
    wanted: Request | None = None
    begun: Request | None = None
    job: Iterator[Picture | None] = field(default_factory=lambda: iter(()))
    is_done: bool = True


class Page:
    """A server with the views of a subject; `close` ends it."""

    def __init__(
        self,
        subject: IsDrawn,
        cameras: Mapping[str, Cameras],
        *,
        host: str,
        port: int,
        up: Array,
        title: str,
        background: tuple[int, int, int],
    ):
        viser = require_viser()
        require_free_port(host, port)
        # A browser that goes away is no news.
        logging.getLogger("websockets").setLevel(logging.ERROR)
        self.subject, self.style, self._background = subject, Style(), background
        with redirect_stdout(StringIO()):  # viser announces itself in a box of its own
            self.server = viser.ViserServer(host=host, port=port, label=title, verbose=False)
        self.address = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"
        self.frames = 0  # pictures sent, to measure with
        self.shows_objects = False  # they need the depth of the picture, to be hidden by it
        self.last_error: str | None = None
        self._browsers: dict[int, _Browser] = {}
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._place_first_camera(cameras, up)
        self.server.on_client_connect(self._connect)
        self.server.on_client_disconnect(self._disconnect)

    def close(self) -> None:
        """Ends the server and its threads."""
        with redirect_stdout(StringIO()):
            self.server.stop()

    # ---- what viser's threads call ------------------------------------------------------------

    def _place_first_camera(self, cameras: Mapping[str, Cameras], up: Array) -> None:
        self.server.scene.set_up_direction(tuple(up))
        first = self.server.initial_camera
        for split in ("test", "train", *cameras):
            if split in cameras and len(cameras[split]):
                pose = cameras[split].camera_to_world[0].double().numpy()
                height, focal = float(cameras[split].sizes[0, 1]), float(cameras[split].focal[0, 1])
                first.position = tuple(pose[:, 3])
                # Orbits turn around the point that is looked at: as far as the origin, at least 1.
                distance = max(-float(pose[:, 2] @ -pose[:, 3]), 1.0)
                first.look_at = tuple(pose[:, 3] - distance * pose[:, 2])
                first.fov = 2 * float(np.arctan(0.5 * height / focal))
                return
        first.position, first.look_at = (2.0, 1.2, 2.0), (0.0, 0.0, 0.0)
        first.fov = float(np.radians(40))

    def _connect(self, client: Any) -> None:
        browser = _Browser(client, Engine(self._draw, background=self._background))
        with self._lock:
            self._browsers[client.client_id] = browser
        client.camera.on_update(lambda _: self._moved(browser))
        self._moved(browser)

    def _disconnect(self, client: Any) -> None:
        with self._lock:
            self._browsers.pop(client.client_id, None)

    def _moved(self, browser: _Browser) -> None:
        browser.wanted = self.request_of(browser.client)
        self._news.set()

    def refresh(self) -> None:
        """All browsers get a new picture: the style or the weights have changed."""
        self.style.version += 1
        with self._lock:
            browsers = list(self._browsers.values())
        for browser in browsers:
            self._moved(browser)

    def pose_of(self, client: Any) -> tuple[Array, float]:
        """Camera-to-world (4, 4) of our axes, and the vertical field of view in degrees."""
        from viser.transforms import SO3

        pose = np.eye(4)
        pose[:3, :3] = SO3(np.asarray(client.camera.wxyz)).as_matrix()
        pose[:3, 3] = client.camera.position
        return pose @ _FLIP, float(np.degrees(client.camera.fov))

    def request_of(self, client: Any) -> Request:
        """What a browser wants to see now."""
        pose, fov_deg = self.pose_of(client)
        width, height = client.camera.image_width, client.camera.image_height
        factor = min(1.0, self.style.max_size / max(width, height, 1))
        size = max(1, round(factor * width)), max(1, round(factor * height))
        return Request(pose, fov_deg, *size, self.style.key())

    # ---- what the drawing thread calls --------------------------------------------------------

    @property
    def has_browsers(self) -> bool:
        """True if somebody looks."""
        return bool(self._browsers)

    @property
    def has_work(self) -> bool:
        """True if a browser waits for a picture."""
        return bool(self._waiting())

    def wait(self, seconds: float) -> bool:
        """Waits for news from a browser; False if none came."""
        found = self._news.wait(seconds)
        self._news.clear()
        return found

    def work(self, seconds: float) -> None:
        """Draws for the browsers in turn until the time is used up or nobody waits.

        What goes wrong is kept in `last_error` and shown in the browser; nothing is raised.
        """
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            waiting = self._waiting()
            if not waiting:
                return
            for browser in waiting:
                try:
                    self._advance(browser)
                except Exception as error:
                    self._failed(browser, error)

    def _waiting(self) -> list[_Browser]:
        with self._lock:
            browsers = list(self._browsers.values())
        return [b for b in browsers if b.wanted is not b.begun or not b.is_done]

    def _advance(self, browser: _Browser) -> None:
        if browser.wanted is not browser.begun and browser.wanted is not None:
            browser.begun = browser.wanted  # what was begun before is cancelled
            browser.job, browser.is_done = browser.engine.answer(browser.begun), False
        picture = next(browser.job, None)
        if picture is not None:
            browser.is_done = picture.is_final
            self._show(browser, picture)

    def _failed(self, browser: _Browser, error: Exception) -> None:
        browser.job, browser.is_done = iter(()), True
        browser.begun = browser.wanted
        self.last_error = f"{type(error).__name__}: {error}"

    def _draw(self, cameras: Cameras) -> Look:
        layer, crop = self.style.layer, self.style.crop
        box = None if crop is None else np.array(crop, np.float64)
        return self.subject.draw(cameras, layer, box)

    def _show(self, browser: _Browser, picture: Picture) -> None:
        look, request = picture.look, browser.begun
        assert request is not None
        rgb = look.rgb
        if rgb.shape[0] != request.height:
            rgb = _enlarged(rgb, request.width, request.height)
        browser.client.scene.set_background_image(
            rgb, format="jpeg", jpeg_quality=90 if picture.is_final else 70,
            depth=self._plane_depth(look.depth, request) if self.shows_objects else None,
        )  # fmt: skip
        self.frames += 1

    @staticmethod
    def _plane_depth(depth: Array, request: Request) -> Array:
        """Depth along the axis, as the browser has it, of that along the ray."""
        height, width = depth.shape
        focal = 0.5 * height / np.tan(0.5 * np.radians(request.fov_deg))
        x = (np.arange(width) + 0.5 - 0.5 * width) / focal
        y = (np.arange(height) + 0.5 - 0.5 * height) / focal
        length = np.sqrt(1 + x[None] ** 2 + y[:, None] ** 2)
        return np.nan_to_num(depth / length, posinf=160.0)


def _enlarged(rgb: Array, width: int, height: int) -> Array:
    """The picture in another size, bilinear."""
    from PIL import Image

    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BILINEAR))

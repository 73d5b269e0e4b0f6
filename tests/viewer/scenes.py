"""Scenes with a closed form to look at, and a browser that only counts."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nfields.render.cameras import Cameras, view_rays
from nfields.viewer.engine import Look

Array = np.ndarray


def ball(cameras: Cameras) -> Look:
    """The unit ball, coloured by its normal, before white."""
    origins, directions = (part.double().numpy() for part in view_rays(cameras, 0))
    b = (origins * directions).sum(axis=1)
    under = b * b - (origins * origins).sum(axis=1) + 1
    t = -b - np.sqrt(np.maximum(under, 0))
    hit = (under > 0) & (t > 0)
    normal = origins + t[:, None] * directions
    width, height = cameras.size(0)
    rgb = np.where(hit[:, None], 0.5 + 0.5 * normal, 1.0)
    depth = np.where(hit, t, np.inf)
    return Look(
        np.rint(255 * rgb).astype(np.uint8).reshape(height, width, 3),
        depth.astype(np.float32).reshape(height, width),
    )


def pose_at(azimuth_deg: float, distance: float = 4.0) -> Array:
    """A camera that looks at the middle from the horizon, y up."""
    a = np.radians(azimuth_deg)
    back = np.array([np.sin(a), 0.0, np.cos(a)])
    pose = np.eye(4)
    pose[:3, 2], pose[:3, 1] = back, (0, 1, 0)
    pose[:3, 0] = np.cross(pose[:3, 1], back)
    pose[:3, 3] = distance * back
    return pose


class BallSubject:
    """What a page asks of a `Subject`, for the ball."""

    def __init__(self) -> None:
        self.can_crop = False

    @property
    def layers(self) -> tuple[str, ...]:
        """Two of them."""
        return "color", "depth"

    def draw(self, cameras: Cameras, layer: str, crop: Array | None) -> Look:
        """The ball; its depth as grey."""
        look = ball(cameras)
        if layer == "color":
            return look
        grey = np.nan_to_num(255 - 50 * look.depth, neginf=0).clip(0, 255).astype(np.uint8)
        return Look(np.repeat(grey[:, :, None], 3, axis=2), look.depth)


@dataclass
class FakeCamera:
    """A browser's camera, as viser has it."""

    wxyz: Any = (0.0, 1.0, 0.0, 0.0)  # looks along -z with y up
    position: Any = (0.0, 0.0, 4.0)
    fov: float = 0.6
    image_width: int = 64
    image_height: int = 48

    def on_update(self, function: Any) -> None:
        """Keeps what to call after a move."""
        self.moved = function


@dataclass
class FakeBrowser:
    """A browser that keeps the pictures it gets."""

    client_id: int
    breaks: bool = False
    pictures: list[Array] = field(default_factory=list)
    camera: FakeCamera = field(default_factory=FakeCamera)

    @property
    def scene(self) -> "FakeBrowser":
        """Itself."""
        return self

    def set_background_image(self, image: Array, **options: Any) -> None:
        """Takes a picture."""
        if self.breaks:
            raise ConnectionError("the browser went away")
        self.pictures.append(image)

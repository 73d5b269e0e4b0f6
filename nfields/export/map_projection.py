"""Map projections: where the pixels of a map lie on the sphere, and where a place is on the map.

Degrees north and east. Maps lie in x, y, both upwards and to the right, in units of the sphere's
radius, from -extent to extent.

    Mollweide (equal areas)   x = 2 sqrt 2 / pi  lon cos t,  y = sqrt 2 sin t,
                              2 t + sin 2 t = pi sin(lat)
    orthographic              the sphere seen from far above (lat0, lon0): the half that is seen
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Degrees = Float[np.ndarray, "*shape"]
Plane = Float[np.ndarray, "*shape"]

_EDGE = 1 + 1e-12  # of the outline: what rounding puts beyond it is on it


class Pixels(NamedTuple):
    """Latitudes and longitudes of the centres of a map's pixels, NaN outside the map."""

    latitudes: Float[np.ndarray, "h w"]
    longitudes: Float[np.ndarray, "h w"]


class Projection(ABC):
    """What a map is drawn by; a contract without behaviour."""

    extent: tuple[float, float]  # of x and y: half the width and half the height

    @abstractmethod
    def forward(self, latitudes: Degrees, longitudes: Degrees) -> tuple[Plane, Plane]:
        """x, y of places; NaN for those that are not seen."""

    @abstractmethod
    def inverse(self, x: Plane, y: Plane) -> tuple[Degrees, Degrees]:
        """Latitudes and longitudes, the latter in [-180, 180); NaN outside the map."""


class Mollweide(Projection):
    """The whole sphere in an ellipse of twice the width as height; areas keep their ratios."""

    extent = (2 * math.sqrt(2), math.sqrt(2))

    def __init__(self, center: float | int = 0.0) -> None:
        self.center = center

    def forward(self, latitudes: Degrees, longitudes: Degrees) -> tuple[Plane, Plane]:
        t = _auxiliary_angle(np.radians(latitudes))
        lon = np.radians(_wrapped(longitudes - self.center))
        return 2 * math.sqrt(2) / math.pi * lon * np.cos(t), math.sqrt(2) * np.sin(t)

    def inverse(self, x: Plane, y: Plane) -> tuple[Degrees, Degrees]:
        s = y / math.sqrt(2)
        is_inside = np.abs(s) <= _EDGE
        t = np.arcsin(np.clip(s, -1, 1))
        lat = np.degrees(np.arcsin(np.clip((2 * t + np.sin(2 * t)) / math.pi, -1, 1)))
        with np.errstate(divide="ignore", invalid="ignore"):
            lon = np.degrees(math.pi * x / (2 * math.sqrt(2) * np.cos(t)))
        lon = np.where(np.cos(t) < 1e-12, 0.0, lon)
        is_inside &= np.abs(lon) <= 180 * _EDGE
        lon = _wrapped(np.clip(lon, -180, 180) + self.center)
        return np.where(is_inside, lat, np.nan), np.where(is_inside, lon, np.nan)


class Orthographic(Projection):
    """Half of the sphere in a disc, as seen from far above a place."""

    extent = (1.0, 1.0)

    def __init__(self, latitude: float | int, longitude: float | int = 0.0) -> None:
        lat, lon = math.radians(latitude), math.radians(longitude)
        self.up = np.array(
            [math.cos(lat) * math.cos(lon), math.cos(lat) * math.sin(lon), math.sin(lat)]
        )
        self.right = np.array([-math.sin(lon), math.cos(lon), 0.0])
        self.top = np.cross(self.up, self.right)

    def forward(self, latitudes: Degrees, longitudes: Degrees) -> tuple[Plane, Plane]:
        lat, lon = np.radians(latitudes), np.radians(longitudes)
        point = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
        is_seen = point @ self.up >= 0
        x, y = point @ self.right, point @ self.top
        return np.where(is_seen, x, np.nan), np.where(is_seen, y, np.nan)

    def inverse(self, x: Plane, y: Plane) -> tuple[Degrees, Degrees]:
        square = x * x + y * y
        height = np.sqrt(np.clip(1 - square, 0, None))
        point = x[..., None] * self.right + y[..., None] * self.top + height[..., None] * self.up
        lat = np.degrees(np.arcsin(np.clip(point[..., 2], -1, 1)))
        lon = _wrapped(np.degrees(np.arctan2(point[..., 1], point[..., 0])))
        is_inside = square <= _EDGE
        return np.where(is_inside, lat, np.nan), np.where(is_inside, lon, np.nan)


def pixels(projection: Projection, width: int) -> Pixels:
    """The places of a map of `width` pixels; row 0 on top."""
    half_x, half_y = projection.extent
    height = max(1, round(width * half_y / half_x))
    x = half_x * ((2 * np.arange(width) + 1) / width - 1)
    y = half_y * (1 - (2 * np.arange(height) + 1) / height)
    xs, ys = np.meshgrid(x, y)
    return Pixels(*projection.inverse(xs, ys))


def _auxiliary_angle(lat: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, "*shape"]:
    """t of 2 t + sin 2 t = pi sin(lat), to rounding.

    Newton's steps are of 1/3 of the way near the poles, where the root is triple; hence they are
    taken from the root's own expansion there, t = pi/2 - (3 pi/4 (1 - sin |lat|))^(1/3).
    """
    target = math.pi * np.abs(np.sin(lat))
    gap = np.clip(math.pi - target, 0, None)
    t = np.where(gap < 0.8, math.pi / 2 - np.cbrt(0.75 * gap), target / 4)
    for _ in range(12):
        slope = 2 + 2 * np.cos(2 * t)
        step = (2 * t + np.sin(2 * t) - target) / np.maximum(slope, 1e-12)
        t = np.clip(t - np.where(slope > 1e-9, step, 0.0), 0, math.pi / 2)
    return np.copysign(t, lat)


def _wrapped(longitudes: Degrees) -> Degrees:
    return np.mod(longitudes + 180, 360) - 180

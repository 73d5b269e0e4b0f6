"""The generated solid: a tube along a trefoil knot and a ball in its middle, exactly measured.

Notation
    c(t)   the knot, t in [0, 2 pi): ((R + a cos 3t) cos 2t, (R + a cos 3t) sin 2t, a sin 3t) turned
           about z, a curve on a torus
    r      radius of the tube, smaller than the curve's smallest radius of curvature and than half
           the distance between two of its strands

So the distance to the tube is |x - c(t*)| - r, inside as well as outside, with t* the nearest place
on the curve: found from a table, then by Newton's method on the derivative of |x - c(t)|^2. The ball
touches nothing, so the smaller of both distances is that to their union.
"""

import math

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

from nfields.data.true_surface import TrueSurface

_MAJOR, _MINOR, _TUBE, _BALL = 0.46, 0.22, 0.11, 0.09
_TABLE = 4096
_NEWTON_STEPS = 5


class KnotSurface(TrueSurface):
    """The generated solid, inside [-0.8, 0.8]^3."""

    def __init__(self) -> None:
        self.places = 2 * math.pi * np.arange(_TABLE) / _TABLE
        self.tree = KDTree(_curve(self.places)[0])

    def closest(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, " n"]]:
        axis = self._nearest_on_curve(points)
        on_tube, to_tube = _from_axis(points, axis, _TUBE)
        on_ball, to_ball = _from_axis(points, np.zeros_like(points), _BALL)
        is_tube = to_tube < to_ball
        return np.where(is_tube[:, None], on_tube, on_ball), np.where(is_tube, to_tube, to_ball)

    def nearest_normals(
        self, points: Float[np.ndarray, "n 3"]
    ) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, "n 3"]]:
        axis = self._nearest_on_curve(points)
        on_tube, to_tube = _from_axis(points, axis, _TUBE)
        on_ball, to_ball = _from_axis(points, np.zeros_like(points), _BALL)
        is_tube = (to_tube < to_ball)[:, None]
        normals = np.where(is_tube, (on_tube - axis) / _TUBE, on_ball / _BALL)
        return np.abs(np.minimum(to_tube, to_ball)), normals

    def is_inside(self, points: Float[np.ndarray, "n 3"]) -> Bool[np.ndarray, " n"]:
        return self.closest(points)[1] < 0

    def sample(
        self, num: int, random: np.random.Generator
    ) -> tuple[Float[np.ndarray, "num 3"], Float[np.ndarray, "num 3"]]:
        """Of the tube, (t, angle) are drawn and kept in proportion to the area they stand for,
        r |c'| (1 - r kappa cos(angle)).
        """
        curve, speed_vector, bend_vector = _curve(self.places)
        speed, curvature, _, _ = _frame(speed_vector, bend_vector)
        bound = float((speed * (1 + _TUBE * curvature)).max()) * 1.01
        tube_area = 2 * math.pi * _TUBE * float(speed.mean()) * 2 * math.pi
        num_ball = random.binomial(num, _BALL_AREA / (tube_area + _BALL_AREA))
        normals, centers = [], []
        missing = num - num_ball
        while missing > 0:
            t, angle = random.uniform(0, 2 * math.pi, (2, 2 * missing + 64))
            curve, speed_vector, bend_vector = _curve(t)
            speed, curvature, inward, across = _frame(speed_vector, bend_vector)
            area = speed * (1 - _TUBE * curvature * np.cos(angle))
            kept = np.flatnonzero(random.uniform(0, bound, len(t)) < area)[:missing]
            cosine, sine = np.cos(angle[kept, None]), np.sin(angle[kept, None])
            normals.append(cosine * inward[kept] + sine * across[kept])
            centers.append(curve[kept] + _TUBE * normals[-1])
            missing -= len(kept)
        ball = random.normal(size=(num_ball, 3))
        ball /= np.linalg.norm(ball, axis=1, keepdims=True)
        points = np.concatenate([*centers, _BALL * ball])
        order = random.permutation(num)
        return points[order], np.concatenate([*normals, ball])[order]

    def _nearest_on_curve(self, points: np.ndarray) -> np.ndarray:
        t = self.places[self.tree.query(points)[1]]
        step = 2 * math.pi / _TABLE
        for _ in range(_NEWTON_STEPS):
            curve, first, second = _curve(t)
            offset = curve - points
            slope = (offset * first).sum(axis=1)
            bend = (first * first).sum(axis=1) + (offset * second).sum(axis=1)
            # At the centre of curvature every place nearby is as near: leave it.
            move = np.where(bend > 1e-9, slope / np.where(bend > 1e-9, bend, 1), 0)
            t = t - np.clip(move, -step, step)
        return _curve(t)[0]


_BALL_AREA = 4 * math.pi * _BALL**2


def _curve(t: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """c(t), c'(t) and c''(t)."""
    radius, height = _MAJOR + _MINOR * np.cos(3 * t), _MINOR * np.sin(3 * t)
    radius_1, height_1 = -3 * height, 3 * _MINOR * np.cos(3 * t)
    radius_2, height_2 = -3 * height_1, -9 * height
    cosine, sine = np.cos(2 * t), np.sin(2 * t)
    return (
        np.stack([radius * cosine, radius * sine, height], axis=1),
        np.stack(
            [
                radius_1 * cosine - 2 * radius * sine,
                radius_1 * sine + 2 * radius * cosine,
                height_1,
            ],
            axis=1,
        ),
        np.stack(
            [
                radius_2 * cosine - 4 * radius_1 * sine - 4 * radius * cosine,
                radius_2 * sine + 4 * radius_1 * cosine - 4 * radius * sine,
                height_2,
            ],
            axis=1,
        ),
    )


def _frame(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, ...]:
    """|c'|, the curvature, and the unit vectors towards the centre of curvature and across."""
    speed = np.linalg.norm(first, axis=1)
    tangent = first / speed[:, None]
    bend = second - (second * tangent).sum(axis=1, keepdims=True) * tangent
    size = np.linalg.norm(bend, axis=1)
    inward = bend / size[:, None]
    return speed, size / speed**2, inward, np.cross(tangent, inward)


def _from_axis(
    points: np.ndarray, axis: np.ndarray, radius: float
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest point of a tube or ball of this radius about the axis, and the distance to it."""
    offset = points - axis
    length = np.linalg.norm(offset, axis=1)
    # On the axis every direction is as near as the other.
    direction = np.where(length[:, None] > 0, offset, [0.0, 0.0, 1.0])
    direction = direction / np.where(length > 0, length, 1)[:, None]
    return axis + radius * direction, length - radius

"""Lenses: how a camera turns directions into positions on its picture plane, and back.

Directions are (x, y, z) in OpenCV's camera axes: x right, y down, z forward. Positions on the plane
are pixels less the principal point, divided by the focal length.

perspective      OpenCV's Brown-Conrady model of (x, y) / z:
                 r2 = x^2 + y^2,  g = 1 + k1 r2 + k2 r2^2
                 x_d = x g + 2 p1 x y + p2 (r2 + 2 x^2)
                 y_d = y g + p1 (r2 + 2 y^2) + 2 p2 x y
fisheye          OpenCV's equidistant model (cv::fisheye, COLMAP's OPENCV_FISHEYE):
                 theta_d = theta (1 + k1 theta^2 + k2 theta^4 + k3 theta^6 + k4 theta^8)
                 along (x, y), theta the angle to the axis; valid while theta_d grows, up to pi
equirectangular  longitude atan2(x, z) and latitude atan2(y, hypot(x, z)), positive to the right and
                 down; a full panorama of w x h pixels has focal length w / (2 pi), h / pi

A camera has four coefficients: k1, k2, p1, p2 of a perspective lens, k1..k4 of a fisheye.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

LENSES = ("perspective", "fisheye", "equirectangular")
PERSPECTIVE, FISHEYE, EQUIRECTANGULAR = range(3)

# Newton's method doubles its correct digits a step; from a start within a few per cent, four steps
# end at the rounding of float32 (tests/render/test_cameras.py checks it for strong lenses).
_UNDISTORT_STEPS = 8
# Steps kept inside a bracket: most are Newton's, each of the others halves the bracket.
_ANGLE_STEPS = 40


def distort(points: Float[Tensor, "2 n"], lens: Float[Tensor, "4 n"]) -> Float[Tensor, "2 n"]:
    """Where a perspective lens moves points (x, y) / z."""
    x, y = points
    k1, k2, p1, p2 = lens
    r2 = x * x + y * y
    g = 1 + r2 * (k1 + r2 * k2)
    xy2 = 2 * x * y
    return torch.stack(
        [x * g + p1 * xy2 + p2 * (r2 + 2 * x * x), y * g + p1 * (r2 + 2 * y * y) + p2 * xy2]
    )


def undistort(points: Float[Tensor, "2 n"], lens: Float[Tensor, "4 n"]) -> Float[Tensor, "2 n"]:
    """The points that `distort` moves to the given ones, by Newton's method.

    Valid where the lens model is one to one (its Jacobian positive from the centre outwards);
    data readers check that for the corners of every picture.
    """
    k1, k2, p1, p2 = lens
    k2_times_2 = 2 * k2
    x_d, y_d = points
    x, y = points
    for _ in range(_UNDISTORT_STEPS):
        # Residual and symmetric Jacobian [[a, b], [b, d]] of the model at (x, y).
        r2 = x * x + y * y
        g = 1 + r2 * (k1 + r2 * k2)
        h = 2 * (k1 + r2 * k2_times_2)  # dg/dx = x h, dg/dy = y h
        xy = x * y
        p1x, p1y, p2x, p2y = p1 * x, p1 * y, p2 * x, p2 * y
        error_x = x * g + 2 * (p1x * y + p2x * x) + p2 * r2 - x_d
        error_y = y * g + 2 * (p1y * y + p2x * y) + p1 * r2 - y_d
        a = g + x * x * h + 2 * p1y + 6 * p2x
        b = xy * h + 2 * (p1x + p2y)
        d = g + y * y * h + 6 * p1y + 2 * p2x
        inv_det = 1 / (a * d - b * b)
        x = x - (d * error_x - b * error_y) * inv_det
        y = y - (a * error_y - b * error_x) * inv_det
    return torch.stack([x, y])


def bend(angle: Float[Tensor, " n"], lens: Float[Tensor, "4 n"]) -> Float[Tensor, " n"]:
    """theta_d of a fisheye: the distance from the principal point at an angle to the axis."""
    k1, k2, k3, k4 = lens
    t2 = angle * angle
    return angle * (1 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4))))


def unbend(
    radius: Float[Tensor, " n"], lens: Float[Tensor, "4 n"], max_angle: Float[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """The angle that `bend` takes to a distance: Newton's method inside a shrinking bracket.

    NaN beyond bend(max_angle): the lens shows nothing there.
    """
    k1, k2, k3, k4 = lens
    low, high = torch.zeros_like(radius), max_angle
    angle = torch.minimum(radius, max_angle)
    for _ in range(_ANGLE_STEPS):
        error = bend(angle, lens) - radius
        low = torch.where(error < 0, angle, low)
        high = torch.where(error < 0, high, angle)
        t2 = angle * angle
        slope = 1 + t2 * (3 * k1 + t2 * (5 * k2 + t2 * (7 * k3 + t2 * 9 * k4)))
        newton = angle - error / slope
        is_inside = (newton >= low) & (newton <= high)
        angle = torch.where(is_inside, newton, 0.5 * (low + high))
    return torch.where(radius <= bend(max_angle, lens), angle, torch.nan)


def max_angle(lens: Float[np.ndarray, "n 4"]) -> Float[np.ndarray, " n"]:
    """The largest angle (radians, at most pi) up to which theta_d of each fisheye grows."""
    result = np.full(len(lens), math.pi)
    for i, (k1, k2, k3, k4) in enumerate(lens):
        # The derivative of theta_d is a polynomial in theta^2.
        roots = np.roots([9 * k4, 7 * k3, 5 * k2, 3 * k1, 1.0])
        real = roots.real[(np.abs(roots.imag) < 1e-9) & (roots.real > 0)]
        if len(real):
            result[i] = min(math.pi, math.sqrt(real.min()))
    return result


def to_plane(
    directions: Float[Tensor, "n 3"], lens: int, coefficients: Float[Tensor, " 4"]
) -> Float[Tensor, "n 2"]:
    """Positions on the plane of directions of any length; meaningless where the lens cannot see."""
    x, y, z = directions.unbind(1)
    columns = coefficients[:, None].expand(4, len(directions))
    if lens == EQUIRECTANGULAR:
        return torch.stack([torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))], dim=1)
    if lens == FISHEYE:
        across = torch.hypot(x, y)
        radius = bend(torch.atan2(across, z), columns)
        # Towards the axis radius / across tends to 1 / z.
        tiny = across <= 1e-12 * z.abs()
        factor = torch.where(tiny, 1 / z.abs(), radius / torch.where(tiny, 1.0, across))
        return torch.stack([x * factor, y * factor], dim=1)
    plane = torch.stack([x / z, y / z])
    return (distort(plane, columns) if bool(coefficients.count_nonzero()) else plane).T


def from_plane(
    plane: Float[Tensor, "n 2"],
    lens: Int[Tensor, " n"],
    coefficients: Float[Tensor, "n 4"],
    limit: Float[Tensor, " n"],
) -> Float[Tensor, "n 3"]:
    """Unit directions of positions on the plane, for a lens number and a `max_angle` a row.

    NaN where a fisheye shows nothing.
    """
    result = torch.nn.functional.pad(plane, (0, 1), value=1.0)
    rows = lens == PERSPECTIVE
    if bool(coefficients[rows].count_nonzero()):
        result[rows, :2] = undistort(plane[rows].T, coefficients[rows].T).T
    rows = (lens == FISHEYE).nonzero()[:, 0]
    if len(rows):
        radius = plane[rows].norm(dim=1)
        angle = unbend(radius, coefficients[rows].T, limit[rows])
        factor = torch.where(radius > 0, angle.sin() / radius, 1.0)
        result[rows] = torch.cat([plane[rows] * factor[:, None], angle.cos()[:, None]], dim=1)
    rows = (lens == EQUIRECTANGULAR).nonzero()[:, 0]
    if len(rows):
        longitude, latitude = plane[rows].unbind(1)
        flat = latitude.cos()
        result[rows] = torch.stack(
            [longitude.sin() * flat, latitude.sin(), longitude.cos() * flat], dim=1
        )
    return torch.nn.functional.normalize(result, dim=1)

"""The CPU kernel of `nfields.render.cameras.rays`; notation and conventions are stated there.

One thread walks over the rays: 6 + 20 numbers read, 6 written a ray, all arithmetic in float64
registers. The same in PyTorch spends its time on the launch of some 200 small operations: with four
of Newton's steps 2.3 ms, against 0.3 ms here, for 4096 rays with a lens (one core of a two-core
cloud machine).
"""

import math

import numpy as np

from nfields.jit import njit
from nfields.render.lenses import FISHEYE, PERSPECTIVE

# Newton's method doubles its digits a step; ordinary lenses need three, the rest is for strong
# ones near the edge of validity. The tolerance is far below the float32 of the result.
_MAX_STEPS = 10
_TOLERANCE = 1e-9


@njit(cache=True, nogil=True)
def undistort_point(
    x_d: float, y_d: float, k1: float, k2: float, p1: float, p2: float
) -> tuple[float, float]:
    """The point of the plane z = -1 that the lens moves to (x_d, y_d)."""
    x, y = x_d, y_d
    for _ in range(_MAX_STEPS):
        r2 = x * x + y * y
        g = 1.0 + r2 * (k1 + r2 * k2)
        h = 2.0 * (k1 + 2.0 * r2 * k2)  # dg/dx = x h, dg/dy = y h
        error_x = x * g + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x) - x_d
        error_y = y * g + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y - y_d
        # The Jacobian is symmetric: [[a, b], [b, d]].
        a = g + x * x * h + 2.0 * p1 * y + 6.0 * p2 * x
        b = x * y * h + 2.0 * (p1 * x + p2 * y)
        d = g + y * y * h + 6.0 * p1 * y + 2.0 * p2 * x
        inv_det = 1.0 / (a * d - b * b)
        step_x = (d * error_x - b * error_y) * inv_det
        step_y = (a * error_y - b * error_x) * inv_det
        x -= step_x
        y -= step_y
        if abs(step_x) + abs(step_y) < _TOLERANCE:
            break
    return x, y


@njit(cache=True, nogil=True)
def unbend_angle(
    radius: float, k1: float, k2: float, k3: float, k4: float, max_angle: float
) -> float:
    """The angle to a fisheye's axis seen at a distance from its principal point, or NaN."""
    t2 = max_angle * max_angle
    if radius > max_angle * (1.0 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))):
        return math.nan
    low, high = 0.0, max_angle
    angle = min(radius, max_angle)
    for _ in range(60):  # Newton's method; where it leaves the bracket, bisection
        t2 = angle * angle
        error = angle * (1.0 + t2 * (k1 + t2 * (k2 + t2 * (k3 + t2 * k4)))) - radius
        if error < 0.0:
            low = angle
        else:
            high = angle
        slope = 1.0 + t2 * (3.0 * k1 + t2 * (5.0 * k2 + t2 * (7.0 * k3 + t2 * 9.0 * k4)))
        newton = angle - error / slope if slope > 0.0 else math.inf
        if newton < low or newton > high:
            newton = 0.5 * (low + high)
        step = newton - angle
        angle = newton
        if abs(step) < _TOLERANCE:
            break
    return angle


@njit(cache=True, nogil=True)
def write_rays(
    camera_to_world: np.ndarray,
    focal: np.ndarray,
    center: np.ndarray,
    distortion: np.ndarray,
    is_distorted: bool,
    lens: np.ndarray,
    is_perspective: bool,
    max_angles: np.ndarray,
    view_index: np.ndarray,
    pixels: np.ndarray,
    origins: np.ndarray,
    directions: np.ndarray,
) -> int:
    """Fills origins and directions; returns the first bad position of view_index, or -1."""
    for i in range(len(view_index)):
        v = view_index[i]
        if v < 0 or v >= len(focal):
            return i
        x = (float(pixels[i, 0]) - center[v, 0]) / focal[v, 0]
        y = (float(pixels[i, 1]) - center[v, 1]) / focal[v, 1]
        k = distortion[v]
        z = 1.0
        if is_perspective or lens[v] == PERSPECTIVE:
            if is_distorted:
                x, y = undistort_point(x, y, k[0], k[1], k[2], k[3])
            z = 1.0 / math.sqrt(x * x + y * y + 1.0)  # R keeps lengths
            x *= z
            y *= z
        elif lens[v] == FISHEYE:
            radius = math.hypot(x, y)
            angle = unbend_angle(radius, k[0], k[1], k[2], k[3], float(max_angles[v]))
            factor = math.sin(angle) / radius if radius > 0.0 else 1.0
            x, y, z = x * factor, y * factor, math.cos(angle)
        else:
            flat = math.cos(y)
            x, y, z = math.sin(x) * flat, math.sin(y), math.cos(x) * flat
        matrix = camera_to_world[v]
        for axis in range(3):
            row = matrix[axis]
            directions[i, axis] = row[0] * x - row[1] * y - row[2] * z
            origins[i, axis] = row[3]
    return -1

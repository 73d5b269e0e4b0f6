"""Ambient occlusion and a soft shadow from a grid of distances, for shading (Numba).

Both are cones: of a cone with half angle a, marched from a surface point, the share that is open is
the smallest of f / (sin(a) t) over its way, f the distance to the surface (the estimate of
Quilez, "soft shadows in raymarched SDFs"; exact for a plane seen edge on). Occlusion takes seven
cones that fill the hemisphere of the normal. A point costs some 80 look-ups of eight loads.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

import math
from typing import Any

import numpy as np

from nfields.jit import njit, prange
from nfields.ops.sphere_trace.cpu import interpolate

_POINTS = 256  # a thread takes at a time
_STEPS = 6  # of an occlusion cone
_SHADOW_STEPS = 32
_SIN_CONE = 0.5  # of 30 degrees: 1 + 6 such cones just cover the hemisphere


@njit(inline="always")
def _look_up(grid: Any, low: Any, inv_spacing: float, x: float, y: float, z: float) -> float:
    return interpolate(
        grid, (x - low[0]) * inv_spacing, (y - low[1]) * inv_spacing, (z - low[2]) * inv_spacing
    )


@njit(inline="always")
def _openness(
    grid: Any, low: Any, inv_spacing: float, x: float, y: float, z: float, dx: float, dy: float,
    dz: float, first: float, growth: float,
) -> float:  # fmt: skip
    """Open share of a cone, from 0 to 1; what blocks it counts less the farther it is."""
    open_share, t = 1.0, first
    for step in range(_STEPS):
        f = _look_up(grid, low, inv_spacing, x + t * dx, y + t * dy, z + t * dz)
        share = max(f, 0.0) / (_SIN_CONE * t)
        fade = step / _STEPS
        open_share = min(open_share, share + (1.0 - share) * fade * fade if share < 1.0 else 1.0)
        t *= growth
    return open_share


@njit(parallel=True, cache=True)
def occlusion_and_shadow(
    points: Any, normals: Any, light: Any, grid: Any, low: Any, spacing: float, radius: float,
    softness: float, openness: Any, lit: Any,
) -> None:  # fmt: skip
    """Fills `openness` (n,) of the hemispheres up to `radius`, and `lit` (n,) by the light."""
    inv_spacing = 1.0 / spacing
    first = spacing
    growth = (radius / first) ** (1.0 / (_STEPS - 1))
    num_points = points.shape[0]
    for block in prange((num_points + _POINTS - 1) // _POINTS):
        for i in range(
            np.int64(block) * _POINTS, min(np.int64(block) * _POINTS + _POINTS, num_points)
        ):
            nx, ny, nz = float(normals[i, 0]), float(normals[i, 1]), float(normals[i, 2])
            # Off the surface by half a cell: the grid is blunter than the field.
            x = points[i, 0] + 0.5 * spacing * nx
            y = points[i, 1] + 0.5 * spacing * ny
            z = points[i, 2] + 0.5 * spacing * nz
            # A frame around the normal (Duff et al. 2017), then cones at 60 degrees around it.
            sign = math.copysign(1.0, nz)
            a = -1.0 / (sign + nz)
            b = nx * ny * a
            ux, uy, uz = 1.0 + sign * nx * nx * a, sign * b, -sign * nx
            vx, vy, vz = b, sign + ny * ny * a, -ny
            total = _openness(grid, low, inv_spacing, x, y, z, nx, ny, nz, first, growth)
            for k in range(6):
                angle = k * (math.pi / 3.0)
                c, s = math.cos(angle) * 0.8660254, math.sin(angle) * 0.8660254
                total += 0.5 * _openness(
                    grid, low, inv_spacing, x, y, z, 0.5 * nx + c * ux + s * vx,
                    0.5 * ny + c * uy + s * vy, 0.5 * nz + c * uz + s * vz, first, growth,
                )  # fmt: skip
            openness[i] = total / 4.0
            facing = nx * light[0] + ny * light[1] + nz * light[2]
            bright = 1.0
            if facing > 0.0:
                t = 2.0 * spacing
                for _ in range(_SHADOW_STEPS):
                    f = _look_up(
                        grid, low, inv_spacing, x + t * light[0], y + t * light[1],
                        z + t * light[2],
                    )  # fmt: skip
                    bright = min(bright, max(0.5 + 0.5 * f / (softness * t), 0.0))
                    t += max(abs(f), spacing)
                    if t > 3.0 * radius + 1.5 or bright <= 0.0:
                        break
                bright = bright * bright * (3.0 - 2.0 * bright)
            else:
                bright = 0.0
            lit[i] = bright

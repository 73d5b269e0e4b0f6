"""Kernels of the generated scene: how its solids look.

One distant lamp with hard shadows and highlights, a weak lamp from the other side, and light from
the sky and the ground darkened in corners. Colours are computed in linear light and stored in
sRGB; the four samples of a pixel are averaged as stored, which is how they are composited later.
"""

import math

import numpy as np

from nfields.data.toy_solids import WOOD, MARBLE, BARBER, ROOF, CHECKER, GOLD, STRIPES, LEAF, GEM, BANDS, CANDY, solid_normal, to_local, trace, union_distance
from nfields.jit import njit


def _unit(x: float, y: float, z: float) -> tuple[float, float, float]:
    length = math.sqrt(x * x + y * y + z * z)
    return x / length, y / length, z / length


_LAMP = _unit(0.45, -0.62, 0.85)  # towards the lamp
_LAMP_COLOR = (2.05, 1.9, 1.65)
_FILL = _unit(-0.8, 0.25, 0.35)
_FILL_COLOR = (0.16, 0.2, 0.28)
_SKY = (0.34, 0.39, 0.48)
_GROUND = (0.20, 0.165, 0.13)
_BIAS = 1e-4  # shadow rays start this far off the surface


@njit(cache=True, nogil=True, error_model="numpy")
def _hash(i: int, j: int, k: int) -> float:
    """A number in [0, 1) that looks random, the same for the same lattice point."""
    h = (i * 374761393 + j * 668265263 + k * 2147483647 + 1013904223) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 2246822519) & 0xFFFFFFFF
    return ((h ^ (h >> 15)) & 0xFFFFFF) / 16777216.0


@njit(cache=True, nogil=True, error_model="numpy")
def _noise(x: float, y: float, z: float) -> float:
    """Smooth noise in [0, 1): random values on the whole-number lattice, blended."""
    fx, fy, fz = math.floor(x), math.floor(y), math.floor(z)
    i, j, k = int(fx), int(fy), int(fz)
    u, v, w = x - fx, y - fy, z - fz
    u, v, w = u * u * (3 - 2 * u), v * v * (3 - 2 * v), w * w * (3 - 2 * w)
    total = 0.0
    for a in range(2):
        for b in range(2):
            for c in range(2):
                weight = (u if a else 1 - u) * (v if b else 1 - v) * (w if c else 1 - w)
                total += weight * _hash(i + a, j + b, k + c)
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def _clouds(x: float, y: float, z: float) -> float:
    """Noise of four octaves in [0, 1)."""
    total, weight = 0.0, 0.5
    for _ in range(4):
        total += weight * _noise(x, y, z)
        x, y, z, weight = 2.03 * x + 17.1, 2.01 * y + 5.7, 2.02 * z + 9.3, 0.5 * weight
    return total / 0.9375


@njit(cache=True, nogil=True, error_model="numpy")
def _step(x: float, low: float, high: float) -> float:
    s = min(max((x - low) / (high - low), 0.0), 1.0)
    return s * s * (3 - 2 * s)


@njit(cache=True, nogil=True, error_model="numpy")
def _mix(
    s: float, p: tuple[float, float, float], q: tuple[float, float, float]
) -> tuple[float, float, float]:
    return p[0] + s * (q[0] - p[0]), p[1] + s * (q[1] - p[1]), p[2] + s * (q[2] - p[2])


@njit(cache=True, nogil=True, error_model="numpy")
def _surface(
    material: float, x: float, y: float, z: float
) -> tuple[tuple[float, float, float], float, float]:
    """Colour (linear), strength and sharpness of the highlight at a point of a solid's frame."""
    if material == WOOD:
        radius = math.sqrt(x * x + y * y)
        grain = _clouds(3.0 * x, 26.0 * y, 3.0 * z)
        ring = math.sin(34.0 * (y + 0.05 * _clouds(2.0 * x, 3.0 * y, 0.5)) + 3.0 * grain)
        color = _mix(_step(ring + 0.6 * grain, -0.9, 1.3), (0.56, 0.32, 0.145), (0.27, 0.12, 0.045))
        angle = math.atan2(y, x) * (24.0 / math.pi)
        inlay = math.floor(angle) % 2 == 0
        if 0.75 < radius < 0.81 and z > 0:
            color = (0.80, 0.70, 0.52) if inlay else (0.10, 0.045, 0.025)
        return color, 0.10, 24.0
    if material == MARBLE:
        swirl = math.sin(9.0 * z + 9.0 * _clouds(3.5 * x, 3.5 * y, 3.5 * z) + 3.0 * x)
        vein = _step(abs(swirl), 0.0, 0.55)
        color = _mix(vein, (0.93, 0.90, 0.82), (0.005, 0.12, 0.19))
        return _mix(_clouds(7.0 * x, 7.0 * y, 7.0 * z), color, (0.02, 0.30, 0.36)), 0.8, 60.0
    if material == BARBER:
        turn = math.atan2(y, x) / math.pi + 6.5 * z
        is_red = turn - math.floor(turn) < 0.5
        return ((0.72, 0.04, 0.05) if is_red else (0.86, 0.82, 0.74)), 0.25, 50.0
    if material == ROOF:
        row = math.floor(22.0 * z)
        tile = math.atan2(y, x) * (9.0 / math.pi) + 0.5 * (row % 2)
        edge = min(tile - math.floor(tile), 22.0 * z - row)
        shade = 0.6 + 0.4 * _hash(int(row), int(tile // 1.0) % 18, 7)
        shade *= 0.35 if edge < 0.1 else 1.0
        return (0.10 * shade, 0.20 * shade, 0.52 * shade), 0.15, 30.0
    if material == CHECKER:
        # The half keeps the faces of the box, at +-0.18, off the edges between the cells.
        n = math.floor(x / 0.09 + 0.5) + math.floor(y / 0.09 + 0.5) + math.floor(z / 0.09 + 0.5)
        return ((0.85, 0.80, 0.68) if n % 2 == 0 else (0.05, 0.16, 0.42)), 0.2, 40.0
    if material == GOLD:
        hammer = _noise(28.0 * x, 28.0 * y, 28.0 * z)
        return (0.80 + 0.1 * hammer, 0.48 + 0.1 * hammer, 0.08), 0.8, 60.0
    if material == STRIPES:
        turn = math.atan2(y, x) * (10.0 / math.pi)
        is_light = turn - math.floor(turn) < 0.4
        return ((0.92, 0.83, 0.62) if is_light else (0.86, 0.26, 0.03)), 0.3, 45.0
    if material == LEAF:
        spot = _step(_clouds(16.0 * x, 16.0 * y, 16.0 * z), 0.45, 0.6)
        return _mix(spot, (0.10, 0.34, 0.06), (0.55, 0.70, 0.18)), 0.35, 60.0
    if material == GEM:
        cut = _step(abs(math.sin(60.0 * (x - y + z))), 0.1, 0.4)
        return _mix(cut, (0.72, 0.42, 0.85), (0.30, 0.06, 0.50)), 0.6, 80.0
    if material == BANDS:
        band = math.sin(70.0 * x) > 0.2
        return ((0.90, 0.62, 0.05) if band else (0.08, 0.06, 0.05)), 0.4, 60.0
    if material == CANDY:
        turn = math.atan2(y, x) * (3.0 / math.pi) + 8.0 * z
        return ((0.85, 0.10, 0.30) if math.floor(turn) % 2 == 0 else (0.92, 0.88, 0.86)), 0.5, 90.0
    return (0.5, 0.5, 0.5), 0.0, 1.0


@njit(cache=True, nogil=True, error_model="numpy")
def _openness(
    solids: np.ndarray, x: float, y: float, z: float, nx: float, ny: float, nz: float
) -> float:
    """How much of the sky a surface point sees, from 0 to 1, guessed from distances above it."""
    hidden, weight = 0.0, 1.0
    for i in range(1, 5):
        h = 0.045 * i
        distance = union_distance(solids, x + h * nx, y + h * ny, z + h * nz, h)
        hidden += weight * (h - distance)
        weight *= 0.75
    return max(1.0 - 4.2 * hidden, 0.15)


@njit(cache=True, nogil=True, error_model="numpy")
def _encode(value: float) -> float:
    """sRGB of linear light, with a soft shoulder above 0.8 so that highlights keep their form."""
    if value > 0.8:
        value = 0.8 + 0.2 * (1.0 - math.exp((0.8 - value) / 0.2))
    return 12.92 * value if value <= 0.0031308 else 1.055 * value ** (1 / 2.4) - 0.055


@njit(cache=True, nogil=True, error_model="numpy")
def _shade(
    solids: np.ndarray,
    solid: np.ndarray,
    x: float,
    y: float,
    z: float,
    dx: float,
    dy: float,
    dz: float,
) -> tuple[float, float, float]:
    """sRGB colour of a surface point seen along direction d."""
    nx, ny, nz = solid_normal(solid, x, y, z)
    lx, ly, lz = to_local(solid, x, y, z)
    color, gloss, sharpness = _surface(solid[1], lx, ly, lz)
    open_part = _openness(solids, x, y, z, nx, ny, nz)
    toward = -(nx * dx + ny * dy + nz * dz)
    rx, ry, rz = dx + 2 * toward * nx, dy + 2 * toward * ny, dz + 2 * toward * nz
    fresnel = 0.25 + 0.75 * (1.0 - max(toward, 0.0)) ** 4
    lamp = max(nx * _LAMP[0] + ny * _LAMP[1] + nz * _LAMP[2], 0.0)
    glint = 0.0
    if lamp > 0.0:
        sx, sy, sz = x + _BIAS * nx, y + _BIAS * ny, z + _BIAS * nz
        _, row = trace(solids, sx, sy, sz, _LAMP[0], _LAMP[1], _LAMP[2], True)
        if row >= 0:
            lamp = 0.0
        else:
            mirror = max(rx * _LAMP[0] + ry * _LAMP[1] + rz * _LAMP[2], 0.0)
            glint = gloss * mirror ** (0.5 * sharpness)
    fill = max(nx * _FILL[0] + ny * _FILL[1] + nz * _FILL[2], 0.0)
    sky = 0.5 + 0.5 * nz
    shine = 0.35 * gloss * fresnel * open_part * _step(rz, -0.3, 0.9)
    red = color[0] * (
        _LAMP_COLOR[0] * lamp * 0.55
        + _FILL_COLOR[0] * fill
        + open_part * (_GROUND[0] + sky * (_SKY[0] - _GROUND[0]))
    )
    green = color[1] * (
        _LAMP_COLOR[1] * lamp * 0.55
        + _FILL_COLOR[1] * fill
        + open_part * (_GROUND[1] + sky * (_SKY[1] - _GROUND[1]))
    )
    blue = color[2] * (
        _LAMP_COLOR[2] * lamp * 0.55
        + _FILL_COLOR[2] * fill
        + open_part * (_GROUND[2] + sky * (_SKY[2] - _GROUND[2]))
    )
    return (
        _encode(red + _LAMP_COLOR[0] * 0.5 * glint + shine * _SKY[0]),
        _encode(green + _LAMP_COLOR[1] * 0.5 * glint + shine * _SKY[1]),
        _encode(blue + _LAMP_COLOR[2] * 0.5 * glint + shine * _SKY[2]),
    )


@njit(cache=True, nogil=True, error_model="numpy")
def _direction(
    camera_to_world: np.ndarray, focal: np.ndarray, center: np.ndarray, px: float, py: float
) -> tuple[float, float, float]:
    x, y = (px - center[0]) / focal[0], (py - center[1]) / focal[1]
    inv_length = 1.0 / math.sqrt(x * x + y * y + 1.0)
    x, y = x * inv_length, y * inv_length
    m = camera_to_world
    return (
        m[0, 0] * x - m[0, 1] * y - m[0, 2] * inv_length,
        m[1, 0] * x - m[1, 1] * y - m[1, 2] * inv_length,
        m[2, 0] * x - m[2, 1] * y - m[2, 2] * inv_length,
    )


@njit(cache=True, nogil=True, error_model="numpy")
def render_view(
    solids: np.ndarray,
    camera_to_world: np.ndarray,
    focal: np.ndarray,
    center: np.ndarray,
    colors: np.ndarray,
    depth: np.ndarray,
    normals: np.ndarray,
) -> None:
    """Fills straight RGBA (h, w, 4) uint8 from 2 x 2 samples a pixel, and depth (h, w) and normals
    (h, w, 3) at the pixel centres; depth is inf and the normal 0 where nothing is hit.
    """
    ox, oy, oz = camera_to_world[0, 3], camera_to_world[1, 3], camera_to_world[2, 3]
    height, width = depth.shape
    for j in range(height):
        for i in range(width):
            dx, dy, dz = _direction(camera_to_world, focal, center, i + 0.5, j + 0.5)
            t, row = trace(solids, ox, oy, oz, dx, dy, dz, False)
            depth[j, i] = t
            if row >= 0:
                x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                normals[j, i, 0], normals[j, i, 1], normals[j, i, 2] = solid_normal(
                    solids[row], x, y, z
                )
            red, green, blue, num_hits = 0.0, 0.0, 0.0, 0
            for sample in range(4):
                sub_x, sub_y = i + 0.25 + 0.5 * (sample % 2), j + 0.25 + 0.5 * (sample // 2)
                dx, dy, dz = _direction(camera_to_world, focal, center, sub_x, sub_y)
                t, row = trace(solids, ox, oy, oz, dx, dy, dz, False)
                if row >= 0:
                    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
                    r, g, b = _shade(solids, solids[row], x, y, z, dx, dy, dz)
                    red, green, blue, num_hits = red + r, green + g, blue + b, num_hits + 1
            if num_hits > 0:
                colors[j, i, 0] = int(255 * min(red / num_hits, 1.0) + 0.5)
                colors[j, i, 1] = int(255 * min(green / num_hits, 1.0) + 0.5)
                colors[j, i, 2] = int(255 * min(blue / num_hits, 1.0) + 0.5)
                colors[j, i, 3] = (255 * num_hits + 2) // 4

"""A picture with depth, seen from another camera: forward warping with a depth buffer (Numba).

Every pixel of the old picture becomes a point and is drawn, one pixel large, where the new camera
sees it; the nearest wins. Pixels that nothing fell on take the nearer one of two neighbours
opposite to each other (cracks between points that moved apart), then what was infinitely far in
this direction, and the background's colour otherwise (what was hidden).
One thread: 256 x 256 pixels take about a millisecond.
"""

from typing import Any

import numpy as np

from nfields.jit import njit


@njit(cache=True, nogil=True)
def warp(
    rgb: Any, depth: Any, to_world: Any, focal: float, to_camera: Any, new_focal: float,
    background: Any, out: Any, out_depth: Any,
) -> int:  # fmt: skip
    """Fills out (h, w, 3 uint8) and out_depth (h, w); returns how many pixels are of a surface.

    rgb (h0, w0, 3), depth (h0, w0) along the ray, infinite where nothing is; poses are 3 x 4 of
    cameras with square pixels and the middle of the picture as principal point; depth <= 0 or not
    finite is background, drawn at infinity.
    """
    height, width = out_depth.shape
    filled = np.zeros((height, width), np.uint8)
    for y in range(height):
        for x in range(width):
            out_depth[y, x] = np.inf
    count = _splat(rgb, depth, to_world, focal, to_camera, new_focal, False, out, out_depth, filled)
    for v in range(height):
        for u in range(width):
            if filled[v, u]:
                continue
            for dy, dx in ((0, 1), (1, 0)):
                y0, x0, y1, x1 = v - dy, u - dx, v + dy, u + dx
                if y0 < 0 or x0 < 0 or y1 >= height or x1 >= width:
                    continue
                if filled[y0, x0] == 1 and filled[y1, x1] == 1:
                    if out_depth[y1, x1] < out_depth[y0, x0]:
                        y0, x0 = y1, x1
                    filled[v, u] = 2
                    out_depth[v, u] = out_depth[y0, x0]
                    for k in range(3):
                        out[v, u, k] = out[y0, x0, k]
    _splat(rgb, depth, to_world, focal, to_camera, new_focal, True, out, out_depth, filled)
    for v in range(height):
        for u in range(width):
            if filled[v, u] == 0:
                for k in range(3):
                    out[v, u, k] = background[k]
    return count


@njit(cache=True, nogil=True)
def _splat(
    rgb: Any, depth: Any, to_world: Any, focal: float, to_camera: Any, new_focal: float,
    is_far: bool, out: Any, out_depth: Any, filled: Any,
) -> int:  # fmt: skip
    """Draws the pixels that have a depth, or (is_far) those that have none where none is drawn."""
    rows, columns = depth.shape
    height, width = out_depth.shape
    count = 0
    for row in range(rows):
        for column in range(columns):
            t = depth[row, column]
            if (not (t > 0 and t < 1e30)) != is_far:
                continue
            x = (column + 0.5 - 0.5 * columns) / focal
            y = (row + 0.5 - 0.5 * rows) / focal
            length = 1 / np.sqrt(x * x + y * y + 1)
            x, y, z = x * length, -y * length, -length
            wx = to_world[0, 0] * x + to_world[0, 1] * y + to_world[0, 2] * z
            wy = to_world[1, 0] * x + to_world[1, 1] * y + to_world[1, 2] * z
            wz = to_world[2, 0] * x + to_world[2, 1] * y + to_world[2, 2] * z
            if not is_far:  # relative to the new camera; directions alone at infinity
                wx = to_world[0, 3] + t * wx - to_camera[0, 3]
                wy = to_world[1, 3] + t * wy - to_camera[1, 3]
                wz = to_world[2, 3] + t * wz - to_camera[2, 3]
            cx = to_camera[0, 0] * wx + to_camera[1, 0] * wy + to_camera[2, 0] * wz
            cy = to_camera[0, 1] * wx + to_camera[1, 1] * wy + to_camera[2, 1] * wz
            cz = -(to_camera[0, 2] * wx + to_camera[1, 2] * wy + to_camera[2, 2] * wz)
            if cz < 1e-6:
                continue
            u = int(np.floor(new_focal * cx / cz + 0.5 * width))
            v = int(np.floor(0.5 * height - new_focal * cy / cz))
            if u < 0 or v < 0 or u >= width or v >= height:
                continue
            distance = np.sqrt(cx * cx + cy * cy + cz * cz)
            if filled[v, u] != 0 and (is_far or not distance < out_depth[v, u]):
                continue
            count += filled[v, u] == 0
            filled[v, u] = 1
            out_depth[v, u] = np.inf if is_far else distance
            for k in range(3):
                out[v, u, k] = rgb[row, column, k]
    return count

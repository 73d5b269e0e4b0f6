"""Marching rays through an occupancy grid on the CPU (Numba).

Mapping. One thread a ray, twice: once to count the samples, once to write them behind those of the
ray before, so that the output needs no compaction. The occupancy grid is one bit a cell (256 KB for
128^3), which stays in L2. Empty cells are left at their far side; the steps in between are still
taken one by one (an addition each), so that samples lie on the same sequence of t whatever the
grid holds. No fastmath: counting and writing must agree to the bit, and so must the reference.
"""

from typing import Any

import numpy as np
from numba import njit, prange


@njit(inline="always")
def _step(t: Any, cone: Any, dt_min: Any, dt_max: Any) -> Any:
    return min(max(t * cone, dt_min), dt_max)


@njit(cache=True)
def _march_ray(
    origin: Any, direction: Any, bits: Any, jitter: Any, near: Any, dt_min: Any, dt_max: Any,
    cone: Any, max_samples: int, starts: Any, ends: Any, first: int, write: bool,
) -> int:  # fmt: skip
    """Number of samples of one ray; written from index `first` on if `write`."""
    kind = origin.dtype.type
    num_cascades, cells = bits.shape[0], bits.shape[1]
    half, one, tiny = kind(0.5), kind(1), kind(1e-12)
    half_size = kind(2 ** (num_cascades - 1))
    enter, leave = near, kind(np.inf)
    ox, oy, oz = origin[0], origin[1], origin[2]
    dx, dy, dz = direction[0], direction[1], direction[2]
    dx = dx if abs(dx) >= tiny else tiny
    dy = dy if abs(dy) >= tiny else tiny
    dz = dz if abs(dz) >= tiny else tiny
    a, b = (-half_size - ox) / dx, (half_size - ox) / dx
    enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    a, b = (-half_size - oy) / dy, (half_size - oy) / dy
    enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    a, b = (-half_size - oz) / dz, (half_size - oz) / dz
    enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    finite = np.isfinite(ox + oy + oz + direction[0] + direction[1] + direction[2])
    if not (enter < leave and finite):
        return 0
    ox, oy, oz = origin[0], origin[1], origin[2]
    dx, dy, dz = direction[0], direction[1], direction[2]
    count = 0
    t = enter + jitter * _step(enter, cone, dt_min, dt_max)
    while t < leave and count < max_samples:
        dt = _step(t, cone, dt_min, dt_max)
        middle = t + half * dt
        if not middle < leave:
            break
        x, y, z = ox + middle * dx, oy + middle * dy, oz + middle * dz
        reach = max(abs(x), abs(y), abs(z))
        cascade, size = 0, one
        while cascade < num_cascades - 1 and (reach >= size or dt * kind(cells) > kind(2) * size):
            cascade += 1
            size = size * kind(2)
        scale = half * kind(cells)
        px, py, pz = (x / size + one) * scale, (y / size + one) * scale, (z / size + one) * scale
        ix = min(max(int(np.floor(px)), 0), cells - 1)
        iy = min(max(int(np.floor(py)), 0), cells - 1)
        iz = min(max(int(np.floor(pz)), 0), cells - 1)
        if (bits[cascade, iz, iy, ix >> 3] >> (ix & 7)) & 1:
            if write:
                starts[first + count] = t
                ends[first + count] = t + dt
            count += 1
            t = t + dt
            continue
        # Distance along the ray to the far side of the empty cell; steps whose middle stays inside
        # it need no look-up. A hair less, so that rounding never skips an occupied cell.
        cell = size / scale
        far = kind(np.inf)
        if dx != 0:
            far = min(far, (kind(ix + (1 if dx > 0 else 0)) - px) * cell / dx)
        if dy != 0:
            far = min(far, (kind(iy + (1 if dy > 0 else 0)) - py) * cell / dy)
        if dz != 0:
            far = min(far, (kind(iz + (1 if dz > 0 else 0)) - pz) * cell / dz)
        target = middle + far - kind(1e-4) * cell
        t = t + dt
        while t < leave:
            dt = _step(t, cone, dt_min, dt_max)
            if t + half * dt >= target:
                break
            t = t + dt
    return count


@njit(parallel=True, cache=True)
def march(
    origins: Any, directions: Any, bits: Any, jitter: Any, near: Any, dt_min: Any, dt_max: Any,
    cone: Any, max_samples: int, starts: Any, ends: Any, offsets: Any, write: bool,
) -> None:  # fmt: skip
    """Counts into offsets[i + 1], or writes the samples of ray i from offsets[i] on."""
    num_rays = origins.shape[0]
    num_blocks = (num_rays + 63) // 64
    for block in prange(num_blocks):
        for i in range(np.int64(block) * 64, min(np.int64(block) * 64 + 64, num_rays)):
            first = offsets[i] if write else 0
            count = _march_ray(
                origins[i], directions[i], bits, jitter[i], near, dt_min, dt_max, cone,
                max_samples, starts, ends, first, write,
            )  # fmt: skip
            if not write:
                offsets[i + 1] = count


@njit(parallel=True, cache=True)
def sample_points(
    origins: Any, directions: Any, starts: Any, ends: Any, offsets: Any, scale: Any, points: Any
) -> None:
    """points = scale (origin + (start + end) / 2 direction), ray by ray."""
    half = origins.dtype.type(0.5)
    for i in prange(origins.shape[0]):
        for s in range(offsets[i], offsets[i + 1]):
            t = half * (starts[s] + ends[s])
            for k in range(3):
                points[s, k] = scale * (origins[i, k] + t * directions[i, k])

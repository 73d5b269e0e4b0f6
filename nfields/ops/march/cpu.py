"""Marching rays through an occupancy grid on the CPU (Numba).

Mapping. One thread a block of rays, twice: once to count the samples, once to write them behind
those of the ray before, so that the output needs no compaction. The grid is one bit a cell
(256 KB for 128^3), which stays in L2. What is empty is left at its far side: the space around the
occupied blocks of 8^3 cells, an empty block, an empty cell. Samples lie on the same sequence of t
whatever the grid holds: without a cone a skip is a division, with one its steps are taken one by
one. No fastmath: counting and writing must agree to the bit, and so must the reference.
"""

from typing import Any

import numpy as np
from numba import njit, prange

_RAYS = 32  # rays a thread takes at a time


@njit(inline="always")
def _step(t: Any, cone: Any, dt_min: Any, dt_max: Any) -> Any:
    return min(max(t * cone, dt_min), dt_max)


@njit(cache=True)
def coarsen(bits: Any) -> Any:
    """Blocks (C, G / 8, G / 8, G / 8) of 8^3 cells that hold an occupied cell: 1, else 0."""
    cascades, cells, blocks = bits.shape[0], bits.shape[1], bits.shape[3]
    coarse = np.zeros((cascades, blocks, blocks, blocks), np.uint8)
    for c in range(cascades):
        for z in range(cells):
            for y in range(cells):
                for x in range(blocks):
                    if bits[c, z, y, x]:
                        coarse[c, z >> 3, y >> 3, x] = 1
    return coarse


@njit(cache=True)
def occupied_box(coarse: Any) -> Any:
    """Lower and upper corner (2, 3) of all occupied blocks, x y z, in scene units."""
    cascades, blocks = coarse.shape[0], coarse.shape[3]
    box = np.zeros((2, 3), np.float64)
    box[0], box[1] = np.inf, -np.inf
    for c in range(cascades):
        size = 2.0**c
        for z in range(blocks):
            for y in range(blocks):
                for x in range(blocks):
                    if coarse[c, z, y, x]:
                        for axis, i in enumerate((x, y, z)):
                            box[0, axis] = min(box[0, axis], (2.0 * i / blocks - 1) * size)
                            box[1, axis] = max(box[1, axis], (2.0 * (i + 1) / blocks - 1) * size)
    return box


@njit(cache=True)
def _march_ray(
    origin: Any, direction: Any, bits: Any, coarse: Any, box: Any, jitter: Any, near: Any,
    dt_min: Any, dt_max: Any, cone: Any, max_samples: int, starts: Any, ends: Any, first: int,
    write: bool,
) -> int:  # fmt: skip
    """Number of samples of one ray; written from index `first` on if `write`."""
    kind = origin.dtype.type
    num_cascades, cells = bits.shape[0], bits.shape[1]
    half, one, tiny = kind(0.5), kind(1), kind(1e-12)
    half_size = kind(2 ** (num_cascades - 1))
    ox, oy, oz = origin[0], origin[1], origin[2]
    dx, dy, dz = direction[0], direction[1], direction[2]
    if not np.isfinite(ox + oy + oz + dx + dy + dz):
        return 0
    enter, leave = near, kind(np.inf)
    begin, finish = near, kind(np.inf)  # of the part that can hold samples
    for axis in range(3):
        o, d = origin[axis], direction[axis]
        d = d if abs(d) >= tiny else tiny
        a, b = (-half_size - o) / d, (half_size - o) / d
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
        a, b = (box[0, axis] - o) / d, (box[1, axis] - o) / d
        begin, finish = max(begin, min(a, b)), min(finish, max(a, b))
    margin = kind(1e-4) * half_size  # rounding must not cut a sample off
    if not (enter < leave and begin < finish + margin):
        return 0
    begin, finish = begin - margin, min(leave, finish + margin)
    scale = half * kind(cells)
    origin_t = enter + jitter * _step(enter, cone, dt_min, dt_max)
    # Without a cone t = origin_t + index dt_min, so that steps can be skipped by a division.
    t, index, dt = origin_t, 0, _step(origin_t, cone, dt_min, dt_max)
    count, skip_to = 0, begin
    inv_dx = one / dx if dx != 0 else kind(0)
    inv_dy = one / dy if dy != 0 else kind(0)
    inv_dz = one / dz if dz != 0 else kind(0)
    while count < max_samples:
        if t + half * dt < skip_to:
            if cone == 0:
                steps = int(np.ceil((skip_to - t) / dt - half))
                index += max(steps, 1)
                t = origin_t + kind(index) * dt
            else:
                t = t + dt
                dt = _step(t, cone, dt_min, dt_max)
                continue
        middle = t + half * dt
        if not (middle < finish):
            break
        x, y, z = ox + middle * dx, oy + middle * dy, oz + middle * dz
        reach = max(abs(x), abs(y), abs(z))
        cascade, size = 0, one
        while cascade < num_cascades - 1 and (reach >= size or dt * kind(cells) > kind(2) * size):
            cascade += 1
            size = size * kind(2)
        inv_size = one / size  # a power of two: exact
        px, py = (x * inv_size + one) * scale, (y * inv_size + one) * scale
        pz = (z * inv_size + one) * scale
        ix = min(max(int(np.floor(px)), 0), cells - 1)
        iy = min(max(int(np.floor(py)), 0), cells - 1)
        iz = min(max(int(np.floor(pz)), 0), cells - 1)
        width = size / scale
        shift = -1
        if coarse[cascade, iz >> 3, iy >> 3, ix >> 3] == 0:
            shift = 3
        elif not (bits[cascade, iz, iy, ix >> 3] >> (ix & 7)) & 1:
            shift = 0
        if shift < 0:
            if write:
                starts[first + count] = t
                ends[first + count] = t + dt
            count += 1
            skip_to = kind(0)
        else:
            # Steps whose middle stays inside the empty cell or block need no look-up; a hair less,
            # so that rounding never skips an occupied cell.
            far = kind(1e30)
            if dx != 0:
                edge = ((ix >> shift) + (1 if dx > 0 else 0)) << shift
                far = min(far, (kind(edge) - px) * width * inv_dx)
            if dy != 0:
                edge = ((iy >> shift) + (1 if dy > 0 else 0)) << shift
                far = min(far, (kind(edge) - py) * width * inv_dy)
            if dz != 0:
                edge = ((iz >> shift) + (1 if dz > 0 else 0)) << shift
                far = min(far, (kind(edge) - pz) * width * inv_dz)
            skip_to = middle + far - kind(1e-4) * width
        if cone == 0:
            index += 1
            t = origin_t + kind(index) * dt
        else:
            t = t + dt
            dt = _step(t, cone, dt_min, dt_max)
    return count


@njit(parallel=True, cache=True)
def march(
    origins: Any, directions: Any, bits: Any, coarse: Any, box: Any, jitter: Any, near: Any,
    dt_min: Any, dt_max: Any, cone: Any, max_samples: int, starts: Any, ends: Any, offsets: Any,
    write: bool,
) -> None:  # fmt: skip
    """Counts into offsets[i + 1], or writes the samples of ray i from offsets[i] on."""
    num_rays = origins.shape[0]
    for block in prange((num_rays + _RAYS - 1) // _RAYS):
        for i in range(np.int64(block) * _RAYS, min(np.int64(block) * _RAYS + _RAYS, num_rays)):
            first = offsets[i] if write else 0
            if write and offsets[i + 1] == first:
                continue
            count = _march_ray(
                origins[i], directions[i], bits, coarse, box, jitter[i], near, dt_min, dt_max,
                cone, max_samples, starts, ends, first, write,
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

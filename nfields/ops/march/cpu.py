"""Marching rays through an occupancy grid on the CPU (Numba).

Mapping. One thread a block of rays, twice: once to count the samples, once to write them behind
those of the ray before, so that the output needs no compaction. The grid is one bit a cell
(256 KB for 128^3), which stays in L2; blocks of 4^3 cells take a byte each, which stays in L1. What
is empty is left at its far side: the space around the occupied blocks, all blocks up to the nearest
occupied one, an empty cell. Samples lie on the same sequence of t whatever the grid holds: without
a cone a skip is a division, with one its steps are taken one by one. No fastmath: counting and
writing must agree to the bit, and so must the reference.
"""

from typing import Any

import numpy as np

from nfields.jit import njit, prange

# A function that does not say so takes these from the kernel that is compiled with it first, and
# keeps them: nfields/ops/render has fastmath.
_EXACT = {"fastmath": False, "error_model": "numpy"}
_RAYS = 32  # rays a thread takes at a time
_SIDE, _SHIFT = 4, 2  # cells a side of a block, and the shift from the one to the other
_FAR = 8  # blocks that a ray may leave behind at once


@njit(inline="always")
def _step(t: Any, cone: Any, dt_min: Any, dt_max: Any) -> Any:
    return min(max(t * cone, dt_min), dt_max)


@njit(cache=True)
def coarsen(bits: Any) -> Any:
    """Blocks (C, G / 4, G / 4, G / 4) of 4^3 cells that hold an occupied cell: 1, else 0."""
    cascades, cells, packs = bits.shape[0], bits.shape[1], bits.shape[3]
    blocks = cells // _SIDE
    coarse = np.zeros((cascades, blocks, blocks, blocks), np.uint8)
    for c in range(cascades):
        for z in range(cells):
            for y in range(cells):
                for x in range(packs):
                    pack = bits[c, z, y, x]
                    if pack & 15:
                        coarse[c, z // _SIDE, y // _SIDE, 2 * x] = 1
                    if pack & 240:
                        coarse[c, z // _SIDE, y // _SIDE, 2 * x + 1] = 1
    return coarse


@njit(cache=True)
def clearance(coarse: Any) -> Any:
    """How many blocks away, along the axis where it is most, the nearest occupied block is.

    0: this one; at most _FAR; cascade by cascade, where what finer ones hold counts too.
    """
    cascades, blocks = coarse.shape[0], coarse.shape[1]
    near = coarse.copy()
    for c in range(1, cascades):
        for z in range(blocks):
            for y in range(blocks):
                for x in range(blocks):
                    if near[c - 1, z, y, x]:
                        at_z, at_y = (2 * z + 1 + blocks) // 4, (2 * y + 1 + blocks) // 4
                        near[c, at_z, at_y, (2 * x + 1 + blocks) // 4] = 1
    clear = np.zeros((cascades, blocks, blocks, blocks), np.uint8)
    wide = np.zeros((2, blocks, blocks, blocks), np.uint8)
    last = blocks - 1
    for c in range(cascades):
        for _ in range(_FAR):
            # What is not reached yet is one block further away; then, axis by axis, what is reached
            # grows by one.
            for z in range(blocks):
                for y in range(blocks):
                    for x in range(blocks):
                        clear[c, z, y, x] += 1 - near[c, z, y, x]
                        wide[0, z, y, x] = near[c, z, y, x]
                    for x in range(last):
                        wide[0, z, y, x] |= near[c, z, y, x + 1]
                        wide[0, z, y, x + 1] |= near[c, z, y, x]
            for z in range(blocks):
                for y in range(blocks):
                    below, above = max(y - 1, 0), min(y + 1, last)
                    for x in range(blocks):
                        wide[1, z, y, x] = (
                            wide[0, z, below, x] | wide[0, z, y, x] | wide[0, z, above, x]
                        )
            for z in range(blocks):
                below, above = max(z - 1, 0), min(z + 1, last)
                for y in range(blocks):
                    for x in range(blocks):
                        near[c, z, y, x] = (
                            wide[1, below, y, x] | wide[1, z, y, x] | wide[1, above, y, x]
                        )
    return clear


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


@njit(cache=True, **_EXACT)
def ray_span(
    ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any, box: Any, half_size: Any, near: Any
) -> Any:
    """Where a ray enters the scene, and the first and last t of its part that can hold samples.

    The last is below the first for a ray that has none.
    """
    kind = type(ox)
    tiny = kind(1e-12)
    enter, leave = near, kind(np.inf)
    begin, finish = near, kind(np.inf)
    for axis, o, d in ((0, ox, dx), (1, oy, dy), (2, oz, dz)):
        d = d if abs(d) >= tiny else tiny
        a, b = (-half_size - o) / d, (half_size - o) / d
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
        inv = kind(1) / d
        a, b = (box[0, axis] - o) * inv, (box[1, axis] - o) * inv
        begin, finish = max(begin, min(a, b)), min(finish, max(a, b))
    margin = kind(1e-4) * half_size  # rounding must not cut a sample off
    if not (np.isfinite(ox + oy + oz + dx + dy + dz) and enter < leave and begin < finish + margin):
        return kind(0), kind(0), kind(-1)
    return enter, begin - margin, min(leave, finish + margin)


@njit(inline="always")
def _edge(i: int, shift: int, room: int, is_up: bool, cells: int) -> int:
    """The far side, in cells, of `room` empty blocks from that of cell i on, within the grid."""
    block = i >> shift
    return min((block + room) << shift, cells) if is_up else max((block - room + 1) << shift, 0)


@njit(cache=True, **_EXACT)
def take_samples(
    ox: Any, oy: Any, oz: Any, dx: Any, dy: Any, dz: Any, bits: Any, clear: Any, start: Any,
    finish: Any, dt_min: Any, dt_max: Any, cone: Any, skip_to: Any, index: int, t: Any, dt: Any,
    limit: int, starts: Any, ends: Any, first: int, write: bool,
) -> Any:  # fmt: skip
    """(count, index, t, dt): how many of a ray's next `limit` samples there are, and what follows.

    (index, t, dt) is the step to begin with, `start` the t of step 0; steps before `skip_to` are
    not looked at. Samples are written from index `first` on if `write`.
    """
    kind = type(ox)
    num_cascades, cells = bits.shape[0], bits.shape[1]
    half, one = kind(0.5), kind(1)
    scale = half * kind(cells)
    inv_dx = one / dx if dx != 0 else kind(0)
    inv_dy = one / dy if dy != 0 else kind(0)
    inv_dz = one / dz if dz != 0 else kind(0)
    count = 0
    while count < limit:
        if t + half * dt < skip_to:
            # Without a cone t = start + index dt_min, so that steps can be skipped by a division.
            if cone == 0:
                steps = int(np.ceil((skip_to - t) / dt - half))
                index += max(steps, 1)
                t = start + kind(index) * dt
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
        ix = min(max(int(px), 0), cells - 1)
        iy = min(max(int(py), 0), cells - 1)
        iz = min(max(int(pz), 0), cells - 1)
        width = size / scale
        room, shift = int(clear[cascade, iz >> _SHIFT, iy >> _SHIFT, ix >> _SHIFT]), _SHIFT
        is_occupied = False
        if room == 0:
            is_occupied = (bits[cascade, iz, iy, ix >> 3] >> (ix & 7)) & 1 == 1
            room, shift = 1, 0
        if is_occupied:
            if write:
                starts[first + count] = t
                ends[first + count] = t + dt
            count += 1
        else:
            # Steps whose middle stays inside the empty cell or blocks need no look-up; a hair less,
            # so that rounding never skips an occupied cell.
            far = kind(1e30)
            if dx != 0:
                edge = _edge(ix, shift, room, dx > 0, cells)
                far = min(far, (kind(edge) - px) * width * inv_dx)
            if dy != 0:
                edge = _edge(iy, shift, room, dy > 0, cells)
                far = min(far, (kind(edge) - py) * width * inv_dy)
            if dz != 0:
                edge = _edge(iz, shift, room, dz > 0, cells)
                far = min(far, (kind(edge) - pz) * width * inv_dz)
            skip_to = middle + far - kind(1e-4) * width
            if cone > 0 and cascade < num_cascades - 1:
                # Behind this steps are larger than cells, and another cascade counts.
                skip_to = min(skip_to, width / cone)
        if cone == 0:
            index += 1
            t = start + kind(index) * dt
        else:
            t = t + dt
            dt = _step(t, cone, dt_min, dt_max)
    return count, index, t, dt


@njit(cache=True, **_EXACT)
def first_step(enter: Any, jitter: Any, dt_min: Any, dt_max: Any, cone: Any) -> Any:
    """t and dt of the first step of a ray that enters the scene at t = `enter`."""
    start = enter + jitter * _step(enter, cone, dt_min, dt_max)
    return start, _step(start, cone, dt_min, dt_max)


@njit(cache=True, **_EXACT)
def _march_ray(
    origins: Any, directions: Any, i: int, bits: Any, clear: Any, box: Any, jitter: Any, near: Any,
    dt_min: Any, dt_max: Any, cone: Any, max_samples: int, starts: Any, ends: Any, first: int,
    write: bool,
) -> int:  # fmt: skip
    """Number of samples of ray i; written from index `first` on if `write`."""
    half_size = origins.dtype.type(2 ** (bits.shape[0] - 1))
    ox, oy, oz = origins[i, 0], origins[i, 1], origins[i, 2]
    dx, dy, dz = directions[i, 0], directions[i, 1], directions[i, 2]
    enter, begin, finish = ray_span(ox, oy, oz, dx, dy, dz, box, half_size, near)
    if finish < begin:
        return 0
    start, dt = first_step(enter, jitter, dt_min, dt_max, cone)
    count, _, _, _ = take_samples(
        ox, oy, oz, dx, dy, dz, bits, clear, start, finish, dt_min, dt_max, cone, begin, 0, start,
        dt, max_samples, starts, ends, first, write,
    )  # fmt: skip
    return count


@njit(parallel=True, cache=True)
def march(
    origins: Any, directions: Any, bits: Any, clear: Any, box: Any, jitter: Any, near: Any,
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
                origins, directions, i, bits, clear, box, jitter[i], near, dt_min, dt_max, cone,
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

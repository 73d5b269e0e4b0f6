"""Marching rays through an occupancy grid on the CPU (Numba).

Mapping. One thread a block of rays, twice: once to count the samples, once to write them behind
those of the ray before, so that the output needs no compaction. Sixteen rays at once take one look
each (nfields/ops/march/lanes.py). The grid is one bit a cell
(256 KB for 128^3), which stays in L2; blocks of 4^3 cells take a byte each, which stays in L1. What
is empty is left at its far side: the space around the occupied blocks, all blocks up to the nearest
occupied one, an empty cell. Samples lie on the same sequence of t whatever the grid holds: without
a cone a skip is a division, with one its steps are taken one by one. No fastmath: counting and
writing must agree to the bit, and so must the reference.
"""

from typing import Any

import numba
import numpy as np
from jaxtyping import Float64, UInt8
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from nfields.jit import njit, prange
from nfields.ops.march.lanes import (
    ACTIVE,
    ENDS,
    EXACT,
    HIT,
    LANES,
    NUM_ROWS,
    SIDE,
    STARTS,
    begin,
    look,
    make,
)

_FAR = 8  # blocks that a ray may leave behind at once


_surroundings = WeakTensorKeyDictionary()  # bits -> (their version, what is said of them)


def surroundings(
    bits: UInt8[Tensor, "cascades cells cells bytes"],
) -> tuple[UInt8[np.ndarray, "cascades blocks blocks blocks"], Float64[np.ndarray, "2 3"]]:
    """`clearance` and `occupied_box` of bits, found again where PyTorch has changed them since."""
    version = None if bits.is_inference() else bits._version
    known, found = _surroundings.get(bits) or (None, None)
    if found is None or version is None or known != version:
        coarse = coarsen(bits.contiguous().numpy())
        found = (clearance(coarse), occupied_box(coarse))
        _surroundings[bits] = (version, found)
    return found


@njit(cache=True)
def coarsen(bits: Any) -> Any:
    """Blocks (C, G / 4, G / 4, G / 4) of 4^3 cells that hold an occupied cell: 1, else 0."""
    cascades, cells, packs = bits.shape[0], bits.shape[1], bits.shape[3]
    blocks = cells // SIDE
    coarse = np.zeros((cascades, blocks, blocks, blocks), np.uint8)
    for c in range(cascades):
        for z in range(cells):
            for y in range(cells):
                for x in range(packs):
                    pack = bits[c, z, y, x]
                    if pack & 15:
                        coarse[c, z // SIDE, y // SIDE, 2 * x] = 1
                    if pack & 240:
                        coarse[c, z // SIDE, y // SIDE, 2 * x + 1] = 1
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


@njit(cache=True, **EXACT)
def _march_rays(
    first_ray: int, stop: int, origins: Any, directions: Any, bits: Any, clear: Any, box: Any,
    jitter: Any, near: Any, dt_min: Any, dt_max: Any, cone: Any, max_samples: int, starts: Any,
    ends: Any, offsets: Any, write: bool,
) -> None:  # fmt: skip
    """`march` of a range of rays."""
    kind = origins.dtype.type
    cascades, cells = bits.shape[0], bits.shape[1]
    half_size = kind(2 ** (cascades - 1))
    state, places = np.zeros(NUM_ROWS * LANES, origins.dtype), np.zeros(3 * LANES, np.int32)
    ray, count = np.zeros(LANES, np.int64), np.zeros(LANES, np.int64)
    flat_bits, flat_clear = bits.reshape(-1), clear.reshape(-1)
    make(state, dt_min)
    upcoming = first_ray
    while True:
        num_active = 0
        for lane in range(LANES):
            while state[ACTIVE * LANES + lane] == 0 and upcoming < stop:
                i = upcoming
                upcoming += 1
                if write and offsets[i + 1] == offsets[i]:
                    continue
                is_there = begin(
                    state, lane, origins, directions, i, box, half_size, near, jitter[i], dt_min,
                    dt_max, cone,
                )  # fmt: skip
                if is_there:
                    ray[lane], count[lane] = i, 0
            num_active += 1 if state[ACTIVE * LANES + lane] != 0 else 0
        if num_active == 0:
            return
        look(state, places, flat_bits, flat_clear, cascades, cells, dt_min, dt_max, cone)
        for lane in range(LANES):
            if state[HIT * LANES + lane] == 0:
                continue
            i = ray[lane]
            if write:
                place = offsets[i] + count[lane]
                starts[place] = state[STARTS * LANES + lane]
                ends[place] = state[ENDS * LANES + lane]
            count[lane] += 1
            if not write:
                offsets[i + 1] = count[lane]
            if count[lane] >= max_samples:
                state[ACTIVE * LANES + lane] = 0


@njit(parallel=True, cache=True)
def march(
    origins: Any, directions: Any, bits: Any, clear: Any, box: Any, jitter: Any, near: Any,
    dt_min: Any, dt_max: Any, cone: Any, max_samples: int, size: int, starts: Any, ends: Any,
    offsets: Any, write: bool,
) -> None:  # fmt: skip
    """Counts into offsets[i + 1] (zeros at first), or writes ray i's samples from offsets[i] on.

    A thread takes `size` rays (`rays_at_once`) at a time.
    """
    num_rays = origins.shape[0]
    for block in prange((num_rays + size - 1) // size):
        first: Any = np.int64(block) * size
        _march_rays(
            first, min(first + size, num_rays), origins, directions, bits, clear, box, jitter,
            near, dt_min, dt_max, cone, max_samples, starts, ends, offsets, write,
        )  # fmt: skip


def rays_at_once(num_rays: int) -> int:
    """So many that lanes are seldom empty, so few that threads end together."""
    return min(max(num_rays // (8 * numba.get_num_threads()), 4 * LANES), 1024)


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

"""Sixteen rays at a time through an occupancy grid (Numba): one look at a step of each.

A ray alone waits: where it is says what to look up, and that says where it goes next. Sixteen at
once have vector arithmetic and wait together; only the look-ups themselves are taken one by one.
A ray that is done makes room for the next one (`begin`), so that lanes are always in use.

Numbers are floats throughout, cells and indices too (all below 2^24, so exact), in one flat array
of rows of LANES: what lies at constant distances in one array the compiler can tell apart, and
makes vectors of. Arithmetic is that of nfields/ops/march/reference.py to the bit.
"""

from typing import Any

import numpy as np

from nfields.jit import njit

# A function that does not say so takes these from the kernel that is compiled with it first, and
# keeps them: nfields/ops/render has fastmath.
EXACT = {"fastmath": False, "error_model": "numpy"}
LANES = 16
SIDE = 4  # cells a side of a block

# What a ray keeps from look to look.
_OX, _OY, _OZ, _DX, _DY, _DZ, _INV_X, _INV_Y, _INV_Z = range(9)
_START, _FINISH, _T, _DT, _INV_DT, _INDEX, _SKIP_TO = range(9, 16)
ACTIVE = 16  # 1: takes part in the next look; look() makes it 0 where the ray has ended
# What a look finds: whether there is a sample, and from where to where.
HIT, STARTS, ENDS = range(17, 20)
NUM_KEPT = 20  # rows up to here are what moves a ray from lane to lane
_MIDDLE, _PX, _PY, _PZ, _IX, _IY, _IZ, _SIZE, _INV_SIZE, _CASCADE = range(20, 30)
_BLOCK, _ROW, _ROOM, _BIT = range(30, 34)
NUM_ROWS = 34
# Steps that are left out at once, and indices, stay exact and can be converted.
_MANY = 1 << 24
_FAR = 1e30
_ROUNDING = 2.0**-21  # four units in the last place, in float32


@njit(cache=True, **EXACT)
def make(state: Any, dt_min: Any) -> None:
    """Lanes without a ray, from zeros (NUM_ROWS * LANES)."""
    one = state.dtype.type(1)
    for lane in range(LANES):
        state[_DT * LANES + lane], state[_INV_DT * LANES + lane] = dt_min, one / dt_min
        state[_FINISH * LANES + lane] = -one
        state[_SIZE * LANES + lane], state[_INV_SIZE * LANES + lane] = one, one


@njit(inline="always", **EXACT)
def _step(t: Any, cone: Any, dt_min: Any, dt_max: Any) -> Any:
    return min(max(t * cone, dt_min), dt_max)


@njit(cache=True, **EXACT)
def begin(
    state: Any, lane: int, origins: Any, directions: Any, i: int, box: Any, half_size: Any,
    near: Any, jitter: Any, dt_min: Any, dt_max: Any, cone: Any,
) -> bool:  # fmt: skip
    """Puts ray i into a lane; False, and nothing is changed, if no part of it can hold samples.

    `box` is that around all that is occupied, [-half_size, half_size]^3 the scene.
    """
    kind = state.dtype.type
    tiny, one = kind(1e-12), kind(1)
    # Most rays of a picture miss what is occupied: the divisions of `enter` are for the others.
    first, finish = near, kind(np.inf)
    total = kind(0)
    for axis in range(3):
        if not box[0, axis] < box[1, axis]:  # nothing is occupied
            return False
        o, d = origins[i, axis], directions[i, axis]
        total += o + d
        inv = one / (d if abs(d) >= tiny else tiny)
        a, b = (box[0, axis] - o) * inv, (box[1, axis] - o) * inv
        first, finish = max(first, min(a, b)), min(finish, max(a, b))
    # Rounding must not cut a sample off.
    margin = kind(1e-4) * half_size + kind(_ROUNDING) * (abs(first) + half_size)
    first, finish = first - margin, finish + margin
    if not (np.isfinite(total) and first < finish):
        return False
    enter, leave = near, kind(np.inf)
    for axis in range(3):
        o, d = origins[i, axis], directions[i, axis]
        d = d if abs(d) >= tiny else tiny
        a, b = (-half_size - o) / d, (half_size - o) / d
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    finish = min(finish, leave)
    if not (enter < leave and first < finish):
        return False
    start = enter + jitter * _step(enter, cone, dt_min, dt_max)
    dt = _step(start, cone, dt_min, dt_max)
    for axis in range(3):
        d = directions[i, axis]
        state[(_OX + axis) * LANES + lane] = origins[i, axis]
        state[(_DX + axis) * LANES + lane] = d
        state[(_INV_X + axis) * LANES + lane] = one / d if d != 0 else kind(0)
    state[_START * LANES + lane], state[_FINISH * LANES + lane] = start, finish
    state[_T * LANES + lane], state[_DT * LANES + lane] = start, dt
    state[_INV_DT * LANES + lane], state[_INDEX * LANES + lane] = one / dt, kind(0)
    state[_SKIP_TO * LANES + lane], state[ACTIVE * LANES + lane] = first, one
    return True


@njit(inline="always", **EXACT)
def _way_out(
    cell: Any, at: Any, d: Any, inv_d: Any, width: Any, side: Any, inv_side: Any, room: Any,
    cells: Any,
) -> Any:  # fmt: skip
    """How far it is along one axis to the far side of `room` empty blocks, or cells."""
    kind = type(at)
    block = np.floor(cell * inv_side)
    above = min((block + room) * side, cells)
    below = max((block - room + kind(1)) * side, kind(0))
    edge = above if d > kind(0) else below
    return (edge - at) * width * inv_d if d != kind(0) else kind(_FAR)


@njit(cache=True, **EXACT)
def look(
    state: Any, places: Any, bits: Any, clear: Any, cascades: int, cells: int, dt_min: Any,
    dt_max: Any, cone: Any,
) -> None:  # fmt: skip
    """The next step of every active lane that may hold a sample: whether it does, and what follows.

    bits and clear (nfields/ops/march/cpu.py) are flat; places (3 * LANES) int32 is working memory.
    """
    kind = state.dtype.type
    half, one, zero, quarter = kind(0.5), kind(1), kind(0), kind(1 / SIDE)
    scale, num_cells, last_cell = half * kind(cells), kind(cells), kind(cells - 1)
    inv_scale, num_blocks, last_cascade = one / scale, kind(cells // SIDE), kind(cascades - 1)
    if cone == 0:
        # t = start + index dt_min, so that steps can be left out by a division.
        for i in range(LANES):
            dt, skip_to = state[_DT * LANES + i], state[_SKIP_TO * LANES + i]
            steps = np.ceil((skip_to - state[_T * LANES + i]) * state[_INV_DT * LANES + i] - half)
            steps = min(max(steps, one), kind(_MANY))
            is_left_out = state[_T * LANES + i] + half * dt < skip_to
            steps = state[ACTIVE * LANES + i] * (steps if is_left_out else zero)
            index = state[_INDEX * LANES + i] + steps
            state[_INDEX * LANES + i] = index
            state[_T * LANES + i] = state[_START * LANES + i] + index * dt
    else:
        some = 1
        while some > 0:
            some = 0
            for i in range(LANES):
                t, dt = state[_T * LANES + i], state[_DT * LANES + i]
                is_left_out = t + half * dt < state[_SKIP_TO * LANES + i]
                goes = state[ACTIVE * LANES + i] if is_left_out else zero
                t = t + goes * dt
                state[_T * LANES + i] = t
                state[_DT * LANES + i] = _step(t, cone, dt_min, dt_max)
                some += 1 if goes > zero else 0
    for cascade in range(cascades - 1):
        for i in range(LANES):
            t, dt = state[_T * LANES + i], state[_DT * LANES + i]
            middle = t + half * dt
            x = abs(state[_OX * LANES + i] + middle * state[_DX * LANES + i])
            y = abs(state[_OY * LANES + i] + middle * state[_DY * LANES + i])
            z = abs(state[_OZ * LANES + i] + middle * state[_DZ * LANES + i])
            size = one if cascade == 0 else state[_SIZE * LANES + i]
            inv_size = one if cascade == 0 else state[_INV_SIZE * LANES + i]
            number = zero if cascade == 0 else state[_CASCADE * LANES + i]
            grows = one if max(x, max(y, z)) >= size else zero
            grows = max(grows, one if dt * num_cells > kind(2) * size else zero)
            state[_SIZE * LANES + i] = size + grows * size  # powers of two: exact
            state[_INV_SIZE * LANES + i] = inv_size - half * grows * inv_size
            state[_CASCADE * LANES + i] = number + grows
    for i in range(LANES):
        middle = state[_T * LANES + i] + half * state[_DT * LANES + i]
        state[_MIDDLE * LANES + i] = middle
        is_inside = middle < state[_FINISH * LANES + i]
        state[ACTIVE * LANES + i] = state[ACTIVE * LANES + i] if is_inside else zero
        inv_size = state[_INV_SIZE * LANES + i]
        x = state[_OX * LANES + i] + middle * state[_DX * LANES + i]
        y = state[_OY * LANES + i] + middle * state[_DY * LANES + i]
        z = state[_OZ * LANES + i] + middle * state[_DZ * LANES + i]
        x, y, z = (
            (x * inv_size + one) * scale,
            (y * inv_size + one) * scale,
            (z * inv_size + one) * scale,
        )
        state[_PX * LANES + i], state[_PY * LANES + i], state[_PZ * LANES + i] = x, y, z
        x = np.floor(min(max(x, zero), last_cell))
        y = np.floor(min(max(y, zero), last_cell))
        z = np.floor(min(max(z, zero), last_cell))
        state[_IX * LANES + i], state[_IY * LANES + i], state[_IZ * LANES + i] = x, y, z
        cascade = state[_CASCADE * LANES + i]
        block = (cascade * num_blocks + np.floor(z * quarter)) * num_blocks
        block = (block + np.floor(y * quarter)) * num_blocks + np.floor(x * quarter)
        state[_BLOCK * LANES + i] = block
        state[_ROW * LANES + i] = (cascade * num_cells + z) * num_cells + y
    for i in range(LANES):
        places[i] = np.int32(state[_BLOCK * LANES + i])
        places[LANES + i] = np.int32(state[_ROW * LANES + i])
        places[2 * LANES + i] = np.int32(state[_IX * LANES + i])
    packs = cells // 8
    for i in range(LANES):
        x = places[2 * LANES + i]
        pack = np.int32(bits[places[LANES + i] * packs + (x >> 3)])
        state[_BIT * LANES + i] = (pack >> (x & 7)) & 1
        state[_ROOM * LANES + i] = clear[places[i]]
    for i in range(LANES):
        room = state[_ROOM * LANES + i]
        hit = state[ACTIVE * LANES + i] * (state[_BIT * LANES + i] if room == zero else zero)
        side = kind(SIDE) if room > zero else one
        inv_side = quarter if room > zero else one
        room = max(room, one)
        # Steps whose middle stays inside the empty cell or blocks need no look; a hair less, so
        # that rounding never leaves an occupied cell out.
        width = state[_SIZE * LANES + i] * inv_scale
        way = _way_out(
            state[_IX * LANES + i], state[_PX * LANES + i], state[_DX * LANES + i],
            state[_INV_X * LANES + i], width, side, inv_side, room, num_cells,
        )  # fmt: skip
        way_y = _way_out(
            state[_IY * LANES + i], state[_PY * LANES + i], state[_DY * LANES + i],
            state[_INV_Y * LANES + i], width, side, inv_side, room, num_cells,
        )  # fmt: skip
        way_z = _way_out(
            state[_IZ * LANES + i], state[_PZ * LANES + i], state[_DZ * LANES + i],
            state[_INV_Z * LANES + i], width, side, inv_side, room, num_cells,
        )  # fmt: skip
        way = min(way, min(way_y, way_z))
        middle, size = state[_MIDDLE * LANES + i], state[_SIZE * LANES + i]
        skip_to = middle + way - kind(1e-4) * width - kind(_ROUNDING) * (abs(middle) + size)
        if cone > 0:
            # Behind this steps are larger than cells, and another cascade counts.
            largest = width / cone if state[_CASCADE * LANES + i] < last_cascade else kind(_FAR)
            skip_to = min(skip_to, largest)
        is_active = state[ACTIVE * LANES + i]
        goes_on = hit > zero or skip_to < state[_FINISH * LANES + i]
        state[ACTIVE * LANES + i] = is_active if goes_on else zero
        t, dt = state[_T * LANES + i], state[_DT * LANES + i]
        state[HIT * LANES + i] = hit
        state[STARTS * LANES + i], state[ENDS * LANES + i] = t, t + dt
        keeps = hit > zero or is_active == zero
        state[_SKIP_TO * LANES + i] = state[_SKIP_TO * LANES + i] if keeps else skip_to
        if cone == 0:
            index = state[_INDEX * LANES + i] + is_active
            state[_INDEX * LANES + i] = index
            state[_T * LANES + i] = state[_START * LANES + i] + index * dt
        else:
            t = t + is_active * dt
            state[_T * LANES + i] = t
            state[_DT * LANES + i] = _step(t, cone, dt_min, dt_max)

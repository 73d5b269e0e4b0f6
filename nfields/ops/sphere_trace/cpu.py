"""Sphere tracing on the CPU (Numba): what happens to rays between two evaluations of the field.

Mapping. The field is asked for all active rays at once; in between, `advance` gives each thread
blocks of active rays: it reads the value, moves the ray's bracket and proposes the next t, 8
numbers of state a ray (half a cache line in float32). Empty space is crossed inside the kernel,
eight loads of the bound grid (2 M floats, in L2 and L3) a step, so the field is asked only close to
the surface. `compact` then lists the rays still active, in order, and writes their next points.
Once few rays are left a call of the field costs more than its points, so each ray is asked at
several places ahead: a gap apart, or all over its bracket.
Arithmetic is in float64 registers, whatever the rays are stored in.

State of a ray, columns of (n, 8); g = s f, s the sign of its start: g < 0 is behind the hit
    T           where the field is asked next
    A, G_A      the last t with g >= 0; G_A is NaN where the grid says so and nothing was asked
    B, G_B      marching: the A before that (B = -inf: none); bracketing: the last t with g < 0
    W_A, W_B    Illinois weights of the two ends
    DEPTH       of the crossing, infinite before
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from typing import Any

import numpy as np

from nfields.jit import njit, prange

FRESH, MARCHING, BRACKETING, DONE = 0, 1, 2, 3
T, A, G_A, B, G_B, W_A, W_B, DEPTH = range(8)
NUM_COLUMNS = 8
_RAYS = 64  # a thread takes at a time
# Past a predicted root by this share of the way, so that the next value closes the bracket.
_OVERSHOOT = 0.15
_ROUNDING = 4 * 2.0**-23  # of t and of the points, in float32
# Calls of small fields cost 0.5 ms, as much as 1,200 points (hashgrid and rbfnet, one core).
MOST_POINTS = 2048  # of a call that asks ahead
_MOST_AHEAD = 16


@njit(inline="always")
def interpolate(grid: Any, px: float, py: float, pz: float) -> float:
    """The trilinear interpolant at a point in units of cells; clamped to the grid's box."""
    px = min(max(px, 0.0), grid.shape[0] - 1.0)
    py = min(max(py, 0.0), grid.shape[1] - 1.0)
    pz = min(max(pz, 0.0), grid.shape[2] - 1.0)
    i = min(int(px), grid.shape[0] - 2)
    j = min(int(py), grid.shape[1] - 2)
    k = min(int(pz), grid.shape[2] - 2)
    u, v, w = px - i, py - j, pz - k
    c00 = grid[i, j, k] * (1.0 - w) + grid[i, j, k + 1] * w
    c01 = grid[i, j + 1, k] * (1.0 - w) + grid[i, j + 1, k + 1] * w
    c10 = grid[i + 1, j, k] * (1.0 - w) + grid[i + 1, j, k + 1] * w
    c11 = grid[i + 1, j + 1, k] * (1.0 - w) + grid[i + 1, j + 1, k + 1] * w
    return (c00 * (1.0 - v) + c01 * v) * (1.0 - u) + (c10 * (1.0 - v) + c11 * v) * u


@njit(inline="always")
def _cross_empty_space(
    origin: Any, direction: Any, t: float, t_far: float, grid: Any, low: Any, inv_spacing: float,
    margin: float, gap: float,
) -> float:  # fmt: skip
    """The first t that is known to be within `gap` behind empty space, or one beyond t_far."""
    ox, oy, oz = origin[0] - low[0], origin[1] - low[1], origin[2] - low[2]
    dx, dy, dz = direction[0], direction[1], direction[2]
    first = t
    while t <= t_far:
        at = interpolate(
            grid, (ox + t * dx) * inv_spacing, (oy + t * dy) * inv_spacing,
            (oz + t * dz) * inv_spacing,
        )  # fmt: skip
        radius = abs(at) - margin
        if not radius >= gap:
            return t + max(radius, 0.0) + gap if t > first else t
        t += radius
    return t


@njit(inline="always")
def _fall(
    origin: Any, direction: Any, t: float, grid: Any, low: Any, spacing: float, is_inside: bool
) -> float:
    """By how much the grid's interpolant approaches zero over half a spacing from t on."""
    ends = 0.0
    for sign in (1.0, -1.0):
        at = t if sign > 0 else t + 0.5 * spacing
        ends += sign * interpolate(
            grid, (origin[0] + at * direction[0] - low[0]) / spacing,
            (origin[1] + at * direction[1] - low[1]) / spacing,
            (origin[2] + at * direction[2] - low[2]) / spacing,
        )  # fmt: skip
    return -ends if is_inside else ends


@njit(parallel=True, cache=True)
def start(
    origins: Any, directions: Any, t_near: Any, t_far: Any, grid: Any, low: Any, spacing: float,
    margin: float, gap: float, state: Any, status: Any, starts_inside: Any,
) -> None:  # fmt: skip
    """Moves every ray to where the field is asked first; the others are done."""
    inv_spacing = 1.0 / spacing
    num_rays = origins.shape[0]
    for block in prange((num_rays + _RAYS - 1) // _RAYS):
        for i in range(np.int64(block) * _RAYS, min(np.int64(block) * _RAYS + _RAYS, num_rays)):
            near, far = float(t_near[i]), float(t_far[i])
            state[i, DEPTH] = np.inf
            status[i] = DONE
            starts_inside[i] = False
            if not near <= far:
                continue
            o, d = origins[i], directions[i]
            at = interpolate(
                grid, (o[0] + near * d[0] - low[0]) * inv_spacing,
                (o[1] + near * d[1] - low[1]) * inv_spacing,
                (o[2] + near * d[2] - low[2]) * inv_spacing,
            )  # fmt: skip
            t = near
            status[i] = FRESH
            if abs(at) - margin >= gap:
                starts_inside[i] = at < 0
                status[i] = MARCHING
                t = _cross_empty_space(o, d, near, far, grid, low, inv_spacing, margin, gap)
                if t > far:
                    status[i] = DONE
                near = max(near, t - gap)  # up to there it is empty
            state[i, T], state[i, A], state[i, G_A] = t, near, np.nan
            state[i, B], state[i, G_B] = -np.inf, np.nan


@njit(inline="always")
def _root(a: float, g_a: float, b: float, g_b: float) -> float:
    """Where the line through (a, g_a > 0) and (b, g_b < 0) is zero."""
    return a + (b - a) * (g_a / (g_a - g_b))


@njit(inline="always")
def _safe_distance(g: float, slopes: Any, band: float) -> float:
    """How far g takes to fall to zero at the slopes of its bands; 0 if that is not known."""
    distance = 0.0
    if not g < np.inf:
        return distance
    for k in range(slopes.shape[0]):
        part = min(g, band) if k + 1 < slopes.shape[0] else g
        distance += part / slopes[k]
        g -= part
    return distance


@njit(inline="always")
def _next_step(row: Any, slopes: Any, band: float, gap: float, tolerance: float) -> float:
    """How far to go from A: to the predicted root, but within the ball of G_A and `gap` more."""
    safe = _safe_distance(row[G_A], slopes, band)
    step = safe + gap
    fall = row[G_B] - row[G_A]  # since the sample before
    if row[B] > -np.inf and fall > 0.0:
        root = row[G_A] * (row[A] - row[B]) / fall
        step = min(step, max(safe, (1.0 + _OVERSHOOT) * root + 0.5 * tolerance))
    return step


def places_ahead(num_active: int) -> int:
    """At how many places each of so many rays is asked at once."""
    return max(1, min(MOST_POINTS // max(num_active, 1), _MOST_AHEAD))


@njit(inline="always")
def _place(row: Any, is_bracketing: bool, k: int, ahead: int, gap: float, far: float) -> float:
    """The k-th of the places where a ray is asked next."""
    if ahead == 1:
        return float(row[T])
    if is_bracketing:
        return row[A] + (row[B] - row[A]) * ((k + 1.0) / (ahead + 1.0))
    return row[T] + k * gap if row[T] + k * gap < far else max(far, float(row[T]))


@njit(parallel=True, cache=True)
def advance(
    values: Any, ahead: int, active: Any, origins: Any, directions: Any, t_far: Any, grid: Any,
    low: Any, spacing: float, margin: float, slopes: Any, gap: float, tolerance: float,
    state: Any, status: Any, starts_inside: Any,
) -> None:  # fmt: skip
    """Takes the field's values at the places of the active rays; sets their T, or ends them."""
    inv_spacing = 1.0 / spacing
    num_active = active.shape[0]
    places = np.empty((num_active, _MOST_AHEAD), np.float64)
    for block in prange((num_active + _RAYS - 1) // _RAYS):
        for n in range(np.int64(block) * _RAYS, min(np.int64(block) * _RAYS + _RAYS, num_active)):
            i = active[n]
            row, far = state[i], float(t_far[i])
            for k in range(ahead):
                places[n, k] = _place(row, status[i] == BRACKETING, k, ahead, gap, far)
            for k in range(ahead):
                t, value = places[n, k], float(values[n * ahead + k])
                if status[i] == FRESH:
                    starts_inside[i] = value < 0.0
                    status[i] = MARCHING
                g = -value if starts_inside[i] else value
                if status[i] == MARCHING and not g < 0.0:
                    if row[G_A] >= 0.0:
                        row[B], row[G_B] = row[A], row[G_A]
                    elif slopes.shape[0] > 0:
                        # No sample before this one: its slope is that of the grid, which holds
                        # safe distances beside the surface.
                        fall = _fall(
                            origins[i], directions[i], t, grid, low, spacing, starts_inside[i]
                        )
                        row[B], row[G_B] = t - 0.5 * spacing, g + fall * slopes[0]
                    row[A], row[G_A] = t, g
                    if t >= far or t + _safe_distance(g, slopes, spacing) > far:
                        status[i] = DONE
                        break
                    continue
                if status[i] == MARCHING:
                    status[i] = BRACKETING
                    row[B], row[G_B], row[W_A], row[W_B] = t, g, 1.0, 1.0
                    if not row[G_A] >= 0.0:  # the end of empty space, where nothing was asked
                        row[G_A] = -g
                elif g < 0.0:
                    row[B], row[G_B], row[W_A], row[W_B] = t, g, 0.5 * row[W_A], 1.0
                else:
                    row[A], row[G_A] = t, g if g >= 0.0 else 0.0
                    row[W_A], row[W_B] = 1.0, 0.5 * row[W_B]
                width, height = row[B] - row[A], row[G_A] - row[G_B]
                nearest = min(row[G_A], -row[G_B])
                if width <= _ROUNDING * abs(t) or nearest * width <= tolerance * height:
                    row[DEPTH] = _root(row[A], row[G_A], row[B], row[G_B])
                    status[i] = DONE
                if status[i] == DONE or g < 0.0:
                    break  # what is behind a crossing is of no use
            if status[i] == MARCHING:
                t = row[A] + _next_step(row, slopes, spacing, gap, tolerance)
                row[T] = min(t, far)
                if t < far:
                    landing = _cross_empty_space(
                        origins[i], directions[i], t, far, grid, low, inv_spacing, margin, gap
                    )
                    if landing > t:  # the sample left behind says nothing about the new place
                        row[A], row[G_A] = landing - gap, np.nan
                    row[T] = landing
                    if landing > far:
                        status[i] = DONE
            elif status[i] == BRACKETING:
                row[T] = _root(row[A], row[W_A] * row[G_A], row[B], row[W_B] * row[G_B])


@njit(cache=True)
def compact(status: Any, active: Any) -> int:
    """Keeps the active rays at the front of `active`; returns their number."""
    kept = 0
    for n in range(active.shape[0]):
        if status[active[n]] != DONE:
            active[kept] = active[n]
            kept += 1
    return kept


@njit(cache=True)
def write_points(
    origins: Any, directions: Any, t_far: Any, gap: float, state: Any, status: Any, active: Any,
    ahead: int, points: Any,
) -> None:  # fmt: skip
    """The points where the field is asked next, `ahead` of each active ray."""
    for n in range(active.shape[0]):
        i = active[n]
        for k in range(ahead):
            t = _place(state[i], status[i] == BRACKETING, k, ahead, gap, float(t_far[i]))
            for axis in range(3):
                points[n * ahead + k, axis] = origins[i, axis] + t * directions[i, axis]

"""Marching rays through contracted space on the CPU (Numba).

Mapping. One thread a block of rays, twice: to count the samples, then to write them. Every step
is looked up: a ray has some hundreds of them from its camera to infinity, and the grid of bits
(256 KB for 128^3) stays in L2. No fastmath: counting and writing must agree to the bit.
"""

from typing import Any

import numpy as np

from nfields.jit import njit, prange

_RAYS = 32  # rays a thread takes at a time


@njit(inline="always")
def _step(x: Any, y: Any, z: Any, dx: Any, dy: Any, dz: Any, dt_min: Any, one: Any) -> Any:
    r2 = x * x + y * y + z * z
    if r2 <= one:
        return dt_min
    radius = np.sqrt(r2)
    cosine = (x * dx + y * dy + z * dz) / radius
    across = max(one - cosine * cosine, one - one)
    slant = radius + radius - one
    step = dt_min * r2 / np.sqrt(cosine * cosine + across * slant * slant)
    return min(step, max(dt_min, radius / (one + one + one + one)))


@njit(cache=True)
def _march_ray(
    origin: Any, direction: Any, bits: Any, jitter: Any, near: Any, dt_min: Any, max_samples: int,
    starts: Any, ends: Any, first: int, write: bool,
) -> int:  # fmt: skip
    """Number of samples of one ray; written from index `first` on if `write`."""
    kind = origin.dtype.type
    cells = bits.shape[1]
    half, one, two = kind(0.5), kind(1), kind(2)
    ox, oy, oz = origin[0], origin[1], origin[2]
    dx, dy, dz = direction[0], direction[1], direction[2]
    if not np.isfinite(ox + oy + oz + dx + dy + dz):
        return 0
    farthest2 = one / (dt_min * dt_min)
    scale = half * kind(cells)
    t = near
    t += jitter * _step(ox + t * dx, oy + t * dy, oz + t * dz, dx, dy, dz, dt_min, one)
    count = 0
    while count < max_samples:
        dt = _step(ox + t * dx, oy + t * dy, oz + t * dz, dx, dy, dz, dt_min, one)
        middle = t + half * dt
        x, y, z = ox + middle * dx, oy + middle * dy, oz + middle * dz
        r2 = x * x + y * y + z * z
        if not (r2 < farthest2):
            break
        shrink = half  # of c / 2
        if r2 > one:
            radius = np.sqrt(r2)
            shrink = half * (two - one / radius) / radius
        ix = min(max(int(np.floor((x * shrink + one) * scale)), 0), cells - 1)
        iy = min(max(int(np.floor((y * shrink + one) * scale)), 0), cells - 1)
        iz = min(max(int(np.floor((z * shrink + one) * scale)), 0), cells - 1)
        if (bits[0, iz, iy, ix >> 3] >> (ix & 7)) & 1:
            if write:
                starts[first + count] = t
                ends[first + count] = t + dt
            count += 1
        t = t + dt
    return count


@njit(parallel=True, cache=True)
def march_contracted(
    origins: Any, directions: Any, bits: Any, jitter: Any, near: Any, dt_min: Any,
    max_samples: int, starts: Any, ends: Any, offsets: Any, write: bool,
) -> None:  # fmt: skip
    """Counts into offsets[i + 1], or writes the samples of ray i from offsets[i] on."""
    num_rays = origins.shape[0]
    for block in prange((num_rays + _RAYS - 1) // _RAYS):
        for i in range(np.int64(block) * _RAYS, min(np.int64(block) * _RAYS + _RAYS, num_rays)):
            first = offsets[i] if write else 0
            if write and offsets[i + 1] == first:
                continue
            count = _march_ray(
                origins[i], directions[i], bits, jitter[i], near, dt_min, max_samples, starts,
                ends, first, write,
            )  # fmt: skip
            if not write:
                offsets[i + 1] = count

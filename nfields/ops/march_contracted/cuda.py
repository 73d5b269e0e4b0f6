"""Marching rays through contracted space on CUDA (Triton).

Mapping. As march: one program of one warp for 32 rays, a ray a lane, twice, to count the samples
and to write them. Every step is looked up: one byte of a grid that lies in L2 (256 KB for 128^3).
A warp is done when its slowest ray is. No fused multiply-adds: counting and writing must agree to
the bit, and so must the reference.
"""

import triton
import triton.language as tl
from torch import Tensor

from nfields.ops.march.cuda import RAYS, count_and_write, is_finite, load_rays


@triton.jit
def _step(x, y, z, dx, dy, dz, dt_min):
    """dt_min over the speed of the contraction, at most |x| / 4; dt_min in the unit ball."""
    r2 = x * x + y * y + z * z
    square = tl.maximum(r2, 1.0)
    radius = tl.sqrt(square)
    cosine = (x * dx + y * dy + z * dz) / radius
    across = tl.maximum(1.0 - cosine * cosine, 0.0)
    slant = radius + radius - 1.0
    step = dt_min * square / tl.sqrt(cosine * cosine + across * slant * slant)
    return tl.where(r2 <= 1.0, dt_min, tl.minimum(step, tl.maximum(0.25 * radius, dt_min)))


@triton.jit
def _cell(x, shrink, scale, last):
    """Index along an axis of the cell that holds the contraction of x."""
    return tl.minimum(tl.maximum((x * shrink + 1.0) * scale, 0.0), last).to(tl.int32)


@triton.jit
def march_contracted_kernel(
    origins_ptr, directions_ptr, bits_ptr, jitter_ptr, offsets_ptr, starts_ptr, ends_ptr, num_rays,
    near, dt_min, max_samples, cells, WRITE: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    """Counts into offsets[i + 1], or writes the samples of ray i from offsets[i] on."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    mask = ray < num_rays
    ox, oy, oz = load_rays(origins_ptr, ray, mask, 0.0)
    dx, dy, dz = load_rays(directions_ptr, ray, mask, 1.0)
    jitter = tl.load(jitter_ptr + ray, mask=mask, other=0.0)
    kind = ox.dtype
    active = mask & is_finite(ox, oy, oz, dx, dy, dz)
    ox, oy, oz = tl.where(active, ox, 0.0), tl.where(active, oy, 0.0), tl.where(active, oz, 0.0)
    dx, dy, dz = tl.where(active, dx, 0.0), tl.where(active, dy, 0.0), tl.where(active, dz, 0.0)
    count = tl.full([RAYS], 0, tl.int32)
    first = tl.full([RAYS], 0, tl.int64)
    room = tl.full([RAYS], 0, tl.int32) + max_samples
    if WRITE:
        first = tl.load(offsets_ptr + ray, mask=mask, other=0)
        room = (tl.load(offsets_ptr + ray + 1, mask=mask, other=0) - first).to(tl.int32)
    active = active & (room > 0)
    smallest = tl.full([RAYS], 0, kind) + dt_min
    farthest = 1.0 / (smallest * smallest)
    last = (tl.full([RAYS], 0, tl.int32) + cells - 1).to(kind)
    scale = 0.5 * (last + 1.0)
    t = tl.full([RAYS], 0, kind) + near
    t += jitter * _step(ox + t * dx, oy + t * dy, oz + t * dz, dx, dy, dz, smallest)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        dt = _step(ox + t * dx, oy + t * dy, oz + t * dz, dx, dy, dz, smallest)
        middle = t + 0.5 * dt
        x, y, z = ox + middle * dx, oy + middle * dy, oz + middle * dz
        r2 = x * x + y * y + z * z
        active = active & (r2 < farthest)
        radius = tl.sqrt(tl.maximum(r2, 1.0))
        shrink = 0.5 * (2.0 - 1.0 / radius) / radius  # of c / 2
        ix, iy = _cell(x, shrink, scale, last), _cell(y, shrink, scale, last)
        iz = _cell(z, shrink, scale, last)
        byte = (iz * cells + iy) * (cells >> 3) + (ix >> 3)
        bits = tl.load(bits_ptr + byte, mask=active, other=0).to(tl.int32)
        hit = active & ((bits >> (ix & 7)) & 1 != 0)
        if WRITE:
            tl.store(starts_ptr + first + count, t, mask=hit)
            tl.store(ends_ptr + first + count, t + dt, mask=hit)
        count += hit.to(tl.int32)
        active = active & (count < room)
        t = tl.where(active, t + dt, t)
    if not WRITE:
        tl.store(offsets_ptr + ray + 1, count.to(tl.int64), mask=mask)


def march_contracted(
    origins: Tensor, directions: Tensor, bits: Tensor, jitter: Tensor, near: float, dt_min: float,
    max_samples: int, capacity: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """t_starts, t_ends, offsets and the number of samples wanted; `capacity` as for march."""
    num_rays = origins.shape[0]
    inputs = [t.contiguous() for t in (origins, directions, bits, jitter)]

    def run(offsets: Tensor, starts: Tensor, ends: Tensor, write: bool) -> None:
        march_contracted_kernel[(triton.cdiv(num_rays, RAYS),)](
            *inputs, offsets, starts, ends, num_rays, near, dt_min, max_samples, bits.shape[1],
            WRITE=write, RAYS=RAYS, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip

    return count_and_write(run, origins, capacity)

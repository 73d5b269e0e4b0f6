"""Marching rays through an occupancy grid on CUDA (Triton).

Mapping. One program of one warp for 32 rays, a ray a lane, twice: once to count the samples, once
to write them behind those of the ray before; between the two a scan of the counts. A warp is done
when its slowest ray is. It reads one byte of the grid a step (256 KB for 128^3: L2, mostly L1) and
one of the blocks of 8^3 cells, by which empty space is left.

With a capacity nothing waits for the number of samples: the buffers have a fixed length, offsets
end there, and the number wanted stays on the device. No fused multiply-adds: counting and writing
must agree to the bit, and so must the reference.
"""

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor

RAYS = 32
TILE = 32


@triton.jit
def _axis_interval(o, d, half_size):
    d = tl.where(tl.abs(d) >= 1e-12, d, 1e-12)
    a = (-half_size - o) / d
    b = (half_size - o) / d
    return tl.minimum(a, b), tl.maximum(a, b)


@triton.jit
def step_at(t, cone, dt_min, dt_max):
    return tl.minimum(tl.maximum(t * cone, dt_min), dt_max)


@triton.jit
def _exit(d, position, index, shift, width):
    """Distance along the ray to the far side of the cell or block on one axis; 1e30 if parallel."""
    edge = ((index >> shift) + (d > 0.0).to(tl.int32)) << shift
    safe = tl.where(d != 0.0, d, 1.0)
    return tl.where(d != 0.0, (edge.to(position.dtype) - position) * width / safe, 1e30)


@triton.jit
def load_rays(rays_ptr, ray, mask, other):
    """The three numbers of each ray."""
    x = tl.load(rays_ptr + ray * 3, mask=mask, other=other)
    y = tl.load(rays_ptr + ray * 3 + 1, mask=mask, other=other)
    z = tl.load(rays_ptr + ray * 3 + 2, mask=mask, other=other)
    return x, y, z


@triton.jit
def is_finite(ox, oy, oz, dx, dy, dz):
    """Which rays have no NaN and no infinity."""
    total = tl.abs(ox) + tl.abs(oy) + tl.abs(oz) + tl.abs(dx) + tl.abs(dy) + tl.abs(dz)
    return total < float("inf")


@triton.jit
def begin(ox, oy, oz, dx, dy, dz, mask, jitter, near, dt_min, dt_max, cone, half_size):
    """Which rays cross the scene, the t of their first step, and where they leave."""
    active = mask & is_finite(ox, oy, oz, dx, dy, dz)
    enter_x, leave_x = _axis_interval(ox, dx, half_size)
    enter_y, leave_y = _axis_interval(oy, dy, half_size)
    enter_z, leave_z = _axis_interval(oz, dz, half_size)
    enter = tl.maximum(tl.maximum(enter_x, enter_y), tl.maximum(enter_z, near))
    leave = tl.minimum(tl.minimum(leave_x, leave_y), leave_z)
    active = active & (enter < leave)
    origin_t = tl.where(active, enter + jitter * step_at(enter, cone, dt_min, dt_max), 0.0)
    return active, origin_t, leave


@triton.jit
def look(
    ox, oy, oz, dx, dy, dz, bits_ptr, coarse_ptr, origin_t, leave, t, dt, index, skip_to, active,
    dt_min, dt_max, cone, cells, CASCADES: tl.constexpr, HAS_CONE: tl.constexpr,
):  # fmt: skip
    """Whether a sample is found, its start and end; then t, dt, index, skip_to, active go on."""
    is_skipped = t + 0.5 * dt < skip_to
    # Without a cone t = origin_t + index dt_min, so that steps can be skipped by a division.
    if not HAS_CONE:
        # All steps of an empty cell at once.
        steps = tl.ceil((skip_to - t) / dt - 0.5)
        steps = tl.minimum(tl.maximum(steps, 1.0), 1073741824.0).to(tl.int32)
        index = tl.where(active & is_skipped, index + steps, index)
        t = origin_t + index.to(t.dtype) * dt
        is_skipped = is_skipped & False
    start, end = t, t + dt
    middle = t + 0.5 * dt
    active = active & (middle < leave)
    looks = active & ~is_skipped
    x = tl.where(looks, ox + middle * dx, 0.0)
    y = tl.where(looks, oy + middle * dy, 0.0)
    z = tl.where(looks, oz + middle * dz, 0.0)
    reach = tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z))
    cascade = tl.full(t.shape, 0, tl.int32)
    size = tl.full(t.shape, 1, t.dtype)
    for k in tl.static_range(CASCADES - 1):
        outside = (reach >= 1 << k) | (dt * cells > 2 << k)
        cascade = tl.where(outside, k + 1, cascade)
        size = tl.where(outside, 2 << k, size)
    width = 2 * size / cells
    last = (cells - 1).to(t.dtype)
    px = (x / size + 1.0) * (0.5 * cells)
    py = (y / size + 1.0) * (0.5 * cells)
    pz = (z / size + 1.0) * (0.5 * cells)
    ix = tl.minimum(tl.maximum(px, 0.0), last).to(tl.int32)
    iy = tl.minimum(tl.maximum(py, 0.0), last).to(tl.int32)
    iz = tl.minimum(tl.maximum(pz, 0.0), last).to(tl.int32)
    blocks = cells >> 3
    block = ((cascade * blocks + (iz >> 3)) * blocks + (iy >> 3)) * blocks + (ix >> 3)
    byte = ((cascade * cells + iz) * cells + iy) * blocks + (ix >> 3)
    has_any = tl.load(coarse_ptr + block, mask=looks, other=0) != 0
    bits = tl.load(bits_ptr + byte, mask=looks & has_any, other=0).to(tl.int32)
    hit = looks & has_any & ((bits >> (ix & 7)) & 1 != 0)
    # Steps whose middle stays inside the empty cell or block need no look-up; a hair less, so
    # that rounding never skips an occupied cell.
    shift = tl.where(has_any, 0, 3)
    far = tl.minimum(_exit(dx, px, ix, shift, width), _exit(dy, py, iy, shift, width))
    far = tl.minimum(far, _exit(dz, pz, iz, shift, width))
    beyond = middle + far - 1e-4 * width
    skip_to = tl.where(hit, 0.0, tl.where(looks, beyond, skip_to))
    if HAS_CONE:
        t = t + dt
        dt = step_at(t, cone, dt_min, dt_max)
    else:
        index = tl.where(active, index + 1, index)
        t = origin_t + index.to(t.dtype) * dt
    return hit, start, end, t, dt, index, skip_to, active


@triton.jit
def march_kernel(
    origins_ptr, directions_ptr, bits_ptr, coarse_ptr, jitter_ptr, offsets_ptr, starts_ptr,
    ends_ptr, num_rays, near, dt_min, dt_max, cone, half_size, max_samples, cells,
    CASCADES: tl.constexpr, HAS_CONE: tl.constexpr, WRITE: tl.constexpr, RAYS: tl.constexpr,
):  # fmt: skip
    """Counts into offsets[i + 1], or writes the samples of ray i from offsets[i] on."""
    ray = tl.program_id(0) * RAYS + tl.arange(0, RAYS)
    mask = ray < num_rays
    ox, oy, oz = load_rays(origins_ptr, ray, mask, 0.0)
    dx, dy, dz = load_rays(directions_ptr, ray, mask, 1.0)
    jitter = tl.load(jitter_ptr + ray, mask=mask, other=0.0)
    active, origin_t, leave = begin(
        ox, oy, oz, dx, dy, dz, mask, jitter, near, dt_min, dt_max, cone, half_size
    )
    t = origin_t
    dt = step_at(t, cone, dt_min, dt_max)
    index = tl.full([RAYS], 0, tl.int32)
    count = tl.full([RAYS], 0, tl.int32)
    skip_to = tl.full([RAYS], 0, ox.dtype)
    first = tl.full([RAYS], 0, tl.int64)
    room = tl.full([RAYS], 0, tl.int32) + max_samples
    if WRITE:
        first = tl.load(offsets_ptr + ray, mask=mask, other=0)
        room = (tl.load(offsets_ptr + ray + 1, mask=mask, other=0) - first).to(tl.int32)
    active = active & (room > 0)
    while tl.max(active.to(tl.int32), axis=0) > 0:
        hit, start, end, t, dt, index, skip_to, active = look(
            ox, oy, oz, dx, dy, dz, bits_ptr, coarse_ptr, origin_t, leave, t, dt, index, skip_to,
            active, dt_min, dt_max, cone, cells, CASCADES, HAS_CONE,
        )  # fmt: skip
        if WRITE:
            tl.store(starts_ptr + first + count, start, mask=hit)
            tl.store(ends_ptr + first + count, end, mask=hit)
        count += hit.to(tl.int32)
        active = active & (count < room)
    if not WRITE:
        tl.store(offsets_ptr + ray + 1, count.to(tl.int64), mask=mask)


@triton.jit
def points_kernel(
    origins_ptr, directions_ptr, starts_ptr, ends_ptr, offsets_ptr, points_ptr, scale,
    TILE: tl.constexpr,
):  # fmt: skip
    """points = scale (origin + (start + end) / 2 direction); one program a ray."""
    ray = tl.program_id(0)
    first = tl.load(offsets_ptr + ray)
    last = tl.load(offsets_ptr + ray + 1)
    while first < last:
        sample = first + tl.arange(0, TILE)
        mask = sample < last
        start = tl.load(starts_ptr + sample, mask=mask, other=0.0)
        end = tl.load(ends_ptr + sample, mask=mask, other=0.0)
        middle = 0.5 * (start + end)
        for k in tl.static_range(3):
            o = tl.load(origins_ptr + ray * 3 + k)
            d = tl.load(directions_ptr + ray * 3 + k)
            tl.store(points_ptr + sample * 3 + k, scale * (o + middle * d), mask=mask)
        first += TILE


def march(
    origins: Tensor, directions: Tensor, bits: Tensor, jitter: Tensor, near: float, dt_min: float,
    dt_max: float, cone: float, max_samples: int, capacity: int | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """t_starts, t_ends, offsets and the number of samples wanted (one number).

    With a capacity the first two have that length, zeros at the end, and rays whose samples do not
    fit have fewer or none; without one the host waits for the number.
    """
    num_rays, (cascades, cells) = origins.shape[0], bits.shape[:2]
    inputs = [t.contiguous() for t in (origins, directions, bits, coarsen(bits), jitter)]

    def run(offsets: Tensor, starts: Tensor, ends: Tensor, write: bool) -> None:
        march_kernel[(triton.cdiv(num_rays, RAYS),)](
            *inputs, offsets, starts, ends, num_rays, near, dt_min, dt_max, cone,
            float(2 ** (cascades - 1)), max_samples, cells, CASCADES=cascades,
            HAS_CONE=cone > 0, WRITE=write, RAYS=RAYS, num_warps=1, enable_fp_fusion=False,
        )  # fmt: skip

    return count_and_write(run, origins, capacity)


def count_and_write(
    run: Callable[[Tensor, Tensor, Tensor, bool], None], origins: Tensor, capacity: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What march returns, of a kernel that runs twice: `run(offsets, starts, ends, write)`."""
    num_rays = origins.shape[0]
    offsets = torch.zeros(num_rays + 1, dtype=torch.int64, device=origins.device)
    if num_rays > 0:
        run(offsets, origins, origins, False)
    offsets = offsets.cumsum(0)
    wanted = offsets[-1].clone()
    if capacity is not None:
        offsets = offsets.clamp(max=capacity)
    starts = origins.new_zeros(int(wanted) if capacity is None else capacity)
    ends = torch.zeros_like(starts)
    if num_rays > 0:
        run(offsets, starts, ends, True)
    return starts, ends, offsets, wanted


def march_all(
    origins: Tensor, directions: Tensor, bits: Tensor, jitter: Tensor, near: float, dt_min: float,
    dt_max: float, cone: float, max_samples: int,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """t_starts, t_ends and offsets of all samples; the host waits for their number."""
    options = (near, dt_min, dt_max, cone, max_samples)
    return march(origins, directions, bits, jitter, *options)[:3]


def coarsen(bits: Tensor) -> Tensor:
    """Blocks (C, G / 8, G / 8, G / 8) of 8^3 cells that hold an occupied cell: not 0, else 0."""
    cascades, blocks = bits.shape[0], bits.shape[3]
    return bits.view(cascades, blocks, 8, blocks, 8, blocks).amax(dim=(2, 4)).contiguous()


def sample_points(
    origins: Tensor, directions: Tensor, t_starts: Tensor, t_ends: Tensor, offsets: Tensor,
    scale: float,
) -> Tensor:  # fmt: skip
    """Middle of every sample, times `scale`; 0 behind the last offset."""
    points = origins.new_zeros(t_starts.shape[0], 3)
    num_rays = origins.shape[0]
    if num_rays > 0:
        points_kernel[(num_rays,)](
            *(t.contiguous() for t in (origins, directions, t_starts, t_ends, offsets)), points,
            scale, TILE=TILE, num_warps=1,
        )  # fmt: skip
    return points

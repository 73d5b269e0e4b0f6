"""Samples of rays inside occupied cells, in plain PyTorch: the definition.

Notation (instant-ngp, arXiv:2201.05989, appendix E):
    cascade k   a grid of G^3 cells over the box [-2^k, 2^k]^3, k < C; the scene is the largest box
    dt(t)       min(max(cone t, dt_min), dt_max): the step grows with the distance
    t_0         where the ray enters the scene (or `near`) + jitter dt
    t_{i+1}     t_i + dt(t_i), that is t_0 + i dt_min without a cone
A step [t_i, t_{i+1}] is a sample if its middle lies in the scene and in an occupied cell, looked up
in the finest cascade that contains the middle and whose cells are not smaller than the step.
"""

import math

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor


def unpack_bits(bits: UInt8[Tensor, "cascades cells cells bytes"]) -> Tensor:
    """Booleans (C, G, G, G) indexed [cascade, z, y, x]; bit b of byte i is x = 8 i + b."""
    shifts = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[..., None] >> shifts) & 1).flatten(-2).bool()


def box_interval(
    origins: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"], half_size: float, near: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Entry and exit of [-half_size, half_size]^3, entry at least `near`; exit < entry: a miss."""
    tiny = 1e-12
    safe = torch.where(directions.abs() < tiny, torch.full_like(directions, tiny), directions)
    first, second = (-half_size - origins) / safe, (half_size - origins) / safe
    enter = torch.minimum(first, second).amax(dim=1).clamp(min=near)
    leave = torch.maximum(first, second).amin(dim=1)
    return enter, leave


def march_reference(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    bits: UInt8[Tensor, "cascades cells cells bytes"],
    jitter: Float[Tensor, " n"],
    near: float,
    dt_min: float,
    dt_max: float,
    cone: float,
    max_samples: int,
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"], Int[Tensor, " n_plus_1"]]:
    occupied = unpack_bits(bits)
    num_cascades, cells = occupied.shape[:2]
    half_size = float(2 ** (num_cascades - 1))
    enter, leave = box_interval(origins, directions, half_size, near)
    t = enter + jitter * (enter * cone).clamp(dt_min, dt_max)
    finite = (origins + directions).isfinite().all(dim=1)
    leave = torch.where(finite, leave, -torch.inf)
    t_first, taken = t, 0
    count = torch.zeros_like(t, dtype=torch.int64)
    rays, starts, ends = [], [], []
    while bool((t < leave).any()):
        dt = (t * cone).clamp(dt_min, dt_max)
        middle = t + 0.5 * dt
        position = origins + middle[:, None] * directions
        reach = position.abs().amax(dim=1)
        cascade = torch.zeros_like(count)
        for k in range(num_cascades - 1):
            outside = (reach >= 2.0**k) | (dt * cells > 2.0 ** (k + 1))
            cascade = torch.where(outside, k + 1, cascade)
        unit = position / (2.0**cascade)[:, None]
        cell = ((unit + 1) * (0.5 * cells)).floor().long().clamp(0, cells - 1)
        hit = occupied[cascade, cell[:, 2], cell[:, 1], cell[:, 0]]
        hit = hit & (middle < leave) & (count < max_samples)
        index = hit.nonzero()[:, 0]
        rays.append(index)
        starts.append(t[index])
        ends.append((t + dt)[index])
        count = count + hit
        taken += 1
        t = t + dt if cone > 0 else t_first + taken * dt
    offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
    if not rays:
        return t.new_zeros(0), t.new_zeros(0), offsets
    order = torch.argsort(torch.cat(rays), stable=True)
    return torch.cat(starts)[order], torch.cat(ends)[order], offsets


def num_cascades(aabb_scale: float | int) -> int:
    """Cascades that cover [-aabb_scale, aabb_scale]^3."""
    return 1 + math.ceil(math.log2(max(aabb_scale, 1)))

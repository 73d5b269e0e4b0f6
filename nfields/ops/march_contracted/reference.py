"""Samples of rays through all of space, at equal steps of the contraction, in plain PyTorch.

Notation (nfields/render/contraction.py):
    c(x)      the contraction of space to a ball of radius 2; cells of the grid divide [-2, 2]^3
    dt(t)     min(dt_min / |dc/dt|, max(dt_min, |x| / 4)): steps of length dt_min in contracted
              space; the second keeps a ray that comes in from far away from jumping over the middle
    t_0       near + jitter dt(near);  t_{i+1} = t_i + dt(t_i)
A step is a sample if the contraction of its middle lies in an occupied cell. A ray ends where less
than one step is left to infinity: at |x| = 1 / dt_min.
"""

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from nfields.ops.march.reference import unpack_bits
from nfields.render.contraction import contract, speed


def march_contracted_reference(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    bits: UInt8[Tensor, "1 cells cells bytes"],
    jitter: Float[Tensor, " n"],
    near: float,
    dt_min: float,
    max_samples: int,
) -> tuple[Float[Tensor, " samples"], Float[Tensor, " samples"], Int[Tensor, " n_plus_1"]]:
    occupied = unpack_bits(bits)[0]
    cells = len(occupied)

    def step(t: Tensor) -> Tensor:
        points = origins + t[:, None] * directions
        limit = (points.norm(dim=1) / 4).clamp_min(dt_min)
        return torch.minimum(dt_min / speed(points, directions), limit)

    t = torch.full_like(jitter, near)
    t = t + jitter * step(t)
    is_alive = (origins + directions).isfinite().all(dim=1)
    count = torch.zeros(len(t), dtype=torch.int64, device=t.device)
    rays, starts, ends = [], [], []
    while bool(is_alive.any()):
        dt = step(t)
        middle = origins + (t + 0.5 * dt)[:, None] * directions
        is_alive = is_alive & (middle.norm(dim=1) < 1 / dt_min) & (count < max_samples)
        cell = ((contract(middle) / 2 + 1) * (0.5 * cells)).floor()
        cell = cell.nan_to_num().long().clamp(0, cells - 1)
        hit = is_alive & occupied[cell[:, 2], cell[:, 1], cell[:, 0]]
        index = hit.nonzero()[:, 0]
        rays.append(index)
        starts.append(t[index])
        ends.append((t + dt)[index])
        count = count + hit
        t = t + dt
    offsets = torch.cat([count.new_zeros(1), count.cumsum(0)])
    if not rays:
        return t.new_zeros(0), t.new_zeros(0), offsets
    order = torch.argsort(torch.cat(rays), stable=True)
    return torch.cat(starts)[order], torch.cat(ends)[order], offsets

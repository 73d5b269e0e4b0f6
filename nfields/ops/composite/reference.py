"""Emission-absorption volume rendering of packed samples, in plain PyTorch: the definition.

Notation (Max 1995; NeRF, arXiv:2003.08934, equation 3):
    alpha_i   1 - exp(-sigma_i (t_end_i - t_start_i))
    T_i       prod_{j < i} (1 - alpha_j)        transmittance in front of sample i of its ray
    w_i       T_i alpha_i
    color     sum_i w_i c_i;   opacity  sum_i w_i;   depth  sum_i w_i (t_start_i + t_end_i) / 2
Samples with T_i below `min_transmittance` count as if they were not there.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def composite_reference(
    density: Float[Tensor, " samples"],
    color: Float[Tensor, "samples channels"],
    t_starts: Float[Tensor, " samples"],
    t_ends: Float[Tensor, " samples"],
    offsets: Int[Tensor, " n_plus_1"],
    min_transmittance: float,
) -> tuple[Float[Tensor, "n channels"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    num_rays = offsets.shape[0] - 1
    ray = torch.repeat_interleave(offsets.diff())
    optical = density * (t_ends - t_starts)
    total = optical.cumsum(0)
    before = torch.cat([total.new_zeros(1), total])
    in_front = before[:-1] - before[offsets[:-1]][ray]
    transmittance = torch.exp(-in_front)
    weight = transmittance * -torch.expm1(-optical)
    weight = torch.where(transmittance < min_transmittance, torch.zeros_like(weight), weight)
    middle = 0.5 * (t_starts + t_ends)
    rgb = color.new_zeros(num_rays, color.shape[1]).index_add(0, ray, weight[:, None] * color)
    opacity = weight.new_zeros(num_rays).index_add(0, ray, weight)
    depth = weight.new_zeros(num_rays).index_add(0, ray, weight * middle)
    return rgb, opacity, depth

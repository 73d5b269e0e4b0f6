"""How far apart along a ray its weights lie, in plain PyTorch: the definition.

Notation (mip-NeRF 360, arXiv:2111.12077, equation 15):
    w_i       weight of sample i (ops/composite/reference.py)
    s         distance along the ray, normalised by the caller; m_i the middle of [s_i, s_i+1]
    loss      sum_ij w_i w_j |m_i - m_j| + 1/3 sum_i w_i^2 (s_i+1 - s_i)
Samples are in order, so with W_i = sum_{j < i} w_j and M_i = sum_{j < i} w_j m_j the double sum is
2 sum_i w_i (m_i W_i - M_i): the work grows with the samples, not with their square.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def distortion_reference(
    density: Float[Tensor, " samples"],
    t_starts: Float[Tensor, " samples"],
    t_ends: Float[Tensor, " samples"],
    s_starts: Float[Tensor, " samples"],
    s_ends: Float[Tensor, " samples"],
    offsets: Int[Tensor, " n_plus_1"],
    min_transmittance: float,
) -> Float[Tensor, " n"]:
    num_rays = offsets.shape[0] - 1
    ray = torch.repeat_interleave(offsets.diff())
    optical = density * (t_ends - t_starts)
    transmittance = torch.exp(-_before(optical, offsets, ray))
    weight = transmittance * -torch.expm1(-optical)
    weight = torch.where(transmittance < min_transmittance, torch.zeros_like(weight), weight)
    middle = 0.5 * (s_starts + s_ends)
    apart = middle * _before(weight, offsets, ray) - _before(weight * middle, offsets, ray)
    loss = 2 * weight * apart + weight.square() * (s_ends - s_starts) / 3
    return loss.new_zeros(num_rays).index_add(0, ray, loss)


def _before(
    value: Float[Tensor, " samples"],
    offsets: Int[Tensor, " n_plus_1"],
    ray: Int[Tensor, " samples"],
) -> Float[Tensor, " samples"]:
    """The sum over the samples of the same ray in front of each."""
    total = torch.cat([value.new_zeros(1), value.cumsum(0)])
    return total[:-1] - total[offsets[:-1]][ray]

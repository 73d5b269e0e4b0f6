"""A layer of Gaussian neurons in feature space and its linear readout, in plain PyTorch.

Notation (Gaussian RBFNet, arXiv:2503.06762, with the factor 1/2 of its code):
    F       features of a point, D numbers
    mu, s   centre and inverse width of a neuron in every dimension
    phi     exp(-1/2 sum_d (s_d (F_d - mu_d))^2)                     response, in (0, 1]
    h       (phi_1 .. phi_N)  or, with a linear term, (phi_1 .. phi_N, F_1 .. F_D)
    out     W h + b, with W and b chosen by the group a point belongs to
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def rbf_decode_reference(
    features: Float[Tensor, "n dim"],
    centers: Float[Tensor, "neurons dim"],
    inv_widths: Float[Tensor, "neurons dim"],
    weight: Float[Tensor, "groups out hidden"],
    bias: Float[Tensor, "groups out"],
    offsets: Int[Tensor, " groups_plus_1"],
) -> Float[Tensor, "n out"]:
    scaled = (features[:, None, :] - centers) * inv_widths
    hidden = torch.exp(-0.5 * scaled.square().sum(dim=-1))
    if weight.shape[2] != centers.shape[0]:
        hidden = torch.cat([hidden, features], dim=1)
    if weight.shape[0] == 1:
        return hidden @ weight[0].T + bias[0]
    group = torch.repeat_interleave(offsets.diff())
    return (weight[group] @ hidden[:, :, None])[:, :, 0] + bias[group]

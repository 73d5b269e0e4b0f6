"""Density and colour of a radiance field from a model's values: head=sh, and the density.

density   exp(v_0 + bias), truncated (instant-ngp)
colour    sigmoid(sum_k Y_k(d) v_ck): the harmonics are folded into the linear readout once a
          ray, so that a sample costs four values and not 1 + 3 (degree + 1)^2
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nfields.model.field import GroupReadout
from nfields.render.harmonics import spherical_harmonics


def ray_readout(
    readout: nn.Linear,
    directions: Float[Tensor, "n 3"],
    offsets: Int[Tensor, " n_plus_1"],
    degree: int,
) -> GroupReadout:
    """Readout of (log density, r, g, b) for every ray: harmonics times coefficients."""
    harmonics = spherical_harmonics(directions, degree)
    weight, bias = readout.weight, readout.bias
    hidden, (num_rays, num_harmonics) = weight.shape[1], harmonics.shape
    # Coefficients are ordered colour first: value 1 + c (degree + 1)^2 + k.
    by_harmonic = weight[1:].view(3, num_harmonics, hidden).transpose(0, 1)
    color = (harmonics @ by_harmonic.reshape(num_harmonics, -1)).view(num_rays, 3, hidden)
    density = weight[:1].expand(num_rays, 1, hidden)
    color_bias = harmonics @ bias[1:].view(3, num_harmonics).T
    return GroupReadout(
        torch.cat([density, color], dim=1),
        torch.cat([bias[:1].expand(num_rays, 1), color_bias], dim=1),
        offsets,
    )


def truncated_exp(value: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """exp, with its argument held below 15 in value and gradient (instant-ngp)."""
    return _TruncatedExp.apply(value)


class _TruncatedExp(torch.autograd.Function):
    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        out = torch.exp(value.clamp(max=15.0))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # pyright: ignore
        (out,) = ctx.saved_tensors
        return gradient * out

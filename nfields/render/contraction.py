"""All of space in a ball of radius 2, for scenes without an end.

mip-NeRF 360 (arXiv:2111.12077), equation 10: c(x) = x up to |x| = 1, beyond that
(2 - 1 / |x|) x / |x|. What is near keeps its scale, and infinity is the surface of the ball.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def contract(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """c(x), within a ball of radius 2; differentiable."""
    # In two clamped factors, so that nothing is infinite where it is not used.
    radius = points.norm(dim=1, keepdim=True).clamp_min(1.0)
    return points * (2 - 1 / radius) / radius


def speed(points: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """|dc/dt| along x + t d for unit directions: 1 within the unit ball, towards 1 / |x|^2 outside.

    The radial part of d shrinks by 1 / r^2, the rest by (2 - 1 / r) / r.
    """
    radius = points.norm(dim=1).clamp_min(1.0)
    cosine = (points * directions).sum(dim=1) / radius
    across = (1 - cosine.square()).clamp_min(0.0)
    outside = (cosine.square() + across * (2 * radius - 1).square()).sqrt() / radius.square()
    return torch.where(radius > 1, outside, torch.ones_like(outside))

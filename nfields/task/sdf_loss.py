"""Losses of a signed distance: from known distances, and from oriented points alone.

Notation
    f       the field, g = grad f, t a true distance, n a true outward unit normal

distance     mean |f - t| / (|t| + floor), that of instant-ngp (arXiv:2201.05989); with oriented
             points t is guessed from them (nfields/data/oriented_points.py). It tells which side of
             the surface a place is on, which the terms below leave open: without it a hash grid,
             where what one cell learns does not reach the next, keeps bodies where nothing is
surface      mean |f| at points of the surface
off_surface  mean exp(-sharpness |f|) at points anywhere: no further zeros
normal       mean 1 - cos(g, n) at points of the surface
eikonal      mean ||g| - 1|
curvature    mean |g(x + h e) - g(x)| / h in a random direction e across the normal, near the
             surface: bumps cost, planes do not

surface, off_surface, normal and eikonal are SIREN's (arXiv:2006.09661, section 4.2); its code
weighs them 3000, 100, 100 and 50. Gradients are those of autograd, so their training takes second
derivatives of the model.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from nfields.ops.backend import second_derivatives

Distance = Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]

CURVATURE_STEP = 0.01  # h, ours


def relative_error(
    values: Float[Tensor, " n"], truth: Float[Tensor, " n"], floor: float | int
) -> Float[Tensor, ""]:
    """The loss `distance`, of the points whose distance is known; NaN is unknown."""
    is_known = ~truth.isnan()
    safe = torch.where(is_known, truth, 0.0)
    error = torch.where(is_known, (values - safe).abs() / (safe.abs() + floor), 0.0)
    return error.sum() / is_known.sum().clamp(min=1)


def with_gradient(
    distance: Distance, x: Float[Tensor, "n 3"], create_graph: bool
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Values and gradients in x; differentiable in the parameters if `create_graph`."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        with second_derivatives() if create_graph else nullcontext():
            values = distance(x)
        (gradient,) = torch.autograd.grad(values.sum(), x, create_graph=create_graph)
    return values if create_graph else values.detach(), gradient


def eikonal(gradients: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """The loss `eikonal`; 0 where f is a distance."""
    # norm() has no slope at 0, where a flat field starts.
    return ((gradients.square().sum(dim=1) + 1e-12).sqrt() - 1).abs().mean()


def alignment(gradients: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, ""]:
    """The loss `normal`, 0 to 2."""
    return (1 - cosine_similarity(gradients, normals, dim=1)).mean()


def off_surface(values: Float[Tensor, " n"], sharpness: float | int) -> Float[Tensor, ""]:
    """The loss `off_surface`, 0 to 1."""
    return torch.exp(-sharpness * values.abs()).mean()


def curvature(
    distance: Distance,
    x: Float[Tensor, "n 3"],
    gradients: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
) -> Float[Tensor, ""]:
    """The loss `curvature`; `directions` are random vectors, of which the part across is taken."""
    normals = normalize(gradients.detach(), dim=1, eps=1e-6)
    across = directions - (directions * normals).sum(dim=1, keepdim=True) * normals
    moved = x.detach() + CURVATURE_STEP * normalize(across, dim=1, eps=1e-6)
    return (with_gradient(distance, moved, True)[1] - gradients).norm(dim=1).mean() / CURVATURE_STEP

"""Operation harmonics: real spherical harmonics of directions, of any degree.

Contract
    directions  (n, 3), of any length but 0; only their direction matters
    degree      L >= 0
    returns     (n, (L + 1)^2): Y_l^m for l = 0 .. L, m = -l .. l at l^2 + l + m, orthonormal on the
                unit sphere, without Condon-Shortley phase

Computed in float64 whatever the dtype of the directions: near the poles N_l^0 changes by l^2 / 2
times the change of z, and in float32 the rounding of z alone costs 6e-4 at degree 100.

Gradient of the directions, of first and second order, through the reference: harmonics are mostly
inputs of a network and have none to give. n = 0 is allowed.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.ops.backend import implement_on_cuda, uses_reference
from nfields.ops.harmonics import cpu
from nfields.ops.harmonics.reference import harmonics_reference


def num_harmonics(degree: int) -> int:
    """How many harmonics there are up to a degree: (degree + 1)^2."""
    return (degree + 1) ** 2


def harmonics(
    directions: Float[Tensor, "n 3"], degree: int, *, backend: str = "auto"
) -> Float[Tensor, "n harmonics"]:
    """Harmonics of the directions; see the module's contract."""
    if degree < 0:
        raise ValueError(f"harmonics: degree={degree} must be at least 0")
    differentiated = torch.is_grad_enabled() and directions.requires_grad
    if uses_reference(backend, "harmonics", directions) or differentiated:
        return harmonics_reference(directions, degree)
    return _harmonics(directions, degree)


@torch.library.custom_op("nfields::harmonics", mutates_args=(), device_types="cpu")
def _harmonics(directions: Tensor, degree: int) -> Tensor:
    out = directions.new_empty(directions.shape[0], num_harmonics(degree))
    cpu.harmonics(directions.contiguous().numpy(), degree, out.numpy())
    return out


@_harmonics.register_fake
def _(directions: Tensor, degree: int) -> Tensor:
    return directions.new_empty(directions.shape[0], num_harmonics(degree))


implement_on_cuda(_harmonics, "nfields.ops.harmonics.cuda:harmonics")

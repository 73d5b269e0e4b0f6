"""Real spherical harmonics of directions, up to degree 3, for view-dependent colour.

Orthonormal on the sphere, Condon-Shortley phase included, ordered l = 0..3, m = -l..l (the
convention of the polynomial tables in Sloan, "Efficient Spherical Harmonic Evaluation", 2013).
"""

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.errors import ConfigError
from nfields.render.harmonics_cpu import fill_harmonics

MAX_DEGREE = 3


def spherical_harmonics(
    directions: Float[Tensor, "n 3"], degree: int
) -> Float[Tensor, "n coefficients"]:
    """The (degree + 1)^2 harmonics of unit vectors."""
    if not 0 <= degree <= MAX_DEGREE:
        raise ConfigError(f"spherical harmonics of degree {degree}; choose 0..{MAX_DEGREE}")
    if directions.device.type == "cpu" and not directions.requires_grad:
        out = directions.new_empty(len(directions), (degree + 1) ** 2)
        fill_harmonics(directions.numpy(), out.numpy())
        return out
    x, y, z = directions.unbind(dim=1)
    values = [torch.full_like(x, 0.28209479177387814)]
    if degree >= 1:
        values += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * zz - xx - yy),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (xx - yy),
        ]
    if degree >= 3:
        xx, yy, zz = x * x, y * y, z * z
        values += [
            -0.5900435899266435 * y * (3 * xx - yy),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * zz - xx - yy),
            0.3731763325901154 * z * (2 * zz - 3 * xx - 3 * yy),
            -0.4570457994644658 * x * (4 * zz - xx - yy),
            1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ]
    return torch.stack(values, dim=1)

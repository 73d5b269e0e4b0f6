"""A field of a grid and a small network, seen along rays, in plain PyTorch: the definition.

Notation: nfields/ops/{march,grid_encode,rbf_decode,mlp,composite}/reference.py, in this order.
    x         (o + t d - center) / half_size, the middle t of every sample of a ray
    v(x)      values of the network; v_0 log density, v_{1 + c B + k} coefficient k of colour c
    sigma     exp(min(v_0 + density_bias, 15))
    rgb_c     sigmoid(sum_k Y_k(d) v_{1 + c B + k}),    Y(d) the basis of the ray
"""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nfields.ops.composite.reference import composite_reference
from nfields.ops.grid_encode.reference import grid_encode_reference
from nfields.ops.march.reference import march_reference
from nfields.ops.mlp.reference import mlp_reference
from nfields.ops.rbf_decode.reference import rbf_decode_reference

if TYPE_CHECKING:
    from nfields.ops.render import GridNetwork


def values(network: "GridNetwork", x: Float[Tensor, "n 3"]) -> Float[Tensor, "n out"]:
    """All values of the network at points in [-1, 1]^3."""
    features = grid_encode_reference(
        0.5 * x + 0.5, network.table, network.scales, network.levels, network.smoothstep
    )
    weight, bias = network.readout_weight, network.readout_bias
    if network.centers is None or network.inv_widths is None:
        hidden = mlp_reference(features, network.weights, network.biases, "relu", True)
        return hidden @ weight.T + bias
    return rbf_decode_reference(
        features, network.centers, network.inv_widths, weight[None], bias[None],
        torch.tensor([0, len(x)]),
    )  # fmt: skip


def render_reference(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    basis: Float[Tensor, "n coefficients"],
    network: "GridNetwork",
    bits: UInt8[Tensor, "cascades cells cells bytes"],
    frame: tuple[float, ...],
    steps: tuple[float, ...],
    limits: tuple[float, float],
    max_samples: int,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    near, dt_min, dt_max, cone, jitter = steps
    density_bias, min_transmittance = limits
    starts, ends, offsets = march_reference(
        origins, directions, bits, torch.full_like(origins[:, 0], jitter), near, dt_min, dt_max,
        cone, max_samples,
    )  # fmt: skip
    ray = torch.repeat_interleave(offsets.diff())
    points = origins[ray] + (0.5 * (starts + ends))[:, None] * directions[ray]
    found = values(network, (points - points.new_tensor(frame[:3])) / frame[3])
    density = torch.exp((found[:, 0] + density_bias).clamp(max=15))
    coefficients = found[:, 1:].view(len(points), 3, basis.shape[1])
    color = torch.sigmoid((coefficients * basis[ray][:, None]).sum(dim=2))
    return composite_reference(density, color, starts, ends, offsets, min_transmittance)

"""Which density is the surface of a radiance field: the one at which its rays are half stopped."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.ops.march import Samples

_NUM_LEVELS = 64
_LARGEST_ERROR = 0.05  # of the box: a ray that hits on one side only is off by this


class DensityLevel(NamedTuple):
    """A level, and how far its surface is from where rays lose half of their light, on average."""

    density: float
    error: float  # scene units; rays that hit one of both only count with 0.05 of the box
    num_rays: int  # that lose half of their light


def choose_level(
    densities: Float[Tensor, " samples"], samples: Samples, box_side: float
) -> DensityLevel | None:
    """The level whose first crossing along rays is nearest to where transmittance falls to 1/2.

    That is the depth which pictures of the scene show. Mean absolute difference over all rays,
    limited, so that a silhouette that is too wide or too narrow counts too. None where no ray loses
    half of its light: there is no surface.
    """
    ray, num_rays = samples.ray_index(), len(samples.offsets) - 1
    # Held below what stops all light: sums over all rays would lose the digits of the others.
    optical_depth = (densities * (samples.t_ends - samples.t_starts)).double().clamp(max=10)
    total = optical_depth.cumsum(0)
    before = torch.cat([total.new_zeros(1), total])[samples.offsets[:-1]]
    depth = first_depth(total - before[ray] >= math.log(2), ray, samples, num_rays)
    is_hit = depth.isfinite()
    if not bool(is_hit.any()):
        return None
    half_way = depth[ray] == samples.t_starts  # the samples at which half is lost
    there = densities[half_way]
    lowest, highest = float(there.min()), float(there.quantile(0.9))
    lowest = max(min(lowest, highest / 2), highest * 1e-4, 1e-6)
    limit = _LARGEST_ERROR * box_side
    best = DensityLevel(highest, math.inf, int(is_hit.sum()))
    for level in torch.logspace(math.log10(lowest), math.log10(highest), _NUM_LEVELS).tolist():
        found = first_depth(densities >= level, ray, samples, num_rays)
        # Rays without either agree; inf - inf is not a number.
        is_any = is_hit | found.isfinite()
        error = float((found - depth)[is_any].abs().clamp(max=limit).mean())
        if error < best.error:
            best = DensityLevel(level, error, best.num_rays)
    return best


def first_depth(
    is_there: Tensor, ray: Tensor, samples: Samples, num_rays: int
) -> Float[Tensor, " rays"]:
    """Where along each ray the first sample is True; infinite if none is."""
    depth = samples.t_starts.new_full((num_rays,), math.inf)
    return depth.scatter_reduce(0, ray[is_there], samples.t_starts[is_there], "amin")

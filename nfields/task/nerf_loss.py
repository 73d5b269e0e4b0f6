"""Losses of a radiance field besides colour: how its weights lie along rays, and given depths.

distortion   mip-NeRF 360's (ops/distortion): weights of a ray want to be together, which takes fog
             and floaters away. Distances count in sides of the region of interest, 2 units, as far
             as steps are equal; with steps that grow with the distance t as min(t, 2 - 1 / t) / 2,
             the contraction of equation 10 along the ray, from 0 to 1 (t in radii of what is not
             contracted)
depth        where a pixel's distance D is known: huber(sum_i w_i t_i / D - sum_i w_i), the mean
             depth is right, and huber(1 - sum_i w_i), there is something; no division by weights
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import huber_loss

from nfields.data.posed_images import PosedImages
from nfields.errors import ConfigError
from nfields.ops.distortion import distortion
from nfields.ops.march import Samples

_DELTA = 0.1  # relative errors of depth above count linearly


def check_weights(data: PosedImages, distortion_weight: float, depth_weight: float) -> None:
    """Nothing; an error for weights below 0, or for depths that the data does not have."""
    if min(distortion_weight, depth_weight) < 0:
        raise ConfigError(
            f"task.distortion_weight={distortion_weight} and task.depth_weight={depth_weight} must "
            "be at least 0; 0 is off"
        )
    if depth_weight == 0 or data.images is None:
        return
    if data.cameras["train"].homography is not None:
        raise ConfigError(
            "task.depth_weight has no effect in normalised device coordinates; take data.frame=box"
        )
    if all(depth is None for depth in data.depths.get("train", [])):
        raise ConfigError(
            f"task.depth_weight={depth_weight}: the training pictures of {data.source} have no "
            "depths (depth_file_path in transforms.json names maps, COLMAP's points3D has points); "
            "set it to 0"
        )


def spread(
    density: Float[Tensor, " samples"],
    samples: Samples,
    *,
    radius: float | None,
    min_transmittance: float,
    backend: str,
) -> Float[Tensor, ""]:
    """The mean distortion of all rays with samples; steps grow with the distance beyond `radius`,
    if it is given.
    """
    starts, ends = (
        t / 2 if radius is None else contracted_distance(t / radius)
        for t in (samples.t_starts, samples.t_ends)
    )
    loss = distortion(
        density, samples.t_starts, samples.t_ends, starts, ends, samples.offsets,
        min_transmittance=min_transmittance, backend=backend,
    )  # fmt: skip
    return loss.sum() / (samples.offsets.diff() > 0).sum().clamp(min=1)


def contracted_distance(t: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """min(t, 2 - 1 / t) / 2: linear up to 1, from there to infinity the other half."""
    return torch.where(t <= 1, t, 2 - 1 / t.clamp_min(1.0)) / 2


def depth_loss(
    weighted_depth: Float[Tensor, " n"],
    opacity: Float[Tensor, " n"],
    distance: Float[Tensor, " n"],
) -> Float[Tensor, ""]:
    """The loss of rays whose distance is known; NaN is unknown."""
    is_known = distance.isfinite() & (distance > 0)
    safe = torch.where(is_known, distance, 1.0)
    place = torch.where(is_known, weighted_depth / safe - opacity, 0.0)
    missing = torch.where(is_known, 1 - opacity, 0.0)
    total = sum(
        huber_loss(error, torch.zeros_like(error), reduction="sum", delta=_DELTA) / _DELTA
        for error in (place, missing)
    )
    return total / is_known.sum().clamp_min(1)

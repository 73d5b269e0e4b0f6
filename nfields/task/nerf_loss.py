"""Losses of a radiance field besides colour: how its weights lie along rays, and given depths.

distortion   mip-NeRF 360's (ops/distortion): weights of a ray want to be together, which takes fog
             and floaters away. Distances count in sides of the region of interest, 2 units, as far
             as steps are equal; with steps that grow with the distance t as min(t, 2 - 1 / t) / 2,
             the contraction of equation 10 along the ray, from 0 to 1 (t in radii of what is not
             contracted)
depth        where a pixel's distance D is known: huber(sum_i w_i t_i / D - sum_i w_i), the mean
             depth is right, and huber(1 - sum_i w_i), there is something; no division by weights.
             What lies outside the scene's box counts as unknown: the field cannot be there
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
# fox, its cameras found from the photographs: a quarter of its size, 1,000 steps, 26.7 dB against
# 25.9 without; half its size, 300 s, 28.6 against 28.3. fern in a box: 22.5 and 22.5. With 0.3
# these are 26.9, 28.5 and 21.9.
_OF_POINTS = 0.05


def depth_weight_of(data: PosedImages, weight: float | int | None) -> float:
    """The weight of depths; None: what is good where the data's own points give them, else 0."""
    if weight is not None:
        return float(weight)
    depths = [depth for depth in data.depths.get("train", []) if depth is not None]
    has_points = len(depths) > 0 and all(depth.is_sparse for depth in depths)
    return _OF_POINTS if has_points and data.cameras["train"].homography is None else 0.0


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


def within_box(
    distance: Float[Tensor, " n"],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    aabb_scale: int | float,
) -> Float[Tensor, " n"]:
    """Distances along rays, NaN where they lead out of the scene's box."""
    points = origins.detach() + distance[:, None] * directions.detach()
    return torch.where(points.abs().amax(dim=1) <= aabb_scale, distance, torch.nan)


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

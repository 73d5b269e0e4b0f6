"""Rays of a radiance field: a batch of training, and what rendering them gives."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.task.nerf_poses import CameraRays


class RayBatch(NamedTuple):
    """Rays with the colour they should have; background is what lies behind the scene.

    Where cameras are learned, `camera` has the rays before their corrections, and origins and
    directions are those of the moment, without gradients.
    """

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    jitter: Float[Tensor, " n"]
    background: Float[Tensor, "n 3"]
    target: Float[Tensor, "n 3"]
    view_index: Int[Tensor, " n"]
    camera: CameraRays | None = None
    depth: Float[Tensor, " n"] | None = None  # distance along the ray, NaN where it is not known

    def to(self, device: torch.device) -> "RayBatch":
        """The same batch on a device."""
        return RayBatch(*(_to(part, device) for part in self))


class Rendering(NamedTuple):
    """Colour over the background, opacity in [0, 1], weighted depth, and the samples' number."""

    rgb: Float[Tensor, "n 3"]
    opacity: Float[Tensor, " n"]
    depth: Float[Tensor, " n"]
    num_samples: int
    distortion: Float[Tensor, ""] | None  # mean over the rays, where it was asked for


def _to(part: Any, device: torch.device) -> Any:
    if isinstance(part, CameraRays):
        return CameraRays(*(tensor.to(device) for tensor in part))
    return None if part is None else part.to(device)

"""Rays of a radiance field: a batch of training, and what rendering them gives."""

from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nfields.data.posed_images import PosedImages
from nfields.errors import DataError
from nfields.render.cameras import rays
from nfields.task.nerf_background import Sky, draw_background, over
from nfields.task.nerf_poses import CameraRays, PoseRefinement
from nfields.transfer import send


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
    num_samples: int | Tensor
    distortion: Float[Tensor, ""] | None = None  # mean over the rays, where it was asked for
    is_whole: Bool[Tensor, " n"] | None = None  # False: a ray without room for all its samples


def draw_batch(
    data: PosedImages,
    poses: PoseRefinement,
    sky: Sky,
    train_background: Literal["random", "white", "black"],
    num: int,
    generator: torch.Generator,
) -> RayBatch:
    """Rays through random pixels of the training views, and what should be seen along them."""
    cameras = data.cameras["train"]
    pixels = data.sample_pixels(num, generator)
    camera = None
    if poses.is_on and bool(poses.is_started):
        camera = poses.rays(cameras, pixels.view_index, pixels.pixels)
        origins, directions = camera.origins, camera.directions
    else:
        origins, directions = rays(cameras, pixels.view_index, pixels.pixels)
    jitter = torch.rand(num, generator=generator)
    if data.has_alpha:
        background = draw_background(train_background, num, generator)
    else:
        background = sky.draw(num, generator)
    target = over(pixels.values.float() / 255, background)
    depth = pixels.depth
    if depth is not None and data.has_alpha:  # of what was cut out; the ray is to be empty
        depth = torch.where(pixels.values[:, 3] > 0, depth, torch.nan)
    return RayBatch(
        origins, directions, jitter, background, target, pixels.view_index, camera, depth
    )


def no_samples(data: PosedImages, num_rays: int) -> DataError:
    """The error of a batch without a sample."""
    return DataError(
        f"none of {num_rays:,} rays of a batch met an occupied cell: the cameras of {data.source} "
        "do not look at the scene box, or the field became empty; check the poses and "
        "data.scene_scale, or lower model.lr"
    )


def _to(part: Any, device: torch.device) -> Any:
    if isinstance(part, CameraRays):
        return CameraRays(*(send(tensor, device) for tensor in part))
    return None if part is None else send(part, device)

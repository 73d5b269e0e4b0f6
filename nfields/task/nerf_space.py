"""Where a radiance field lives: a box, or all of space.

box          the scene is [-aabb_scale, aabb_scale]^3; the field's cube is it, or a smaller one
contracted   the scene has no end: the field's coordinates are c(x / R) / 2, c the contraction of
             mip-NeRF 360 (nfields/render/contraction.py), and one occupancy grid divides them. Far
             away a step is long, so the density is what the model says divided by |x / R|^2: a step
             of a ray outwards is then as opaque as one nearby, whatever its length

Within R space is as it is. It has to reach the cameras: what they stand in would be shortened
towards them otherwise, and get little of the field. fox, a quarter of its size, 1,000 steps, whose
cameras are 4.2 away: 22.9 dB with R = 1, 24.4 with 1.7, 25.4 with 2.6.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from nfields.data.posed_images import PosedImages
from nfields.errors import ConfigError
from nfields.render.contraction import contract

SpaceName = Literal["box", "contracted"]


def check_space(space: str, cone: float | int | None, renderer: str, data: PosedImages) -> None:
    """Nothing; an error for a space that does not exist, or that the data cannot have."""
    if space not in get_args(SpaceName):
        raise ConfigError(f"task.space={space!r}: choose box or contracted")
    if space == "box":
        return
    if cone is not None:
        raise ConfigError(
            f"task.cone={cone} has no effect with task.space=contracted, whose steps grow by "
            "themselves; leave it null"
        )
    if renderer == "fused":
        raise ConfigError(
            "task.renderer=fused marches through a box; with task.space=contracted leave it auto"
        )
    if data.has_alpha or data.cameras["train"].homography is not None:
        raise ConfigError(
            "task.space=contracted is for photographs of a place without an end: pictures with "
            "alpha end at their object, and normalised device coordinates (data.frame=ndc) reach "
            "to infinity already; take task.space=box, or data.frame=box"
        )


def check_marcher(marcher: str, space: str) -> None:
    """Nothing; an error for a marcher that does not exist, or not in this space."""
    if marcher not in ("native", "nerfacc"):
        raise ConfigError(f"task.marcher={marcher!r}: choose native or nerfacc")
    if marcher == "nerfacc" and space == "contracted":
        raise ConfigError(
            "task.marcher=nerfacc marches through a box; with task.space=contracted leave it native"
        )


@dataclass(frozen=True)
class ContractedSpace:
    """All of space as the cube [-1, 1]^3 of a grid; `radius` is R, in scene units."""

    radius: float

    @staticmethod
    def around(data: PosedImages, radius: float | int | None) -> "ContractedSpace":
        """Of a given radius, or one that reaches the farthest training camera (and at least 1)."""
        if radius is None:
            places = data.cameras["train"].camera_to_world[:, :, 3]
            radius = max(1.0, float(places.norm(dim=1).max()))
        if not 0 < radius < float("inf"):
            raise ConfigError(f"task.contraction_radius={radius} must be above 0, or null")
        return ContractedSpace(float(radius))

    def to_grid(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """c(x / R) / 2; differentiable."""
        return contract(points / self.radius) / 2

    def log_stretch(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """log of max(|x / R|, 1)^2: what contracted space shortens radially."""
        return 2 * (points.norm(dim=1) / self.radius).clamp_min(1.0).log()


def is_within_ball(centers: Float[Tensor, "n 3"], half_size: float) -> Tensor:
    """True for cells with their middle in the unit ball of the field's coordinates."""
    return centers.norm(dim=1) < 1

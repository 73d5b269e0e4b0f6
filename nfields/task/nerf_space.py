"""Where a radiance field lives: a box, or all of space.

box          the scene is [-aabb_scale, aabb_scale]^3; the field's cube is it, or a smaller one
contracted   the scene has no end: the field's coordinates are c(x) / 2, c the contraction of
             mip-NeRF 360 (nfields/render/contraction.py), and one occupancy grid divides them. Far
             away a step is long, so the density is what the model says divided by |x|^2: a step of
             a ray outwards is then as opaque as one nearby, whatever its length
"""

from typing import Literal, get_args

from jaxtyping import Float
from torch import Tensor

from nfields.data.posed_images import PosedImages
from nfields.errors import ConfigError

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


def log_stretch(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    """log of max(|x|, 1)^2: what contracted space shortens radially."""
    return 2 * points.norm(dim=1).clamp_min(1.0).log()


def is_within_ball(centers: Float[Tensor, "n 3"], half_size: float) -> Tensor:
    """True for cells with their middle in the unit ball of the field's coordinates."""
    return centers.norm(dim=1) < 1

"""From the light at the centres of pixels to that of their whole areas.

Where neighbours see one piece of surface, light is smooth and its mean over a pixel is

    light + sum over the four neighbours (neighbour - light) / 24

to second order. Elsewhere, at edges, a pixel takes several rays. What these meet has mostly been
lit already, at a centre beside it, and is lit alike: that light is looked up (as multisampling
does), and only what no centre saw is lit anew.
"""

from dataclasses import dataclass
from itertools import product

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# All in pixels' sizes. Two centres see one piece of surface if each lies within _JUMP of the
# other's tangent plane; a point is lit as a centre's that is this near and this little off its own.
_JUMP = 1.0
_OFF_PLANE, _BESIDE = 0.1, 3.0


@dataclass(frozen=True)
class Seen:
    """What the rays through the pixels' centres met; zeros for a miss."""

    is_hit: Bool[Tensor, "h w"]
    points: Float[Tensor, "h w 3"]
    normals: Float[Tensor, "h w 3"]
    light: Float[Tensor, "h w 3"]


def mean_light(seen: Seen, size: float) -> tuple[Float[Tensor, "h w 3"], Bool[Tensor, "h w"]]:
    """The light of pixels that see one piece of surface, and which are at edges and do not."""
    light, is_edge = seen.light.clone(), torch.zeros_like(seen.is_hit)
    for axis in (0, 1):
        count = is_edge.shape[axis]
        if count < 2:
            continue
        first, second = (
            (slice(None),) * axis + (slice(-1),),
            (slice(None),) * axis + (slice(1, None),),
        )
        apart = seen.points[second] - seen.points[first]
        off = torch.maximum(
            (apart * seen.normals[first]).sum(2).abs(), (apart * seen.normals[second]).sum(2).abs()
        )
        both = seen.is_hit[first] & seen.is_hit[second]
        differs = torch.where(both, off > _JUMP * size, seen.is_hit[first] | seen.is_hit[second])
        change = (both & ~differs)[:, :, None] * (seen.light[second] - seen.light[first]) / 24
        light[first] += change
        light[second] -= change
        is_edge[first] |= differs
        is_edge[second] |= differs
    return light, is_edge


def known_light(
    seen: Seen, pixels: Float[Tensor, "n 2"], points: Float[Tensor, "n 3"], size: float
) -> tuple[Float[Tensor, "n 3"], Bool[Tensor, " n"]]:
    """The light of points seen at positions in the picture, interpolated between those of the four
    centres around that met the same piece of surface; and whether there is one."""
    height, width = seen.is_hit.shape
    corner = (pixels - 0.5).floor()
    shares = pixels - 0.5 - corner
    light, total = torch.zeros_like(points), torch.zeros_like(points[:, 0])
    for right, down in product((0, 1), repeat=2):
        column = (corner[:, 0].long() + right).clamp(0, width - 1)
        row = (corner[:, 1].long() + down).clamp(0, height - 1)
        apart = points - seen.points[row, column]
        is_same = seen.is_hit[row, column] & (apart.norm(dim=1) <= _BESIDE * size)
        is_same &= (apart * seen.normals[row, column]).sum(1).abs() <= _OFF_PLANE * size
        weight = (1 - (shares - torch.tensor([right, down])).abs()).prod(1) * is_same
        light += weight[:, None] * seen.light[row, column]
        total += weight
    return light / total.clamp(min=1e-12)[:, None], total > 0

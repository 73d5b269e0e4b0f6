"""Which points lie behind what all cameras see: inside a thing, as far as pictures can tell.

Nothing trains a radiance field inside of an opaque thing, so its density there is noise, whose
surface is foam. A point that some camera sees is outside or on the surface; one behind the surface
in every view is taken to be inside. The test is conservative towards "seen": a pixel counts with
the farthest depth around it, and where a ray meets nothing all of it is seen.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from nfields.jit import njit, prange
from nfields.render.cameras import Cameras


class DepthViews:
    """Perspective cameras without lens distortion, and the depths along the rays of their pixels,
    infinite where there is nothing; all of one size.
    """

    def __init__(self, cameras: Cameras, depths: Sequence[Float[Tensor, "h w"]]):
        assert cameras.is_perspective and not cameras.is_distorted and cameras.has_one_size
        farthest = max_pool2d(torch.stack(list(depths))[:, None], 3, stride=1, padding=1)[:, 0]
        self._depths = farthest.contiguous().numpy()
        poses = cameras.camera_to_world.double()
        self._rotation = poses[:, :, :3].contiguous().numpy()
        self._place = poses[:, :, 3].contiguous().numpy()
        self._lens = torch.cat([cameras.focal, cameras.center], dim=1).double().numpy()

    def hidden(self, points: Float[Tensor, "n 3"], margin: float) -> Bool[Tensor, " n"]:
        """True for points of which each view sees the surface in front, more than `margin` nearer.

        A view that does not have the point in its picture says nothing; without any that has, it
        counts as seen.
        """
        out = np.zeros(len(points), np.bool_)
        array = points.detach().cpu().double().contiguous().numpy()
        _find_hidden(array, self._rotation, self._place, self._lens, self._depths, margin, out)
        return torch.from_numpy(out).to(points.device)


@njit(parallel=True, cache=True)
def _find_hidden(
    points: Any, rotation: Any, place: Any, lens: Any, depths: Any, margin: float, out: Any
) -> None:
    num_views, height, width = depths.shape
    for i in prange(points.shape[0]):
        num_looking = 0
        is_seen = False
        for v in range(num_views):
            dx, dy = points[i, 0] - place[v, 0], points[i, 1] - place[v, 1]
            dz = points[i, 2] - place[v, 2]
            x = rotation[v, 0, 0] * dx + rotation[v, 1, 0] * dy + rotation[v, 2, 0] * dz
            y = rotation[v, 0, 1] * dx + rotation[v, 1, 1] * dy + rotation[v, 2, 1] * dz
            z = -(rotation[v, 0, 2] * dx + rotation[v, 1, 2] * dy + rotation[v, 2, 2] * dz)
            if z <= 0:
                continue
            column = lens[v, 2] + lens[v, 0] * x / z
            row = lens[v, 3] - lens[v, 1] * y / z
            if not (0 <= column < width and 0 <= row < height):
                continue
            num_looking += 1
            distance = np.sqrt(x * x + y * y + z * z)
            if distance <= depths[v, int(row), int(column)] + margin:
                is_seen = True
                break
        out[i] = num_looking > 0 and not is_seen

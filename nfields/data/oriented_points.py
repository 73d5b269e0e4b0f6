"""Points of a surface with normals, and what they say of the distance of places around.

A point with normal n that stands for an area A is a dipole: seen from x it covers the solid angle
A n . (p - x) / |p - x|^3. Their sum over 4 pi, the winding number of the cloud (Barill et al. 2018,
section 3), is 1 inside and 0 outside, and in between only nearer to the surface than the points are
to each other, or where the cloud has a hole. Points of density r stand for 1 / r each; r is
estimated by the circle up to the k-th neighbour.

The surface is a little nearer than the nearest point: where points are spread at random, that is on
average at A / pi from the surface's nearest place, squared and measured along the surface. So the
distance t is estimated by t^2 = d^2 - A / pi, d the distance to the nearest point.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# (The type stubs of igl call every array an ArrayLike.)

from dataclasses import dataclass

import igl
import numpy as np
import torch
from jaxtyping import Float
from scipy.spatial import KDTree
from torch import Tensor

NUM_ANYWHERE = 1 << 18
NEAR_STD = 0.1  # of the Gaussian around the points, for half of the places
_MAX_POINTS = 100_000  # of larger clouds so many are asked: more would tell no more
_NEIGHBORS = 8  # k
_UNSURE = 0.3  # winding numbers this near to 1/2 say nothing
_SAME = 2.0**-14  # points of one cell of this size count once: the octree splits until they differ


@dataclass(frozen=True)
class OrientedPoints:
    """Points of a surface and outward unit normals, and places anywhere; in our frame, float32."""

    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    anywhere: Float[Tensor, "m 3"]  # half of them near the points, half uniform in [-1, 1]^3
    distances: Float[Tensor, " m"]  # estimates, negative inside; NaN where the side is not known

    @staticmethod
    def of(
        points: Float[np.ndarray, "n 3"], normals: Float[np.ndarray, "n 3"], seed: int
    ) -> "OrientedPoints":
        """The points, with places drawn anywhere and their distances."""
        random = np.random.default_rng(seed)
        anywhere = random.uniform(-1, 1, (NUM_ANYWHERE, 3))
        near = points[random.integers(len(points), size=NUM_ANYWHERE // 2)]
        anywhere[::2] = (near + NEAR_STD * random.normal(size=near.shape)).clip(-1, 1)
        if len(points) > _MAX_POINTS:
            kept = random.choice(len(points), _MAX_POINTS, replace=False)
            distances = estimated_distances(points[kept], normals[kept], anywhere)
        else:
            distances = estimated_distances(points, normals, anywhere)
        arrays = (points, normals, anywhere, distances)
        return OrientedPoints(*(torch.from_numpy(array).float() for array in arrays))

    def draw(
        self, num: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "num 3"], Float[Tensor, "num 3"]]:
        """Points and normals drawn uniformly, with replacement."""
        index = torch.randint(len(self.points), (num,), generator=generator)
        return self.points[index], self.normals[index]

    def draw_anywhere(
        self, num: int, generator: torch.Generator
    ) -> tuple[Float[Tensor, "num 3"], Float[Tensor, " num"]]:
        """Places anywhere and their distances."""
        index = torch.randint(len(self.anywhere), (num,), generator=generator)
        return self.anywhere[index], self.distances[index]


def estimated_distances(
    points: Float[np.ndarray, "n 3"],
    normals: Float[np.ndarray, "n 3"],
    places: Float[np.ndarray, "m 3"],
) -> Float[np.ndarray, " m"]:
    """Signed distances of places from the surface that oriented points describe; NaN: side unknown."""
    _, kept = np.unique(np.floor(points / _SAME).astype(np.int64), axis=0, return_index=True)
    points, normals = points[kept], normals[kept]
    num_neighbors = min(_NEIGHBORS, len(points) - 1)
    tree = KDTree(points)
    reach = tree.query(points, k=num_neighbors + 1, workers=-1)[0][:, -1]
    areas = np.pi * reach**2 / num_neighbors
    winding = igl.fast_winding_number(points, normals, areas, places)
    nearest, index = tree.query(places, workers=-1)
    size = np.sqrt(np.maximum(nearest**2 - areas[index] / np.pi, 0))
    signed = np.where(winding > 0.5, -size, size)
    return np.where(np.abs(winding - 0.5) < _UNSURE, np.nan, signed)

"""Which cells of a scene may hold something before anything is trained, and the box around them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.data.posed_images import PosedImages
from nfields.errors import DataError
from nfields.render.occupancy import OccupancyGrid
from nfields.render.visual_hull import visual_hull


def carve(grid: OccupancyGrid, data: PosedImages, images: Sequence[Tensor]) -> bool:
    """Leaves out cells that some view sees through; False where nothing says which those are.

    That needs alpha, and straight rays of perspective cameras.
    """
    cameras = data.cameras["train"]
    if not data.has_alpha or not cameras.is_perspective or cameras.homography is not None:
        return False
    alphas = [image[..., 3] for image in images]
    grid.exclude(lambda centers, half: visual_hull(centers, half, cameras, alphas))
    return True


def require_cells(grid: OccupancyGrid, data: PosedImages) -> Int[Tensor, " cells"]:
    """The cells that may hold something; an error if there are none."""
    cells = grid.candidates()
    if len(cells) == 0:
        raise DataError(
            f"no cell of the scene is seen by the cameras of {data.source} (or all alpha "
            "is 0): the cameras look elsewhere or the scene box is in the wrong place; check "
            "the poses and data.scale"
        )
    return cells


def cube_around(
    grid: OccupancyGrid, cells: Int[Tensor, " cells"]
) -> tuple[Float[Tensor, " 3"], Float[Tensor, ""]]:
    """Centre and half the side of the smallest cube around cells."""
    low = grid.positions(cells, 0.0).amin(dim=0)
    high = grid.positions(cells, 1.0).amax(dim=0)
    return (low + high) / 2, (high - low).max() / 2


def draw_points(
    grid: OccupancyGrid, cells: Int[Tensor, " cells"], num: int, generator: torch.Generator
) -> Float[Tensor, "n 3"]:
    """Points drawn uniformly from cells, each of which counts alike."""
    chosen = cells[torch.randint(len(cells), (num,), generator=generator)]
    return grid.positions(chosen, torch.rand(len(chosen), 3, generator=generator))

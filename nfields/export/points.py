"""The export what=points: a coloured point cloud of what the training cameras see."""

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import trimesh
from jaxtyping import Bool, Float
from torch import Tensor

from nfields.errors import ConfigError, DataError
from nfields.export.export import Export
from nfields.export.picture import to_uint8, write_file
from nfields.export.views import cameras_of_run, see
from nfields.stored_run import StoredRun

_SMALLEST = 400  # pixels a side: in smaller pictures all of a thin thing is edge


class PointsExport(Export):
    """what=points; every option is explained in points.yaml."""

    def __init__(
        self,
        *,
        num_points: int,
        split: str,
        min_opacity: float | int,
        max_jump: float | int,
        background: Literal["white", "black"] | None,
        out: str | None,
    ):
        if num_points < 1:
            raise ConfigError(f"num_points={num_points} must be 1 or more")
        if not 0 < min_opacity <= 1 or max_jump <= 0:
            raise ConfigError(
                f"min_opacity={min_opacity} must lie in (0, 1] and max_jump={max_jump} above 0"
            )
        if out is not None and Path(out).suffix.lower() != ".ply":
            raise ConfigError(f"out={out} must end in .ply")
        self.num_points, self.split, self.out = num_points, split, out
        self.min_opacity, self.max_jump, self.background = min_opacity, max_jump, background

    def export(self, run: StoredRun) -> list[Path]:
        """Renders every view so large that all together have the points, and writes them."""
        cameras = cameras_of_run(run, self.split, "points")
        # Some pixels see nothing: twice as many are looked at, and the rest is left out evenly.
        width, height = cameras.size(0)
        factor = math.sqrt(2 * self.num_points / len(cameras) / (width * height))
        factor = min(max(factor, _SMALLEST / max(width, height)), 1.0)
        small = cameras.resized(max(8, round(width * factor)), max(8, round(height * factor)))
        points, colors = [], []
        for view in see(run, small, self.background):
            kept = (view.opacity >= self.min_opacity) & is_smooth(view.depth, self.max_jump)
            points.append(view.points[kept])
            colors.append(view.rgb[kept])
        place, color = torch.cat(points), torch.cat(colors)
        if len(place) == 0:
            raise DataError(
                f"no pixel of the {len(cameras)} {self.split} views sees anything as opaque as "
                f"min_opacity={self.min_opacity}; train longer, or lower it"
            )
        order = torch.randperm(len(place), generator=torch.Generator().manual_seed(0))
        order = order[: self.num_points].sort().values
        file = run.folder.path / "points" / "points.ply" if self.out is None else Path(self.out)
        cloud = trimesh.PointCloud(place[order].double().numpy(), to_uint8(color[order]))
        content = cloud.export(file_type="ply")
        assert isinstance(content, bytes)
        write_file(file, content)
        return [file]


def is_smooth(depth: Float[Tensor, "h w"], max_jump: float) -> Bool[Tensor, "h w"]:
    """True where depth is known and no neighbour is nearer or farther by more than that share.

    At the edge of a thing a pixel sees it and what is behind it; their mean lies in the air.
    """
    value = depth.numpy()
    padded = np.pad(value, 1, mode="edge")
    result = np.isfinite(value)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        with np.errstate(invalid="ignore"):
            result &= np.abs(other - value) <= max_jump * value
    return torch.from_numpy(result)

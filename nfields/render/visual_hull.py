"""The visual hull of masked photographs: which cells of a grid no camera sees through.

A cell is outside the hull if some view that sees all of it shows nothing but alpha 0 there. The
test is conservative: a cell counts as its bounding sphere, the sphere as a square of pixels, the
masks as their maxima over blocks of pixels, so what alpha > 0 covers in every view always stays.
A radiance field trained with alpha is empty outside the hull; knowing that before the first
step saves the steps that would find it out.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d

from nfields.jit import njit, prange
from nfields.render.cameras import Cameras

# Masks are reduced to about this many pixels a side: more would not move a cell's boundary.
_MASK_SIZE = 256


def visual_hull(
    centers: Float[Tensor, "cells 3"],
    half_size: float,
    cameras: Cameras,
    alphas: list[UInt8[Tensor, "h w"]],
) -> Bool[Tensor, " cells"]:
    """True for cells (cubes of half side `half_size`) that may hold something."""
    longest = max(max(alpha.shape) for alpha in alphas)
    factor = max(1, longest // _MASK_SIZE)
    tables = [_summed_area(alpha, factor) for alpha in alphas]
    rows = torch.tensor([table.shape[0] for table in tables])
    columns = torch.tensor([table.shape[1] for table in tables])
    first = torch.cat([torch.zeros(1, dtype=torch.int64), (rows * columns).cumsum(0)])
    inside = torch.zeros(len(centers), dtype=torch.bool)
    _carve(
        centers.contiguous().numpy(), half_size * 3**0.5, cameras.camera_to_world.numpy(),
        cameras.focal.numpy() / factor, cameras.center.numpy() / factor,
        cameras.distortion.numpy(), torch.cat([table.reshape(-1) for table in tables]).numpy(),
        first.numpy(), rows.numpy(), columns.numpy(), inside.numpy(),
    )  # fmt: skip
    return inside


def _summed_area(alpha: UInt8[Tensor, "h w"], factor: int) -> Tensor:
    """Table (h' + 1, w' + 1): covered blocks above and to the left of a corner."""
    covered = (alpha > 0).float()[None, None]
    covered = max_pool2d(covered, factor, ceil_mode=True)[0, 0]
    table = torch.zeros(covered.shape[0] + 1, covered.shape[1] + 1, dtype=torch.int32)
    table[1:, 1:] = covered.cumsum(0).cumsum(1)
    return table


@njit(parallel=True, cache=True)
def _carve(
    centers: Any, radius: float, poses: Any, focal: Any, principal: Any, lens: Any, tables: Any,
    first: Any, rows: Any, columns: Any, inside: Any,
) -> None:  # fmt: skip
    num_cells, num_views = centers.shape[0], poses.shape[0]
    for block in prange((num_cells + 255) // 256):
        for i in range(np.int64(block) * 256, min(np.int64(block) * 256 + 256, num_cells)):
            kept, seen = True, False
            for k in range(num_views):
                # Start with another view for every cell: neighbouring views agree.
                v = (k * 7919 + i) % num_views
                dx = centers[i, 0] - poses[v, 0, 3]
                dy = centers[i, 1] - poses[v, 1, 3]
                dz = centers[i, 2] - poses[v, 2, 3]
                depth = -(poses[v, 0, 2] * dx + poses[v, 1, 2] * dy + poses[v, 2, 2] * dz)
                if depth <= radius:
                    seen = seen or depth > -radius  # around the camera: cannot be judged
                    continue
                x = (poses[v, 0, 0] * dx + poses[v, 1, 0] * dy + poses[v, 2, 0] * dz) / depth
                y = -(poses[v, 0, 1] * dx + poses[v, 1, 1] * dy + poses[v, 2, 1] * dz) / depth
                r2 = x * x + y * y
                g = 1 + r2 * (lens[v, 0] + r2 * lens[v, 1])
                px = x * g + 2 * lens[v, 2] * x * y + lens[v, 3] * (r2 + 2 * x * x)
                py = y * g + lens[v, 2] * (r2 + 2 * y * y) + 2 * lens[v, 3] * x * y
                px = px * focal[v, 0] + principal[v, 0]
                py = py * focal[v, 1] + principal[v, 1]
                # Off the axis a sphere projects larger than radius / depth: 1 + r2 bounds it.
                reach_x = radius * focal[v, 0] / (depth - radius) * (1 + r2) + 1
                reach_y = radius * focal[v, 1] / (depth - radius) * (1 + r2) + 1
                height, width = rows[v] - 1, columns[v] - 1
                left, right = int(np.floor(px - reach_x)), int(np.ceil(px + reach_x))
                top, bottom = int(np.floor(py - reach_y)), int(np.ceil(py + reach_y))
                if right <= 0 or bottom <= 0 or left >= width or top >= height:
                    continue
                seen = True
                if left < 0 or top < 0 or right > width or bottom > height:
                    continue
                stride, base = columns[v], first[v]
                covered = (
                    tables[base + bottom * stride + right] - tables[base + top * stride + right]
                    - tables[base + bottom * stride + left] + tables[base + top * stride + left]
                )  # fmt: skip
                if covered == 0:
                    kept = False
                    break
            inside[i] = kept and seen

"""Where on a grid a surface can be: leaves of 8^3 cells, chosen by samples at every fourth corner.

Notation   n cells of the grid along an axis, corners 0 .. n; a leaf has 8 cells a side (the last
           one of an axis may have fewer), samples every 4 corners: up to 27 a leaf, its own corners
           among them. Every point of a leaf is within r = sqrt(3)/4 of the leaf's side of a sample.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Shaped
from torch import Tensor

from nfields.render.surface import Surface

LEAF_CELLS = 8
_STEP = 4
_COVERING_RADIUS = 3**0.5 / 4  # of the samples, in sides of a leaf


@dataclass(frozen=True)
class Grid:
    """A grid of cells, cubes but for rounding, that fills a box exactly."""

    low: Float[np.ndarray, " 3"]
    spacing: Float[np.ndarray, " 3"]
    num_cells: tuple[int, int, int]

    @staticmethod
    def over(bounds: Float[Tensor, "2 3"], resolution: int) -> "Grid":
        """`resolution` cells along the longest side of the box, and along the others in scale."""
        low, high = bounds.double().cpu().numpy()
        size = high - low
        # The fraction taken off keeps 256.0000001 cells from becoming 257.
        cells = np.maximum(1, np.ceil(size / size.max() * resolution - 1e-4)).astype(int)
        return Grid(low, size / cells, (int(cells[0]), int(cells[1]), int(cells[2])))

    def positions(self, index: Shaped[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
        """The places of corners, or of anything between them in units of cells."""
        return self.low + index * self.spacing


@dataclass(frozen=True)
class Leaves:
    """The leaves of a grid: which the surface may cross, and on which side of it the others are."""

    is_active: Bool[np.ndarray, "x y z"]
    is_inside: Bool[np.ndarray, "x y z"]
    value_scale: float  # by how much the function changes over a cell, about


class Sampler:
    """Values of a surface's function at corners of a grid, in chunks, without gradients."""

    def __init__(self, surface: Surface, grid: Grid, chunk: int):
        self.surface, self.grid, self.chunk = surface, grid, chunk
        self.num_samples = 0

    def __call__(self, index: Int[np.ndarray, "n 3"]) -> Float32[np.ndarray, " n"]:
        values = np.zeros(len(index), dtype=np.float32)
        for first in range(0, len(index), self.chunk):
            part = self.grid.positions(index[first : first + self.chunk])
            values[first : first + self.chunk] = self.surface.values_of(part)
        self.num_samples += len(index)
        return values


def find_leaves(sample: Sampler, is_distance: bool, safety: float) -> Leaves:
    """The leaves that the surface may cross.

    A leaf is left out where every sample is further from zero than `safety` r v. Here v is by how
    much the values change over a leaf: its side for a distance, and at least the range of its own
    samples, whatever the function (a distance that was learned is steeper in places). What is
    missed then: parts that lie between samples all the same, such as closed bubbles or sheets
    thinner than two samples' spacing (8 cells) that change the function nowhere else. Parts that
    reach into a leaf that was looked at are followed from there (nfields/render/isosurface.py).
    """
    num_cells = np.array(sample.grid.num_cells)
    counts = -(-num_cells // LEAF_CELLS)
    values = _lattice(sample, counts * (LEAF_CELLS // _STEP) + 1, num_cells)
    parts = LEAF_CELLS // _STEP
    lowest, highest, smallest = values.copy(), values.copy(), np.abs(values)
    for axis in range(3):
        lowest = _windows(lowest, axis, parts, np.minimum)
        highest = _windows(highest, axis, parts, np.maximum)
        smallest = _windows(smallest, axis, parts, np.minimum)
    changes = highest - lowest
    side = LEAF_CELLS * float(sample.grid.spacing.max())
    steepness = np.maximum(changes, side) if is_distance else changes
    is_crossed = (lowest < 0) & (highest >= 0)
    is_active = is_crossed | (smallest <= safety * _COVERING_RADIUS * steepness)
    if is_distance:
        scale = float(sample.grid.spacing.max())
    else:
        known = changes[is_crossed] if is_crossed.any() else changes[changes > 0]
        scale = float(np.median(known)) / LEAF_CELLS if len(known) else 1.0
    return Leaves(is_active, lowest < 0, scale)


def _lattice(
    sample: Sampler, shape: Int[np.ndarray, " 3"], num_cells: Int[np.ndarray, " 3"]
) -> Float32[np.ndarray, "x y z"]:
    values = np.zeros(shape, dtype=np.float32)
    plane = int(shape[1] * shape[2])
    thickness = max(1, sample.chunk // plane)
    for first in range(0, int(shape[0]), thickness):
        last = min(first + thickness, int(shape[0]))
        index = np.indices((last - first, *shape[1:])).reshape(3, -1).T
        index[:, 0] += first
        at = np.minimum(index * _STEP, num_cells)  # the last leaf of an axis may be cut off
        values[first:last] = sample(at).reshape(-1, *shape[1:])
    return values


def _windows(
    values: np.ndarray, axis: int, parts: int, combine: Callable[..., np.ndarray]
) -> np.ndarray:
    """combine over the parts + 1 entries of each window of an axis; neighbours share one."""
    values = np.moveaxis(values, axis, 0)
    num = (len(values) - 1) // parts
    result = values[0 : num * parts : parts]
    for i in range(1, parts + 1):
        result = combine(result, values[i : i + num * parts : parts])
    return np.moveaxis(result, 0, axis)


def any_in_leaves(corners: Bool[np.ndarray, "x y z"]) -> Bool[np.ndarray, "a b c"]:
    """Whether a leaf has a True corner, for the leaves of a block and all those around it.

    The block's first leaf begins at corner 0; in the result it has index 1.
    """
    for axis in range(3):
        num = -(-(corners.shape[axis] - 1) // LEAF_CELLS) + 2
        padding = [(0, 0)] * 3
        padding[axis] = (LEAF_CELLS, num * LEAF_CELLS + 1 - corners.shape[axis] - LEAF_CELLS)
        corners = _windows(np.pad(corners, padding), axis, LEAF_CELLS, np.logical_or)
    return corners


def corners_of(leaves: Bool[np.ndarray, "a b c"], shape: tuple[int, ...]) -> np.ndarray:
    """True for the corners (x, y, z) of a block that belong to a leaf that is True."""
    corners = np.zeros([count * LEAF_CELLS + 1 for count in leaves.shape], dtype=bool)
    cells = leaves
    for axis in range(3):
        cells = cells.repeat(LEAF_CELLS, axis=axis)
    for offset in product((0, 1), repeat=3):
        part = tuple(slice(o, o + size) for o, size in zip(offset, cells.shape, strict=True))
        corners[part] |= cells
    return corners[: shape[0], : shape[1], : shape[2]]

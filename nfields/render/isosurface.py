"""A surface as triangles: marching cubes block by block, without seams between the blocks.

Only leaves that the surface may cross are evaluated (nfields/render/surface_grid.py). Where the
values found say that the surface runs on into a leaf that was left out, that leaf is evaluated
too: a part of the surface is found whole or not at all, and the mesh is closed where the surface
is. It is open where the box cuts it.

A block is `block_cells` wide and shares its outer corners with its neighbours, so that both place a
vertex on the same edges of the grid there, at the same place but for rounding. They are recognised
by the edge.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from skimage.measure import marching_cubes

from nfields.errors import DataError
from nfields.render.surface import Surface
from nfields.render.surface_grid import (
    LEAF_CELLS,
    Grid,
    Leaves,
    Sampler,
    any_in_leaves,
    corners_of,
    find_leaves,
)
from nfields.render.triangle_mesh import TriangleMesh

# Values nearer to zero than this part of a cell's change are moved away from it: vertices of
# several edges would coincide at a corner otherwise, and the triangles between them would vanish.
_NEAREST_TO_ZERO = 1e-3
_FAR = 8.0  # in cells: the value of corners that are not looked at


@dataclass(frozen=True)
class Extraction:
    """A mesh in our frame, and what it took."""

    mesh: TriangleMesh
    grid: Grid
    num_samples: int  # evaluations of the field


def extract_surface(
    surface: Surface,
    *,
    resolution: int,
    safety: float,
    chunk: int,
    block_cells: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> Extraction:
    """The zero set of a surface on a grid of `resolution` cells along the longest side of its box.

    `safety` as in `find_leaves`; `chunk` points are evaluated at once; `progress(done, total)`
    counts blocks. Memory beside the field: the mesh, one block, and a byte or two for every
    leaf (512 cells).
    """
    if block_cells < LEAF_CELLS or block_cells % LEAF_CELLS != 0:
        raise ValueError(f"block_cells={block_cells} must be a multiple of {LEAF_CELLS}")
    grid = Grid.over(surface.bounds, resolution)
    sample = Sampler(surface, grid, chunk)
    leaves = find_leaves(sample, surface.is_distance, safety)
    num = block_cells // LEAF_CELLS
    pieces: dict[tuple[int, ...], _Piece | None] = {}
    waiting = _blocks(np.argwhere(leaves.is_active), num)
    while waiting:
        block = min(waiting)
        waiting.remove(block)
        pieces[block], entered = _extract_block(block, block_cells, leaves, sample)
        # Only blocks that the surface was found to run on into are looked at twice.
        waiting |= _blocks(entered, num)
        if progress is not None:
            progress(len(pieces), len(pieces) + len(waiting - pieces.keys()))
    found = [piece for _, piece in sorted(pieces.items()) if piece is not None]
    if not found:
        inside = bool(leaves.is_inside.any())
        raise DataError(
            f"the field has no surface: it is {'inside' if inside else 'outside'} everywhere in "
            f"its box, as seen on a grid of {' x '.join(map(str, grid.num_cells))} cells; train "
            "longer, or check the level"
        )
    return Extraction(_weld(found, grid, block_cells), grid, sample.num_samples)


@dataclass(frozen=True)
class _Piece:
    block: np.ndarray  # (3,)
    local: np.ndarray  # (v, 3) float32, in cells from the block's first corner
    faces: np.ndarray  # (f, 3)


def _extract_block(
    block: tuple[int, ...], block_cells: int, leaves: Leaves, sample: Sampler
) -> tuple[_Piece | None, np.ndarray]:
    """The triangles of a block, and the leaves of other blocks that the surface runs on into.

    Adds to `leaves.is_active` what it finds active.
    """
    start = np.array(block) * block_cells
    shape = np.minimum(start + block_cells, sample.grid.num_cells) - start + 1
    first = start // LEAF_CELLS
    last = -(-(start + shape - 1) // LEAF_CELLS)
    own = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
    # The block's own leaves and those around it, as far as the grid has any.
    count = np.array(leaves.is_active.shape)
    around = tuple(
        slice(max(a - 1, 0), min(b + 1, c)) for a, b, c in zip(first, last, count, strict=True)
    )
    inner = tuple(
        slice(s.start - a + 1, s.stop - a + 1) for s, a in zip(around, first, strict=True)
    )
    values = np.where(corners_of(leaves.is_inside[own], tuple(shape.tolist())), -_FAR, _FAR)
    values = values.astype(np.float32)
    is_known = np.zeros(shape, dtype=bool)
    entered = np.zeros((0, 3), dtype=np.int64)
    while True:
        new = corners_of(leaves.is_active[own], tuple(shape.tolist())) & ~is_known
        if new.any():
            index = np.argwhere(new)
            values[new] = _away_from_zero(sample(index + start) / leaves.value_scale)
            is_known |= new
        is_negative = any_in_leaves(is_known & (values < 0))[inner]
        is_positive = any_in_leaves(is_known & (values > 0))[inner]
        is_inside = leaves.is_inside[around]
        is_wrong = ~leaves.is_active[around] & np.where(is_inside, is_positive, is_negative)
        if not is_wrong.any():
            break
        leaves.is_active[around] |= is_wrong
        found = np.argwhere(is_wrong) + [s.start for s in around]
        is_own = ((found >= first) & (found < last)).all(axis=1)
        entered = np.concatenate([entered, found[~is_own]])
    if not (values.min() < 0 < values.max()):
        return None, entered
    local, faces, _, _ = marching_cubes(values, 0.0, gradient_direction="descent")
    return _Piece(np.array(block), local, faces), entered


def _blocks(leaves: np.ndarray, num: int) -> set[tuple[int, ...]]:
    """The blocks, of num^3 leaves, that hold the given leaves."""
    return set(map(tuple, np.unique(leaves // num, axis=0).tolist()))


def _away_from_zero(values: np.ndarray) -> np.ndarray:
    size = np.clip(np.abs(values), _NEAREST_TO_ZERO, 1e6)
    return np.where(values < 0, -size, size)


def _weld(pieces: list[_Piece], grid: Grid, block_cells: int) -> TriangleMesh:
    """One mesh of all pieces, in which vertices on shared faces of blocks are one vertex."""
    blocks, locals_, faces, offset = [], [], [], 0
    for piece in pieces:
        # The far face of a block is the near face of the next.
        is_far = piece.local == block_cells
        blocks.append(piece.block.astype(np.int32) + is_far)
        locals_.append(np.where(is_far, np.float32(0), piece.local))
        faces.append(piece.faces + np.int32(offset))
        offset += len(piece.local)
    block, local, face = np.concatenate(blocks), np.concatenate(locals_), np.concatenate(faces)
    on_face = np.flatnonzero((local == 0).any(axis=1))
    # A vertex is between two corners along one axis (`_away_from_zero` keeps it off the corners).
    corner = np.floor(local[on_face])
    axis = (local[on_face] != corner).argmax(axis=1)
    keys = block[on_face].astype(np.int64) * block_cells + corner.astype(np.int64)
    keys = np.concatenate([keys, axis[:, None]], axis=1)
    _, chosen, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    target = np.arange(len(local))
    target[on_face] = on_face[chosen][inverse.reshape(-1)]
    is_kept = target == np.arange(len(local))
    place = np.cumsum(is_kept) - 1
    index = block[is_kept].astype(np.float64) * block_cells + local[is_kept]
    return TriangleMesh(grid.positions(index), place[target[face]].astype(np.int32))

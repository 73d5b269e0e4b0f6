"""Where small parts of a surface are the data's own: cells of [-1, 1]^3, kept beside a run.

A field has a small body smaller than it is, and strays of its size elsewhere: areas alone do not
tell them apart, places do.
"""

import base64
import zlib

import numpy as np
from jaxtyping import Bool, Float
from scipy.ndimage import label

from nfields.render.triangle_mesh import TriangleMesh, part_areas

_CELLS = 32  # a side; all of them are 4 KB
_SMALL = 0.01  # of the largest body's area: ten times what is stray at most
_MARGIN = 0.5  # cells around the box of a body

Cells = Bool[np.ndarray, "32 32 32"]


def cells_of_bodies(mesh: TriangleMesh) -> Cells:
    """The cells that the boxes of a mesh's small parts meet; the mesh is in our frame."""
    part_of, areas = part_areas(mesh)
    cells = np.zeros((_CELLS,) * 3, bool)
    corners = mesh.vertices[mesh.faces].reshape(-1, 3)
    low, high = np.full((2, len(areas), 3), [[[np.inf]], [[-np.inf]]])
    np.minimum.at(low, part_of.repeat(3), corners)
    np.maximum.at(high, part_of.repeat(3), corners)
    margin = _MARGIN * 2 / _CELLS
    for part in np.flatnonzero(areas < _SMALL * areas.max(initial=0.0)):
        first, last = _index(np.stack([low[part] - margin, high[part] + margin]))
        cells[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))] = True
    return cells


def cells_of_points(points: Float[np.ndarray, "n 3"]) -> Cells:
    """The cells that points of a surface are in, whatever its bodies are."""
    cells = np.zeros((_CELLS,) * 3, bool)
    cells[tuple(_index(points).T)] = True
    return cells


def are_within(points: Float[np.ndarray, "n 3"], cells: Cells) -> Bool[np.ndarray, " n"]:
    """Which points lie in one of the cells."""
    return cells[tuple(_index(points).T)]


def num_missing(points: Float[np.ndarray, "n 3"], cells: Cells) -> int:
    """How many connected groups of cells hold none of the points: bodies that a mesh has lost.

    A body is not missed where another one reaches into its cells.
    """
    groups: np.ndarray
    groups, num = label(cells, np.ones((3, 3, 3)))  # pyright: ignore[reportGeneralTypeIssues]
    return num - len(np.setdiff1d(groups[tuple(_index(points).T)], [0]))


def to_text(cells: Cells) -> str:
    """The cells as letters, for json."""
    return base64.b64encode(zlib.compress(np.packbits(cells).tobytes())).decode()


def from_text(text: str) -> Cells:
    """What `to_text` was given; ValueError for anything else."""
    try:
        bits = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    except zlib.error as error:
        raise ValueError(f"no cells: {error}") from error
    return np.unpackbits(bits).astype(bool).reshape((_CELLS,) * 3)


def _index(points: Float[np.ndarray, "n 3"]) -> np.ndarray:
    return np.clip(np.floor((points + 1) * (_CELLS / 2)), 0, _CELLS - 1).astype(np.int64)

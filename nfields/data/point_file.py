"""Points of a surface from a file, with outward normals: stored ones, or estimated and oriented.

Normals are the direction of least variance of the 16 nearest points. Their signs are spread along
the minimum spanning tree of the neighbour graph, whose edges cost 1 - |n_i . n_j| (Hoppe et al.
1992), and each connected piece is turned so that it encloses a positive volume.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOptionalSubscript=false
# pyright: reportIndexIssue=false, reportGeneralTypeIssues=false
# (The type stubs of scipy and trimesh are loose.)

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trimesh
from jaxtyping import Float
from scipy.sparse import coo_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import KDTree

from nfields.data.mesh_file import check_file, reading
from nfields.errors import DataError

POINT_SUFFIXES = (".ply", ".xyz", ".npz")
_NEIGHBORS = 16
_MIN_POINTS = 32


@dataclass(frozen=True)
class StoredPoints:
    """What a file held, in the user's frame and units; float64."""

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]  # unit, outward
    notes: list[str] = field(default_factory=list)


def read_points(path: Path, num_points: int | None, seed: int) -> StoredPoints | None:
    """The points of a file, at most `num_points` of them; None for a ply file that has faces."""
    check_file(path, tuple(suffix[1:] for suffix in POINT_SUFFIXES))
    read = {".ply": _read_ply, ".xyz": _read_xyz, ".npz": _read_npz}[path.suffix.lower()]
    found = reading(path, lambda: read(path))
    if found is None:
        return None
    points, normals = found
    notes = []
    good = np.isfinite(points).all(axis=1)
    if normals is not None:
        length = np.linalg.norm(normals, axis=1)
        good &= np.isfinite(length) & (length > 0)
    if not good.all():
        notes.append(
            f"{(~good).sum():,} of {len(points):,} points with NaN, infinite or zero values left out"
        )
        points, normals = points[good], None if normals is None else normals[good]
    if num_points is not None and num_points < len(points):
        kept = np.sort(np.random.default_rng(seed).permutation(len(points))[:num_points])
        points, normals = points[kept], None if normals is None else normals[kept]
    if len(points) < _MIN_POINTS:
        raise DataError(
            f"data.path={path} has {len(points)} usable points; a surface needs {_MIN_POINTS} at "
            "least"
        )
    if not np.ptp(points, axis=0).max() > 0:
        raise DataError(f"data.path={path}: all points are at one place")
    if normals is None:
        normals = estimated_normals(points)
        notes.append(
            f"{path.name} has no normals; they were estimated from {_NEIGHBORS} neighbours and "
            "turned outwards: check the result, or give normals"
        )
    return StoredPoints(points, normals / np.linalg.norm(normals, axis=1, keepdims=True), notes)


def _read_ply(path: Path) -> tuple[np.ndarray, np.ndarray | None] | None:
    loaded = trimesh.load(path, process=False)
    if not isinstance(loaded, trimesh.PointCloud):
        return None
    stored = loaded.metadata["_ply_raw"]["vertex"]["data"]
    names = set(stored.dtype.names) if isinstance(stored, np.ndarray) else set(stored)
    normals = None
    if {"nx", "ny", "nz"} <= names:
        columns = [np.asarray(stored[name], np.float64).reshape(-1) for name in ("nx", "ny", "nz")]
        normals = np.stack(columns, axis=1)
    return np.asarray(loaded.vertices, np.float64), normals


def _read_xyz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    table = np.loadtxt(path, dtype=np.float64, ndmin=2)
    if table.shape[1] not in (3, 6):
        raise DataError(
            f"data.path={path} has {table.shape[1]} columns; give x y z, or x y z nx ny nz"
        )
    return table[:, :3], table[:, 3:] if table.shape[1] == 6 else None


def _read_npz(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    with np.load(path, allow_pickle=False) as stored:
        if "points" not in stored:
            raise DataError(
                f"data.path={path} holds {', '.join(stored.files) or 'nothing'}; give points "
                "(n, 3) and perhaps normals (n, 3)"
            )
        points = np.asarray(stored["points"], np.float64)
        normals = np.asarray(stored["normals"], np.float64) if "normals" in stored else None
    shapes = [array.shape for array in (points, normals) if array is not None]
    if any(shape != (len(points), 3) for shape in shapes):
        raise DataError(f"data.path={path}: points and normals are {shapes}; both must be (n, 3)")
    return points, normals


def estimated_normals(points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    """Outward unit normals; see the module's head."""
    num = len(points)
    index = KDTree(points).query(points, k=min(_NEIGHBORS + 1, num))[1]
    near = points[index]
    offsets = near - near.mean(axis=1, keepdims=True)
    normals = np.linalg.eigh(offsets.transpose(0, 2, 1) @ offsets)[1][:, :, 0]
    first, second = np.repeat(np.arange(num), index.shape[1] - 1), index[:, 1:].ravel()
    cost = 1 - np.abs((normals[first] * normals[second]).sum(axis=1)) + 1e-6
    graph = coo_array((cost, (first, second)), shape=(num, num)).tocsr()
    graph = graph.maximum(graph.T)
    tree = minimum_spanning_tree(graph)
    tree = tree + tree.T
    count, piece = connected_components(tree, directed=False)
    for k in range(count):
        start = np.flatnonzero(piece == k)[0]
        order, parent = breadth_first_order(tree, start, directed=False)
        for i in order[1:]:
            if normals[i] @ normals[parent[i]] < 0:
                normals[i] = -normals[i]
        members = piece == k
        # Of a closed surface, x . n about its middle integrates to three volumes.
        middle = points[members].mean(axis=0)
        if ((points[members] - middle) * normals[members]).sum() < 0:
            normals[members] *= -1
    return normals

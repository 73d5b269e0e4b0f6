"""Walls inside of a solid: where bodies of a mesh overlap, they are no surface of what they enclose.

Notation   w(x) the winding number (nfields/data/mesh_surface.py). On the outer side of a face of the
           solid's boundary w is 0, and at most 1/2 where the mesh is open; inside another body it
           is 1 and more.

Faces are tested at their corners and in the middle; those that disagree are cut into four, again
and again, so that what is left of a face ends where the other body begins, to a hundredth of our
frame.
"""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportReturnType=false
# (The type stubs of igl call every array an ArrayLike.)

import igl
import numpy as np
from jaxtyping import Bool, Float, Int

_BESIDE = 1e-4  # of our frame: how far off a face its outer side is looked at
_INNER = 0.8  # winding numbers above are inside another body: between 1/2 and 1, for rounding
_NUM_PROBES = 4096
_SMALLEST = 0.01  # edges of our frame up to which faces are cut
_LARGEST = 0.1  # of faces that are tested: the walls of a body that enters one in its middle


def without_inner_walls(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"]
) -> tuple[Float[np.ndarray, "u 3"], Int[np.ndarray, "g 3"], float]:
    """The part of a mesh that bounds what it encloses, and the share of the area that does not.

    In our frame, outward normals. Cut faces are not joined to their neighbours: the result has the
    right distances and areas, winding numbers are those of the whole mesh.
    """
    if not _has_inner_walls(vertices, faces):
        return vertices, faces, 0.0
    total = _areas(vertices[faces]).sum()
    waiting, kept = vertices[faces], []
    while len(waiting):
        length = np.linalg.norm(waiting - np.roll(waiting, 1, axis=1), axis=2).max(axis=1)
        is_long = length > _LARGEST
        short = waiting[~is_long]
        is_inner = _are_inner(vertices, faces, short)
        is_mixed = is_inner.any(axis=1) & ~is_inner.all(axis=1)
        is_cut = is_mixed & (length[~is_long] > _SMALLEST)
        # A face too small to be cut goes by its middle.
        kept.append(short[~is_cut & ~is_inner[:, 3]])
        waiting = _quartered(np.concatenate([waiting[is_long], short[is_cut]]))
    corners = np.concatenate(kept)
    if len(corners) == 0:  # everything lies in everything else: there is nothing to go by
        return vertices, faces, 0.0
    share = 1 - float(_areas(corners).sum() / total)
    joined, index = np.unique(corners.reshape(-1, 3), axis=0, return_inverse=True)
    return joined, index.reshape(-1, 3).astype(np.int64), share


def _has_inner_walls(vertices: np.ndarray, faces: np.ndarray) -> bool:
    """Whether any of `_NUM_PROBES` faces, drawn by area, lies inside."""
    corners = vertices[faces]
    sums = np.cumsum(_areas(corners))
    random = np.random.default_rng(0)
    index = np.searchsorted(sums, random.uniform(0, sums[-1], _NUM_PROBES))
    u, v = random.uniform(size=(2, _NUM_PROBES, 1))
    root = np.sqrt(u)
    a, b, c = corners[index].transpose(1, 0, 2)
    points = (1 - root) * a + root * ((1 - v) * b + v * c)
    return bool((_winding(vertices, faces, points, _normals(corners[index])) > _INNER).any())


def _are_inner(
    vertices: np.ndarray, faces: np.ndarray, corners: Float[np.ndarray, "n 3 3"]
) -> Bool[np.ndarray, "n 4"]:
    """Whether the outer sides of faces lie inside, near each corner and in the middle."""
    middle = corners.mean(axis=1, keepdims=True)
    # Off the edges: there the outer side of one face may be the inner side of the next.
    points = np.concatenate([0.9 * corners + 0.1 * middle, middle], axis=1)
    normals = np.repeat(_normals(corners), 4, axis=0)
    winding = _winding(vertices, faces, points.reshape(-1, 3), normals)
    return (winding > _INNER).reshape(-1, 4)


def _winding(
    vertices: np.ndarray, faces: np.ndarray, points: np.ndarray, normals: np.ndarray
) -> Float[np.ndarray, " n"]:
    return igl.fast_winding_number(vertices, faces, points + _BESIDE * normals)


def _quartered(corners: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "m 3 3"]:
    a, b, c = corners.transpose(1, 0, 2)
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    parts = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return np.concatenate([np.stack(part, axis=1) for part in parts])


def _areas(corners: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, " n"]:
    a, b, c = corners.transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def _normals(corners: Float[np.ndarray, "n 3 3"]) -> Float[np.ndarray, "n 3"]:
    a, b, c = corners.transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    return normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-300)

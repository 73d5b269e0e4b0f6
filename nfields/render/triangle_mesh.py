"""A triangle mesh, and what can be said of it by counting: is it closed, of how many parts."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

_FACES_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class TriangleMesh:
    """Triangles whose corners run counter-clockwise when seen from outside."""

    vertices: Float[np.ndarray, "v 3"]
    faces: Int[np.ndarray, "f 3"]
    normals: Float[np.ndarray, "v 3"] | None = None  # unit, outward
    colors: Float[np.ndarray, "v 3"] | None = None  # sRGB in [0, 1]


@dataclass(frozen=True)
class Topology:
    """Counts of a mesh. With boundary or irregular edges, `genus` is None."""

    num_components: int
    num_boundary_edges: int  # of one triangle only
    num_irregular_edges: int  # of three or more, or of two that disagree about the outside
    euler_characteristic: int  # vertices - edges + faces
    genus: int | None  # handles of all components together: sum of (2 - euler) / 2

    @property
    def is_watertight(self) -> bool:
        """True where every edge lies between two triangles that agree about the outside."""
        return self.num_boundary_edges == 0 and self.num_irregular_edges == 0


def topology(mesh: TriangleMesh) -> Topology:
    """The counts of a mesh; vertices that no triangle uses do not count."""
    num_vertices = len(mesh.vertices)
    labels = component_labels(mesh)
    used = np.zeros(num_vertices, dtype=bool)
    used[mesh.faces] = True
    components = len(np.unique(labels[used]))
    keys, directions = _edges(mesh.faces, num_vertices)
    starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, int)
    uses = np.diff(np.r_[starts, len(keys)])
    balance = np.add.reduceat(directions, starts, dtype=np.int64) if len(keys) else uses
    boundary = int((uses == 1).sum())
    irregular = int(((uses > 2) | ((uses == 2) & (balance != 0))).sum())
    euler = int(used.sum()) - len(starts) + len(mesh.faces)
    closed = boundary == 0 and irregular == 0
    return Topology(
        num_components=int(components),
        num_boundary_edges=boundary,
        num_irregular_edges=irregular,
        euler_characteristic=euler,
        genus=(2 * components - euler) // 2 if closed else None,
    )


def component_labels(mesh: TriangleMesh) -> Int[np.ndarray, " v"]:
    """The number of the connected part that each vertex belongs to; unused vertices are parts."""
    first, second = mesh.faces[:, [0, 1]].ravel(), mesh.faces[:, [1, 2]].ravel()
    ones = np.ones(len(first), dtype=bool)
    graph = coo_array((ones, (first, second)), shape=(len(mesh.vertices),) * 2)
    return connected_components(graph, directed=False)[1]


def part_areas(mesh: TriangleMesh) -> tuple[Int[np.ndarray, " f"], Float[np.ndarray, " parts"]]:
    """The number of the connected part that each triangle belongs to, and the parts' areas."""
    found = component_labels(mesh)[mesh.faces[:, 0]]
    label = np.unique(found, return_inverse=True)[1].reshape(-1)
    return label, np.bincount(label, face_areas(mesh))


def face_areas(mesh: TriangleMesh) -> Float[np.ndarray, " f"]:
    """The area of each triangle."""
    return np.concatenate([_twice_areas(part) for part in _parts(mesh)]) / 2


def face_normals(mesh: TriangleMesh) -> Float[np.ndarray, "f 3"]:
    """The unit normal of each triangle; (0, 0, 0) where it has no area."""
    a, b, c = _corners(mesh)
    cross = np.cross(b - a, c - a)
    twice = np.linalg.norm(cross, axis=1, keepdims=True)
    return cross / np.where(twice > 0, twice, 1)


def enclosed_volume(mesh: TriangleMesh) -> float:
    """The volume inside, by the divergence theorem; negative where the outside is inside.

    Of a mesh that is not closed it means little.
    """
    if len(mesh.faces) == 0:
        return 0.0
    middle = mesh.vertices[mesh.faces[0, 0]]  # far from the mesh the sum would cancel
    total = 0.0
    for part in _parts(mesh):
        a, b, c = _corners(part) - middle
        total += float((a * np.cross(b, c)).sum())
    return total / 6


def draw_points(
    mesh: TriangleMesh, num: int, generator: np.random.Generator
) -> tuple[Float[np.ndarray, "num 3"], Float[np.ndarray, "num 3"]]:
    """Points drawn uniformly over the area, and the unit normals of their triangles.

    The number of points of every part of the surface is within one of its share: a stratified
    draw, whose figures are less noisy than those of an independent one.
    """
    total = np.cumsum(face_areas(mesh))
    if len(total) == 0 or not total[-1] > 0:
        raise ValueError("a mesh without area has no points to draw")
    place = (np.arange(num) + generator.random(num)) / num * total[-1]
    face = np.minimum(np.searchsorted(total, place, side="right"), len(total) - 1)
    drawn = TriangleMesh(mesh.vertices, mesh.faces[face])
    a, b, c = _corners(drawn)
    u, v = generator.random((2, num, 1))
    # A square folded onto a triangle (Osada et al. 2002, section 4.1).
    root = np.sqrt(u)
    points = (1 - root) * a + root * (1 - v) * b + root * v * c
    return points, face_normals(drawn)


def keep_faces(mesh: TriangleMesh, kept: np.ndarray) -> TriangleMesh:
    """The mesh of the faces for which `kept` is True, without vertices that lose all of theirs."""
    faces = mesh.faces[kept]
    used = np.zeros(len(mesh.vertices), dtype=bool)
    used[faces] = True
    place = np.cumsum(used) - 1
    return TriangleMesh(
        vertices=mesh.vertices[used],
        faces=place[faces].astype(mesh.faces.dtype),
        normals=None if mesh.normals is None else mesh.normals[used],
        colors=None if mesh.colors is None else mesh.colors[used],
    )


def _edges(faces: np.ndarray, num_vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Sorted keys of the undirected edges of all faces, and +1 or -1 for their directions."""
    keys = np.empty((3, len(faces)), np.int64)
    for corner, key in enumerate(keys):
        first, second = faces[:, corner], faces[:, (corner + 1) % 3]
        np.minimum(first, second, out=key)
        key *= num_vertices
        key += np.maximum(first, second)
        key *= 2
        key += first < second  # the direction is the lowest bit, so that keys alone are sorted
    keys = keys.reshape(-1)
    keys.sort()
    directions = (keys & 1).astype(np.int8)
    directions *= 2
    directions -= 1
    keys >>= 1
    return keys, directions


def _corners(mesh: TriangleMesh) -> Float[np.ndarray, "3 f 3"]:
    return mesh.vertices[mesh.faces.T].astype(np.float64, copy=False)


def _twice_areas(mesh: TriangleMesh) -> Float[np.ndarray, " f"]:
    a, b, c = _corners(mesh)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1)


def _parts(mesh: TriangleMesh) -> Iterator[TriangleMesh]:
    """The mesh with some of its faces at a time, at least once: millions take gigabytes at once."""
    for first in range(0, max(len(mesh.faces), 1), _FACES_AT_ONCE):
        yield TriangleMesh(mesh.vertices, mesh.faces[first : first + _FACES_AT_ONCE])

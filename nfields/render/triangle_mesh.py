"""A triangle mesh, and what can be said of it by counting: is it closed, of how many parts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


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
    a, b, c = mesh.vertices[mesh.faces].astype(np.float64).transpose(1, 0, 2)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def face_normals(mesh: TriangleMesh) -> Float[np.ndarray, "f 3"]:
    """The unit normal of each triangle; (0, 0, 0) where it has no area."""
    a, b, c = mesh.vertices[mesh.faces].astype(np.float64).transpose(1, 0, 2)
    cross = np.cross(b - a, c - a)
    twice = np.linalg.norm(cross, axis=1, keepdims=True)
    return cross / np.where(twice > 0, twice, 1)


def enclosed_volume(mesh: TriangleMesh) -> float:
    """The volume inside, by the divergence theorem; negative where the outside is inside.

    Of a mesh that is not closed it means little.
    """
    if len(mesh.faces) == 0:
        return 0.0
    # About a point of the mesh: far from the origin the sum would cancel.
    corners = mesh.vertices[mesh.faces].astype(np.float64) - mesh.vertices[mesh.faces[0, 0]]
    a, b, c = corners.transpose(1, 0, 2)
    return float((a * np.cross(b, c)).sum() / 6)


def draw_points(
    mesh: TriangleMesh, num: int, generator: np.random.Generator
) -> tuple[Float[np.ndarray, "num 3"], Float[np.ndarray, "num 3"]]:
    """Points drawn uniformly over the area, and the unit normals of their triangles.

    The number of points of every part of the surface is within one of its share: a stratified
    draw, whose figures are less noisy than those of an independent one.
    """
    a, b, c = mesh.vertices[mesh.faces].astype(np.float64).transpose(1, 0, 2)
    cross = np.cross(b - a, c - a)
    twice = np.linalg.norm(cross, axis=1)
    total = np.cumsum(twice)
    if len(twice) == 0 or not total[-1] > 0:
        raise ValueError("a mesh without area has no points to draw")
    place = (np.arange(num) + generator.random(num)) / num * total[-1]
    face = np.minimum(np.searchsorted(total, place, side="right"), len(twice) - 1)
    u, v = generator.random((2, num, 1))
    # A square folded onto a triangle (Osada et al. 2002, section 4.1).
    root = np.sqrt(u)
    points = (1 - root) * a[face] + root * (1 - v) * b[face] + root * v * c[face]
    return points, cross[face] / twice[face, None]


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
    first = faces[:, [0, 1, 2]].ravel().astype(np.int64)
    second = faces[:, [1, 2, 0]].ravel().astype(np.int64)
    keys = np.minimum(first, second) * num_vertices + np.maximum(first, second)
    order = np.argsort(keys, kind="stable")
    return keys[order], np.where(first < second, 1, -1)[order].astype(np.int8)

"""Vertices onto the surface, and onto its edges: what marching cubes leaves to be done.

Notation   f the function, n = grad f / |grad f| the outward normal, h the side of a cell, v a
           vertex, c the middle of a triangle moved onto the surface.

Marching cubes interpolates f linearly: its vertices are off by O(h^2), and edges and corners are
cut off. `project` finds the zero along a vertex's normal. `sharpen` moves vertices to where the
tangent planes of the triangles around meet (Ohtake and Belyaev, Dual/primal mesh optimization for
polygonized implicit surfaces, 2002): v minimises sum_c (n_c . (v - c))^2 over its triangles, and
stays where it is in directions that these planes say nothing about. The triangles keep their
corners, so what was closed stays closed; dual contouring of the grid would not promise that.
"""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from nfields.render.surface import Surface
from nfields.render.surface_grid import Grid
from nfields.render.triangle_mesh import TriangleMesh

_MAX_MOVE = 1.0  # cells, in all
# Of the largest eigenvalue: directions with less are not determined by the planes (0.1 of the
# singular value in the paper's terms). Planes 12 degrees apart meet in a line just so.
_MIN_EIGENVALUE = 0.01
_ROUNDS = 3  # of sharpening: planes found nearer to an edge are better planes

Points = Float[np.ndarray, "n 3"]


def project(
    surface: Surface, points: Points, grid: Grid, *, steps: int, difference: float, chunk: int
) -> Points:
    """The points moved along their normals to where the function is zero.

    Newton's first step, then secant steps; one that comes no nearer to zero is halved and tried
    again, once for each of `steps`. No point moves by more than a cell, nor out of the box, so
    where there is no zero nearby a point stays. `difference` as in `gradients`.
    """
    result = points.copy()
    for part in _parts(len(points), chunk):
        result[part] = _project_part(surface, points[part], grid, steps, difference)
    return result


def _project_part(
    surface: Surface, points: Points, grid: Grid, steps: int, difference: float
) -> Points:
    low, high = _box(grid)
    value = surface.values_of(points).astype(np.float64)
    slope = gradients(surface, points, grid, difference=difference, chunk=len(points))
    steepness = np.linalg.norm(slope, axis=1)
    direction = slope / np.maximum(steepness, 1e-30)[:, None]
    reach = _MAX_MOVE * float(grid.spacing.min())
    place = np.zeros(len(points))  # along the direction
    change = np.clip(-value / np.maximum(steepness, 1e-30), -reach, reach)
    for _ in range(steps):
        tried = np.clip(place + change, -reach, reach)
        moved = np.clip(points + tried[:, None] * direction, low, high)
        found = surface.values_of(moved).astype(np.float64)
        is_nearer = np.abs(found) < np.abs(value)
        difference_ = value - found
        is_usable = is_nearer & (np.abs(difference_) > 1e-30)
        secant = found * (tried - place) / np.where(is_usable, difference_, 1.0)
        place = np.where(is_nearer, tried, place)
        value = np.where(is_nearer, found, value)
        change = np.where(is_usable, secant, change / 2)
    return np.clip(points + place[:, None] * direction, low, high)


def gradients(
    surface: Surface, points: Points, grid: Grid, *, difference: float, chunk: int
) -> Points:
    """The gradient of the function, by differences over `difference` cells to either side.

    Differences and not derivatives: those of a field of linear interpolations jump from cell to
    cell of its own grids, and a normal stands for a piece of surface the size of a cell. One-sided
    at the faces of the box.
    """
    low, high = _box(grid)
    step = difference * float(grid.spacing.min())
    result = np.zeros(points.shape)
    for part in _parts(len(points), max(1, chunk // 6)):
        at = np.repeat(points[part][None], 6, axis=0)
        for axis in range(3):
            at[2 * axis, :, axis] -= step
            at[2 * axis + 1, :, axis] += step
        at = np.clip(at, low, high).astype(np.float32)
        values = surface.values_of(at.reshape(-1, 3)).reshape(3, 2, -1).astype(np.float64)
        for axis in range(3):
            # As the points were rounded, so the distance between them.
            width = at[2 * axis + 1, :, axis].astype(np.float64) - at[2 * axis, :, axis]
            result[part, axis] = (values[axis, 1] - values[axis, 0]) / np.maximum(width, 1e-12)
    return result


def normals(
    surface: Surface, mesh: TriangleMesh, grid: Grid, *, difference: float, chunk: int
) -> Points:
    """Unit outward normals at the vertices, from the field; from the triangles where it is flat."""
    slope = gradients(surface, mesh.vertices, grid, difference=difference, chunk=chunk)
    size = np.linalg.norm(slope, axis=1, keepdims=True)
    if (size < 1e-12).any():
        a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
        cross = np.cross(b - a, c - a)
        summed = np.stack(
            [
                np.bincount(mesh.faces.ravel(), np.repeat(cross[:, axis], 3), len(mesh.vertices))
                for axis in range(3)
            ],
            axis=1,
        )
        slope = np.where(size < 1e-12, summed, slope)
        size = np.linalg.norm(slope, axis=1, keepdims=True)
    return np.where(size > 0, slope / np.where(size > 0, size, 1.0), [0.0, 0.0, 1.0])


def sharpen(
    surface: Surface, mesh: TriangleMesh, grid: Grid, *, steps: int, difference: float, chunk: int
) -> TriangleMesh:
    """The mesh with its vertices on edges and corners where the surface has some.

    Costs about 60 evaluations a vertex. What a cell of the grid holds in several sheets or finer
    than itself is not mended.
    """
    vertices, reach = mesh.vertices, _MAX_MOVE * float(grid.spacing.min())
    low, high = _box(grid)
    options = {"difference": difference, "chunk": chunk}
    for _ in range(_ROUNDS):
        middles = vertices[mesh.faces].mean(axis=1)
        middles = project(surface, middles, grid, steps=steps, **options)
        slope = gradients(surface, middles, grid, **options)
        size = np.linalg.norm(slope, axis=1, keepdims=True)
        planes = slope / np.maximum(size, 1e-30)
        moved = vertices + _meeting_points(vertices, mesh.faces, middles, planes)
        offset = moved - mesh.vertices
        length = np.linalg.norm(offset, axis=1, keepdims=True)
        offset *= np.minimum(1.0, reach / np.maximum(length, 1e-30))
        vertices = np.clip(mesh.vertices + offset, low, high)
    return TriangleMesh(vertices, mesh.faces)


def _meeting_points(
    vertices: Float[np.ndarray, "v 3"],
    faces: Int[np.ndarray, "f 3"],
    middles: Float[np.ndarray, "f 3"],
    planes: Float[np.ndarray, "f 3"],
) -> Float[np.ndarray, "v 3"]:
    """How far each vertex is from where the planes of its triangles meet, least squares."""
    corner, num = faces.ravel(), len(vertices)
    products = np.zeros((num, 3, 3))
    for i in range(3):
        for j in range(i, 3):
            weight = np.repeat(planes[:, i] * planes[:, j], 3)
            products[:, i, j] = products[:, j, i] = np.bincount(corner, weight, num)
    offsets = ((middles[:, None] - vertices[faces]) * planes[:, None]).sum(axis=2)
    right = np.stack(
        [
            np.bincount(corner, (offsets * planes[:, axis : axis + 1]).ravel(), num)
            for axis in range(3)
        ],
        axis=1,
    )
    values, vectors = np.linalg.eigh(products)
    is_determined = values > _MIN_EIGENVALUE * values[:, 2:]
    inverse = np.where(is_determined, 1 / np.where(is_determined, values, 1.0), 0.0)
    along = (vectors * right[:, :, None]).sum(axis=1) * inverse
    return (vectors * along[:, None, :]).sum(axis=2)


def _box(grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    return grid.low, grid.low + grid.spacing * grid.num_cells


def _parts(total: int, size: int) -> Iterator[slice]:
    return (slice(first, first + size) for first in range(0, total, size))

"""What is said of an exported mesh: is it closed, how large is it, how far from the truth."""

from typing import Any

import igl
import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

from nfields.data.true_surface import TrueSurface
from nfields.render.surface import Surface
from nfields.render.triangle_mesh import (
    TriangleMesh,
    draw_points,
    enclosed_volume,
    face_areas,
    face_normals,
    topology,
)
from nfields.surface_metrics import (
    Nearest,
    diagonal,
    iou,
    protocol,
    surface_figures,
)

_ROUNDING = 1e-9  # more than that of float64 in the points of a mesh


def describe(mesh: TriangleMesh) -> dict[str, Any]:
    """Counts, and sizes in the units of the mesh; the volume only where it is closed."""
    found = topology(mesh)
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    return {
        "num_vertices": len(mesh.vertices),
        "num_faces": len(mesh.faces),
        "is_watertight": found.is_watertight,
        "num_boundary_edges": found.num_boundary_edges,
        "num_irregular_edges": found.num_irregular_edges,
        "num_components": found.num_components,
        "genus": found.genus,
        "area": float(face_areas(mesh).sum()),
        "volume": enclosed_volume(mesh) if found.is_watertight else None,
        "bounds": [low.tolist(), high.tolist()],
    }


def compare(
    mesh: TriangleMesh, surface: Surface, truth: TrueSurface, num_points: int, seed: int = 0
) -> dict[str, Any]:
    """Figures of a mesh in our frame against the truth (nfields/surface_metrics.py).

    Distances are those from points to the other surface itself, not to points of it, and normals
    are those of the nearest place there, so neither has a floor (100,000 points of the same
    armadillo of 100,000 faces, drawn twice and matched by the nearest, are 5.3 degrees apart). The
    iou is that of the field's inside, at points in its box.
    """
    random = np.random.default_rng(seed)
    points, normals = draw_points(mesh, num_points, random)
    true_points, true_normals = truth.sample(num_points, random)
    distances, there = truth.nearest_normals(points)
    distances_back, face = nearest_faces(mesh, true_points, points)
    p2g = Nearest(distances, (normals * there).sum(axis=1))
    back = face_normals(TriangleMesh(mesh.vertices, mesh.faces[face]))
    g2p = Nearest(distances_back, (true_normals * back).sum(axis=1))
    low, high = surface.bounds.double().cpu().numpy()
    anywhere = random.uniform(low, high, (num_points, 3))
    overlap = iou(surface.values_of(anywhere) < 0, truth.is_inside(anywhere))
    figures = {**surface_figures(p2g, g2p, diagonal(true_points)), "iou": overlap}
    return {**figures, "protocol": protocol(num_points, num_points)}


def nearest_faces(
    mesh: TriangleMesh,
    places: Float[np.ndarray, "n 3"],
    points: Float[np.ndarray, "m 3"],
    faces_at_once: int = 1 << 19,
) -> tuple[Float[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Distances from places to the mesh, and the triangles there; `points` are some of the mesh.

    Slab by slab: a tree over millions of triangles takes a gigabyte. The points say how far the
    mesh can be, and so which triangles a slab needs; the result is exact.
    """
    vertices = np.ascontiguousarray(mesh.vertices, np.float64)
    axis = int(np.ptp(places, axis=0).argmax())
    along = vertices[:, axis][mesh.faces.T]
    low, high = along.min(axis=0), along.max(axis=0)
    reach = KDTree(points).query(places, workers=-1)[0]
    reach = (1 + _ROUNDING) * reach + _ROUNDING * np.ptp(vertices)
    distances, faces = np.zeros(len(places)), np.zeros(len(places), np.int64)
    order = np.argsort(places[:, axis])
    num_slabs = min(-(-len(mesh.faces) // faces_at_once), len(places))
    for slab in np.array_split(order, num_slabs):
        first = (places[slab, axis] - reach[slab]).min()
        last = (places[slab, axis] + reach[slab]).max()
        needed = np.flatnonzero((high >= first) & (low <= last))
        squares, face, _ = igl.point_mesh_squared_distance(
            places[slab], vertices, np.ascontiguousarray(mesh.faces[needed], np.int64)
        )
        distances[slab], faces[slab] = np.sqrt(squares), needed[np.asarray(face)]
    return distances, faces


def lines(report: dict[str, Any]) -> list[str]:
    """The report for people."""
    if report["is_watertight"]:
        state = f"watertight, genus {report['genus']}, volume {report['volume']:.6g}"
    else:
        state = (
            f"not watertight: {report['num_boundary_edges']:,} open edges, "
            f"{report['num_irregular_edges']:,} irregular ones"
        )
    parts = report["num_components"]
    text = [
        f"{report['num_faces']:,} triangles, {report['num_vertices']:,} vertices, "
        f"{parts:,} part{'s' * (parts != 1)}",
        f"{state}, area {report['area']:.6g}, in the units of the data",
    ]
    if report.get("truth") is not None:
        found = report["truth"]
        text += [
            "against the truth, in its diagonals: "
            f"chamfer_l1 {found['chamfer_l1']:.3g}, hausdorff {found['hausdorff']:.3g}",
            f"fscore {found['fscore_0.005']:.4f} at 0.5 %, {found['fscore_0.01']:.4f} at 1 %; "
            f"iou {found['iou']:.4f}; normals {found['normal_error_deg']:.2f} degrees off",
        ]
    return [*text, *report["notes"]]

"""How far two surfaces are apart: Chamfer distance, F-score, normal error, Hausdorff, IoU.

Notation   p the predicted surface, g the true one (ground truth), both as points with normals;
           p2g the distances from points of p to the nearest of g, g2p the reverse;
           d the diagonal of the box around the true surface: all distances are in units of it, so
           that figures do not change with position, rotation of both, or scale.

chamfer_l1          mean(p2g) + mean(g2p): the SUM of both directions, as NeuRBF's code has it
chamfer_l2          mean(p2g^2) + mean(g2p^2)
hausdorff           max(max(p2g), max(g2p)), among the points that are there
fscore_t            2 P R / (P + R), P the share of p2g below t, R the share of g2p below t
normal_error_deg    mean of the mean angles of both directions, between the normal of a point and
                    that of the point nearest to it, in degrees; oriented: 180 if inside out
iou                 |inside both| / |inside either|

NeuRBF's published normal error ("nae") is not this figure: its release (util_metric.py, lines
177-179) converts the cosines of p2g twice and those of g2p never, so that it adds degrees to a
cosine and comes out at about half of a normal error in both directions. Compare with care.

Distances between samples never fall below the spacing of the samples, about 0.5 sqrt(area / n):
with points of p and g drawn independently, equal surfaces are that far apart.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float
from scipy.spatial import KDTree

F_SCORE_THRESHOLDS = (0.005, 0.01)  # of the diagonal


@dataclass(frozen=True)
class SurfacePoints:
    """Points of a surface, drawn uniformly over its area, and their unit outward normals."""

    points: Float[np.ndarray, "n 3"]
    normals: Float[np.ndarray, "n 3"]


@dataclass(frozen=True)
class Nearest:
    """For each point of one surface: how far the other is, and the cosine of their normals."""

    distances: Float[np.ndarray, " n"]
    cosines: Float[np.ndarray, " n"]


def nearest(points: SurfacePoints, others: SurfacePoints) -> Nearest:
    """For each point the nearest of the others."""
    if len(points.points) == 0 or len(others.points) == 0:
        raise ValueError("a surface without points is infinitely far from every other")
    distances, index = KDTree(others.points).query(points.points, workers=-1)
    return Nearest(distances, (points.normals * others.normals[index]).sum(axis=1))


def compare_surfaces(predicted: SurfacePoints, truth: SurfacePoints) -> dict[str, float]:
    """All figures but iou of two sets of points; the true one says the diagonal."""
    return surface_figures(
        nearest(predicted, truth), nearest(truth, predicted), diagonal(truth.points)
    )


def diagonal(points: Float[np.ndarray, "n 3"]) -> float:
    """The diagonal of the box around points."""
    return float(np.linalg.norm(np.ptp(points.astype(np.float64), axis=0)))


def surface_figures(p2g: Nearest, g2p: Nearest, diagonal: float) -> dict[str, float]:
    """All figures but iou, from both directions; distances are divided by the diagonal."""
    if not diagonal > 0:
        raise ValueError(f"diagonal={diagonal}: the true surface is a single point")
    there, back = p2g.distances / diagonal, g2p.distances / diagonal
    figures = {
        "chamfer_l1": chamfer(there, back, power=1),
        "chamfer_l2": chamfer(there, back, power=2),
        "hausdorff": float(max(there.max(), back.max())),
    }
    for threshold in F_SCORE_THRESHOLDS:
        figures[f"fscore_{threshold:g}"] = f_score(there, back, threshold)
    figures["normal_error_deg"] = (mean_angle_deg(p2g) + mean_angle_deg(g2p)) / 2
    return figures


def chamfer(p2g: Float[np.ndarray, " n"], g2p: Float[np.ndarray, " m"], *, power: int) -> float:
    """mean(p2g^power) + mean(g2p^power)."""
    return float((p2g**power).mean() + (g2p**power).mean())


def f_score(p2g: Float[np.ndarray, " n"], g2p: Float[np.ndarray, " m"], threshold: float) -> float:
    """The harmonic mean of precision and recall at a distance; 0 where nothing is that near."""
    precision, recall = float((p2g < threshold).mean()), float((g2p < threshold).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def mean_angle_deg(match: Nearest) -> float:
    """The mean angle between matched normals, 0 to 180 degrees."""
    return float(np.degrees(np.arccos(np.clip(match.cosines, -1, 1))).mean())


def iou(predicted: Bool[np.ndarray, " n"], truth: Bool[np.ndarray, " n"]) -> float:
    """Points inside both, over points inside either; 1 where none is inside either.

    The points must be drawn uniformly from a box around both surfaces; which box does not matter
    to the value, only to its noise.
    """
    either = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / either if either > 0 else 1.0


def protocol(num_points: int, num_iou_points: int) -> dict[str, str | int | Sequence[float]]:
    """How the figures were measured, for reports and tables."""
    return {
        "chamfer": "mean(p2g) + mean(g2p)",
        "distance_unit": "diagonal of the box around the true surface",
        "fscore_thresholds": list(F_SCORE_THRESHOLDS),
        "normal_error": "oriented, mean of both directions",
        "num_points": num_points,
        "num_iou_points": num_iou_points,
    }

"""Focal lengths: which factor on them fits the matches best.

Whether matched rays meet depends on the field of view wherever cameras turn between pictures; where
they only move sideways it does not, and then nothing is found.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from nfields.doctor.evidence import FIT_PIXELS, MIN_PAIRS, Evidence, Intrinsics, all_times
from nfields.doctor.finding import Finding, Remedy, named

FACTORS = tuple(float(f) for f in np.exp(np.linspace(math.log(0.4), math.log(2.5), 25)))
# A factor nearer to 1 than this is the calibration's own doubt.
_WARNING, _ERROR = 1.03, 1.08
# Pairs that vote for the factor against 1 must do so by this many standard errors of their mean.
_MIN_SIGMAS = 4.0
# A principal point farther from the middle than this part of the size belongs to another size.
_FAR_CENTER = 0.15


@dataclass(frozen=True)
class FocalScan:
    """The cost of each factor on the focal lengths: robust squared distance, less is better."""

    factors: Sequence[float]
    costs: Sequence[float]
    best: float


def check_field_of_view(
    evidence: Evidence, remedy: Remedy
) -> tuple[list[Finding], FocalScan | None]:
    """A finding if other focal lengths fit clearly better; they go into the remedy."""
    if not evidence.is_enough:
        return [], None
    moves_center = _has_far_centers(evidence)
    poses = remedy.poses(evidence.patient)
    at_one = pair_costs(evidence, poses, all_times(evidence, 1.0, False), 1.0)
    scans = [
        _scan(evidence, poses, moves) for moves in ((False, True) if moves_center else (False,))
    ]
    scan = min(scans, key=lambda scan: min(scan.costs))
    moves = moves_center and scan is scans[-1]
    # The scale of the robust cost is what the best factor leaves over.
    best = all_times(evidence, scan.best, moves)
    rest = _typical_error(evidence, poses, best)
    at_one = pair_costs(evidence, poses, all_times(evidence, 1.0, False), rest)
    at_best = pair_costs(evidence, poses, best, rest)
    gain = at_one - at_best
    sigmas = float(gain.mean() / (gain.std() / math.sqrt(len(gain)) + 1e-9))
    score_said, score_best = (evidence.score(poses, value) for value in (evidence.said, best))
    off = max(scan.best, 1 / scan.best)
    if off < _WARNING or sigmas < _MIN_SIGMAS or at_best.mean() > 0.97 * at_one.mean():
        return [], scan
    view = evidence.patient.views[evidence.chosen[0]]
    angles = [
        math.degrees(2 * math.atan(0.5 * view.header.width / (view.focal[0] * factor)))
        for factor in (1.0, scan.best)
    ]
    remedy.intrinsics = best
    is_power = abs(math.log2(scan.best) - round(math.log2(scan.best))) < 0.06 and off > 1.5
    hint = (
        "; the pictures were probably made smaller or larger after the cameras were computed"
        if is_power
        else ""
    )
    return [
        Finding(
            "field_of_view",
            "error" if off >= _ERROR else "warning",
            f"the field of view is wrong: focal lengths {scan.best:.3g} times as long"
            + (" (and the principal point with them)" if moves else "")
            + f" fit the pictures better; {view.name} then sees {angles[1]:.1f} degrees across "
            f"instead of {angles[0]:.1f}{hint}",
            "the mended file has these focal lengths",
            evidence={
                "focal_factor": round(scan.best, 4),
                "degrees_said": round(angles[0], 2),
                "degrees_found": round(angles[1], 2),
                "score_as_said": round(score_said, 3),
                "score_of_best": round(score_best, 3),
                "standard_errors": round(sigmas, 1),
                "pairs": len(gain),
            },
        )
    ], scan


def pair_costs(
    evidence: Evidence, poses: Float[np.ndarray, "views 3 4"], value: Intrinsics, rest: float
) -> Float[np.ndarray, " pairs"]:
    """The mean of log(1 + (e / rest)^2) over each pair's matches: large mistakes count little more.

    Errors are in pixels as the files say them, so that long focal lengths are no excuse.
    """
    error = evidence.errors(poses, evidence.rays(value), value)
    cost = np.log1p((np.minimum(error, 8 * FIT_PIXELS) / rest) ** 2)
    num = len(evidence.matches.pairs)
    counts = np.bincount(evidence.matches.pair, minlength=num)
    return np.bincount(evidence.matches.pair, cost, num) / np.maximum(counts, 1)


def _scan(evidence: Evidence, poses: np.ndarray, moves_center: bool) -> FocalScan:
    def cost(factor: float) -> float:
        return float(
            pair_costs(evidence, poses, all_times(evidence, factor, moves_center), 0.3).mean()
        )

    factors = list(FACTORS)
    costs = [cost(factor) for factor in factors]
    low = int(np.argmin(costs))
    left, right = factors[max(low - 1, 0)], factors[min(low + 1, len(factors) - 1)]
    for _ in range(10):  # golden section on the logarithm
        a, b = left**0.618 * right**0.382, left**0.382 * right**0.618
        if cost(a) < cost(b):
            right = b
        else:
            left = a
    return FocalScan(factors, costs, math.sqrt(left * right))


def _typical_error(evidence: Evidence, poses: np.ndarray, value: Intrinsics) -> float:
    errors = evidence.errors(poses, evidence.rays(value), value)
    return max(float(np.median(np.minimum(errors, 8 * FIT_PIXELS))), 0.05)


def _has_far_centers(evidence: Evidence) -> bool:
    views = [evidence.patient.views[i] for i in evidence.chosen]
    off = [
        max(
            abs(view.center[0] / view.header.width - 0.5),
            abs(view.center[1] / view.header.height - 0.5),
        )
        for view in views
    ]
    return float(np.median(off)) > _FAR_CENTER


def check_sizes_against_intrinsics(evidence: Evidence, remedy: Remedy) -> list[Finding]:
    """A finding if pictures of another size than most have intrinsics of the usual size."""
    views = evidence.patient.views
    widths = np.array([view.header.width for view in views])
    usual = int(np.bincount(widths).argmax())
    odd = (widths != usual).nonzero()[0]
    if not len(odd) or not evidence.is_enough:
        return []
    touched = np.isin(evidence.matches.pairs, odd).any(axis=1)
    if touched.sum() < MIN_PAIRS:
        return []
    factor = np.where(widths == usual, 1.0, widths / usual)
    middle = np.array([abs(v.center[0] / v.header.width - 0.5) < _FAR_CENTER for v in views])
    candidate = Intrinsics(factor, np.where(middle, 1.0, factor))
    poses = remedy.poses(evidence.patient)
    said, scaled = (
        float(evidence.shares(evidence.errors(poses, evidence.rays(v), v))[touched].mean())
        for v in (evidence.said, candidate)
    )
    if scaled < 0.5 or scaled - said < 0.25:
        return []
    remedy.intrinsics = candidate
    names = [views[i].name for i in odd]
    return [
        Finding(
            "mixed_sizes",
            "error",
            f"{len(odd)} pictures have another size than the {len(views) - len(odd)} others and "
            f"the focal length of those ({named(names)}): with it {said:.0%} of their matches "
            f"fit, with one of their own size {scaled:.0%}",
            "the mended file has a focal length and principal point for each picture",
            names,
            {"score_as_said": round(said, 3), "score_scaled": round(scaled, 3)},
        )
    ]

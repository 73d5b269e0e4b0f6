"""Single poses that do not fit: those whose matches with all neighbours fail where others' hold."""

import numpy as np

from nfields.doctor.evidence import Evidence, Intrinsics
from nfields.doctor.finding import Finding, Remedy, named

# A view is an outlier if so small a part of its matches fits, compared with the typical view ...
_SMALL_PART = 0.55
# ... seen from so many pairs at least, ...
_MIN_PAIRS = 2
# ... and no more than this part of the views is one: else the fault is another.
_MAX_PART = 0.25
# Below this the poses are in doubt altogether.
_MIN_TYPICAL = 0.4


def check_outliers(evidence: Evidence, remedy: Remedy) -> list[Finding]:
    """A finding for the views whose poses do not fit those of the others; they are left out."""
    if not evidence.is_enough:
        return []
    poses = remedy.poses(evidence.patient)
    value = remedy.intrinsics or evidence.said
    typical = float(np.median(evidence.shares(_errors(evidence, poses, value))))
    if typical < _MIN_TYPICAL:
        return []
    bad: dict[int, float] = {}
    rest = evidence
    while len(rest.matches.pairs) and len(bad) <= _MAX_PART * len(evidence.chosen):
        shares = rest.shares(_errors(rest, poses, value))
        worst, score = _worst(rest, shares)
        if worst is None or score >= _SMALL_PART * typical:
            break
        bad[worst] = score
        rest = rest.without([worst])
    if not bad:
        return []
    if len(bad) > _MAX_PART * len(evidence.chosen):
        return [
            Finding(
                "poses_inconsistent",
                "warning",
                f"more than a quarter of the poses ({len(bad)} of {len(evidence.chosen)} looked "
                "at) do not fit those of their neighbours",
                "find the cameras anew from the pictures (scripts/process.py)",
                [evidence.patient.names[view] for view in bad],
                {"typical_score": round(typical, 3)},
            )
        ]
    remedy.dropped |= set(bad)
    names = [evidence.patient.names[view] for view in bad]
    return [
        Finding(
            "pose_outliers",
            "error",
            f"{len(bad)} of {len(evidence.chosen)} poses do not fit those of their neighbours: "
            f"{named(names)} ({max(bad.values()):.0%} of the matches or fewer agree, {typical:.0%} "
            "of a typical view's)",
            "the mended file leaves these frames out",
            names,
            {
                "typical_score": round(typical, 3),
                "scores": {evidence.patient.names[v]: round(s, 3) for v, s in bad.items()},
            },
        )
    ]


def view_scores(evidence: Evidence, shares: np.ndarray) -> dict[int, float]:
    """The mean part of fitting matches over the pairs of each view that has some."""
    return {
        view: float(shares[mine].mean())
        for view in evidence.chosen
        if (mine := (evidence.matches.pairs == view).any(axis=1)).sum() >= _MIN_PAIRS
    }


def _worst(evidence: Evidence, shares: np.ndarray) -> tuple[int | None, float]:
    scores = view_scores(evidence, shares)
    if not scores:
        return None, 1.0
    # Of neighbours that spoil each other, the one whose best pair is worst as well.
    worst = min(scores, key=lambda view: scores[view])
    return worst, scores[worst]


def _errors(evidence: Evidence, poses: np.ndarray, value: Intrinsics) -> np.ndarray:
    return evidence.errors(poses, evidence.rays(value), value)

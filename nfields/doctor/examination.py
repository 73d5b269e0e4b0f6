"""All checks of a data set, in the order in which each may rely on those before it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float

from nfields.data.posed_views import cameras_of, check_lenses
from nfields.doctor.alpha import check_alpha
from nfields.doctor.duplicates import check_duplicates
from nfields.doctor.evidence import Evidence
from nfields.doctor.features import find_matches
from nfields.doctor.field_of_view import (
    FocalScan,
    check_field_of_view,
    check_sizes_against_intrinsics,
)
from nfields.doctor.files import check_missing, check_sizes, check_unlisted
from nfields.doctor.finding import SEVERITIES, Finding, Remedy
from nfields.doctor.look import Look, look_at
from nfields.doctor.orientation import Reading, check_fit, check_orientation
from nfields.doctor.outliers import check_outliers, view_scores
from nfields.doctor.patient import Patient
from nfields.doctor.quality import check_blur, check_exposure
from nfields.doctor.scene_box import check_box
from nfields.errors import DataError


@dataclass(frozen=True)
class Examination:
    """What was found, how to mend it, and what it was concluded from."""

    findings: list[Finding]
    remedy: Remedy
    evidence: Evidence
    readings: list[Reading] = field(default_factory=list)
    scan: FocalScan | None = None
    points: Float[np.ndarray, "m 3"] = field(default_factory=lambda: np.zeros((0, 3)))

    @property
    def scores(self) -> dict[int, float]:
        """The part of fitting matches of each view, under the mended cameras."""
        shares = self.evidence.shares(self._errors())
        return view_scores(self.evidence, shares)

    @property
    def score(self) -> float:
        """The part of all matches that fits the mended cameras."""
        return float(self.evidence.shares(self._errors()).mean())

    def _errors(self) -> Float[np.ndarray, " n"]:
        value = self.remedy.intrinsics or self.evidence.said
        poses = self.remedy.poses(self.evidence.patient)
        return self.evidence.errors(poses, self.evidence.rays(value), value)


def choose(patient: Patient, max_images: int) -> list[int]:
    """The views to look at: all, or max_images of them, evenly spaced."""
    num = len(patient)
    if num <= max_images:
        return list(range(num))
    return sorted({int(i) for i in np.linspace(0, num - 1, max_images).round()})


def gather(
    patient: Patient, *, max_images: int, seed: int, say: Callable[[str], None]
) -> tuple[list[Look], Evidence]:
    """Looks at pictures and the matches between them: what takes the time, and needs no pose."""
    chosen = choose(patient, max_images)
    say(f"1/3 looking at {len(chosen)} of {len(patient)} pictures")
    looks = look_at(patient, chosen)
    say("2/3 matching what they show")
    matches = find_matches(patient.views, chosen, [look.features for look in looks], seed)
    return looks, Evidence(patient, chosen, matches)


def examine(patient: Patient, looks: list[Look], evidence: Evidence) -> Examination:
    """All findings, the gravest first."""
    remedy = Remedy()
    chosen = evidence.chosen
    found = [*check_missing(patient), *check_unlisted(patient)]
    found += check_duplicates(patient, chosen, looks, remedy)
    found += check_alpha(patient, looks, remedy)
    more, readings = check_orientation(evidence, remedy)
    found += more
    sizes = check_sizes_against_intrinsics(evidence, remedy)
    scan = None
    if not sizes:
        more, scan = check_field_of_view(evidence, remedy)
        found += more
    found += [*sizes, *check_sizes(patient, sizes), *_check_lens(patient, remedy)]
    found += check_fit(evidence, remedy)
    found += check_outliers(evidence, remedy)
    good = evidence.without(sorted(remedy.dropped))
    points = good.points(remedy.poses(patient), remedy.intrinsics)
    found += check_box(good, points, remedy)
    found += check_blur(patient, chosen, looks, remedy)
    found += check_exposure(evidence, remedy)
    if not evidence.is_enough:
        found.append(
            Finding(
                "thin_evidence",
                "note",
                f"only {len(evidence.matches)} matches in {len(evidence.matches.pairs)} pairs of "
                "pictures were found: nothing can be said about axes, field of view and single "
                "poses from them",
                "pictures that overlap more, or are larger, or show more texture, would say more",
                evidence={
                    "matches": len(evidence.matches),
                    "pairs": len(evidence.matches.pairs),
                },
            )
        )
    found.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    return Examination(found, remedy, evidence, readings, scan, points)


def _check_lens(patient: Patient, remedy: Remedy) -> list[Finding]:
    """A finding if a lens folds its picture."""
    if patient.path is None:
        return []
    cameras = cameras_of(remedy.views(patient), replace(patient.transform, homography=None))
    try:
        check_lenses(cameras, patient.names, patient.path)
    except DataError as error:
        return [Finding("lens_folds", "error", str(error))]
    return []

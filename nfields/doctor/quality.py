"""Pictures that are blurred or exposed unlike the others."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from nfields.doctor.evidence import Evidence
from nfields.doctor.finding import Finding, Remedy, named
from nfields.doctor.look import Look
from nfields.doctor.patient import Patient

# Blurred: fine detail down by exp(-0.8), and by so many median deviations. Sharp pictures of one
# scene lie within exp(-0.41) of their median; a blur of two pixels takes away exp(-1.2) or more.
_BLUR, _DEVIATIONS = 0.8, 6.0
# Exposed otherwise: the same points this much brighter or darker (log of stored values).
_EXPOSURE = 0.22
_MIN_PAIRS = 2
# More than this part of the pictures is no outlier but the way of the data set.
_MAX_PART = 0.25


def check_blur(
    patient: Patient, chosen: Sequence[int], looks: Sequence[Look], remedy: Remedy
) -> list[Finding]:
    """A finding for pictures with much less fine detail than the others; they are left out."""
    if len(chosen) < 5:
        return []
    values = np.array([look.sharpness for look in looks])
    off = values - np.median(values)
    spread = float(np.median(np.abs(off)))
    bad = (off < -max(_BLUR, _DEVIATIONS * spread)).nonzero()[0]
    if not len(bad) or len(bad) > _MAX_PART * len(chosen):
        return []
    views = [chosen[i] for i in bad]
    remedy.dropped |= {view for view in views if patient.splits[view] == "train"}
    names = [patient.names[view] for view in views]
    return [
        Finding(
            "blurred_images",
            "warning",
            f"{len(names)} of {len(chosen)} pictures are blurred: {named(names)} (fine detail "
            f"{np.exp(off[bad].max()):.0%} of the usual or less)",
            "the mended file leaves those of the training split out",
            names,
            {
                "detail_of_usual": {
                    n: round(float(np.exp(off[i])), 3) for n, i in zip(names, bad, strict=True)
                }
            },
        )
    ]


def check_exposure(evidence: Evidence, remedy: Remedy) -> list[Finding]:
    """A finding for pictures in which the same points are much brighter or darker."""
    if not evidence.is_enough:
        return []
    gains = exposure(evidence)
    off = np.array(list(gains.values()))
    spread = float(np.median(np.abs(off))) if len(off) else 0.0
    bad = {v: g for v, g in gains.items() if abs(g) > max(_EXPOSURE, _DEVIATIONS * spread)}
    if not bad or len(bad) > _MAX_PART * len(gains):
        return []
    patient = evidence.patient
    remedy.dropped |= {view for view in bad if patient.splits[view] == "train"}
    names = [patient.names[view] for view in bad]
    said = ", ".join(f"{patient.names[v]} {np.exp(g):.2f} times" for v, g in list(bad.items())[:4])
    return [
        Finding(
            "exposure_outliers",
            "warning",
            f"{len(bad)} of {len(gains)} pictures are exposed unlike the others: the same points "
            f"are {said} as bright",
            "the mended file leaves those of the training split out; or develop them alike",
            names,
            {
                "times_as_bright": {
                    patient.names[v]: round(float(np.exp(g)), 3) for v, g in bad.items()
                }
            },
        )
    ]


def exposure(evidence: Evidence) -> dict[int, float]:
    """The log brightness of each view that has pairs, from points that it shares with others.

    Least squares on the median ratio of each pair, reweighted (L1): gains of single views stay
    their own. The median is 0.
    """
    matches = evidence.matches
    views = sorted(set(matches.pairs.ravel().tolist()))
    column = {view: k for k, view in enumerate(views)}
    ratio = np.log((matches.brightness[1] + 0.02) / (matches.brightness[0] + 0.02))
    wanted = np.array([np.median(ratio[matches.pair == k]) for k in range(len(matches.pairs))])
    design: Float[np.ndarray, "pairs views"] = np.zeros((len(matches.pairs), len(views)))
    for k, (i, j) in enumerate(matches.pairs.tolist()):
        design[k, column[i]], design[k, column[j]] = -1, 1
    gains, weight = np.zeros(len(views)), np.ones(len(wanted))
    ridge = 1e-3 * np.eye(len(views))
    for _ in range(10):
        gains = np.linalg.solve(
            design.T @ (weight[:, None] * design) + ridge, design.T @ (weight * wanted)
        )
        weight = 1 / np.maximum(np.abs(design @ gains - wanted), 0.02)
    gains -= np.median(gains)
    counts = np.abs(design).sum(axis=0)
    return {v: float(g) for v, g, n in zip(views, gains, counts, strict=True) if n >= _MIN_PAIRS}

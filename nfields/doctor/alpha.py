"""Straight or premultiplied alpha, from the edges of what the pictures show."""

from collections.abc import Sequence

from nfields.data.camera_file import read_json
from nfields.doctor.finding import Finding, Remedy
from nfields.doctor.look import Alpha, Look
from nfields.doctor.patient import Patient

# Premultiplied colours are never brighter than their alpha; more than this part says straight.
_MAX_BRIGHTER = 0.002
# The better explanation of the edges must leave at most this part of the other's differences.
_CLEARLY = 0.75
_MIN_PIXELS = 100


def check_alpha(patient: Patient, looks: Sequence[Look], remedy: Remedy) -> list[Finding]:
    """A finding if colours are premultiplied, or said to be and are not."""
    alphas = [look.alpha for look in looks if look.alpha is not None]
    total = Alpha(
        sum(a.num for a in alphas),
        sum(a.num_brighter for a in alphas),
        sum(a.num_compared for a in alphas),
        sum((a.as_straight for a in alphas), 0.0),
        sum((a.as_premultiplied for a in alphas), 0.0),
    )
    if total.num_compared < _MIN_PIXELS:
        return []
    brighter = total.num_brighter / total.num
    evidence = {
        "half_covered_pixels": total.num,
        "brighter_than_alpha": round(brighter, 5),
        "difference_if_straight": round(total.as_straight / total.num_compared, 2),
        "difference_if_premultiplied": round(total.as_premultiplied / total.num_compared, 2),
        "pictures": len(alphas),
    }
    is_premultiplied = (
        brighter <= _MAX_BRIGHTER and total.as_premultiplied < _CLEARLY * total.as_straight
    )
    if is_premultiplied:
        remedy.is_premultiplied = True
        return [
            Finding(
                "premultiplied_alpha",
                "error",
                "the colours of the pictures are premultiplied by alpha, straight alpha is "
                f"wanted: of {total.num:,} half-covered pixels {brighter:.2%} are brighter than "
                "their alpha, and their colours differ from the covered ones beside them by "
                f"{evidence['difference_if_straight']:g} as they are, by "
                f"{evidence['difference_if_premultiplied']:g} if they are premultiplied; edges "
                "would get dark fringes",
                "the mended data set has pictures with colours divided by alpha",
                evidence=evidence,
            )
        ]
    if _says_premultiplied(patient) and brighter > _MAX_BRIGHTER:
        return [
            Finding(
                "straight_alpha",
                "warning",
                "the file says that alpha is premultiplied (fix_premult), but the colours are "
                f"straight: {brighter:.1%} of {total.num:,} half-covered pixels are brighter than "
                "their alpha",
                "nfields reads straight alpha and ignores that key, so training here is right; "
                "take fix_premult out for other programs",
                evidence=evidence,
            )
        ]
    return []


def _says_premultiplied(patient: Patient) -> bool:
    if patient.path is None:
        return False
    if patient.path.is_dir():
        files = list(patient.path.glob("transforms*.json"))
    else:
        files = [patient.path] if patient.path.suffix == ".json" else []
    return any(bool(read_json(file).get("fix_premult")) for file in files)

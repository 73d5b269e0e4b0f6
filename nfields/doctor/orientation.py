"""Camera axes and meaning of the matrices: which reading of the poses fits the pictures.

Hypotheses: the 24 ways of naming the axes of a right-handed camera, matrices that are camera to
world or the inverse, positions as said or mirrored at the origin. Each is scored by the part of the
matches whose rays meet ahead of both cameras.
"""

from dataclasses import dataclass
from itertools import permutations, product

import numpy as np
from jaxtyping import Float

from nfields.doctor.evidence import Evidence, all_times
from nfields.doctor.finding import Finding, Remedy, changed
from nfields.render.paths import focus_point

# The winner must fit this part of the matches, and so much more of them than any other hypothesis:
# healthy scenes fit 0.6 to 0.97, their best wrong reading 0.2 to 0.4.
_MIN_SCORE, _MARGIN = 0.5, 0.2
# Tried where nothing wins with the focal lengths as they are said.
_OTHER_FACTORS = (0.7, 1.4, 0.5, 2.0)
# Cameras that fit less than this part of the matches, as mended, are wrong otherwise.
_POOR = 0.25


@dataclass(frozen=True)
class Reading:
    """One way to read the matrices of a data set, and how well it fits."""

    camera_axes: Float[np.ndarray, "3 3"]
    is_inverted: bool
    is_negated: bool
    score: float

    @property
    def name(self) -> str:
        """In words; 'as said' for the files' own reading."""
        parts = []
        if self.is_inverted:
            parts.append("world to camera")
        if not np.array_equal(self.camera_axes, np.eye(3)):
            parts.append(f"camera axes {_axes_in_words(self.camera_axes)}")
        if self.is_negated:
            parts.append("positions mirrored at the origin")
        return ", ".join(parts) or "as said"


def rotations() -> list[Float[np.ndarray, "3 3"]]:
    """The 24 rotations that take axes to axes; the identity first."""
    found = [np.eye(3)]
    for order, signs in product(permutations(range(3)), product((1.0, -1.0), repeat=3)):
        matrix = np.zeros((3, 3))
        matrix[range(3), order] = signs
        if np.linalg.det(matrix) > 0 and not np.array_equal(matrix, np.eye(3)):
            found.append(matrix)
    return found


def readings(evidence: Evidence, focal_factor: float = 1.0) -> list[Reading]:
    """All hypotheses, the best first; in doubt the simpler one."""
    value = all_times(evidence, focal_factor, False)
    rays, poses = evidence.rays(value), evidence.patient.poses
    found = []
    for is_inverted, is_negated, axes in product((False, True), (False, True), rotations()):
        mended = changed(poses, axes, is_inverted, is_negated)
        score = evidence.score(mended, value, rays)
        found.append(Reading(axes, is_inverted, is_negated, score))
    return sorted(found, key=lambda reading: -round(reading.score, 3))


def check_orientation(evidence: Evidence, remedy: Remedy) -> tuple[list[Finding], list[Reading]]:
    """A finding if another reading of the poses fits clearly better; it goes into the remedy."""
    if not evidence.is_enough:
        return [_outward(evidence)] if _looks_outward(evidence.patient.poses, evidence) else [], []
    as_said = readings(evidence)
    said = next(reading for reading in as_said if reading.name == "as said")
    found = as_said
    if not _is_clear(found):
        # The field of view may be wrong as well, and hide the right reading.
        more = (readings(evidence, factor) for factor in _OTHER_FACTORS)
        found = next((some for some in more if _is_clear(some)), as_said)
    best, second = found[:2]
    if best.name == "as said" or not _is_clear(found):
        return [], as_said
    scores = {
        "score_as_said": round(said.score, 3),
        "score_of_best": round(best.score, 3),
        "score_of_next": round(second.score, 3),
        "hypotheses": len(found),
        "pairs": len(evidence.matches.pairs),
        "matches": len(evidence.matches),
    }
    if not np.array_equal(best.camera_axes, np.eye(3)):
        remedy.camera_axes = best.camera_axes
    remedy.is_inverted, remedy.is_negated = best.is_inverted, best.is_negated
    return [_finding(best, said, evidence, scores)], found


def check_fit(evidence: Evidence, remedy: Remedy) -> list[Finding]:
    """A finding if the cameras fit the pictures badly, whatever was mended."""
    if not evidence.is_enough:
        return []
    score = evidence.score(remedy.poses(evidence.patient), remedy.intrinsics)
    if score >= _POOR:
        return []
    return [
        Finding(
            "poses_inconsistent",
            "error",
            f"the cameras do not fit the pictures: {score:.0%} of the matches between pictures "
            "agree with them, and no other reading of the poses does clearly better",
            "find the cameras anew from the pictures (scripts/process.py), or look whether poses "
            "and pictures belong together and are in the same order",
            evidence={
                "score": round(score, 3),
                "pairs": len(evidence.matches.pairs),
                "matches": len(evidence.matches),
            },
        )
    ]


def _is_clear(found: list[Reading]) -> bool:
    best, second = found[:2]
    return best.score >= _MIN_SCORE and best.score - second.score >= _MARGIN


def _finding(best: Reading, said: Reading, evidence: Evidence, scores: dict) -> Finding:
    fit = (
        f"read as {best.name}, {best.score:.0%} of the matches between pictures agree with the "
        f"cameras; as they are said, {said.score:.0%}"
    )
    axes = np.diag(best.camera_axes).tolist()
    is_outward = _looks_outward(evidence.patient.poses, evidence)
    away = "; as said, the cameras look away from one another" if is_outward else ""
    if best.is_inverted:
        code, what = "world_to_camera", "the matrices are world to camera, not camera to world"
    elif axes == [1, -1, -1] and not best.is_negated:
        code, what = (
            "camera_axes",
            (
                "the camera axes are OpenCV's (x right, y down, z forward); OpenGL's are wanted "
                "(x right, y up, z backward)"
            ),
        )
    elif best.is_negated or axes == [-1, 1, -1]:
        code, what = "cameras_look_outwards", "the cameras look away from what they photographed"
        away = ""
    elif axes[2] == 1:
        code, what = "camera_axes", "the cameras are turned around their viewing axis"
    else:
        code, what = "camera_axes", "the camera axes are named in another order than is wanted"
    return Finding(
        code,
        "error",
        f"{what} ({fit}){away}",
        "the mended file has the poses in the wanted axes: camera to world, x right, y up, looking "
        "along -z",
        evidence={**scores, "reading": best.name, "camera_axes": best.camera_axes.tolist()},
    )


def _axes_in_words(axes: Float[np.ndarray, "3 3"]) -> str:
    """What the file's x, y, z stand for: 'right, down, forward' is OpenCV."""
    words = (("right", "left"), ("up", "down"), ("backward", "forward"))
    # The file's axes are the columns of R; the wanted ones are R A, so R = (R A) A^T.
    named = [words[int(np.abs(row).argmax())][int(row.sum() < 0)] for row in axes]
    return "x, y, z = " + ", ".join(named)


def _looks_outward(poses: Float[np.ndarray, "n 3 4"], evidence: Evidence) -> bool:
    """True if the optical axes meet behind the cameras."""
    cameras = evidence.patient.cameras()
    inward = focus_point(cameras, (np.nan,) * 3)
    turned = cameras.camera_to_world * cameras.camera_to_world.new_tensor([-1.0, 1.0, -1.0, 1.0])
    outward = focus_point(type(cameras)(
        turned, cameras.focal, cameras.center, cameras.distortion, cameras.sizes, cameras.lens
    ), (np.nan,) * 3)  # fmt: skip
    return bool(np.isnan(inward).any() and np.isfinite(outward).all())


def _outward(evidence: Evidence) -> Finding:
    return Finding(
        "cameras_look_outwards",
        "warning",
        "the cameras look away from one another, and there are too few matches between the "
        "pictures to say whether that is right",
        "right for a room photographed from its middle; else negate the second and third column "
        "of each camera-to-world matrix (OpenCV to OpenGL axes)",
        evidence={"pairs": len(evidence.matches.pairs), "matches": len(evidence.matches)},
    )

"""The scene box: whether the cameras see it, and whether what they see lies in it."""

import math

import numpy as np
import torch
from jaxtyping import Float

from nfields.data.posed_images import SceneTransform
from nfields.data.posed_views import cameras_of, seen
from nfields.data.scene_frame import MAX_AABB_SCALE
from nfields.doctor.evidence import Evidence
from nfields.doctor.finding import Finding, Remedy, named

# Of what the pictures show, at least this part must lie in the box; of objects on transparent
# ground, which cannot lie elsewhere, more.
_MIN_INSIDE, _MIN_INSIDE_ALPHA = 0.6, 0.9
# Far too large: what 99 of 100 points reach, as a part of half the box.
_TINY, _SMALL = 0.08, 0.2
_MIN_POINTS = 100
_MARGIN = 1.1  # of a new box around the points
_LOW, _HIGH = 0.01, 0.99


def check_box(
    evidence: Evidence, points: Float[np.ndarray, "m 3"], remedy: Remedy
) -> list[Finding]:
    """Findings about the box; a better one goes into the remedy if there are points to find it."""
    patient = evidence.patient
    transform = patient.transform
    views = remedy.views(patient)
    is_seen = seen(cameras_of(views, transform), patient.aabb_scale).numpy()
    blind = [view.name for view, sees in zip(views, is_seen, strict=True) if not sees]
    figures: dict[str, object] = {
        "cameras_that_see_it": f"{int(is_seen.sum())} of {len(views)}",
        "aabb_scale": patient.aabb_scale,
    }
    is_mapped = transform.homography is not None  # fitted to the cameras, by construction
    has_points = len(points) >= _MIN_POINTS and not is_mapped
    part, reach = math.nan, math.nan
    if has_points:
        ours = transform.to_ours(torch.from_numpy(points)).abs().amax(dim=1).numpy()
        part = float((ours < patient.aabb_scale).mean())
        reach = float(np.quantile(ours, _HIGH)) / patient.aabb_scale
        figures |= {
            "points": len(points),
            "points_inside": round(part, 3),
            "reach_of_points": round(reach, 4),
        }
    has_alpha = all(view.header.has_alpha for view in views)
    is_outside = part < (_MIN_INSIDE_ALPHA if has_alpha else _MIN_INSIDE)
    if len(blind) == len(views) or is_outside or reach < _SMALL:
        if has_points:
            remedy.box = fitted_box(points, has_alpha)
        return [_finding(len(blind) == len(views), is_outside, part, reach, figures, has_points)]
    if blind:
        return [
            Finding(
                "scene_box_missed",
                "warning",
                f"{len(blind)} of {len(views)} cameras do not see the scene box: {named(blind)}",
                "look whether their poses are right, or enlarge the box (data.aabb_scale)",
                blind,
                figures,
            )
        ]
    return []


def _finding(
    is_blind: bool, is_outside: bool, part: float, reach: float, figures: dict, has_points: bool
) -> Finding:
    fix = (
        "the mended file has a box around what the pictures show"
        if has_points
        else "set data.scene_scale or data.aabb_scale until the box holds the scene"
    )
    if is_blind:
        what = "no camera sees the scene box"
        if has_points:
            what += f"; {part:.0%} of the points that the pictures share lie in it"
        return Finding("scene_box_missed", "error", what, fix, evidence=figures)
    if is_outside:
        what = (
            f"the scene box misses the scene: {part:.0%} of the points that the pictures share "
            "lie in it"
        )
        return Finding("scene_box_missed", "error", what, fix, evidence=figures)
    what = (
        f"the scene box is far too large: the points that the pictures share reach {reach:.1%} of "
        "the way to its sides, so most of the field is wasted"
    )
    severity = "error" if reach < _TINY else "warning"
    return Finding("scene_box_too_large", severity, what, fix, evidence=figures)


def fitted_box(points: Float[np.ndarray, "m 3"], has_alpha: bool) -> tuple[SceneTransform, int]:
    """A box around points, in their own axes: all of an object; of a scene, what most of them are
    near in [-1, 1]^3 and the rest in a larger box around it.
    """
    low, high = np.quantile(points, [_LOW, _HIGH], axis=0)
    center = 0.5 * (low + high) if has_alpha else np.median(points, axis=0)
    size = np.abs(points - center).max(axis=1)
    reach = _MARGIN * float(np.quantile(size, _HIGH))
    power = 0 if has_alpha else round(math.log2(max(reach / float(np.median(size)), 1.0)))
    aabb_scale = 2 ** min(power, MAX_AABB_SCALE.bit_length() - 1)
    scale = aabb_scale / reach
    x, y, z = (float(value) for value in -scale * center)
    return SceneTransform(scale, (x, y, z)), aabb_scale

"""What a check returns: findings for the user, and the changes that mend them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from nfields.data.camera_file import View
from nfields.data.posed_images import SceneTransform
from nfields.doctor.evidence import Intrinsics
from nfields.doctor.patient import Patient

SEVERITIES = ("error", "warning", "note")
NAMES_SHOWN = 5


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (error: training would fail or look wrong), doubtful (warning), or
    good to know (note).
    """

    code: str
    severity: Literal["error", "warning", "note"]
    what: str
    fix: str = ""
    frames: Sequence[str] = ()
    evidence: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For json."""
        return {**asdict(self), "frames": list(self.frames)}


def named(names: Sequence[str]) -> str:
    """'a, b, c and 4 more'."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


@dataclass
class Remedy:
    """What to change about a data set; empty: nothing.

    Poses become [R A | o], with A the `camera_axes`; before that they are inverted, and after it
    moved to -o, if so said.
    """

    camera_axes: Float[np.ndarray, "3 3"] | None = None
    is_inverted: bool = False
    is_negated: bool = False
    intrinsics: Intrinsics | None = None
    dropped: set[int] = field(default_factory=set)
    box: tuple[SceneTransform, int] | None = None  # and its aabb_scale
    is_premultiplied: bool = False  # the pictures are to be divided by their alpha

    @property
    def changes_poses(self) -> bool:
        """True if all poses change."""
        return self.camera_axes is not None or self.is_inverted or self.is_negated

    @property
    def is_empty(self) -> bool:
        """True if nothing changes."""
        return not (
            self.changes_poses
            or self.dropped
            or self.is_premultiplied
            or self.intrinsics is not None
            or self.box is not None
        )

    def poses(self, patient: Patient) -> Float[np.ndarray, "n 3 4"]:
        """The mended poses of all views."""
        return changed(patient.poses, self.camera_axes, self.is_inverted, self.is_negated)

    def views(self, patient: Patient) -> list[View]:
        """All views with mended poses and intrinsics."""
        ones = np.ones(len(patient))
        said = self.intrinsics or Intrinsics(ones, ones)
        return [
            replace(
                view,
                camera_to_world=pose,
                focal=(view.focal[0] * focal, view.focal[1] * focal),
                center=(view.center[0] * center, view.center[1] * center),
            )
            for view, pose, focal, center in zip(
                patient.views,
                self.poses(patient),
                said.focal.tolist(),
                said.center.tolist(),
                strict=True,
            )
        ]


def changed(
    poses: Float[np.ndarray, "n 3 4"],
    camera_axes: Float[np.ndarray, "3 3"] | None,
    is_inverted: bool,
    is_negated: bool,
) -> Float[np.ndarray, "n 3 4"]:
    """Poses under a hypothesis; see `Remedy`."""
    rotation, place = poses[:, :, :3], poses[:, :, 3:]
    if is_inverted:
        rotation = rotation.swapaxes(1, 2)
        place = -rotation @ place
    if camera_axes is not None:
        rotation = rotation @ camera_axes
    return np.concatenate([rotation, -place if is_negated else place], axis=2)

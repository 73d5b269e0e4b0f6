"""How well cameras fit the matches of their pictures: the score of every hypothesis about them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from nfields.doctor.features import Matches, small_pixel
from nfields.doctor.patient import Patient
from nfields.doctor.rays import camera_rays
from nfields.doctor.two_views import depths, epipolar_angle, in_front

# A match fits cameras if its rays pass each other within so many pixels of the small picture, ...
FIT_PIXELS = 1.0
# ... ahead of both cameras. Rays this near to parallel (in pixels) meet anywhere.
_PARALLEL_PIXELS = 4.0
# Fewer than this say nothing.
MIN_PAIRS, MIN_MATCHES = 5, 120


@dataclass(frozen=True)
class Intrinsics:
    """Factors on the focal length and on the principal point of each view."""

    focal: Float[np.ndarray, " n"]
    center: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Evidence:
    """The matches of the views that were looked at."""

    patient: Patient
    chosen: list[int]
    matches: Matches

    @property
    def is_enough(self) -> bool:
        """True if the matches can carry a finding."""
        return len(self.matches.pairs) >= MIN_PAIRS and len(self.matches) >= MIN_MATCHES

    @property
    def said(self) -> Intrinsics:
        """The intrinsics of the files."""
        one = np.ones(len(self.patient))
        return Intrinsics(one, one)

    @cached_property
    def pixel(self) -> Float[np.ndarray, " views"]:
        """The angle of a pixel of the small picture of each view."""
        return np.array([small_pixel(view) for view in self.patient.views])

    def rays(self, intrinsics: Intrinsics | None = None) -> Float[np.ndarray, "2 n 3"]:
        """The rays of all matches in the axes of their cameras."""
        said = self.said if intrinsics is None else intrinsics
        return np.stack(
            [
                camera_rays(self.patient.views, view, pixels, said.focal, said.center)
                for view, pixels in zip(self.matches.views, self.matches.pixels, strict=True)
            ]
        )

    def errors(
        self,
        poses: Float[np.ndarray, "views 3 4"],
        rays: Float[np.ndarray, "2 n 3"],
        intrinsics: Intrinsics | None = None,
    ) -> Float[np.ndarray, " n"]:
        """How far the rays of each match pass each other, in pixels of the small pictures;
        infinite if they meet behind a camera.
        """
        a, b, t = self.in_world(poses, rays)
        said = self.said if intrinsics is None else intrinsics
        first, second = self.matches.views
        pixel = np.maximum((self.pixel / said.focal)[first], (self.pixel / said.focal)[second])
        error = epipolar_angle(a, b, t) / pixel
        return np.where(
            in_front(a, b, t, _PARALLEL_PIXELS * float(pixel.max(initial=0))), error, np.inf
        )

    def in_world(
        self, poses: Float[np.ndarray, "views 3 4"], rays: Float[np.ndarray, "2 n 3"]
    ) -> tuple[Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"], Float[np.ndarray, "n 3"]]:
        """Both rays of each match in the world, and the way from the first camera to the second."""
        first, second = poses[self.matches.views]
        a = np.einsum("nij,nj->ni", first[:, :, :3], rays[0])
        b = np.einsum("nij,nj->ni", second[:, :, :3], rays[1])
        return a, b, second[:, :, 3] - first[:, :, 3]

    def shares(self, errors: Float[np.ndarray, " n"]) -> Float[np.ndarray, " pairs"]:
        """The part of each pair's matches that fits."""
        num = len(self.matches.pairs)
        fits = np.bincount(self.matches.pair, errors < FIT_PIXELS, num)
        return fits / np.maximum(np.bincount(self.matches.pair, minlength=num), 1)

    def score(
        self,
        poses: Float[np.ndarray, "views 3 4"],
        intrinsics: Intrinsics | None = None,
        rays: Float[np.ndarray, "2 n 3"] | None = None,
    ) -> float:
        """The part of the matches that fits, every pair counting the same."""
        rays = self.rays(intrinsics) if rays is None else rays
        return float(self.shares(self.errors(poses, rays, intrinsics)).mean())

    def without(self, views: Sequence[int]) -> "Evidence":
        """The same without the pairs of some views."""
        matches = self.matches
        keeps = np.isin(matches.pairs, list(views)).sum(axis=1) == 0
        rows = keeps[matches.pair]
        number = np.cumsum(keeps) - 1
        return Evidence(
            self.patient,
            self.chosen,
            Matches(
                matches.pairs[keeps], number[matches.pair[rows]],
                matches.pixels[:, rows], matches.brightness[:, rows],
            ),
        )  # fmt: skip

    def points(
        self, poses: Float[np.ndarray, "views 3 4"], intrinsics: Intrinsics | None = None
    ) -> Float[np.ndarray, "m 3"]:
        """Where the rays of matches that fit meet, in the user's frame; near-parallel ones not."""
        rays = self.rays(intrinsics)
        a, b, t = self.in_world(poses, rays)
        first, second = depths(a, b, t)
        pixel = float(self.pixel.max(initial=0))
        is_wide = (a * b).sum(1) < np.cos(_PARALLEL_PIXELS * pixel)
        is_good = np.logical_and(self.errors(poses, rays, intrinsics) < FIT_PIXELS, is_wide)
        place = poses[self.matches.views[0], :, 3]
        middle = place + 0.5 * (first[:, None] * a + t + second[:, None] * b)
        return middle[is_good]


def all_times(evidence: Evidence, factor: float, moves_center: bool) -> Intrinsics:
    """All focal lengths (and principal points) times a factor."""
    ones = np.ones(len(evidence.patient))
    return Intrinsics(ones * factor, ones * (factor if moves_center else 1.0))

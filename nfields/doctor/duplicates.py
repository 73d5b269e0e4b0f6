"""Poses and pictures that occur more than once."""

from collections.abc import Sequence

import numpy as np

from nfields.doctor.finding import Finding, Remedy, named
from nfields.doctor.look import Look
from nfields.doctor.patient import Patient

# Poses are the same within this part of the typical distance between cameras, and this angle.
_SAME_PLACE, _SAME_ANGLE_RAD = 1e-4, 1e-4
# Pictures are the same if their thumbnails differ by at most this (of 255) anywhere: saving one as
# JPEG again changes means of blocks by less, a step of a camera changes some block by more.
_SAME_PICTURE = 4


def same_poses(patient: Patient) -> list[tuple[int, int]]:
    """Pairs of views with one pose; each view with the first that has it."""
    poses = patient.poses
    place = poses[:, :, 3]
    extent = float(np.median(np.linalg.norm(place - np.median(place, axis=0), axis=1))) or 1.0
    pairs, taken = [], set[int]()
    for i in range(len(poses)):
        if i in taken:
            continue
        apart = np.linalg.norm(place[i + 1 :] - place[i], axis=1) < _SAME_PLACE * extent
        turned = np.abs(poses[i + 1 :, :, :3] - poses[i, :, :3]).max(axis=(1, 2)) < _SAME_ANGLE_RAD
        for j in (apart & turned).nonzero()[0] + i + 1:
            if int(j) not in taken:
                taken.add(int(j))
                pairs.append((i, int(j)))
    return pairs


def check_duplicates(
    patient: Patient, chosen: Sequence[int], looks: Sequence[Look], remedy: Remedy
) -> list[Finding]:
    """Findings for views with one pose, and for pictures that several views show."""
    look = dict(zip(chosen, looks, strict=True))
    poses = same_poses(patient)
    same, other = [], []
    for i, j in poses:
        if i in look and j in look and not _is_same(look[i], look[j]):
            other.append((i, j))
        else:
            same.append((i, j))
    posed = set(poses)
    pictures = [
        (i, j)
        for n, i in enumerate(chosen)
        for j in chosen[n + 1 :]
        if (i, j) not in posed and _is_same(look[i], look[j])
    ]
    found = []
    if same:
        names = [patient.names[j] for _, j in same]
        leaks = [j for i, j in same if patient.splits[i] != patient.splits[j]]
        # Of a training and a test view, the training view goes: the test stays what it was.
        remedy.dropped |= {i if patient.splits[j] != "train" else j for i, j in same}
        found.append(
            Finding(
                "duplicate_poses",
                "error" if leaks else "warning",
                f"{len(same)} views are there twice, same pose and same picture: {named(names)}"
                + (
                    f"; {len(leaks)} of them in two splits: their test score means nothing"
                    if leaks
                    else ""
                ),
                "the mended file keeps one of each",
                names,
                {"pairs": [[patient.names[i], patient.names[j]] for i, j in same]},
            )
        )
    if other:
        names = [patient.names[k] for pair in other for k in pair]
        found.append(
            Finding(
                "duplicate_poses",
                "error",
                f"{len(other)} pairs of different pictures have one and the same pose: "
                f"{named(names)}; at least one of each pair is wrong",
                "correct the poses; frames that do not fit the others are left out of the mended "
                "file (see pose_outliers)",
                names,
                {"pairs": [[patient.names[i], patient.names[j]] for i, j in other]},
            )
        )
    if pictures:
        names = [patient.names[j] for _, j in pictures]
        found.append(
            Finding(
                "duplicate_images",
                "error",
                f"{len(pictures)} pictures are there twice, under different poses: {named(names)}",
                "give each camera its own picture; frames that do not fit the others are left out "
                "of the mended file (see pose_outliers)",
                names,
                {"pairs": [[patient.names[i], patient.names[j]] for i, j in pictures]},
            )
        )
    return found


def _is_same(a: Look, b: Look) -> bool:
    if a.thumb.shape != b.thumb.shape:
        return False
    return int(np.abs(a.thumb.astype(int) - b.thumb.astype(int)).max()) <= _SAME_PICTURE

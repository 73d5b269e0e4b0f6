"""Small copies of real scenes, looked at once; breaks of them share pictures and matches."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nfields.config import compose
from nfields.data.image_reader import area_filter
from nfields.doctor.evidence import Evidence
from nfields.doctor.examination import Examination, examine, gather
from nfields.doctor.features import find_matches
from nfields.doctor.look import Look, look_at
from nfields.doctor.patient import Patient, admit

Edit = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Healthy:
    """A data set with nothing wrong, and what was seen of it."""

    folder: Path
    patient: Patient
    looks: list[Look]
    evidence: Evidence

    def variant(self, folder: Path, edit: Edit) -> Path:
        """A copy whose camera files are edited; its pictures are those of the original."""
        folder.mkdir(parents=True)
        for file in sorted(self.folder.glob("transforms*.json")):
            meta = json.loads(file.read_text())
            for frame in meta["frames"]:
                frame["file_path"] = f"../{self.folder.name}/{frame['file_path']}"
            edit(meta)
            (folder / file.name).write_text(json.dumps(meta))
        return folder

    def copy(self, folder: Path) -> Path:
        """A copy with pictures of its own."""
        shutil.copytree(self.folder, folder)
        return folder

    def examine(self, folder: Path, changed: tuple[int, ...] = ()) -> Examination:
        """The examination of a variant or copy with the same views; changed pictures are looked at
        again.
        """
        patient = opened(folder)
        looks = list(self.looks)
        for index, look in zip(changed, look_at(patient, changed), strict=True):
            looks[index] = look
        evidence = replace(self.evidence, patient=patient)
        if changed:
            features = [look.features for look in looks]
            evidence = Evidence(
                patient, evidence.chosen, find_matches(patient.views, evidence.chosen, features, 0)
            )
        return examine(patient, looks, evidence)


def opened(folder: Path) -> Patient:
    return admit(compose(["task=nerf", f"data.path={folder}", "data.allow_outside=true"]).data)


def look(folder: Path) -> Healthy:
    patient = opened(folder)
    looks, evidence = gather(patient, max_images=100, seed=0, say=lambda _: None)
    return Healthy(folder, patient, looks, evidence)


def small_chair(source: Path, folder: Path, num: int = 20) -> Path:
    """The training views nearest to one of them at half size, every fifth as a test view."""
    meta = json.loads((source / "transforms_train.json").read_text())
    place = np.array([frame["transform_matrix"] for frame in meta["frames"]])[:, :3, 3]
    nearest = np.argsort(np.linalg.norm(place - place[0], axis=1), kind="stable")[:num]
    frames = [meta["frames"][i] for i in sorted(nearest.tolist())]
    for split, some in (
        ("train", [f for i, f in enumerate(frames) if i % 5]),
        ("test", frames[::5]),
    ):
        (folder / split).mkdir(parents=True)
        listed = []
        for frame in some:
            name = Path(frame["file_path"]).name
            with Image.open(source / "train" / f"{name}.png") as image:
                pixels = area_filter(np.asarray(image), 2)
            Image.fromarray(pixels).save(folder / split / f"{name}.png")
            listed.append({**frame, "file_path": f"{split}/{name}"})
        text = json.dumps({**meta, "frames": listed})
        (folder / f"transforms_{split}.json").write_text(text)
    return folder


def small_fox(source: Path, folder: Path, num: int = 15, factor: int = 8) -> Path:
    """The first photographs that are there, at 1/factor of their size."""
    meta = json.loads((source / "transforms.json").read_text())
    (folder / "images").mkdir(parents=True)
    frames = [f for f in meta["frames"] if (source / f["file_path"]).is_file()][:num]
    for frame in frames:
        with Image.open(source / frame["file_path"]) as image:
            small = image.resize((1080 // factor, 1920 // factor), Image.Resampling.BOX)
            small.save(folder / frame["file_path"], quality=95)
    for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
        meta[key] /= factor
    for key in ("camera_angle_x", "camera_angle_y"):
        meta.pop(key)
    (folder / "transforms.json").write_text(json.dumps({**meta, "frames": frames}))
    return folder

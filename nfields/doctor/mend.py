"""The mended data set: a new folder that training reads, beside nothing of the user's changed.

The camera files of NeRF-synthetic and transforms.json are copied with the poses, intrinsics and
frames that the remedy changes; other formats become a transforms.json. Pictures stay where they
are (data.allow_outside=true lets the file name them) unless their pixels change.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nfields.data.camera_file import clean_name, read_json
from nfields.data.image_reader import read_pixels
from nfields.data.pixel_file import DepthFile
from nfields.data.posed_images import SceneTransform
from nfields.doctor.finding import Remedy
from nfields.doctor.patient import Patient
from nfields.doctor.said_sizes import Resized
from nfields.render.lenses import EQUIRECTANGULAR, FISHEYE
from nfields.run_folder import write_json

# What a file says of focal lengths and sizes for all frames; frames that have their own replace it.
_SHARED_KEYS = (
    "fl_x", "fl_y", "x_fov", "y_fov", "camera_angle_x", "camera_angle_y", "cx", "cy", "w", "h",
)  # fmt: skip
_PATH_KEYS = ("file_path", "mask_path", "depth_file_path", "depth_path")
_FRAME_KEYS = ("scale", "offset", "aabb", "aabb_scale")
# Words of train.py that stay right for the mended data set.
_KEPT_WORDS = ("data.downscale", "data.holdout")
_FROM_MITSUBA = np.array([-1.0, 1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Mended:
    """Where the mended data set is, and the words for train.py that read it."""

    path: Path
    words: list[str]


def mend(patient: Patient, remedy: Remedy, words: Sequence[str], folder: Path) -> Mended:
    """Writes the mended data set into a new folder."""
    assert patient.path is not None
    folder.mkdir(parents=True)
    pictures = _Pictures(patient, remedy, folder)
    if patient.path.is_dir() and remedy.box is None and _blender_files(patient.path):
        for file in _blender_files(patient.path):
            split = file.stem.removeprefix("transforms_")
            write_json(folder / file.name, _edited(patient, remedy, pictures, file, split))
        return Mended(folder, _same_words(words, folder, has_new_box=remedy.box is not None))
    if patient.path.suffix == ".json":
        meta = _edited(patient, remedy, pictures, patient.path, None)
        _say_splits(meta, patient, remedy, pictures)
        if remedy.box is not None:
            _say_box(meta, *remedy.box)
        write_json(folder / "transforms.json", meta)
        return Mended(folder, _same_words(words, folder, has_new_box=remedy.box is not None))
    write_json(folder / "transforms.json", _converted(patient, remedy, pictures))
    kept = [word for word in words if word.partition("=")[0] == "data.holdout"]
    kept = [
        "data=transforms", f"data.path={folder}", "data.allow_outside=true",
        f"data.downscale={patient.downscale}", *kept,
    ]  # fmt: skip
    if patient.transform.homography is None:
        kept.append(f"data.near={patient.near:.6g}")
    return Mended(folder, kept)


def mend_sizes(resized: Resized, words: Sequence[str], folder: Path) -> Mended:
    """Writes a camera file with each picture's own size and intrinsics into a new folder."""
    folder.mkdir()
    parent = resized.file.parent
    frames = [
        {
            key: _relative(parent / value, folder)
            if key in _PATH_KEYS and isinstance(value, str)
            else value
            for key, value in frame.items()
        }
        for frame in resized.meta["frames"]
    ]
    pairs = zip(resized.meta["frames"], frames, strict=True)
    moved = {old["file_path"]: new["file_path"] for old, new in pairs}
    meta = {**resized.meta, "frames": frames}
    for split in ("train", "val", "test"):
        key = f"{split}_filenames"
        if isinstance(meta.get(key), list):
            meta[key] = [moved.get(name, name) for name in meta[key]]
    write_json(folder / "transforms.json", meta)
    return Mended(folder, _same_words(words, folder, has_new_box=False))


def _relative(path: Path, folder: Path) -> str:
    """A path as seen from a folder."""
    return Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()


def _blender_files(path: Path) -> list[Path]:
    files = [path / f"transforms_{split}.json" for split in ("train", "val", "test")]
    return [file for file in files if file.is_file()] if files[0].is_file() else []


def _same_words(words: Sequence[str], folder: Path, *, has_new_box: bool) -> list[str]:
    """The user's own words with the new path; those about the box go if it was mended."""
    box = ("data.scene_scale", "data.aabb_scale", "data.frame")
    gone = ("data.path", "data.allow_outside", *(box if has_new_box else ()))
    kept = [word for word in words if word.partition("=")[0].lstrip("+") not in gone]
    return [*kept, f"data.path={folder}", "data.allow_outside=true"]


class _Pictures:
    """The file_path of each view from the new folder; pictures whose pixels change are written."""

    def __init__(self, patient: Patient, remedy: Remedy, folder: Path) -> None:
        self.folder = folder
        self.remedy = remedy
        self.index = {
            (split, clean_name(view.name)): i
            for i, (split, view) in enumerate(zip(patient.splits, patient.views, strict=True))
        }
        self.paths: list[str] = []
        for i, view in enumerate(patient.views):
            if i in remedy.dropped:
                self.paths.append("")
            elif remedy.is_premultiplied and view.header.has_alpha:
                target = folder / "images" / f"{i:05d}_{view.header.path.stem}.png"
                target.parent.mkdir(exist_ok=True)
                Image.fromarray(straight(read_pixels(view.header.path, 4))).save(target)
                self.paths.append(target.relative_to(folder).as_posix())
            else:
                self.paths.append(self.relative(view.header.path))

    def relative(self, path: Path) -> str:
        """A path as seen from the new folder."""
        return _relative(path, self.folder)

    def find(self, split: str | None, name: str) -> int | None:
        """The view of a frame of a file; None if it has no picture."""
        splits = (split,) if split is not None else ("train", "val", "test")
        found = [self.index[s, name] for s in splits if (s, name) in self.index]
        return found[0] if found else None


def straight(pixels: np.ndarray) -> np.ndarray:
    """Premultiplied colours divided by their alpha."""
    alpha = pixels[..., 3:].astype(np.float32)
    rgb = np.where(alpha > 0, pixels[..., :3] * (255 / np.maximum(alpha, 1)), 0)
    return np.concatenate([np.round(rgb).clip(0, 255).astype(np.uint8), pixels[..., 3:]], axis=2)


def _edited(
    patient: Patient, remedy: Remedy, pictures: _Pictures, file: Path, split: str | None
) -> dict[str, Any]:
    """A camera file with the remedy's changes; its other keys stay."""
    meta = read_json(file)
    poses = remedy.poses(patient)
    frames = []
    for frame in meta["frames"]:
        index = pictures.find(split, clean_name(frame["file_path"]))
        if index is None or index in remedy.dropped:
            continue
        frame = {**frame, "file_path": pictures.paths[index]}
        if remedy.changes_poses:
            pose = poses[index] * (_FROM_MITSUBA if "normal_mts_args" in meta else 1.0)
            frame["transform_matrix"] = [*pose.tolist(), [0.0, 0.0, 0.0, 1.0]]
        if remedy.intrinsics is not None:
            frame |= _intrinsics(patient, remedy, index)
        view = patient.views[index]
        if view.mask is not None and "mask_path" in frame:
            frame["mask_path"] = pictures.relative(view.mask.path)
        for key in ("depth_file_path", "depth_path"):
            if isinstance(view.depth, DepthFile) and key in frame:
                frame[key] = pictures.relative(view.depth.path)
        frames.append(frame)
    meta = {key: value for key, value in meta.items() if key != "frames"}
    if remedy.intrinsics is not None:
        meta = {key: value for key, value in meta.items() if key not in _SHARED_KEYS}
    return {**meta, "frames": frames}


def _intrinsics(patient: Patient, remedy: Remedy, index: int) -> dict[str, Any]:
    view, said = patient.views[index], remedy.intrinsics
    focal = 1.0 if said is None else float(said.focal[index])
    center = 1.0 if said is None else float(said.center[index])
    return {
        "fl_x": view.focal[0] * focal,
        "fl_y": view.focal[1] * focal,
        "cx": view.center[0] * center,
        "cy": view.center[1] * center,
        "w": view.header.width,
        "h": view.header.height,
    }


def _say_splits(
    meta: dict[str, Any], patient: Patient, remedy: Remedy, pictures: _Pictures
) -> None:
    """Names the views of each split: with frames left out, every 8th is another one."""
    for split in dict.fromkeys(patient.splits):
        meta[f"{split}_filenames"] = [
            pictures.paths[i]
            for i, own in enumerate(patient.splits)
            if own == split and i not in remedy.dropped
        ]


def _say_box(meta: dict[str, Any], transform: SceneTransform, aabb_scale: int) -> None:
    """The keys of instant-ngp for a frame: the unit cube is half as wide as our box."""
    for key in _FRAME_KEYS:
        meta.pop(key, None)
    meta["scale"] = 0.5 * transform.scale
    meta["offset"] = [0.5 * (value + 1) for value in transform.offset]
    meta["aabb_scale"] = aabb_scale


def _converted(patient: Patient, remedy: Remedy, pictures: _Pictures) -> dict[str, Any]:
    """A transforms.json of any data set: the file's axes turned as our frame is."""
    poses = remedy.poses(patient)
    transform, aabb_scale = remedy.box or (patient.transform, patient.aabb_scale)
    if transform.homography is None:
        poses = np.array(transform.rotation) @ poses
    frames = []
    for i, view in enumerate(patient.views):
        if i in remedy.dropped:
            continue
        keys = ("k1", "k2", "k3", "k4") if view.lens == FISHEYE else ("k1", "k2", "p1", "p2")
        frame: dict[str, Any] = {
            "file_path": pictures.paths[i],
            "transform_matrix": [*poses[i].tolist(), [0.0, 0.0, 0.0, 1.0]],
            **_intrinsics(patient, remedy, i),
            **dict(zip(keys, view.distortion, strict=True)),
        }
        if view.lens != 0:
            is_map = view.lens == EQUIRECTANGULAR
            frame["camera_model"] = "EQUIRECTANGULAR" if is_map else "OPENCV_FISHEYE"
        if view.mask is not None and not view.mask.is_inverted:
            frame["mask_path"] = pictures.relative(view.mask.path)
        frames.append(frame)
    meta: dict[str, Any] = {"frames": frames}
    _say_splits(meta, patient, remedy, pictures)
    if transform.homography is None:
        _say_box(meta, transform, aabb_scale)
    return meta

"""transforms.json of instant-ngp and nerfstudio: photographs with lenses and one camera file.

Choose `blender` for transforms_{train,val,test}.json. Frame, as in instant-ngp: the file's
positions times 0.33 plus 0.5 (keys scale, offset, aabb override) lie in the unit cube, which is our
[-1, 1]^3; the scene reaches to [-aabb_scale, aabb_scale]^3 of ours around it. A file with none of
these keys (nerfstudio's) has units of its own: its box is found from what the cameras look at.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nfields.data.camera_file import (
    View,
    clean_name,
    missing_note,
    read_json,
    read_number,
    read_views,
)
from nfields.data.object_masks import use_masks
from nfields.data.posed_images import MaskUse, PosedImages, SceneTransform, check_downscale
from nfields.data.posed_views import assemble, cameras_of, check_holdout, hold_out
from nfields.data.scene_frame import (
    MAX_AABB_SCALE,
    SceneFrame,
    check_frame_options,
    fit_frame,
    is_aabb_scale,
)
from nfields.errors import DataError
from nfields.render.paths import focus_point

EXPECTED = "transforms.json (instant-ngp, nerfstudio) and its pictures"

_UNIT_SCALE = 0.33
# Keys with which a file says where its scene is.
_FRAME_KEYS = ("aabb_scale", "scale", "offset", "aabb", "normal_mts_args")
# Mitsuba's camera axes are left, up, forward; ours right, up, backward.
_FROM_MITSUBA = np.array([-1.0, 1.0, -1.0, 1.0])
# Keys of instant-ngp that change what is trained; up is found from the cameras.
_IGNORED = (
    "envmap", "n_extra_learnable_dims", "white_transparent", "black_transparent", "fix_premult",
    "sharpen", "up",
)  # fmt: skip
# instant-ngp starts rays 0.1 from the camera in its unit cube, which is half as wide as ours.
_NEAR = 0.2


def matches(path: Path) -> bool:
    """True for a folder with transforms.json, and for such a json file itself."""
    return (path / "transforms.json").is_file() or (path.is_file() and path.suffix == ".json")


def read(*, path: str, downscale: int, holdout: int, allow_outside: bool) -> PosedImages:
    """The scene as its file describes it."""
    return read_transforms(
        path=path,
        downscale=downscale,
        holdout=holdout,
        allow_outside=allow_outside,
        frame="auto",
        aabb_scale=None,
        scene_scale=None,
        near=None,
        masks="exclude",
    )


def read_transforms(
    *,
    path: str,
    downscale: int,
    holdout: int,
    allow_outside: bool,
    frame: Literal["auto", "box", "none"],
    aabb_scale: int | None,
    scene_scale: float | int | None,
    near: float | int | None,
    masks: MaskUse,
) -> PosedImages:
    """The scene of a transforms.json (the file or its folder).

    holdout      without a split in the file, every holdout-th view by name, from the first, is test
    frame        auto: none if the file says where its scene is, or the cameras look at no one
                 point, else box (nfields/data/scene_frame.py); the rest is said for none
    aabb_scale   null: the file's, else 1
    scene_scale  ours = scene_scale * user; null: twice the file's scale, else 0.66
    near         in our units; null: 0.2, as instant-ngp
    """
    check_downscale(downscale)
    check_holdout(holdout)
    file = Path(path)
    if not file.is_file():
        file = file / "transforms.json"
    if not file.is_file():
        raise DataError(f"{file} does not exist; data.path must hold {EXPECTED}.")
    check_frame_options(frame=frame, aabb_scale=aabb_scale, scene_scale=scene_scale, near=near)
    meta = read_json(file)
    notes = _ignored(meta)
    views, missing = read_views(file, meta, allow_outside=allow_outside)
    if "normal_mts_args" in meta:
        views = [replace(v, camera_to_world=v.camera_to_world * _FROM_MITSUBA) for v in views]
    if frame == "auto":
        is_silent = not any(meta.get(key) is not None for key in _FRAME_KEYS)
        frame = "box" if is_silent and _look_at_something(views) else "none"
    if frame == "none":
        found, more = _frame_of_file(file, meta, aabb_scale, scene_scale, near)
        notes += more
    else:
        found = fit_frame(
            views, None, frame=frame, aabb_scale=aabb_scale, scene_scale=scene_scale, near=near
        )
        notes.append(f"{found.note}; data.frame=none keeps the frame of instant-ngp")
    notes += missing_note(missing, len(views), file)
    splits = _listed_splits(file, meta, views)
    if splits is None:
        splits = hold_out(file, views, holdout)
        notes.append(
            f"{file.name} has no split: every {holdout}th view by name, from the first, is held "
            f"out ({len(splits['test'])} of {len(views)})"
        )
    data = assemble(
        splits,
        path=file,
        downscale=downscale,
        transform=found.transform,
        aabb_scale=found.aabb_scale,
        near=found.near,
        source=f"photographs {file.resolve().parent.name}/{file.name}",
        notes=notes,
        missing=missing,
    )
    return use_masks(data, masks)


def _look_at_something(views: list[View]) -> bool:
    """True if the optical axes meet somewhere in front of the cameras."""
    cameras = cameras_of(views, SceneTransform(1.0, (0.0, 0.0, 0.0)))
    return bool(np.isfinite(focus_point(cameras, (math.nan,) * 3)).all())


def _frame_of_file(
    file: Path,
    meta: dict[str, Any],
    aabb_scale: int | None,
    scene_scale: float | int | None,
    near: float | int | None,
) -> tuple[SceneFrame, list[str]]:
    """instant-ngp's frame."""
    transform, notes = _transform(file, meta, scene_scale), []
    if aabb_scale is None:
        aabb_scale, notes = _aabb_scale(file, meta, transform)
    return SceneFrame(transform, aabb_scale, _NEAR if near is None else float(near), ""), notes


def _transform(file: Path, meta: dict[str, Any], scene_scale: float | None) -> SceneTransform:
    unit_scale = read_number(meta, "scale", str(file), above=0.0)
    default, middle = _UNIT_SCALE, 0.5
    if "normal_mts_args" in meta:
        default, middle = 0.66, 0.165  # instant-ngp's for scenes of Mitsuba
    scale = default if unit_scale is None else unit_scale
    offset = meta.get("offset", middle)
    if not isinstance(offset, list):
        offset = [offset] * 3
    if len(offset) != 3:
        raise DataError(f"{file}: offset={offset!r} must be a number or a list of 3 numbers.")
    x, y, z = (read_number({"offset": value}, "offset", str(file)) or 0.0 for value in offset)
    if meta.get("aabb") is not None:
        scale, (x, y, z) = _box_of_file(file, meta["aabb"])
    ours = 2 * scale if scene_scale is None else scene_scale
    return SceneTransform(ours, (2 * x - 1, 2 * y - 1, 2 * z - 1))


def _box_of_file(file: Path, box: Any) -> tuple[float, tuple[float, float, float]]:
    """Scale and offset that put the box [[x, y, z], [x, y, z]] into the unit cube."""
    try:
        low, high = np.array(box, dtype=np.float64).reshape(2, 3)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{file}: aabb={box!r} must be [[xmin, ymin, zmin], [xmax, ymax, zmax]]."
        ) from error
    if not np.isfinite(high - low).all() or not (high > low).all():
        raise DataError(f"{file}: aabb={box!r} must be a box, its first corner the lower one.")
    scale = 1 / float((high - low).max())
    x, y, z = (float(value) for value in 0.5 - scale * (low + high) / 2)
    return scale, (x, y, z)


def _aabb_scale(
    file: Path, meta: dict[str, Any], transform: SceneTransform
) -> tuple[int, list[str]]:
    value = read_number(meta, "aabb_scale", str(file))
    if value is None:
        half = 1 / transform.scale
        return 1, [
            f"{file.name} has no aabb_scale: 1 is assumed, so the scene ends {half:.3g} units of "
            "the file around its centre; raise data.aabb_scale (2, 4, ... 128) for surroundings, "
            "and set data.scene_scale if the file has units of its own (nerfstudio)"
        ]
    if not is_aabb_scale(value):
        raise DataError(
            f"{file}: aabb_scale={value:g} must be a power of two from 1 to {MAX_AABB_SCALE}; "
            "correct it or set data.aabb_scale."
        )
    return int(value), []


def _ignored(meta: dict[str, Any]) -> list[str]:
    """Sentences about what the file has and nfields does not use."""
    notes = []
    if "ply_file_path" in meta:
        notes.append("ply_file_path is not used: training starts without points")
    ignored = [key for key in _IGNORED if meta.get(key)]
    if ignored:
        notes.append(f"keys of the file that are not used: {', '.join(ignored)}")
    rolling_shutter = meta.get("rolling_shutter")
    if isinstance(rolling_shutter, list) and any(rolling_shutter):
        notes.append("rolling_shutter is not used: all rows are taken as seen at once")
    return notes


def _listed_splits(
    file: Path, meta: dict[str, Any], views: list[View]
) -> dict[str, list[View]] | None:
    """The split of nerfstudio's {train,val,test}_filenames; None if the file has none.

    Without test_filenames, val is the test split.
    """
    listed: dict[str, set[str]] = {}
    for split in ("train", "val", "test"):
        key = f"{split}_filenames"
        if key not in meta:
            continue
        names = meta[key]
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DataError(f"{file}: {key} must be a list of the file_path of frames.")
        if names:
            listed[split] = {clean_name(name) for name in names}
    if not listed:
        return None
    if "test" not in listed and "val" in listed:
        listed["test"] = listed.pop("val")
    if "train" not in listed:
        used = set[str]().union(*listed.values())
        listed["train"] = {view.name for view in views} - used
    splits = {
        split: [view for view in views if view.name in listed.get(split, ())]
        for split in ("train", "val", "test")
    }
    for split in ("train", "test"):
        if not splits[split]:
            raise DataError(
                f"{file}: split {split!r} is empty: {split}_filenames names none of the "
                f"{len(views)} frames that have an image. Name some, or take all *_filenames out "
                "to hold out every data.holdout-th view."
            )
    return {split: chosen for split, chosen in splits.items() if chosen}

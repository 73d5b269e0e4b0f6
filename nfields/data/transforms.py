"""transforms.json of instant-ngp and nerfstudio: photographs with lenses and one camera file.

Choose `blender` for transforms_{train,val,test}.json. Frame, as in instant-ngp: the file's
positions times 0.33 plus 0.5 (keys scale and offset override) lie in the unit cube, which is our
[-1, 1]^3; the scene reaches to [-aabb_scale, aabb_scale]^3 of ours around it.
"""

import math
from pathlib import Path
from typing import Any

from nfields.data.camera_file import (
    View,
    clean_name,
    missing_note,
    read_json,
    read_number,
    read_views,
)
from nfields.data.posed_images import PosedImages, SceneTransform, check_downscale
from nfields.data.posed_views import assemble
from nfields.errors import ConfigError, DataError

EXPECTED = "transforms.json (instant-ngp, nerfstudio) and its pictures"

_UNIT_SCALE = 0.33
_MAX_AABB_SCALE = 128
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
        aabb_scale=None,
        scene_scale=None,
        near=None,
    )


def read_transforms(
    *,
    path: str,
    downscale: int,
    holdout: int,
    allow_outside: bool,
    aabb_scale: int | None,
    scene_scale: float | None,
    near: float | None,
) -> PosedImages:
    """The scene of a transforms.json (the file or its folder).

    holdout      without a split in the file, every holdout-th view by name, from the first, is test
    aabb_scale   null: the file's, else 1
    scene_scale  ours = scene_scale * user; null: twice the file's scale, else 0.66
    near         in our units; null: 0.2, as instant-ngp
    """
    check_downscale(downscale)
    if holdout < 2:
        raise ConfigError(f"data.holdout={holdout} must be >= 2; 8 holds out every eighth view.")
    file = Path(path)
    if not file.is_file():
        file = file / "transforms.json"
    if not file.is_file():
        raise DataError(f"{file} does not exist; data.path must hold {EXPECTED}.")
    meta = read_json(file)
    notes = _ignored(meta)
    transform = _transform(file, meta, scene_scale)
    if near is not None and not 0 <= near < math.inf:
        raise ConfigError(f"data.near={near} must be >= 0, in our units; null is {_NEAR}.")
    if aabb_scale is None:
        aabb_scale, note = _aabb_scale(file, meta, transform)
        notes += note
    elif not _is_aabb_scale(aabb_scale):
        raise ConfigError(
            f"data.aabb_scale={aabb_scale} must be a power of two from 1 to {_MAX_AABB_SCALE}."
        )
    views, missing = read_views(file, meta, allow_outside=allow_outside)
    notes += missing_note(missing, len(views), file)
    splits = _listed_splits(file, meta, views)
    if splits is None:
        splits = _held_out_splits(file, views, holdout)
        notes.append(
            f"{file.name} has no split: every {holdout}th view by name, from the first, is held "
            f"out ({len(splits['test'])} of {len(views)})"
        )
    return assemble(
        splits,
        path=file,
        downscale=downscale,
        transform=transform,
        aabb_scale=aabb_scale,
        near=_NEAR if near is None else near,
        source=f"photographs {file.resolve().parent.name}/{file.name}",
        notes=notes,
    )


def _transform(file: Path, meta: dict[str, Any], scene_scale: float | None) -> SceneTransform:
    if scene_scale is not None and not 0 < scene_scale < math.inf:
        raise ConfigError(
            f"data.scene_scale={scene_scale} must be > 0; null is twice the file's scale, or "
            f"{2 * _UNIT_SCALE}."
        )
    unit_scale = read_number(meta, "scale", str(file), above=0.0)
    if scene_scale is None:
        scene_scale = 2 * (_UNIT_SCALE if unit_scale is None else unit_scale)
    offset = meta.get("offset", [0.5, 0.5, 0.5])
    if not isinstance(offset, list) or len(offset) != 3:
        raise DataError(f"{file}: offset={offset!r} must be a list of 3 numbers.")
    x, y, z = (read_number({"offset": value}, "offset", str(file)) or 0.0 for value in offset)
    return SceneTransform(scene_scale, (2 * x - 1, 2 * y - 1, 2 * z - 1))


def _is_aabb_scale(value: int | float) -> bool:
    return value in [2**power for power in range(_MAX_AABB_SCALE.bit_length())]


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
    if not _is_aabb_scale(value):
        raise DataError(
            f"{file}: aabb_scale={value:g} must be a power of two from 1 to {_MAX_AABB_SCALE}; "
            "correct it or set data.aabb_scale."
        )
    return int(value), []


def _ignored(meta: dict[str, Any]) -> list[str]:
    """Sentences about what the file has and nfields does not use."""
    notes = []
    frames = meta.get("frames")
    if isinstance(frames, list):
        num_masks = sum(isinstance(frame, dict) and "mask_path" in frame for frame in frames)
        if num_masks:
            notes.append(f"{num_masks} frames have a mask_path; masks are not used")
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


def _held_out_splits(file: Path, views: list[View], holdout: int) -> dict[str, list[View]]:
    views = sorted(views, key=lambda view: view.name)
    if len(views) < 2:
        raise DataError(
            f"{file}: only one frame has an image; at least two are needed, one to train on and "
            "one held out."
        )
    train = [view for i, view in enumerate(views) if i % holdout != 0]
    return {"train": train, "test": views[::holdout]}

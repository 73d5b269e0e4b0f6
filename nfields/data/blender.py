"""NeRF-synthetic scenes: transforms_{train,val,test}.json beside RGBA pictures rendered by Blender.

Also called "Blender" or "nerf_synthetic" format. Choose `transforms` for a single transforms.json.
"""

from pathlib import Path

from nfields.data.camera_file import missing_note, read_json, read_views
from nfields.data.posed_images import PosedImages, SceneTransform, check_downscale
from nfields.data.posed_views import assemble
from nfields.errors import ConfigError, DataError

EXPECTED = "transforms_train.json and transforms_test.json beside their pictures"

# The scenes of the NeRF paper lie in [-1.5, 1.5]^3 of their own frame.
_SCENE_SCALE = 2 / 3


def matches(path: Path) -> bool:
    """True for a folder with transforms_train.json."""
    return (path / "transforms_train.json").is_file()


def read(*, path: str, downscale: int, holdout: int, allow_outside: bool) -> PosedImages:
    """The scene with the format's usual scale; holdout is not needed, the files have the split."""
    return read_blender(
        path=path, downscale=downscale, allow_outside=allow_outside, scene_scale=None
    )


def read_blender(
    *, path: str, downscale: int, allow_outside: bool, scene_scale: float | None
) -> PosedImages:
    """The scene in a folder; ours = scene_scale * user, null for 2/3 (box [-1.5, 1.5]^3)."""
    check_downscale(downscale)
    scale = _SCENE_SCALE if scene_scale is None else scene_scale
    if not 0 < scale < float("inf"):
        raise ConfigError(f"data.scene_scale={scale} must be > 0; null is {_SCENE_SCALE:.4f}.")
    folder = Path(path)
    if not folder.is_dir():
        raise DataError(f"data.path={path} is no folder; give the folder that holds {EXPECTED}.")
    splits, notes, all_missing = {}, [], []
    for split in ("train", "val", "test"):
        file = folder / f"transforms_{split}.json"
        if not file.is_file():
            if split == "val":
                continue
            held = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) or "nothing"
            raise DataError(
                f"{file} does not exist (the folder holds {held}); a Blender scene has {EXPECTED}. "
                "For a single transforms.json take data=transforms."
            )
        splits[split], missing = read_views(file, read_json(file), allow_outside=allow_outside)
        notes += missing_note(missing, len(splits[split]), file)
        all_missing += missing
    return assemble(
        splits,
        path=folder,
        downscale=downscale,
        transform=SceneTransform(scale, (0.0, 0.0, 0.0)),
        aabb_scale=1,
        near=0.0,
        source=f"Blender scene {folder.resolve().name}, every {downscale} pixels as one"
        if downscale > 1
        else f"Blender scene {folder.resolve().name}",
        notes=notes,
        missing=all_missing,
    )

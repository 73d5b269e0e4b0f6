"""COLMAP: a sparse model (text or binary) beside the folder of its pictures.

What `scripts/process.py` and COLMAP itself write, and the layout of mip-NeRF 360's scenes:
images/ (images_2/, ... smaller copies), sparse/0/{cameras,images,points3D}.{bin,txt}, and, if there
are, masks/NAME.png, black where a pixel is left out. Its frame is arbitrary, so ours is found from
the cameras and points (nfields/data/scene_frame.py).
"""

from pathlib import Path

import numpy as np

from nfields.data.camera_file import View, missing_note
from nfields.data.colmap_model import ColmapImage, ColmapModel, read_model, suffix_of
from nfields.data.image_folders import (
    ImageFolder,
    choose_folder,
    find_pictures,
    list_pictures,
    scale_to,
)
from nfields.data.object_masks import use_masks
from nfields.data.pixel_file import MaskFile, PointDepths
from nfields.data.posed_images import MaskUse, PosedImages, check_downscale
from nfields.data.posed_views import assemble, check_holdout, hold_out
from nfields.data.scene_frame import FrameName, check_frame_options, fit_frame
from nfields.errors import DataError

EXPECTED = "sparse/0/cameras.bin, images.bin, points3D.bin (or .txt) of COLMAP beside images/"

_PLACES = ("sparse", "colmap/sparse", "")


def matches(path: Path) -> bool:
    """True for a folder with a sparse model, unless it has a transforms.json as well.

    nerfstudio keeps COLMAP's files beside the transforms.json that it made from them.
    """
    return not (path / "transforms.json").is_file() and bool(_model_folders(path))


def read(*, path: str, downscale: int, holdout: int, allow_outside: bool) -> PosedImages:
    """The scene in a frame found from its cameras and points."""
    return read_colmap(
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


def read_colmap(
    *,
    path: str,
    downscale: int,
    holdout: int,
    allow_outside: bool,
    frame: FrameName,
    aabb_scale: int | None,
    scene_scale: float | int | None,
    near: float | int | None,
    masks: MaskUse,
) -> PosedImages:
    """The scene in a folder.

    holdout      every holdout-th view by name, from the first, is test
    frame        see nfields/data/scene_frame.py
    aabb_scale, scene_scale (ours = scene_scale * user), near (our units)   null: found
    """
    check_downscale(downscale)
    check_holdout(holdout)
    check_frame_options(frame=frame, aabb_scale=aabb_scale, scene_scale=scene_scale, near=near)
    folder = Path(path)
    models = _model_folders(folder) if folder.is_dir() else []
    if not models:
        raise DataError(f"data.path={path} must be a folder that holds {EXPECTED}.")
    read_all = [(read_model(place), place) for place in models]
    model, place = max(read_all, key=lambda pair: len(pair[0].images))
    notes = []
    if len(models) > 1:
        sizes = ", ".join(f"{p.name}: {len(m.images)}" for m, p in read_all)
        notes.append(
            f"{place.parent.name}/ has {len(models)} models (pictures in each: {sizes}); the "
            f"largest, {place.name}, is taken, the others are not connected with it"
        )
    pictures = choose_folder(folder, downscale)
    notes += pictures.notes
    views, observed, missing = _views(folder, place, model, pictures, allow_outside)
    notes += missing_note(missing, len(views), place)
    notes += _unlisted_note(model, pictures)
    found = fit_frame(
        views, observed, frame=frame, aabb_scale=aabb_scale, scene_scale=scene_scale, near=near
    )
    splits = hold_out(place, views, holdout)
    notes.append(
        f"COLMAP has no split: every {holdout}th view by name, from the first, is held out "
        f"({len(splits['test'])} of {len(views)})"
    )
    data = assemble(
        splits,
        path=place,
        downscale=pictures.downscale,
        transform=found.transform,
        aabb_scale=found.aabb_scale,
        near=found.near,
        source=f"COLMAP model {folder.resolve().name}/{place.relative_to(folder)}",
        notes=[*notes, found.note],
        missing=missing,
    )
    return use_masks(data, masks)


def _model_folders(folder: Path) -> list[Path]:
    """Folders of sparse models: sparse/0, sparse/1, ..., or sparse itself, or the folder."""
    for name in _PLACES:
        place = folder / name
        if not place.is_dir():
            continue
        if suffix_of(place) is not None:
            return [place]
        if name and (found := [sub for sub in sorted(place.iterdir()) if suffix_of(sub)]):
            return found
    return []


def _views(
    folder: Path, place: Path, model: ColmapModel, pictures: ImageFolder, allow_outside: bool
) -> tuple[list[View], list[np.ndarray], list[str]]:
    """The views that have a picture, the points each sees, and names without a picture."""
    files = find_pictures(
        [image.name for image in model.images],
        pictures,
        allow_outside=allow_outside,
        where=f"{place}: images",
    )
    views, observed, missing = [], [], []
    for image, file in zip(model.images, files, strict=True):
        if file is None:
            missing.append(image.name)
            continue
        camera = model.cameras[image.camera_id]
        header, (sx, sy) = scale_to(file, camera.width, camera.height, pictures.factor)
        pose = camera_to_world(image)
        points, pixels = model.seen_by(image)
        views.append(
            View(
                name=image.name,
                header=header,
                camera_to_world=pose,
                focal=(camera.focal[0] * sx, camera.focal[1] * sy),
                center=(camera.center[0] * sx, camera.center[1] * sy),
                distortion=camera.distortion,
                lens=camera.lens,
                mask=_mask(folder, image.name, pictures),
                depth=PointDepths(pixels * [sx, sy], np.linalg.norm(points - pose[:, 3], axis=1))
                if len(points)
                else None,
            )
        )
        observed.append(points)
    if not views:
        raise DataError(
            f"{place}: none of its {len(missing)} images is in {pictures.path} (first: "
            f"{missing[0]}); put the pictures there under these names."
        )
    return views, observed, missing


def camera_to_world(image: ColmapImage) -> np.ndarray:
    """The pose (3, 4) of an image in our camera axes: x right, y up, looking along -z."""
    w, x, y, z = image.quaternion
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    place = -rotation.T @ np.array(image.translation)
    return np.concatenate([rotation.T * np.array([1.0, -1.0, -1.0]), place[:, None]], axis=1)


def _mask(folder: Path, name: str, pictures: ImageFolder) -> MaskFile | None:
    """COLMAP's masks/NAME.png, nerfstudio's masks/STEM.png; smaller copies in masks_K/."""
    for place, factor in ((f"masks_{pictures.factor}", 1), ("masks", pictures.factor)):
        for file in (f"{name}.png", str(Path(name).with_suffix(".png"))):
            path = folder / place / file
            if path.is_file():
                return MaskFile(path, factor=factor)
    return None


def _unlisted_note(model: ColmapModel, pictures: ImageFolder) -> list[str]:
    """A sentence about pictures that the model has no camera for, or nothing."""
    files = [path.relative_to(pictures.path) for path in list_pictures(pictures.path)]
    listed = {str(Path(image.name).with_suffix("")) for image in model.images}
    unlisted = [file for file in files if str(file.with_suffix("")) not in listed]
    if not unlisted or len(unlisted) == len(files):
        return []
    return [
        f"{len(unlisted)} of {len(files)} pictures in {pictures.path.name}/ are in no camera of "
        f"the model and are not used (first: {unlisted[0]}): COLMAP could not place them"
    ]

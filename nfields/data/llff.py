"""LLFF: poses_bounds.npy beside folders of pictures, forward-facing scenes mostly.

A row a picture, in the order of the file names: a 3 x 5 matrix [R | t | h w f] whose rotation has
the axes down, right, backward, and the z-depths of the nearest and farthest point in view
(https://github.com/Fyusion/LLFF).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from nfields.data.camera_file import View, read_pose
from nfields.data.colmap import matches as has_colmap_model
from nfields.data.image_folders import ImageFolder, choose_folder, list_pictures, scale_to
from nfields.data.posed_images import PosedImages, check_downscale
from nfields.data.posed_views import assemble, check_holdout, hold_out
from nfields.data.scene_frame import FrameName, check_frame_options, fit_frame
from nfields.errors import DataError

EXPECTED = "poses_bounds.npy beside images/ (LLFF)"


def matches(path: Path) -> bool:
    """True for a folder with poses_bounds.npy; COLMAP's model, which has points, is preferred."""
    return (path / "poses_bounds.npy").is_file() and not has_colmap_model(path)


def read(*, path: str, downscale: int, holdout: int, allow_outside: bool) -> PosedImages:
    """The scene in a frame found from its cameras and bounds."""
    return read_llff(
        path=path,
        downscale=downscale,
        holdout=holdout,
        frame="auto",
        aabb_scale=None,
        scene_scale=None,
        near=None,
    )


def read_llff(
    *,
    path: str,
    downscale: int,
    holdout: int,
    frame: FrameName,
    aabb_scale: int | None,
    scene_scale: float | int | None,
    near: float | int | None,
) -> PosedImages:
    """The scene in a folder; the options are those of nfields/data/colmap.py."""
    check_downscale(downscale)
    check_holdout(holdout)
    check_frame_options(frame=frame, aabb_scale=aabb_scale, scene_scale=scene_scale, near=near)
    folder = Path(path)
    file = folder / "poses_bounds.npy"
    if not file.is_file():
        raise DataError(f"{file} does not exist; data.path must be a folder with {EXPECTED}.")
    rows = _rows(file)
    pictures = choose_folder(folder, downscale)
    files = list_pictures(pictures.path)
    if len(files) != len(rows):
        raise DataError(
            f"{file} has {len(rows)} poses and {pictures.path} {len(files)} pictures; they belong "
            "together in the order of the names, so there must be as many."
        )
    views, observed = [], []
    for i, (row, picture) in enumerate(zip(rows, files, strict=True)):
        view = _view(row, picture, pictures, f"{file}: row {i} ({picture.name})")
        views.append(view)
        observed.append(_bounds(view, row[15:]))
    found = fit_frame(
        views, observed, frame=frame, aabb_scale=aabb_scale, scene_scale=scene_scale, near=near
    )
    splits = hold_out(file, views, holdout)
    return assemble(
        splits,
        path=file,
        downscale=pictures.downscale,
        transform=found.transform,
        aabb_scale=found.aabb_scale,
        near=found.near,
        source=f"LLFF scene {folder.resolve().name}",
        notes=[
            *pictures.notes,
            f"LLFF has no split: every {holdout}th view by name, from the first, is held out "
            f"({len(splits['test'])} of {len(views)})",
            found.note,
        ],
    )


def _rows(file: Path) -> Float[np.ndarray, "views 17"]:
    try:
        rows = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(
            f"{file} is not an array of numpy ({error}); it may be cut off. Copy it again."
        ) from error
    if rows.ndim != 2 or rows.shape[1] != 17 or rows.dtype.kind not in "fiu":
        raise DataError(
            f"{file} has the shape {rows.shape} of {rows.dtype}; wanted is a row of 17 numbers for "
            "every picture: a 3 x 5 matrix and two bounds (poses of 14 numbers have no bounds: run "
            "LLFF's imgs2poses again)."
        )
    rows = rows.astype(np.float64)
    if not np.isfinite(rows).all():
        row, column = np.argwhere(~np.isfinite(rows))[0]
        raise DataError(f"{file}: row {row}, number {column} is {rows[row, column]}.")
    return rows


def _view(row: np.ndarray, picture: Path, pictures: ImageFolder, where: str) -> View:
    matrix = row[:15].reshape(3, 5)
    height, width, focal = matrix[:, 4]
    if min(height, width, focal) <= 0 or height % 1 or width % 1:
        raise DataError(
            f"{where}: height {height:g}, width {width:g} and focal length {focal:g} must be "
            "positive, sizes whole numbers."
        )
    if not 0 < row[15] < row[16]:
        raise DataError(
            f"{where}: bounds {row[15]:g}, {row[16]:g} must be 0 < near < far."
        )
    header, (sx, sy) = scale_to(picture, int(width), int(height), pictures.factor)
    down, right, back, place = matrix[:, :4].T
    pose = np.stack([right, -down, back, place], axis=1)
    return View(
        name=picture.name,
        header=header,
        camera_to_world=read_pose({"transform_matrix": pose.tolist()}, where),
        focal=(focal * sx, focal * sy),
        center=(0.5 * header.width, 0.5 * header.height),
        distortion=(0.0, 0.0, 0.0, 0.0),
    )


def _bounds(view: View, bounds: Float[np.ndarray, "2"]) -> Float[np.ndarray, "32 3"]:
    """Points over the picture at both bounds: they stand for what the view sees."""
    x = (np.linspace(0, view.header.width, 4) - view.center[0]) / view.focal[0]
    y = (np.linspace(0, view.header.height, 4) - view.center[1]) / view.focal[1]
    plane = np.stack(np.meshgrid(x, -y, [-1.0], indexing="ij"), axis=-1).reshape(-1, 3)
    local = np.concatenate([plane * bound for bound in bounds])
    return local @ view.camera_to_world[:, :3].T + view.camera_to_world[:, 3]

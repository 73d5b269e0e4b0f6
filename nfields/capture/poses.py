"""Cameras from pictures alone, by COLMAP (structure from motion) through pycolmap."""

import os
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from nfields.data.image_folders import list_pictures
from nfields.data.image_reader import read_header
from nfields.errors import ConfigError, DataError

LENSES = {
    "opencv": "OPENCV",
    "radial": "SIMPLE_RADIAL",
    "pinhole": "PINHOLE",
    "fisheye": "OPENCV_FISHEYE",
}
# More pictures than this are not all compared with each other: that takes a time that grows with
# the square, about a minute per thousand pairs on two cores.
_MAX_EXHAUSTIVE = 150
# Frames compared with each frame of a video, and (quadratic) those 2, 4, 8, ... frames away.
_OVERLAP = 12


def require_pycolmap() -> Any:
    """The module pycolmap; an error with the command that installs it."""
    try:
        return import_module("pycolmap")
    except ImportError as error:
        raise ConfigError(
            "finding cameras needs pycolmap, which is not installed: pip install 'nfields[colmap]'"
        ) from error


def find_poses(
    images: Path,
    work: Path,
    sparse: Path,
    *,
    lens: str,
    cameras: str,
    is_ordered: bool,
    max_size: int,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Writes sparse models of the pictures to sparse/0, sparse/1, ...; facts about the largest.

    Features and matches are kept in work/database.db, from which an interrupted run goes on.
    """
    pycolmap = require_pycolmap()
    pycolmap.logging.minloglevel = pycolmap.logging.Level.ERROR.value
    pycolmap.set_random_seed(seed)
    files = list_pictures(images)
    names = [file.relative_to(images).as_posix() for file in files]
    if len(names) < 3:
        raise DataError(f"{images} has {len(names)} pictures; cameras need three at least.")
    sizes = {(header.width, header.height) for header in map(read_header, files)}
    is_single = cameras == "single" or (cameras == "auto" and len(sizes) == 1)
    if is_single and len(sizes) > 1:
        raise ConfigError(
            f"cameras=single needs pictures of one size, these have {len(sizes)}; take cameras=each"
        )
    work.mkdir(parents=True, exist_ok=True)
    database = work / "database.db"
    num_threads = os.cpu_count() or 1

    say(f"1/3 features of {len(names)} pictures")
    pycolmap.extract_features(
        database,
        images,
        names,
        camera_mode=pycolmap.CameraMode.SINGLE if is_single else pycolmap.CameraMode.PER_IMAGE,
        reader_options=pycolmap.ImageReaderOptions(camera_model=LENSES[lens]),
        extraction_options=pycolmap.FeatureExtractionOptions(
            num_threads=num_threads, max_image_size=max_size
        ),
        device=pycolmap.Device.cpu,
    )
    matching = pycolmap.FeatureMatchingOptions(num_threads=num_threads)
    if is_ordered or len(names) > _MAX_EXHAUSTIVE:
        say(f"2/3 matches of each picture with the {_OVERLAP} next ones and some farther away")
        pycolmap.match_sequential(
            database,
            matching_options=matching,
            pairing_options=pycolmap.SequentialPairingOptions(
                overlap=_OVERLAP, quadratic_overlap=True
            ),
            device=pycolmap.Device.cpu,
        )
    else:
        say(f"2/3 matches of all {len(names) * (len(names) - 1) // 2:,} pairs")
        pycolmap.match_exhaustive(database, matching_options=matching, device=pycolmap.Device.cpu)
    say("3/3 cameras and points")
    fresh = work / "sparse"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir()
    models = pycolmap.incremental_mapping(database, images, fresh)
    if not models:
        raise DataError(
            f"no cameras were found for the pictures in {images}: too little overlap between "
            "neighbours, too little texture, or too much blur. Take more pictures, moving sideways "
            "by small steps, or try another lens=."
        )
    fresh.replace(sparse)
    largest = max(models.values(), key=lambda model: model.num_reg_images())
    return {
        "pictures": len(names),
        "placed": largest.num_reg_images(),
        "models": len(models),
        "points": largest.num_points3D(),
        "reprojection_error_pixels": largest.compute_mean_reprojection_error(),
    }

"""poses_bounds.npy: shapes, sizes and bounds that are wrong are refused."""

from pathlib import Path

import numpy as np
import pytest

from nfields.data.llff import read_llff
from nfields.data.posed_images import PosedImages, open_posed_images
from nfields.errors import DataError
from tests.data.capture_folder import around, in_front, write_colmap, write_llff


def read(folder: Path) -> PosedImages:
    return read_llff(
        path=str(folder), downscale=1, holdout=8, frame="auto", aabb_scale=None,
        scene_scale=None, near=None,
    )  # fmt: skip


@pytest.mark.parametrize("shape", [(6, 15), (6, 14), (102,), (6, 17, 1)])
def test_other_shapes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    write_llff(tmp_path, in_front())
    np.save(tmp_path / "poses_bounds.npy", np.ones(shape))
    with pytest.raises(DataError, match=r"poses_bounds\.npy has the shape.*row of 17 numbers"):
        read(tmp_path)


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    write_llff(tmp_path, in_front())
    file = tmp_path / "poses_bounds.npy"
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(DataError, match="not an array of numpy"):
        read(tmp_path)
    np.save(file, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="not an array of numpy"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        (3, np.nan, "row 1, number 3 is nan"),
        (15, 0.0, "0 < near < far"),
        (16, 0.1, "0 < near < far"),
        (14, -1.0, "focal length -1"),
        (0, 3.0, "no rotation"),
        (4, 60.0, "40 x 30 pixels; its camera has 40 x 60"),
    ],
)
def test_bad_numbers_are_refused(tmp_path: Path, column: int, value: float, words: str) -> None:
    write_llff(tmp_path, in_front())
    rows = np.load(tmp_path / "poses_bounds.npy")
    rows[1, column] = value
    np.save(tmp_path / "poses_bounds.npy", rows)
    with pytest.raises(DataError, match=words):
        read(tmp_path)


def test_as_many_pictures_as_poses_are_wanted(tmp_path: Path) -> None:
    write_llff(tmp_path, in_front())
    (tmp_path / "images" / "003.png").unlink()
    with pytest.raises(DataError, match="6 poses and .*images 5 pictures"):
        read(tmp_path)


def test_folder_with_a_model_of_colmap_as_well_is_colmaps(tmp_path: Path) -> None:
    write_llff(tmp_path, around())
    write_colmap(tmp_path, around())
    data = open_posed_images(path=str(tmp_path), downscale=1, holdout=8, allow_outside=False, masks="exclude")
    assert "COLMAP" in data.source


def test_fern(shared_data: Path) -> None:
    data = read(shared_data / "nerf" / "fern")
    assert data.names["test"] == ["image000.png", "image008.png", "image016.png"]
    assert data.cameras["train"].size(0) == (504, 378)
    assert data.transform.homography is not None
    assert abs(float(data.cameras["train"].focal[0, 0]) - 3260.526 / 8) < 0.01

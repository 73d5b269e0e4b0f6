"""NSVF's folders: splits by name, and files that are not what they should be."""

from pathlib import Path

import pytest
import torch

from nfields.data.nsvf import read_nsvf
from nfields.errors import DataError
from tests.data.capture_folder import around, write_nsvf, write_pictures


def test_box_of_the_file_is_our_box(tmp_path: Path) -> None:
    capture = around()
    data = read_nsvf(path=str(write_nsvf(tmp_path, capture)), downscale=1)
    low, high = capture.points.min(axis=0), capture.points.max(axis=0)
    corners = data.transform.to_ours(torch.tensor([low.tolist(), high.tolist()]))
    torch.testing.assert_close(corners[0], -corners[1])
    assert float(corners.max()) == pytest.approx(1.0)
    assert data.names["test"] == ["rgb/2_0000.png"]


def test_validation_views_test_where_there_are_no_others(tmp_path: Path) -> None:
    write_nsvf(tmp_path, around())
    for folder, suffix in (("rgb", "png"), ("pose", "txt")):
        (tmp_path / folder / f"2_0000.{suffix}").rename(tmp_path / folder / f"1_0000.{suffix}")
    data = read_nsvf(path=str(tmp_path), downscale=1)
    assert data.names["test"] == ["rgb/1_0000.png"]
    assert set(data.cameras) == {"train", "test"}


def test_missing_and_unposed_pictures_are_counted(tmp_path: Path) -> None:
    write_nsvf(tmp_path, around())
    (tmp_path / "rgb" / "0_0003.png").unlink()
    write_pictures(tmp_path / "rgb", ["0_0099.png"])
    notes = read_nsvf(path=str(tmp_path), downscale=1).notes
    assert any("1 of 6 frames of pose have no image file" in note for note in notes)
    assert any("1 pictures in rgb/ have no pose (first: 0_0099.png)" in note for note in notes)


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("intrinsics.txt", "a b c\n", "numbers only"),
        ("intrinsics.txt", "45\n", "begin with a line 'focal cx cy 0'"),
        ("intrinsics.txt", "-45 20 15 0\n", "must be positive"),
        ("intrinsics.txt", "nan 20 15 0\n", "finite"),
        ("bbox.txt", "1 2 3\n", "xmin ymin zmin"),
        ("bbox.txt", "1 1 1 0 2 2 0.1\n", "is empty"),
        ("pose/0_0001.txt", "1 0 0 0\n0 1 0 0\n", "must be 4 .or 3. rows"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, file: str, text: str, words: str) -> None:
    write_nsvf(tmp_path, around())
    (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=words):
        read_nsvf(path=str(tmp_path), downscale=1)


def test_names_without_a_split_and_empty_splits_are_refused(tmp_path: Path) -> None:
    write_nsvf(tmp_path, around())
    for name in ("rgb/2_0000.png", "pose/2_0000.txt"):
        (tmp_path / name).unlink()
    with pytest.raises(DataError, match="split 'test' is empty"):
        read_nsvf(path=str(tmp_path), downscale=1)
    (tmp_path / "pose" / "0_0001.txt").rename(tmp_path / "pose" / "x_0001.txt")
    with pytest.raises(DataError, match="must begin with 0_"):
        read_nsvf(path=str(tmp_path), downscale=1)
    (tmp_path / "bbox.txt").unlink()
    with pytest.raises(DataError, match=r"bbox\.txt does not exist"):
        read_nsvf(path=str(tmp_path), downscale=1)

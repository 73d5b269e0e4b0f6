"""COLMAP's models: every lens, both kinds of files, and files that are not what they should be."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nfields.data.colmap import read_colmap
from nfields.data.colmap_model import read_model
from nfields.data.posed_images import PosedImages
from nfields.errors import ConfigError, DataError
from nfields.render.cameras import project
from tests.data.capture_folder import (
    HEIGHT,
    PARAMETERS,
    WIDTH,
    Capture,
    around,
    write_colmap,
    write_pictures,
)


def read(folder: Path, *, downscale: int = 1, allow_outside: bool = False) -> PosedImages:
    return read_colmap(
        path=str(folder), downscale=downscale, holdout=8, allow_outside=allow_outside,
        frame="auto", aabb_scale=None, scene_scale=None, near=None, masks="exclude",
    )  # fmt: skip


@pytest.mark.parametrize("model", PARAMETERS)
@pytest.mark.parametrize("binary", [True, False])
def test_projections_are_those_of_pycolmap(tmp_path: Path, model: str, binary: bool) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pip install 'nfields[colmap]'")
    capture = around()
    write_colmap(tmp_path, capture, model=model, binary=binary)
    theirs = pycolmap.Reconstruction(tmp_path / "sparse" / "0")
    data = read(tmp_path)
    ours = data.transform.to_ours(torch.from_numpy(capture.points)).float()
    for split, cameras in data.cameras.items():
        for view, name in enumerate(data.names[split]):
            pixels, _ = project(cameras, view, ours)
            image = next(i for i in theirs.images.values() if i.name == name)
            expected = np.array([image.project_point(point) for point in capture.points])
            assert np.abs(pixels.numpy() - expected).max() < 2e-3


def test_text_and_binary_are_the_same_model(tmp_path: Path) -> None:
    capture = around()
    capture.tracks[2] = np.array([3, 5, 199])
    first, second = (
        read_model(write_colmap(tmp_path / kind, capture, binary=kind == "bin") / "sparse" / "0")
        for kind in ("bin", "txt")
    )
    assert first.cameras == second.cameras
    assert np.array_equal(first.points, second.points)
    assert np.array_equal(first.points, capture.points)
    for a, b in zip(first.images, second.images, strict=True):
        assert (a.name, a.translation, a.camera_id) == (b.name, b.translation, b.camera_id)
        assert np.array_equal(a.point_ids, b.point_ids)
        assert np.array_equal(a.pixels, b.pixels)
    points, pixels = first.seen_by(first.images[2])
    assert np.array_equal(points, capture.points[[3, 5, 199]])
    assert np.array_equal(pixels, capture.pixels(2))


@pytest.mark.parametrize("downscale", [1, 2])
def test_points_give_depths_to_the_pixels_that_show_them(tmp_path: Path, downscale: int) -> None:
    """The nearest where a pixel shows several, and NaN where it shows none."""
    capture = around()
    capture.tracks[5] = np.zeros(0, np.int64)
    data = read(write_colmap(tmp_path, capture), downscale=downscale)
    assert len(data.names["train"]) == 5
    for view, name in enumerate(data.names["train"]):
        depth = data.depths["train"][view]
        which = capture.names.index(name)
        if which == 5:
            assert depth is None
            continue
        expected = np.full((HEIGHT // downscale, WIDTH // downscale), np.inf)
        to_points = capture.points[capture.tracks[which]] - capture.poses[which][:, 3]
        distance = np.linalg.norm(to_points, axis=1)
        for (x, y), d in zip(capture.pixels(which) // downscale, distance, strict=True):
            row, column = int(y), int(x)
            if 0 <= row < len(expected) and 0 <= column < expected.shape[1]:
                expected[row, column] = min(expected[row, column], d)
        assert depth is not None and np.isfinite(expected).sum() > 20
        known = depth.to_dense().double().numpy() / data.transform.scale
        np.testing.assert_allclose(known, np.where(np.isfinite(expected), expected, 0), rtol=1e-6)
    batch = data.sample_pixels(4000, torch.Generator().manual_seed(0))
    assert batch.depth is not None
    for i in range(len(batch.depth)):
        view, (x, y) = int(batch.view_index[i]), batch.pixels[i].long().tolist()
        stored = data.depths["train"][view]
        said = 0.0 if stored is None else float(stored.to_dense()[y, x])
        assert float(batch.depth[i].nan_to_num(0.0)) == said
    assert int(batch.depth.isfinite().sum()) > 100


@pytest.mark.parametrize("place", [-1.0, 1e4, 1e300])
def test_points_outside_of_their_pictures_give_no_depths(tmp_path: Path, place: float) -> None:
    capture = around()
    folder = write_colmap(tmp_path, capture, binary=False)
    file = folder / "sparse" / "0" / "images.txt"
    lines = file.read_text().splitlines()
    lines[2::2] = [f"{place} {place} 10 {place} 5.0 11" for _ in lines[2::2]]
    file.write_text("\n".join(lines) + "\n")
    data = read(folder)
    assert data.depths["train"] == [None] * len(data.names["train"])
    assert data.sample_pixels(10, torch.Generator().manual_seed(0)).depth is None


@pytest.mark.parametrize("file", ["cameras.bin", "images.bin", "points3D.bin"])
@pytest.mark.parametrize("kept", [0, 5, 0.3, 0.999])
def test_truncated_file_is_refused(tmp_path: Path, file: str, kept: float) -> None:
    path = write_colmap(tmp_path, around()) / "sparse" / "0" / file
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    with pytest.raises(DataError, match=rf"{file} ends after \d+ bytes.*cut off"):
        read(tmp_path)


def test_number_of_entries_that_cannot_be_is_refused(tmp_path: Path) -> None:
    """Not read into memory that there is not."""
    path = write_colmap(tmp_path, around()) / "sparse" / "0" / "points3D.bin"
    path.write_bytes(struct.pack("<Q", 1 << 60) + path.read_bytes()[8:])
    with pytest.raises(DataError, match="ends after"):
        read(tmp_path)


def test_unknown_camera_models_are_refused(tmp_path: Path) -> None:
    path = write_colmap(tmp_path, around()) / "sparse" / "0" / "cameras.bin"
    content = bytearray(path.read_bytes())
    content[12:16] = struct.pack("<i", 42)
    path.write_bytes(content)
    with pytest.raises(DataError, match="camera 7: camera model number 42 is not one of COLMAP's"):
        read(tmp_path)
    write_colmap(tmp_path / "b", around(), binary=False)
    path = tmp_path / "b" / "sparse" / "0" / "cameras.txt"
    path.write_text(f"7 FOV {WIDTH} {HEIGHT} 1 1 1 1 1\n")
    with pytest.raises(DataError, match="line 1: camera model FOV.*Undistort"):
        read(tmp_path / "b")
    path.write_text(f"7 FULL_OPENCV {WIDTH} {HEIGHT} 45 45 20 15 0 0 0 0 0.5 0 0 0\n")
    with pytest.raises(DataError, match=r"k3\.\.k6"):
        read(tmp_path / "b")
    path.write_text(f"7 FULL_OPENCV {WIDTH} {HEIGHT} 45 45 20 15 0.1 0 0 0 0 0 0 0\n")
    assert read(tmp_path / "b").cameras["train"].is_distorted


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("7 PINHOLE 40 30 45 45 20\n", "3 parameters and must have 4"),
        ("7 PINHOLE 40\n", "must be CAMERA_ID MODEL"),
        ("7 PINHOLE 40 30 45 45 20 nan\n", "finite"),
        ("7 PINHOLE 40 30 -45 45 20 15\n", "positive"),
        ("8 PINHOLE 40 30 45 45 20 15\n", "has camera 7, which cameras.txt does not list"),
    ],
)
def test_bad_camera_lines_are_refused(tmp_path: Path, line: str, words: str) -> None:
    write_colmap(tmp_path, around(), binary=False)
    (tmp_path / "sparse" / "0" / "cameras.txt").write_text(line)
    with pytest.raises(DataError, match=words):
        read(tmp_path)


def test_bad_image_lines_are_refused(tmp_path: Path) -> None:
    write_colmap(tmp_path, around(), binary=False)
    path = tmp_path / "sparse" / "0" / "images.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:3] * 2))
    with pytest.raises(DataError, match=r"000\.png is listed more than once"):
        read(tmp_path)
    path.write_text("1 2 3\n\n")
    with pytest.raises(DataError, match="line 1: '1 2 3' must be IMAGE_ID"):
        read(tmp_path)
    path.write_text("1 0 0 0 0 0 0 0 7 000.png\n\n")
    with pytest.raises(DataError, match=r"pose of 000\.png.*unit quaternion"):
        read(tmp_path)
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="lists no image"):
        read(tmp_path)


def test_images_without_observations_and_names_with_spaces(tmp_path: Path) -> None:
    """The second line of an image may be empty: no point was matched in it."""
    write_colmap(tmp_path, around(), binary=False)
    path = tmp_path / "sparse" / "0" / "images.txt"
    lines = path.read_text().splitlines()
    lines[2] = ""
    lines[3] = lines[3].replace("001.png", "my photo.png")
    path.write_text("\n".join(lines))
    (tmp_path / "images" / "001.png").rename(tmp_path / "images" / "my photo.png")
    data = read(tmp_path)
    assert "my photo.png" in data.names["train"] + data.names["test"]
    assert sum(len(names) for names in data.names.values()) == 6


def test_points_without_tracks_and_models_without_points_are_read(tmp_path: Path) -> None:
    capture = around()
    nothing = [np.zeros(0, dtype=np.int64)] * 6
    write_colmap(tmp_path, Capture(capture.poses, capture.points, nothing))
    data = read(tmp_path)
    assert any("the cameras alone" in note for note in data.notes)
    (tmp_path / "sparse" / "0" / "points3D.bin").unlink()
    assert any("the cameras alone" in note for note in read(tmp_path).notes)


def test_missing_and_unlisted_pictures_are_counted(tmp_path: Path) -> None:
    write_colmap(tmp_path, around())
    (tmp_path / "images" / "002.png").unlink()
    write_pictures(tmp_path / "images", ["100.png", "101.png"])
    notes = read(tmp_path).notes
    assert any("1 of 6 frames" in note and "002.png" in note for note in notes)
    assert any("2 of 7 pictures in images/ are in no camera" in note for note in notes)
    for file in (tmp_path / "images").glob("00*.png"):
        file.unlink()
    with pytest.raises(DataError, match="none of its 6 images is in"):
        read(tmp_path)


def test_picture_of_another_size_is_refused(tmp_path: Path) -> None:
    write_colmap(tmp_path, around())
    Image.new("RGB", (WIDTH // 2, HEIGHT // 2)).save(tmp_path / "images" / "003.png")
    with pytest.raises(DataError, match=r"003\.png has 20 x 15 pixels; its camera has 40 x 30"):
        read(tmp_path)


def test_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    write_colmap(tmp_path / "a", around(), binary=False)
    path = tmp_path / "a" / "sparse" / "0" / "images.txt"
    path.write_text(path.read_text().replace("001.png", "../../001.png"))
    (tmp_path / "a" / "images" / "001.png").rename(tmp_path / "001.png")
    with pytest.raises(DataError, match="leaves the data folder"):
        read(tmp_path / "a")
    data = read(tmp_path / "a", allow_outside=True)
    assert sum(len(names) for names in data.names.values()) == 6


def test_largest_of_several_models_is_taken(tmp_path: Path) -> None:
    capture = around()
    write_colmap(tmp_path, Capture(capture.poses[:2], capture.points, capture.tracks[:2]))
    (tmp_path / "sparse" / "0").rename(tmp_path / "sparse" / "7")
    write_colmap(tmp_path, capture)
    data = read(tmp_path)
    assert sum(len(names) for names in data.names.values()) == 6
    assert any("2 models (pictures in each: 0: 6, 7: 2)" in note for note in data.notes)


def test_folder_of_smaller_copies_is_used(tmp_path: Path) -> None:
    write_colmap(tmp_path, around())
    write_pictures(tmp_path / "images_5", around().names, factor=5)
    data = read(tmp_path, downscale=5)
    assert any("pictures are those of images_5/" in note for note in data.notes)
    stored = np.asarray(Image.open(tmp_path / "images_5" / "000.png"))
    assert np.array_equal(data.require_images("test")[0].numpy(), stored)
    first = data.cameras["test"]
    for file in (tmp_path / "images").iterdir():
        file.unlink()
    (tmp_path / "images").rmdir()
    data = read(tmp_path)
    assert any("data.downscale counts from images_5/" in note for note in data.notes)
    assert torch.equal(data.cameras["test"].focal, first.focal)


def test_masks_of_colmap_and_nerfstudio_are_found(tmp_path: Path) -> None:
    write_colmap(tmp_path, around())
    (tmp_path / "masks").mkdir()
    values = np.full((HEIGHT, WIDTH), 255, np.uint8)
    values[:, :10] = 0
    Image.fromarray(values).save(tmp_path / "masks" / "000.png.png")
    Image.fromarray(values).save(tmp_path / "masks" / "001.png")
    data = read(tmp_path)
    mask = data.mask("test", 0)
    assert mask is not None
    assert mask.sum() == HEIGHT * (WIDTH - 10)
    assert any("2 of 6 pictures have a mask: 25.0% of their pixels" in n for n in data.notes)
    write_pictures(tmp_path / "images_5", around().names, factor=5)
    mask = read(tmp_path, downscale=5).mask("test", 0)
    assert mask is not None
    assert mask.shape == (6, 8)
    assert mask.sum() == 6 * 6


def test_bad_options_are_refused(tmp_path: Path) -> None:
    write_colmap(tmp_path, around())
    usual = {
        "path": str(tmp_path), "downscale": 1, "holdout": 8, "allow_outside": False,
        "frame": "auto", "aabb_scale": None, "scene_scale": None, "near": None,
        "masks": "exclude",
    }  # fmt: skip
    for key, value in (("aabb_scale", 3), ("scene_scale", -1.0), ("near", -0.5), ("holdout", 1)):
        with pytest.raises(ConfigError, match=rf"data\.{key}={value}"):
            read_colmap(**{**usual, key: value})
    with pytest.raises(ConfigError, match=r"data\.near has no effect with data\.frame=ndc"):
        read_colmap(**{**usual, "frame": "ndc", "near": 0.1})
    with pytest.raises(DataError, match="must be a folder that holds"):
        read_colmap(**{**usual, "path": str(tmp_path / "images")})

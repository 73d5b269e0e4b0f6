"""Photographs taken over, and the sharpest frames of a video."""

from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from nfields.capture.pictures import sharpness, take_frames, take_photographs
from nfields.errors import DataError

SIZE = (64, 48)


def texture(seed: int, blur: float = 0.0) -> np.ndarray:
    random = np.random.default_rng(seed)
    values = 255 * random.random((SIZE[1], SIZE[0], 3))
    return gaussian_filter(values, (blur, blur, 0)).astype(np.uint8)


def write_video(file: Path, frames: list[np.ndarray]) -> Path:
    writer = imageio_ffmpeg.write_frames(str(file), SIZE, fps=10, quality=9, macro_block_size=1)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return file


def test_blur_lowers_sharpness() -> None:
    values = [sharpness(texture(0, blur)) for blur in (0.0, 0.7, 1.5, 3.0)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 2 * values[1] > 0
    assert sharpness(np.zeros((2, 2, 3), np.uint8)) == 0.0


def test_sharpest_frame_of_each_stretch_is_taken(tmp_path: Path) -> None:
    sharp = {2, 7, 8, 14}  # 5 frames a stretch; of 7 and 8 the first is a little blurred
    frames = [texture(i, 0.0 if i in sharp else 2.5) for i in range(15)]
    frames[7] = texture(7, 0.6)
    folder = tmp_path / "frames"
    folder.mkdir()
    assert take_frames(write_video(tmp_path / "a.mp4", frames), folder, 3) == 3
    assert [file.name for file in sorted(folder.iterdir())] == [
        "frame_000002.jpg", "frame_000008.jpg", "frame_000014.jpg",
    ]  # fmt: skip
    with Image.open(folder / "frame_000008.jpg") as image:
        assert image.size == SIZE
        grey = np.asarray(image).mean(axis=2)  # colours are halved by H.264
    alike = [np.corrcoef(grey.ravel(), frame.mean(axis=2).ravel())[0, 1] for frame in frames]
    assert int(np.argmax(alike)) == 8
    assert alike[8] > 0.8


def test_more_frames_than_there_are_gives_all(tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    video = write_video(tmp_path / "a.mp4", [texture(i) for i in range(4)])
    assert take_frames(video, folder, 100) == 4


def test_video_without_frames_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.mp4"
    for content in (b"", b"no video"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"a\.mp4 has no frames \("):
            take_frames(file, tmp_path, 10)


def test_photographs_are_taken_over_and_turned(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "more").mkdir(parents=True)
    target.mkdir()
    Image.fromarray(texture(0)).save(source / "a.png")
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was held upright
    Image.fromarray(texture(1)).save(source / "more" / "b.jpg", exif=turned, quality=95)
    (source / "c.jpg").write_bytes(b"no picture")
    (source / "notes.txt").write_text("x")
    said: list[str] = []
    assert take_photographs(source, target, said.append) == 2
    assert (target / "a.png").read_bytes() == (source / "a.png").read_bytes()
    with Image.open(target / "more" / "b.jpg") as image:
        assert image.size == SIZE[::-1]
        assert image.getexif().get(0x0112, 1) == 1
    assert "1 of 3 files cannot be read" in said[0]
    assert take_photographs(source, target, said.append) == 2  # again, after an interruption


def test_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        take_photographs(tmp_path, tmp_path, print)

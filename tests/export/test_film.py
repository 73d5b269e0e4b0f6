import json
import os
import re
import signal
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nfields.errors import DataError
from nfields.export import encode as encoding
from nfields.export.film import even_size, render_video
from nfields.render.cameras import Cameras
from nfields.render.paths import make_path


def path(num_frames: int = 6, width: int = 33, height: int = 21) -> Cameras:
    cameras = Cameras(
        camera_to_world=torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3]]]),
        focal=torch.full((1, 2), 30.0),
        center=torch.tensor([[16.0, 12.0]]),
        distortion=torch.zeros(1, 4),
        sizes=torch.tensor([[32, 24]]),
    )
    return make_path("orbit", cameras, num_frames, width, height)


class Renderer:
    """A grey level per frame; notes which frames were asked for; may stop at one of them."""

    def __init__(self, cameras: Cameras, stop_at: int | None = None, number: int = signal.SIGINT):
        self.size, self.num_frames = cameras.size(0), len(cameras)
        self.stop_at, self.number = stop_at, number
        self.asked: list[int] = []

    def __call__(self, cameras: Cameras, view: int) -> dict[str, Tensor]:
        width, height = cameras.size(view)
        if (width, height) == self.size:
            self.asked.append(view)
            if view == self.stop_at:
                os.kill(os.getpid(), self.number)
        level = 0.2 + 0.6 * view / self.num_frames
        depth = torch.linspace(2, 4, height)[:, None].expand(height, width)
        return {
            "rgb": torch.tensor([level, 0.5, 1 - level]).expand(height, width, 3),
            "depth": depth,
            "opacity": torch.ones(height, width),
        }


def ffmpeg(*words: str) -> subprocess.CompletedProcess[bytes]:
    program = imageio_ffmpeg.get_ffmpeg_exe()
    return subprocess.run([program, *words], capture_output=True, check=False)


def stream_of(file: Path) -> str:
    said = ffmpeg("-i", str(file)).stderr.decode()
    return next(line for line in said.splitlines() if "Video:" in line)


def frames_of(file: Path) -> np.ndarray:
    found = re.search(r", (\d+)x(\d+)", stream_of(file))
    assert found is not None
    raw = ffmpeg("-i", str(file), "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, int(found[2]), int(found[1]), 3)


def test_video_has_all_frames_in_their_colours(tmp_path):
    cameras = path()
    made = render_video(Renderer(cameras), cameras, tmp_path / "v" / "orbit.mp4", fps=30)
    shown = frames_of(made.file).astype(float)
    assert shown.shape == (6, 22, 34, 3)  # 33 x 21 is odd: the last row and column are doubled
    level = 0.2 + 0.6 * np.arange(6) / 6
    expected = 255 * np.stack([level, np.full(6, 0.5), 1 - level], axis=1)
    np.testing.assert_allclose(shown.mean((1, 2)), expected, atol=3)
    assert made.num_rendered == 6 and made.signal_number is None


def test_video_plays_everywhere_and_names_its_colours(tmp_path):
    """H.264, yuv420p, the index in front (browsers start at once), BT.709 said and not guessed."""
    cameras = path()
    file = render_video(Renderer(cameras), cameras, tmp_path / "a.mp4", fps=24).file
    stream = stream_of(file)
    assert "h264" in stream and "yuv420p(tv, bt709" in stream and "24 fps" in stream
    content = file.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


def test_finished_frames_are_used_again(tmp_path):
    cameras, file = path(), tmp_path / "a.mp4"
    render_video(Renderer(cameras), cameras, file, fps=30)
    (tmp_path / "a_frames" / "00003.png").unlink()
    again = Renderer(cameras)
    assert render_video(again, cameras, file, fps=30).num_rendered == 6
    assert again.asked == [2]
    assert len(frames_of(file)) == 6


@pytest.mark.parametrize("change", ["weights", "size", "channels", "path"])
def test_frames_of_another_video_are_made_again(tmp_path, change):
    cameras, file = path(), tmp_path / "a.mp4"
    render_video(Renderer(cameras), cameras, file, fps=30, identity={"step": 1})
    new = {"size": path(width=40), "path": path(num_frames=5)}.get(change, cameras)
    renderer = Renderer(new)
    channels = ("rgb", "opacity") if change == "channels" else ("rgb",)
    step = 2 if change == "weights" else 1
    render_video(renderer, new, file, fps=30, channels=channels, identity={"step": step})
    assert renderer.asked == list(range(len(new)))
    assert len(frames_of(file)) == len(new)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_video_plays_and_goes_on(tmp_path, number):
    cameras, file = path(), tmp_path / "a.mp4"
    before = signal.getsignal(number)
    made = render_video(Renderer(cameras, stop_at=2, number=number), cameras, file, fps=30)
    assert made.signal_number == number and signal.getsignal(number) == before
    assert made.num_rendered == 3 and len(frames_of(file)) == 3
    assert "stopped after 3 of 6 frames" in made.describe()
    rest = Renderer(cameras)
    assert render_video(rest, cameras, file, fps=30).num_rendered == 6
    assert rest.asked == [3, 4, 5] and len(frames_of(file)) == 6


def test_error_in_a_frame_keeps_those_before(tmp_path):
    cameras = path()

    def fails(cameras: Cameras, view: int) -> dict[str, Tensor]:
        if view == 3:
            raise RuntimeError("out of memory")
        return good(cameras, view)

    good = Renderer(cameras)
    with pytest.raises(RuntimeError, match="out of memory"):
        render_video(fails, cameras, tmp_path / "a.mp4", fps=30)
    rest = Renderer(cameras)
    render_video(rest, cameras, tmp_path / "a.mp4", fps=30)
    assert rest.asked == [3, 4, 5]


def test_damaged_manifest_starts_anew_and_leaves_other_files_alone(tmp_path):
    cameras = path()
    frames = tmp_path / "a_frames"
    render_video(Renderer(cameras), cameras, tmp_path / "a.mp4", fps=30)
    (frames / "manifest.json").write_text('{"identity"')
    (frames / "notes.txt").write_text("mine")
    again = Renderer(cameras)
    render_video(again, cameras, tmp_path / "a.mp4", fps=30)
    assert again.asked == list(range(6)) and (frames / "notes.txt").exists()


def test_channels_stand_side_by_side(tmp_path):
    cameras = path(3, 32, 20)
    channels = ("rgb", "depth", "opacity", "normal")
    made = render_video(Renderer(cameras), cameras, tmp_path / "a.mp4", fps=30, channels=channels)
    with Image.open(made.frames / "00001.png") as opened:
        frame = np.asarray(opened).astype(int)
    assert frame.shape == (20, 4 * 32, 3)
    near, far = frame[1, 40], frame[-2, 40]
    assert near[0] > near[2] and far[2] > far[0]  # red near, blue far
    assert (frame[:, 64:96] == 255).all()
    assert frame[10, 110, 2] > 128  # what is seen faces the camera


def test_depth_has_one_range_for_the_whole_video(tmp_path):
    cameras = path(4, 32, 20)
    made = render_video(Renderer(cameras), cameras, tmp_path / "a.mp4", fps=30, channels=("depth",))
    stored = json.loads((made.frames / "manifest.json").read_text())["measured_depth_bounds"]
    assert 1.8 < stored[0] < 2.2 and 3.8 < stored[1] < 4.2
    pictures = [np.asarray(Image.open(file)) for file in sorted(made.frames.glob("*.png"))]
    assert all((picture == pictures[0]).all() for picture in pictures)


def test_gif_has_all_frames(tmp_path):
    cameras = path()
    made = render_video(Renderer(cameras), cameras, tmp_path / "a.gif", fps=20)
    with Image.open(made.file) as gif:
        assert getattr(gif, "n_frames", 1) == 6 and gif.info["duration"] == 50


def test_without_ffmpeg_the_video_becomes_a_gif(tmp_path, monkeypatch):
    def missing() -> str:
        raise RuntimeError("No ffmpeg exe could be found")

    monkeypatch.setattr(encoding.imageio_ffmpeg, "get_ffmpeg_exe", missing)
    cameras = path(2)
    made = render_video(Renderer(cameras), cameras, tmp_path / "a.mp4", fps=30)
    assert made.file == tmp_path / "a.gif" and made.file.exists()


def test_failed_encoding_keeps_frames_and_the_old_video(tmp_path):
    cameras, file = path(), tmp_path / "a.mp4"
    render_video(Renderer(cameras), cameras, file, fps=30)
    before = file.read_bytes()
    (tmp_path / "a_frames" / "00001.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cannot be encoded: .*; its frames are kept in"):
        render_video(Renderer(cameras), cameras, file, fps=30)
    assert file.read_bytes() == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a.mp4", "a_frames"]


def test_percent_signs_and_spaces_in_folders_do_no_harm(tmp_path):
    cameras = path(2)
    made = render_video(Renderer(cameras), cameras, tmp_path / "50%d of it" / "a.mp4", fps=30)
    assert len(frames_of(made.file)) == 2


def test_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    cameras = path(2)
    with pytest.raises(DataError, match=r"taken.* cannot be written: .*out=<file.mp4>"):
        render_video(Renderer(cameras), cameras, tmp_path / "taken" / "a.mp4", fps=30)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4)])
def test_odd_sizes_become_even_by_doubling_the_border(size):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    even = even_size(picture)
    assert even.shape[0] % 2 == 0 and even.shape[1] % 2 == 0
    np.testing.assert_array_equal(even[: size[0], : size[1]], picture)
    np.testing.assert_array_equal(even[-1, -1], picture[-1, -1])

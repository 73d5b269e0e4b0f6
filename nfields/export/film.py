"""Rendering a video frame by frame, so that nothing is lost and nothing is done twice.

Frames are written one by one as NAME_frames/00001.png ... and survive whatever stops the rendering;
the same call skips those that are there. The video is assembled from them at the end, or when the
rendering is stopped (Ctrl-C, SIGTERM), and replaces an older one in one go: it always plays.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from rich.console import Console
from torch import Tensor

from nfields.errors import DataError
from nfields.export.encode import encode
from nfields.export.picture import depth_colors, depth_range, save_png, to_array, to_uint8
from nfields.interrupt import Interrupt
from nfields.render.cameras import Cameras
from nfields.render.normal import normals_from_depth
from nfields.run_folder import write_json

Channel = Literal["rgb", "depth", "opacity", "normal"]
Render = Callable[[Cameras, int], dict[str, Tensor]]
"""Renders one view: rgb (h, w, 3) in [0, 1], depth (h, w) along the ray, opacity (h, w), perhaps
world-space normals (h, w, 3).
"""

_PROBE_FRAMES, _PROBE_WIDTH = 5, 64  # the small pictures on which the range of depths is measured
_SECONDS_PER_LINE = 10.0  # of progress where there is no terminal


@dataclass(frozen=True)
class Video:
    """A rendered video: its file, the folder of its frames, and what stopped it, if anything
    did."""

    file: Path
    frames: Path
    num_frames: int
    num_rendered: int  # of them there are, from the first on
    signal_number: int | None

    def describe(self) -> str:
        """What there is of a stopped video, and how to go on."""
        kept = f"the video so far is {self.file}" if self.num_rendered else "there is no video yet"
        return (
            f"stopped after {self.num_rendered} of {self.num_frames} frames; {kept}; "
            "the same command goes on from here"
        )


def render_video(
    render: Render,
    cameras: Cameras,
    file: Path,
    *,
    fps: int | float,
    channels: Sequence[Channel] = ("rgb",),
    depth_bounds: tuple[float, float] | None = None,
    identity: dict[str, Any] | None = None,
) -> Video:
    """Renders every camera to frames beside the file, and the file from the frames.

    `identity` (json) says what is rendered: frames of an earlier call are used again if it, the
    cameras and the channels are the same, and made again otherwise. Without ffmpeg the file becomes
    a .gif.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    frames = file.with_name(f"{file.stem}_frames")
    wanted = {
        "identity": identity or {},
        "cameras": hashlib.sha256(json.dumps(cameras.to_dict()).encode()).hexdigest(),
        "channels": list(channels),
        "depth_bounds": depth_bounds,
    }
    found = prepare_frames(frames, wanted)
    if depth_bounds is None and "depth" in channels:
        stored = found.get("measured_depth_bounds")
        depth_bounds = (stored[0], stored[1]) if stored else probe_depth(render, cameras)
    bounds = depth_bounds or (0.0, 1.0)
    _write_manifest(frames / "manifest.json", {**wanted, "measured_depth_bounds": bounds})
    num_frames = len(cameras)
    todo = [i for i in range(num_frames) if not frame_file(frames, i).exists()]
    if len(todo) < num_frames:
        console.print(f"{num_frames - len(todo)} of {num_frames} frames are there already")
    start = shown = time.perf_counter()
    with Interrupt(lambda _: console.print("\nstopping after this frame")) as stop:
        for done, i in enumerate(todo):
            if stop.signal_number is not None:
                break
            pictures = draw(render(cameras, i), cameras, i, channels, bounds)
            save_png(frame_file(frames, i), even_size(np.concatenate(pictures, axis=1)))
            now = time.perf_counter()
            if console.is_terminal or now - shown > _SECONDS_PER_LINE or done + 1 == len(todo):
                shown, each = now, (now - start) / (done + 1)
                left = each * (len(todo) - done - 1)
                line = f"frame {i + 1}/{num_frames}  {each:.2f} s a frame  {left:.0f} s left"
                console.print(line, end="   \r" if console.is_terminal else "\n")
    if console.is_terminal:
        console.print()
    ready = [frame_file(frames, i).exists() for i in range(num_frames)]
    num_ready = ready.index(False) if False in ready else num_frames
    if num_ready:
        file = encode(frames, num_ready, file, fps, console.print)
    return Video(file, frames, num_frames, num_ready, stop.signal_number)


def frame_file(frames: Path, i: int) -> Path:
    """The file of frame i; the names count from 1, as video programs do."""
    return frames / f"{i + 1:05d}.png"


def prepare_frames(frames: Path, wanted: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the frames that are there; without those, if they are of another video."""
    manifest = frames / "manifest.json"
    try:
        found = json.loads(manifest.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = {}
    if isinstance(found, dict) and {key: found.get(key) for key in wanted} == json.loads(
        json.dumps(wanted)
    ):
        return found
    for old in frames.glob("[0-9][0-9][0-9][0-9][0-9].png"):
        old.unlink()
    return {}


def probe_depth(render: Render, cameras: Cameras) -> tuple[float, float]:
    """The range of depths along the path, from a few small pictures: one range, so no flicker."""
    index = torch.linspace(0, len(cameras) - 1, min(_PROBE_FRAMES, len(cameras))).round().long()
    width, height = cameras.size(0)
    factor = min(1.0, _PROBE_WIDTH / width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    few = cameras[index.to(cameras.sizes.device)].resized(*size)
    seen = [render(few, i) for i in range(len(few))]
    depth = np.concatenate([to_array(view["depth"]).ravel() for view in seen])[:, None]
    opacity = np.concatenate([to_array(view["opacity"]).ravel() for view in seen])[:, None]
    near, far = depth_range(depth, opacity)
    margin = 0.05 * (far - near)
    return max(0.0, near - margin), far + margin


def draw(
    view: dict[str, Tensor],
    cameras: Cameras,
    i: int,
    channels: Sequence[Channel],
    bounds: tuple[float, float],
) -> list[UInt8[np.ndarray, "h w 3"]]:
    """The pictures of a rendered view, one a channel; depth and normals are black where nothing is.

    Normals are in the camera's axes: x to red, y to green, z (towards the viewer) to blue.
    """
    pictures = []
    opacity = to_array(view["opacity"]).astype(np.float32)
    for channel in channels:
        if channel == "rgb":
            pictures.append(to_uint8(view["rgb"]))
        elif channel == "opacity":
            pictures.append(np.repeat(to_uint8(opacity)[:, :, None], 3, axis=2))
        elif channel == "depth":
            depth = to_array(view["depth"]).astype(np.float32)
            rgba = depth_colors(depth, opacity, *bounds)
            pictures.append(to_uint8(rgba[:, :, :3] / 255.0 * (rgba[:, :, 3:] / 255.0)))
        else:
            if "normals" in view:
                normals = view["normals"] @ cameras.camera_to_world[i, :, :3]
            else:
                normals = normals_from_depth(cameras, i, view["depth"])
            pictures.append(to_uint8((to_array(normals) * 0.5 + 0.5) * opacity[:, :, None]))
    return pictures


def even_size(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "even_h even_w 3"]:
    """The picture with its last row and column doubled where odd: video codecs need even sizes."""
    height, width, _ = picture.shape
    return np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _write_manifest(file: Path, manifest: dict[str, Any]) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, manifest)
    except OSError as error:
        raise DataError(
            f"{file} cannot be written: {error.strerror}; make room, or give another place with "
            "out=<file.mp4>"
        ) from error

"""The export what=video: a stored run seen along a camera path, without a screen."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nfields.checkpoint import checkpoint_in_use
from nfields.errors import ConfigError
from nfields.export.export import Export, ExportInterrupted, RendersViews, say, surface_of
from nfields.export.film import Channel, render_video
from nfields.export.surface_studio import SurfaceStudio
from nfields.render.cameras import Cameras
from nfields.render.path_file import pinhole_cameras, read_path
from nfields.render.paths import PATHS, make_path, picture_size, strays
from nfields.render.turntable import Up
from nfields.stored_run import StoredRun

NUM_FRAMES = 120  # of paths that take no time of their own


class VideoExport(Export):
    """what=video; every option is explained in video.yaml."""

    def __init__(
        self,
        *,
        path: str,
        num_frames: int | None,
        fps: int | float,
        width: int | None,
        height: int | None,
        channels: Sequence[Channel],
        split: str,
        background: Literal["white", "black"] | None,
        up: Up | None,
        elevation: float | int | None,
        antialias: int | None,
        depth_range: Sequence[int | float] | None,
        out: str | None,
    ):
        self.is_file = path.endswith(".json")
        if not self.is_file and path not in PATHS:
            raise ConfigError(
                f"path={path}: choose {', '.join(PATHS)}, or a file of keyframes (.json)"
            )
        positive = {"num_frames": num_frames, "fps": fps, "width": width, "height": height}
        for key, value in positive.items():
            if value is not None and value <= 0:
                raise ConfigError(f"{key}={value} must be more than 0")
        if antialias is not None and antialias < 1:
            raise ConfigError(f"antialias={antialias} must be 1 or more")
        if elevation is not None and not -75 <= elevation <= 75:
            raise ConfigError(f"elevation={elevation} must lie within -75 and 75 degrees")
        if not channels:
            raise ConfigError("channels is empty; give one or more of rgb, depth, opacity, normal")
        if depth_range is not None and not (
            len(depth_range) == 2 and 0 <= depth_range[0] < depth_range[1]
        ):
            raise ConfigError(f"depth_range={list(depth_range)} must be [nearest, farthest]")
        if out is not None and Path(out).suffix.lower() not in (".mp4", ".gif"):
            raise ConfigError(f"out={out} must end in .mp4 or .gif")
        self.path, self.num_frames, self.fps = path, num_frames, float(fps)
        self.width, self.height = width, height
        self.channels: list[Channel] = list(channels)
        self.split, self.out = split, out
        self.background: Literal["white", "black"] | None = background
        self.up: Up | None = up
        self.elevation, self.antialias = elevation, antialias
        self.depth_range = None if depth_range is None else (depth_range[0], depth_range[1])

    def export(self, run: StoredRun) -> list[Path]:
        """Renders the path and returns the video and the folder of its frames."""
        task = run.task
        run.task.eval()
        run.model.eval()
        if isinstance(task, RendersViews):
            path = self._path_of_views(run)
            chosen = {"up": self.up, "elevation": self.elevation, "antialias": self.antialias}
            given = [key for key, value in chosen.items() if value is not None]
            if given:
                raise ConfigError(
                    f"{', '.join(given)}: only for surfaces, such as those of task=sdf"
                )

            def render(cameras: Cameras, view: int) -> dict[str, Tensor]:
                with torch.inference_mode():
                    return task.render_view(run.model, cameras, view, background=self.background)

        else:
            surface = surface_of(run, "video")
            if self.path != "orbit":
                raise ConfigError(
                    f"path={self.path} goes through photographs, and there are none; use path=orbit"
                )
            studio = SurfaceStudio(surface, up=self.up or "y")
            for note in studio.notes:
                say(note)
            path = studio.turntable(
                self.num_frames or NUM_FRAMES, self.width, self.height,
                elevation_deg=15 if self.elevation is None else self.elevation,
            )  # fmt: skip

            def render(cameras: Cameras, view: int) -> dict[str, Tensor]:
                antialias = 2 if self.antialias is None else self.antialias
                return studio.render(cameras, view, self.background or "white", antialias)

        default = run.folder.path / "video" / f"{Path(self.path).stem}.mp4"
        file = default if self.out is None else Path(self.out)
        identity = {
            "step": run.step,
            "weights": fingerprint(run.folder.checkpoint),
            "background": self.background,
            "antialias": self.antialias,
        }
        made = render_video(
            render,
            path,
            file,
            fps=self.fps,
            channels=self.channels,
            depth_bounds=self.depth_range,
            identity=identity,
        )
        if made.signal_number is not None:
            raise ExportInterrupted(made.signal_number, made.describe())
        return [made.file, made.frames]

    def _path_of_views(self, run: StoredRun) -> Cameras:
        """The path through the photographs' cameras, on the run's device."""
        cameras: dict[str, Cameras] = run.data.cameras
        if self.split not in cameras or len(cameras[self.split]) == 0:
            there = ", ".join(name for name in cameras if len(cameras[name])) or "none"
            raise ConfigError(f"split={self.split} has no cameras; splits with cameras: {there}")
        if self.is_file:
            path = self._path_of_file(run, cameras[self.split])
        else:
            num_frames = self.num_frames or NUM_FRAMES
            try:
                path = make_path(
                    self.path, cameras[self.split], num_frames, self.width, self.height
                )
            except ValueError as error:
                raise ConfigError(str(error)) from error
        if strays(path, cameras[self.split]):
            say(
                f"note: path={self.path} goes far from all photographs, where the scene is a "
                "guess; path=interpolate stays with them"
            )
        return path.to(run.device)

    def _path_of_file(self, run: StoredRun, cameras: Cameras) -> Cameras:
        """The path of a file of keyframes, in pictures of the size of the first photograph."""
        path = read_path(Path(self.path))
        num_frames = self.num_frames or max(1, round(path.seconds * self.fps))
        poses, fov_deg = path.at(path.frame_times(num_frames))
        size = picture_size(cameras.size(0), self.width, self.height)
        found = pinhole_cameras(run.data.transform.poses_to_ours(poses), fov_deg, *size)
        return replace(found, homography=cameras.homography)


def fingerprint(checkpoint: Path) -> str:
    """A hash of the weights that are shown: equal exactly if nothing was trained in between."""
    found = hashlib.sha256()
    for name in ("weights.safetensors", "ema.safetensors"):
        file = checkpoint_in_use(checkpoint) / name
        if file.exists():
            found.update(file.read_bytes())
    return found.hexdigest()

"""The export what=still: one picture of a surface, without extracting a mesh."""

from pathlib import Path
from typing import Literal

import numpy as np

from nfields.errors import ConfigError
from nfields.export.export import Export, say, surface_of
from nfields.export.film import draw
from nfields.export.picture import depth_range, save_png
from nfields.export.surface_studio import SurfaceStudio, transparent
from nfields.render.turntable import Up
from nfields.stored_run import StoredRun


class StillExport(Export):
    """what=still; every option is explained in still.yaml."""

    def __init__(
        self,
        *,
        mode: Literal["shaded", "normal", "depth"],
        width: int | None,
        height: int | None,
        up: Up,
        azimuth: float | int,
        elevation: float | int,
        antialias: int,
        background: Literal["white", "black", "transparent"],
        out: str | None,
    ):
        for key, value in {"width": width, "height": height, "antialias": antialias}.items():
            if value is not None and value < 1:
                raise ConfigError(f"{key}={value} must be at least 1")
        if not -75 <= elevation <= 75:
            raise ConfigError(f"elevation={elevation} must lie within -75 and 75 degrees")
        if out is not None and Path(out).suffix.lower() != ".png":
            raise ConfigError(f"out={out} must end in .png")
        if mode != "shaded" and background == "transparent":
            raise ConfigError(f"background=transparent is for mode=shaded, not mode={mode}")
        self.mode: Literal["shaded", "normal", "depth"] = mode
        self.width, self.height = width, height
        self.up: Up = up
        self.azimuth, self.elevation, self.antialias = azimuth, elevation, antialias
        self.background: Literal["white", "black", "transparent"] = background
        self.out = out

    def export(self, run: StoredRun) -> list[Path]:
        """Renders the picture and returns its file."""
        surface = surface_of(run, "still")
        file = (
            run.folder.path / "still" / f"{self.mode}.png" if self.out is None else Path(self.out)
        )
        studio = SurfaceStudio(surface, up=self.up)
        for note in studio.notes:
            say(note)
        cameras = studio.turntable(
            1, self.width, self.height, elevation_deg=self.elevation, azimuth_deg=self.azimuth
        )
        if self.background == "transparent":
            save_png(file, transparent(studio.look(cameras, 0, self.antialias)))
            return [file]
        view = studio.render(cameras, 0, self.background, self.antialias)
        channel: Literal["rgb", "normal", "depth"] = "rgb" if self.mode == "shaded" else self.mode
        depth = view["depth"].numpy().astype(np.float32)
        bounds = depth_range(depth, view["opacity"].numpy())
        save_png(file, draw(view, cameras, 0, [channel], bounds)[0])
        return [file]

"""Pictures of a surface as exports and evaluations take them: sRGB, over a background, labelled."""

from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nfields.data.transfer_curve import srgb_from_linear
from nfields.export.color_map import colorize
from nfields.export.picture import labelled, save_png, to_uint8
from nfields.export.section import save_sections
from nfields.render.cameras import Cameras, view_rays
from nfields.render.photograph import Photograph, photograph
from nfields.render.surface import Surface
from nfields.render.surface_bound import bound_surface
from nfields.render.turntable import Up, turntable

Background = Literal["white", "black"]
GRID_CELLS = 128  # along the longest side; finer costs more to set up than it saves
_FIELD_OF_VIEW_DEG, _MARGIN, _SIZE = 30, 0.06, 512


class SurfaceStudio:
    """A surface under the studio's light; what is known of where it is serves every picture."""

    def __init__(self, surface: Surface, *, up: Up):
        self.surface = surface
        self.up: Up = up
        self.bound = bound_surface(surface, GRID_CELLS)

    @property
    def notes(self) -> list[str]:
        """What the pictures leave out, in sentences."""
        num = self.bound.num_strays
        parts = f"{num:,} part{'s' * (num != 1)} of the surface away from all others"
        keep = "scripts/export.py what=mesh min_component=0 has all parts"
        return [f"stray: {parts} left out of pictures; {keep}"] if num else []

    def turntable(
        self,
        num_frames: int,
        width: int | None,
        height: int | None,
        *,
        elevation_deg: float | int,
        azimuth_deg: float | int = 30,
    ) -> Cameras:
        """Cameras around the surface; square where one side is given, 512 x 512 without any."""
        width, height = width or height or _SIZE, height or width or _SIZE
        points = self.bound.near
        if len(points) == 0:  # nothing to frame: show the box, empty
            points = self.surface.bounds.cpu().float()
        return turntable(
            points, num_frames, width=width, height=height, up=self.up, azimuth_deg=azimuth_deg,
            elevation_deg=elevation_deg, fov_deg=_FIELD_OF_VIEW_DEG, margin=_MARGIN,
        )  # fmt: skip

    def render(
        self, cameras: Cameras, view: int, background: Background, antialias: int
    ) -> dict[str, Tensor]:
        """A view as `RendersViews.render_view` has it, with normals."""
        seen = self.look(cameras, view, antialias)
        behind = 1.0 if background == "white" else 0.0
        light = seen.light + behind * (1 - seen.opacity[:, :, None])
        return {
            "rgb": torch.from_numpy(srgb_from_linear(light.numpy())).clamp(0, 1),
            "depth": seen.depth,
            "opacity": seen.opacity,
            "normals": seen.normals,
        }

    def look(self, cameras: Cameras, view: int, antialias: int) -> Photograph:
        """A view in linear light, without a background."""
        return photograph(self.surface, self.bound, cameras, view, antialias=antialias)


def transparent(seen: Photograph) -> Float[np.ndarray, "h w 4"]:
    """sRGB with straight alpha."""
    opacity = seen.opacity[:, :, None].numpy()
    straight = seen.light.numpy() / np.maximum(opacity, 1e-6)
    return np.concatenate([np.clip(srgb_from_linear(straight), 0, 1), opacity], axis=2)


def write_surface_pictures(
    surface: Surface, truth: Surface | None, folder: Path, *, up: Up = "y", size: int = 512
) -> tuple[list[Path], list[str]]:
    """Writes shaded.png, error.png and sections.png of a surface; returns them and notes.

    With the truth, whose `distance` must be one, error.png is the distance of the surface from the
    truth in the user's units, and the sections show its outline too. Without it there is no
    error.png. The truth is asked where the surface is seen and on the planes of the sections, but
    not rendered: that would ask it a million times, minutes for a mesh.
    """
    studio = SurfaceStudio(surface, up=up)
    cameras = studio.turntable(1, size, size, elevation_deg=15)
    view = studio.render(cameras, 0, "white", 2)
    files = [folder / "shaded.png", folder / "sections.png"]
    save_png(files[0], to_uint8(view["rgb"]))
    if truth is not None:
        files.insert(1, folder / "error.png")
        save_png(files[1], error_picture(studio, truth, cameras))
    save_sections(surface, truth, files[-1], spacing=None, size=size)
    return files, studio.notes


def error_picture(studio: SurfaceStudio, truth: Surface, cameras: Cameras) -> np.ndarray:
    """View 0 with the distance to the truth as its colour, and the scale of colours under it.

    The scale, in the user's units, ends at four times the median: stray pieces, however far, do not
    make the rest black.
    """
    seen = studio.look(cameras, 0, 1)
    width, height = cameras.size(0)
    is_hit = seen.depth.isfinite().numpy()
    error = surface_errors(seen, truth, cameras)
    top = max(4 * float(np.median(error)) if len(error) else 1.0, 1e-12)
    # The colours keep a hint of the shading, so that the shape stays readable.
    luminance = seen.light.mean(dim=2).numpy()[is_hit]
    shade = np.clip(0.55 + 0.9 * luminance, 0, 1)[:, None]
    colors = np.full((height, width, 3), 255, np.uint8)
    colors[is_hit] = np.rint(colorize(error / top, "magma") * shade).astype(np.uint8)
    mean = float(error.mean()) if len(error) else 0.0
    text = f"distance to the truth, mean {mean:.3g}; black 0 to bright {top:.3g} and more"
    bar = colorize(np.linspace(0, 1, width)[None].repeat(max(6, height // 40), axis=0), "magma")
    return labelled(np.concatenate([colors, bar]), text)


def surface_errors(
    seen: Photograph, truth: Surface, cameras: Cameras
) -> Float[np.ndarray, " hits"]:
    """The distance from the truth of what each pixel of view 0 shows, in the user's units."""
    depth = seen.depth.view(-1, 1)
    origins, directions = view_rays(cameras, 0)
    points = (origins + depth * directions)[depth[:, 0].isfinite()]
    scale = float(truth.to_user[:3, 0].norm())
    return truth.values(points).abs().numpy() * scale

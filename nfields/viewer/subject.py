"""What is looked at: a task and its model, as layers, within a crop box.

color, depth, normal, opacity   the field as videos show it (nfields/export/film.py)
occupancy                       the first occupied cell of every ray, lit from the camera: where the
                                field is evaluated at all
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nfields.errors import ConfigError
from nfields.export.export import HasSurface, RendersViews
from nfields.export.film import Channel, Render, draw
from nfields.export.picture import depth_range, to_array, to_uint8
from nfields.export.surface_studio import SurfaceStudio
from nfields.model.field import Field
from nfields.ops.march import Samples
from nfields.render.cameras import Cameras, view_rays
from nfields.render.normal import normals_from_depth
from nfields.render.occupancy import OccupancyGrid
from nfields.task.task import Task
from nfields.viewer.engine import Look, look_of

Layer = Literal["color", "depth", "normal", "opacity", "occupancy"]
LAYERS: tuple[Layer, ...] = get_args(Layer)
_CHANNELS: dict[str, Channel] = {
    "color": "rgb", "depth": "depth", "normal": "normal", "opacity": "opacity"
}  # fmt: skip
_CELL_COLOR = np.array([0.35, 0.55, 0.95])


@runtime_checkable
class HasOccupancy(Protocol):
    """What a task offers that looks into occupied cells only."""

    grid: OccupancyGrid

    def march(
        self, origins: Tensor, directions: Tensor, jitter: Tensor
    ) -> tuple[Samples, Float[Tensor, "samples 3"]]:
        """Samples of rays in occupied cells, and where they are."""
        ...


class Subject:
    """A field to look at; ConfigError for a task that has nothing to see in space."""

    def __init__(self, task: Task, model: Field, background: Literal["white", "black"]):
        self._task, self._model = task, model
        self._background: Literal["white", "black"] = background
        self._bounds: tuple[float, float] | None = None
        cameras = next(iter(getattr(task.data, "cameras", {}).values()), None)
        self._homography = None if cameras is None else cameras.homography
        self.has_occupancy = isinstance(task, HasOccupancy)
        # The cells of contracted space are no boxes of the scene.
        self.can_crop = self.has_occupancy and not getattr(task, "is_contracted", False)
        self._render = self._renderer()

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers there are."""
        return LAYERS if self.has_occupancy else LAYERS[:-1]

    def _renderer(self) -> Render:
        task, model = self._task, self._model
        if isinstance(task, RendersViews):

            def render(cameras: Cameras, view: int) -> dict[str, Tensor]:
                return task.render_view(model, cameras, view, background=self._background)

            return render
        if isinstance(task, HasSurface):
            studio = SurfaceStudio(task.surface(model), up="y")
            return lambda cameras, view: studio.render(cameras, view, self._background, 1)
        raise ConfigError(
            "a live view needs a task with cameras, such as task=nerf, or with a surface, such as "
            "task=sdf"
        )

    @torch.inference_mode()
    def draw(self, cameras: Cameras, layer: Layer, crop: Float[np.ndarray, "2 3"] | None) -> Look:
        """One view's layer; with a crop box, lowest and highest corner, of what lies inside."""
        cameras = replace(cameras, homography=self._homography)
        with self._cropped(crop):
            if layer == "occupancy":
                return self._occupancy(cameras)
            view = self._render(cameras, 0)
        bounds = (0.0, 1.0)
        if layer == "depth":
            bounds = self._depth_bounds(view)
        (picture,) = draw(view, cameras, 0, [_CHANNELS[layer]], bounds)
        return look_of(view, picture)

    def _depth_bounds(self, view: dict[str, Tensor]) -> tuple[float, float]:
        """The range of depths of the first picture; it holds, so that colours do not flicker."""
        if self._bounds is None:
            depth, opacity = to_array(view["depth"]), to_array(view["opacity"])
            if not np.isfinite(depth).any():
                return 0.0, 1.0
            near, far = depth_range(depth, opacity)
            self._bounds = max(0.0, near - 0.2 * (far - near)), far + 0.2 * (far - near) + 1e-3
        return self._bounds

    def _occupancy(self, cameras: Cameras) -> Look:
        task = self._task
        assert isinstance(task, HasOccupancy)
        device = task.grid.bits.device
        origins, directions = (rays.to(device) for rays in view_rays(cameras, 0))
        half = torch.full((len(origins),), 0.5, device=device)
        samples, _ = task.march(origins, directions, half)
        hit = samples.offsets.diff() > 0
        depth = torch.full((len(origins),), torch.inf, device=device)
        depth[hit] = samples.t_starts[samples.offsets[:-1][hit]]
        depth = depth.cpu()
        width, height = cameras.size(0)
        depth = depth.view(height, width)
        facing = normals_from_depth(cameras, 0, depth)[..., 2].clamp(0, 1)
        light = (0.35 + 0.65 * facing)[..., None].numpy() * _CELL_COLOR
        behind = 1.0 if self._background == "white" else 0.0
        rgb = np.where(depth.isfinite()[..., None].numpy(), light, behind)
        return Look(to_uint8(rgb), depth.numpy())

    @contextmanager
    def _cropped(self, crop: Float[np.ndarray, "2 3"] | None) -> Iterator[None]:
        """Empties the cells outside of the box for a moment."""
        task = self._task
        if crop is None or not isinstance(task, HasOccupancy):
            yield
            return
        bits = task.grid.bits
        try:
            task.grid.bits = task.grid.bits_within(torch.from_numpy(crop).float())
            yield
        finally:
            task.grid.bits = bits

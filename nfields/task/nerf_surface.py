"""The surface of a radiance field: where its density has a certain value, and its colours there.

The function is log(level) - log(density): positive outside, and far smoother than the density,
which changes by orders of magnitude across a surface. Cells that the occupancy grid holds to be
empty are outside: rays skip them, so nothing trained the field there. Nor did anything train what
lies behind the surface in all views: the inside of things is foam, which `Surface.solid` fills.
"""

import math
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nfields.data.posed_images import PosedImages, SceneTransform
from nfields.errors import ConfigError, DataError
from nfields.model.field import Field
from nfields.ops.march import Samples
from nfields.render.cameras import Cameras, rays
from nfields.render.density_level import choose_level
from nfields.render.hidden import DepthViews
from nfields.render.surface import Surface
from nfields.render.tour import spread_out
from nfields.task.nerf_steps import Steps

_NUM_RAYS = 1 << 14  # on which the level is chosen
_FARTHEST = 10.0  # the function is held within this: a factor of 20,000 in density
_CHUNK = 1 << 17
# Length of the mean direction to the cameras: 0 all around, 0.5 of a half sphere, 1 from one place.
_ONE_SIDED = 0.75
_MAX_VIEWS, _VIEW_SIZE = (
    48,
    256,
)  # that say what is hidden: so many, and pixels of their longer side


@runtime_checkable
class RadianceField(Protocol):
    """What a task has to offer for its surface; frames and units are those of the scene."""

    data: PosedImages
    field_center: Tensor
    field_scale: Tensor

    @property
    def steps(self) -> Steps:
        """How far apart samples are."""
        ...

    def render_view(
        self, model: Field, cameras: Cameras, view: int, background: str | None = None
    ) -> dict[str, Tensor]:
        """A view's colours, opacity and depth."""
        ...

    def log_density(self, model: Field, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """The logarithm of the density per scene unit."""
        ...

    def is_occupied(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Whether points lie where the field was trained."""
        ...

    def surface_box(self) -> Float[Tensor, "2 3"]:
        """The box that a surface is looked for in."""
        ...

    def rgb(
        self, model: Field, points: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n 3"]:
        """Colours seen along unit directions."""
        ...

    def march(
        self,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        jitter: Float[Tensor, " n"],
    ) -> tuple[Samples, Float[Tensor, "samples 3"]]:
        """Samples of rays in occupied cells, and where they are."""
        ...


def density_surface(
    task: RadianceField, model: Field, density: float, notes: tuple[str, ...]
) -> Surface:
    """The surface at a density; its colours are those seen from straight above.

    The box is that around all occupied cells, as far as the field reaches; of a scene without an
    end, the region of interest.
    """
    if any(cameras.homography is not None for cameras in task.data.cameras.values()):
        raise ConfigError(
            "a scene seen through a homography (forward-facing) has no surface in the user's "
            "frame; export its views (what=video), or train it with data.frame=box"
        )
    bounds = task.surface_box()
    low, high = bounds
    log_level, step = math.log(density), float((high - low).max()) / 512

    def distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        value = log_level - task.log_density(model, points)
        return torch.where(task.is_occupied(points), value.clamp(-_FARTHEST, _FARTHEST), _FARTHEST)

    def color(points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        offsets = step * torch.eye(3, device=points.device)
        slope = torch.stack([distance(points + o) - distance(points - o) for o in offsets], dim=1)
        # Where the function is flat any direction is as good.
        inward = torch.where((slope != 0).any(dim=1, keepdim=True), -slope, slope.new_tensor(1.0))
        return task.rgb(model, points, torch.nn.functional.normalize(inward, dim=1))

    surface = Surface(distance, bounds, _to_user(task.data.transform), False, color, notes)
    if not task.data.has_alpha:
        return surface
    if (reason := _not_told(task.data.cameras["train"], bounds.mean(dim=0))) is not None:
        return replace(surface, notes=(*notes, f"foam inside is not filled: {reason}"))
    return replace(surface, solid=lambda: _solid(task, model, surface))


def _not_told(cameras: Cameras, center: Float[Tensor, " 3"]) -> str | None:
    """Why what these cameras do not see is not what is inside; None: it is."""
    if not cameras.is_perspective or cameras.is_distorted:
        return "lenses bend rays"
    if not cameras.has_one_size:
        return "pictures differ in size"
    away = cameras.camera_to_world[:, :, 3] - center.cpu()
    if float(torch.nn.functional.normalize(away, dim=1).mean(dim=0).norm()) > _ONE_SIDED:
        return "all cameras are on one side, and what lies behind is hidden too"
    return None


def _solid(task: RadianceField, model: Field, surface: Surface) -> Surface:
    """The surface without foam in what no training camera sees."""
    cameras = task.data.cameras["train"]
    places = cameras.camera_to_world[:, :, 3].double().numpy()
    cameras = cameras[torch.from_numpy(spread_out(places, min(_MAX_VIEWS, len(cameras))))]
    width, height = cameras.size(0)
    factor = min(1.0, _VIEW_SIZE / max(width, height))
    cameras = cameras.resized(max(1, round(factor * width)), max(1, round(factor * height)))
    with torch.no_grad():
        depths = [task.render_view(model, cameras, view)["depth"] for view in range(len(cameras))]
    views, margin = DepthViews(cameras, depths), task.steps.dt_min

    def distance(points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        value = surface.distance(points)
        outside = value > 0
        is_filled = outside.clone()
        is_filled[outside] = views.hidden(points[outside], margin)
        return torch.where(is_filled, -_FARTHEST, value)

    note = (
        f"what is hidden in all of {len(cameras)} training views counts as inside; solid=false "
        "takes the density as it is"
    )
    return replace(surface, distance=distance, notes=(*surface.notes, note), solid=None)


@torch.no_grad()
def seen_level(task: RadianceField, model: Field) -> tuple[float, str]:
    """The density at which the surface is where the training cameras see it, and a sentence.

    Measured on 16,384 rays through random places of random views.
    """
    generator = torch.Generator().manual_seed(0)
    cameras, device = task.data.cameras["train"], task.field_center.device
    view = torch.randint(len(cameras), (_NUM_RAYS,), generator=generator)
    pixels = torch.rand(_NUM_RAYS, 2, generator=generator) * cameras.sizes[view]
    origins, directions = rays(cameras, view, pixels)
    is_ray = directions.isfinite().all(dim=1)
    half = torch.full((int(is_ray.sum()),), 0.5, device=device)
    samples, points = task.march(origins[is_ray].to(device), directions[is_ray].to(device), half)
    parts = [task.log_density(model, part).clamp(max=15.0).exp() for part in points.split(_CHUNK)]
    box_side = 2 * float(task.field_scale)
    found = choose_level(torch.cat(parts), samples, box_side) if len(points) else None
    if found is None:
        raise DataError(
            "no ray of the training cameras loses half of its light in the field: there is no "
            "surface to export; train longer, or choose a density with level="
        )
    return found.density, (
        f"surface at density {found.density:.3g} per unit of the trained scene: nearest to where "
        f"the rays of the training cameras lose half of their light (off by {found.error:.2g} "
        "units on average); level= takes another"
    )


def _to_user(transform: SceneTransform) -> Float[Tensor, "4 4"]:
    matrix = torch.eye(4, dtype=torch.float64)
    matrix[:3, :3] = torch.tensor(transform.rotation, dtype=torch.float64).T / transform.scale
    matrix[:3, 3] = -matrix[:3, :3] @ torch.tensor(transform.offset, dtype=torch.float64)
    return matrix

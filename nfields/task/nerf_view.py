"""Looking at a radiance field: which of two ways renders rays that need no gradient.

fused    march, field and compositing in one kernel (nfields/ops/render), for fields that are a
         grid and a small network; on a GPU only where it is asked for (renderer=fused)
plain    the operations of training one after the other; any field, any device, any backend

They agree to 5e-4 in colour and opacity: fused ends a ray where less than that passes.
"""

from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.data.posed_images import PosedImages
from nfields.errors import ConfigError
from nfields.model.field import Field, HasGridNetwork
from nfields.ops.render import GridNetwork, render
from nfields.render.cameras import Cameras, project, view_rays
from nfields.render.harmonics import spherical_harmonics
from nfields.render.occupancy import OccupancyGrid
from nfields.task.nerf_background import BACKGROUNDS, Sky
from nfields.task.nerf_batch import Rendering
from nfields.task.nerf_steps import Steps

Renderer = Literal["auto", "fused", "plain"]
# Rays at once: enough for all threads, few enough that their harmonics take 4 MB.
FUSED_CHUNK = 1 << 16
# What passes a ray at its end may be so much: an eighth of what 8 bits can show. A tenth of the
# samples that are needed for 1e-4 are left out.
_UNSEEN = 5e-4

# Rays the plain way at once: their samples (about 100 a ray at worst) and hidden values fit the
# cache.
_PLAIN_CHUNK = 8192


@runtime_checkable
class SeenField(Protocol):
    """What rendering reads of a task."""

    data: PosedImages
    renderer: Renderer
    background: Literal["white", "black"]
    sky: Sky
    grid: OccupancyGrid
    field_center: Tensor
    field_scale: Tensor
    sh_degree: int
    density_bias: float | int
    max_samples_per_ray: int
    min_transmittance: float | int
    backend: str

    @property
    def steps(self) -> Steps:
        """How far apart samples are."""
        ...

    def render_plain(
        self,
        model: Field,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        jitter: Float[Tensor, " n"],
        background: Float[Tensor, "n 3"],
    ) -> Rendering:
        """Rays by the operations of training."""
        ...


def render_rays(
    task: SeenField,
    model: Field,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    background: str | None,
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """rgb, opacity and weighted depth of any number of rays, on the CPU."""
    has_alpha, device = task.data.has_alpha, task.field_center.device
    color = BACKGROUNDS[background or task.background] if has_alpha else 0.0
    network = fused_network(task.renderer, model, task.sh_degree, task.backend)
    chunk = _PLAIN_CHUNK if network is None else FUSED_CHUNK
    parts = []
    for o, d in zip(origins.split(chunk), directions.split(chunk), strict=True):
        origin, direction = o.to(device), d.to(device)
        behind = torch.full((len(o), 3), color, device=device)
        if not has_alpha:
            behind = task.sky.color(direction, otherwise=behind)
        if network is not None:
            parts.append(render_fused(task, network, origin, direction, behind))
        else:
            half = torch.full((len(o),), 0.5, device=device)
            parts.append(task.render_plain(model, origin, direction, half, behind)[:3])
    rgb, opacity, depth = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
    return rgb, opacity, depth


def render_view(
    task: SeenField, model: Field, cameras: Cameras, view: int, background: str | None
) -> dict[str, Tensor]:
    """rgb (h, w, 3) in [0, 1], depth (h, w) along the unit ray and opacity (h, w) of a view.

    Depth is the mean over what the ray hits, infinite where opacity is below one half.
    """
    origins, directions = view_rays(cameras, view)
    rgb, opacity, depth = render_rays(task, model, origins, directions, background)
    width, height = cameras.size(view)
    mean_depth = torch.where(opacity >= 0.5, depth / opacity, torch.inf)
    if cameras.homography is not None:
        points = origins + mean_depth[:, None] * directions
        _, distance = project(cameras, view, points)
        mean_depth = torch.where(mean_depth.isfinite(), distance, torch.inf)
    return {
        "rgb": rgb.clamp(0, 1).view(height, width, 3),
        "depth": mean_depth.view(height, width),
        "opacity": opacity.view(height, width),
    }


def check_renderer(renderer: str) -> None:
    """Raises ConfigError for a way that does not exist."""
    if renderer not in get_args(Renderer):
        raise ConfigError(f"task.renderer={renderer!r}: choose auto, fused or plain")


def fused_network(
    renderer: Renderer, model: Field, sh_degree: int, backend: str
) -> GridNetwork | None:
    """The field for `render_fused`; None where the plain way is to be taken.

    Raises ConfigError if renderer=fused and there is no such field.
    """
    if renderer == "plain":
        return None
    network = model.grid_network() if isinstance(model, HasGridNetwork) else None
    if network is None:
        reason = (
            "the model is no grid with a small network (hashgrid; rbfnet, encoder=dense or hash)"
        )
    elif len(network.readout_weight) != 1 + 3 * (sh_degree + 1) ** 2:
        reason = "colours do not come from harmonics alone (task.head=sh)"
    elif backend not in ("auto", "numba" if network.table.device.type == "cpu" else "triton"):
        reason = f"task.backend={backend}"
    elif renderer == "auto" and network.table.device.type != "cpu":
        return None  # until fused is measured on a GPU: it was only run by Triton's interpreter
    else:
        return network
    if renderer == "fused":
        raise ConfigError(f"task.renderer=fused: {reason}; set task.renderer=auto")
    return None


def render_fused(
    task: SeenField,
    network: GridNetwork,
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    background: Float[Tensor, "n 3"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """rgb over the background, opacity and weighted depth of rays."""
    rgb, opacity, depth = render(
        origins,
        directions,
        spherical_harmonics(directions, task.sh_degree),
        network,
        task.grid.bits,
        center=task.field_center.tolist(),
        half_size=float(task.field_scale),
        density_bias=task.density_bias,
        near=task.data.near,
        **task.steps._asdict(),
        max_samples=task.max_samples_per_ray,
        min_transmittance=max(task.min_transmittance, _UNSEEN),
    )
    return torch.addcmul(rgb, (1 - opacity)[:, None], background), opacity, depth

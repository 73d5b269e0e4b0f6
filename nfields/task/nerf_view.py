"""Looking at a radiance field: which of two ways renders rays that need no gradient.

fused    march, field and compositing in one kernel (nfields/ops/render), for fields that are a
         grid and a small network, on the CPU
plain    the operations of training one after the other; any field, any device, any backend

They agree to rounding (colours to 1e-4); fused stops at the first opaque sample of a ray.
"""

from typing import Literal, Protocol, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.errors import ConfigError
from nfields.model.field import Field, HasGridNetwork
from nfields.ops.render import GridNetwork, render
from nfields.render.harmonics import spherical_harmonics
from nfields.render.occupancy import OccupancyGrid

Renderer = Literal["auto", "fused", "plain"]
# Rays at once: enough for all threads, few enough that their harmonics take 4 MB.
FUSED_CHUNK = 1 << 16


@runtime_checkable
class SeenField(Protocol):
    """What `render_fused` reads of a task."""

    grid: OccupancyGrid
    field_center: Tensor
    field_scale: Tensor
    sh_degree: int
    density_bias: float | int
    dt_min: float
    dt_max: float
    cone: float | int
    max_samples_per_ray: int
    min_transmittance: float | int


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
        reason = "the model is no grid with a small network (rbfnet, but encoder=dif; hashgrid)"
    elif len(network.readout_weight) != 1 + 3 * (sh_degree + 1) ** 2:
        reason = "colours do not come from harmonics alone (task.head=sh)"
    elif network.table.device.type != "cpu":
        reason = f"the field is on {network.table.device}; set trainer.device=cpu"
    elif backend not in ("auto", "numba"):
        reason = f"task.backend={backend}"
    else:
        return network
    if renderer == "fused":
        raise ConfigError(f"task.renderer=fused: {reason}; set task.renderer=auto")
    return None


def render_fused(
    task: SeenField,
    network: GridNetwork,
    near: float,
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
        near=near,
        dt_min=task.dt_min,
        dt_max=task.dt_max,
        cone=task.cone,
        max_samples=task.max_samples_per_ray,
        min_transmittance=task.min_transmittance,
    )
    return torch.addcmul(rgb, (1 - opacity)[:, None], background), opacity, depth

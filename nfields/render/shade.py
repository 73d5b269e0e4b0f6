"""The studio: how a surface is lit for pictures. Light is linear; 1 is the white of a screen.

Three lights stand still beside the camera, so that an object on a turntable shows its shape at
every angle: a warm key from the upper left, a cool weak fill from the right, a rim from behind; and
a sky, brighter above than below. Notation: n normal, l light, v towards the camera, h between them.

    colour = albedo (sky(n) openness + sum_i light_i max(0, n l_i + w_i) / (1 + w_i))
             + key (gloss (n h)^p + sheen (1 - n v)^3)

Ambient occlusion and the key's shadow come from a grid of distances (occlusion_cpu.py).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from nfields.ops.sphere_trace import BoundGrid
from nfields.render.occlusion_cpu import occlusion_and_shadow

ALBEDO = (0.62, 0.605, 0.58)  # plaster: neutral, a little warm


@dataclass(frozen=True)
class Light:
    """A light far away: its direction in the camera's axes, colour, and how far it wraps around."""

    towards: tuple[float, float, float]
    color: tuple[float, float, float]
    wrap: float


KEY = Light((-0.65, 0.65, 0.50), (1.28, 1.18, 1.03), 0.05)
FILL = Light((0.85, 0.10, 0.55), (0.10, 0.12, 0.16), 0.4)
RIM = Light((0.45, 0.45, -0.77), (0.30, 0.32, 0.35), 0.0)
SKY_ABOVE, SKY_BELOW = (0.20, 0.22, 0.25), (0.08, 0.075, 0.07)
_GLOSS, _SHININESS = 0.07, 28.0
_SHADOW_SOFTNESS = 0.12  # sine of the key's angular radius
_DARKEST_SHADOW = 0.05
_OCCLUSION_RADIUS = 0.35  # of the longest side of the object


def studio_light(
    points: Float[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    albedo: Float[Tensor, "n 3"] | None,
    camera_to_world: Float[Tensor, "3 4"],
    distances: BoundGrid | None,
    extent: float,
) -> Float[Tensor, "n 3"]:
    """Linear light of surface points, seen by a camera; normals are unit and towards it.

    `albedo` is linear, None: plaster. `distances` are of the surface itself, not bounds; None: no
    occlusion and no shadow. `extent` is the longest side of the object.
    """
    if len(points) == 0:
        return points.clone()
    rotation = camera_to_world[:, :3].to(points)
    view = normalize(camera_to_world[:, 3].to(points) - points, dim=1) @ rotation
    n = normals @ rotation  # all in the camera's axes from here on
    openness = lit = torch.ones_like(points[:, 0])
    if distances is not None:
        openness, lit = torch.zeros_like(openness), torch.zeros_like(openness)
        key = rotation @ normalize(torch.tensor(KEY.towards).to(points), dim=0)
        occlusion_and_shadow(
            points.contiguous().numpy(), normals.contiguous().numpy(), key.double().numpy(),
            distances.values.contiguous().numpy(), distances.low.double().numpy(),
            distances.spacing, _OCCLUSION_RADIUS * extent, _SHADOW_SOFTNESS,
            openness.numpy(), lit.numpy(),
        )  # fmt: skip
    above, below = n.new_tensor(SKY_ABOVE), n.new_tensor(SKY_BELOW)
    blend = 0.5 + 0.5 * n[:, 1:2]
    light = (below + (above - below) * blend) * openness[:, None]
    shadow = (_DARKEST_SHADOW + (1 - _DARKEST_SHADOW) * lit)[:, None]
    key = _lambert(n, KEY) * shadow
    light = light + key + _lambert(n, FILL) * (0.35 + 0.65 * openness[:, None])
    edge = (1 - (n * view).sum(1, keepdim=True).clamp(0, 1)) ** 3
    light = light + _lambert(n, RIM) * openness[:, None]
    color = light * (n.new_tensor(ALBEDO) if albedo is None else albedo)
    half = normalize(view + normalize(n.new_tensor(KEY.towards), dim=0), dim=1)
    gloss = _GLOSS * (n * half).sum(1, keepdim=True).clamp(min=0) ** _SHININESS
    sheen = 0.06 * edge * openness[:, None]
    return color + (gloss * shadow + sheen) * n.new_tensor(KEY.color)


def linear(srgb: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """The light that a screen shows for sRGB values in [0, 1]."""
    dark = srgb / 12.92
    return torch.where(srgb <= 0.04045, dark, ((srgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)


def _lambert(n: Float[Tensor, "n 3"], light: Light) -> Float[Tensor, "n 3"]:
    towards = normalize(n.new_tensor(light.towards), dim=0)
    cosine = (n @ towards + light.wrap).clamp(min=0) / (1 + light.wrap)
    return cosine[:, None] * n.new_tensor(light.color)

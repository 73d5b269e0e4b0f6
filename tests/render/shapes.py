"""Shapes with closed forms, as functions positive outside, and surfaces of them."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from nfields.render.surface import Surface

MAJOR, MINOR = 0.6, 0.25


def surface_of(
    distance: Callable[[Tensor], Tensor],
    low: Sequence[float] = (-1, -1, -1),
    high: Sequence[float] = (1, 1, 1),
    is_distance: bool = True,
    to_user: Tensor | None = None,
    color: Callable[[Tensor], Tensor] | None = None,
) -> Surface:
    """A surface in a box, without a frame of its own."""
    bounds = torch.tensor([list(low), list(high)], dtype=torch.float32)
    frame = torch.eye(4) if to_user is None else to_user
    return Surface(distance, bounds, frame, is_distance, color)


def ball(radius: float) -> Callable[[Tensor], Tensor]:
    """The distance to a sphere around the origin."""
    return lambda p: p.norm(dim=1) - radius


def torus(p: Tensor) -> Tensor:
    """The distance to a torus around the z axis."""
    return torch.stack([p[:, :2].norm(dim=1) - MAJOR, p[:, 2]], dim=1).norm(dim=1) - MINOR


def torus_area() -> float:
    """4 pi^2 R r."""
    return 4 * np.pi**2 * MAJOR * MINOR


def torus_volume() -> float:
    """2 pi^2 R r^2."""
    return 2 * np.pi**2 * MAJOR * MINOR**2


def double_torus(p: Tensor) -> Tensor:
    """An algebraic surface of genus 2, (x (x - 1)^2 (x - 2) + y^2)^2 + z^2 = 0.01, moved."""
    x, y, z = (1.2 * p + p.new_tensor([1.0, 0, 0])).unbind(1)
    return (x * (x - 1) ** 2 * (x - 2) + y * y) ** 2 + z * z - 0.01


def cube(p: Tensor, half: float = 0.5) -> Tensor:
    """The distance to an axis-parallel cube."""
    q = p.abs() - half
    return q.clamp_min(0).norm(dim=1) + q.amax(dim=1).clamp_max(0)


def rods(p: Tensor) -> Tensor:
    """A ball with thin rods along the axes; cut off, so that nothing shows from afar."""
    squares = p.square()
    off_axis = (squares.sum(dim=1, keepdim=True) - squares).amin(dim=1).sqrt()
    rod = torch.maximum(off_axis - 0.02, p.norm(dim=1) - 0.9)
    return torch.minimum(p.norm(dim=1) - 0.3, rod).clamp(-0.01, 0.01)

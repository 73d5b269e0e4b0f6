"""The line or plane in a field's domain on which it is diagnosed, and sinusoids on it.

Notation
    t      coordinates on the slice, in [-1, 1)^dim; points lie at the centres of equal cells
    k      frequency: whole cycles over the slice; in two dimensions a vector of whole numbers
    s(t)   sin(pi k . t + phase)

Whole cycles on equal cells make different frequencies orthogonal, so that a projection reads each
alone. On the unit sphere a line is a circle through both poles, and sinusoids have no seam.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.errors import ConfigError

OFFSET = 0.137  # where the slice cuts the axes it does not span; on no vertex of a usual grid


@dataclass(frozen=True)
class Slice:
    """A slice of `dim` coordinates through a domain of `in_dim`, the box or the unit sphere."""

    dim: Literal[1, 2]
    in_dim: int
    is_sphere: bool

    def __post_init__(self) -> None:
        if self.dim > self.in_dim:
            raise ConfigError(
                f"dim={self.dim}: the field has {self.in_dim} coordinate; give dim={self.in_dim}"
            )
        if self.is_sphere and self.dim == 2:
            raise ConfigError("dim=2: a field of directions has no flat slice; give dim=1")

    def coordinates(self, num_side: int) -> Float[Tensor, "n dim"]:
        """t of num_side^dim points."""
        line = (2 * torch.arange(num_side, dtype=torch.float64) + 1) / num_side - 1
        return torch.cartesian_prod(*[line] * self.dim).view(-1, self.dim)

    def points(self, t: Float[Tensor, "n dim"]) -> Float[Tensor, "n in_dim"]:
        """Where the slice lies in the domain."""
        if self.is_sphere:
            angle = math.pi * t[:, 0]
            return torch.stack([angle.cos(), torch.zeros_like(angle), angle.sin()], dim=1)
        rest = torch.full((len(t), self.in_dim - self.dim), OFFSET, dtype=t.dtype)
        return torch.cat([t, rest], dim=1)

    def anywhere(self, num: int, generator: torch.Generator) -> Float[Tensor, "n in_dim"]:
        """Points drawn uniformly from the whole domain."""
        if self.is_sphere:
            normal = torch.randn(num, self.in_dim, generator=generator)
            return torch.nn.functional.normalize(normal, dim=1)
        return 2 * torch.rand(num, self.in_dim, generator=generator) - 1

    def wave_vectors(
        self, frequencies: list[float], generator: torch.Generator
    ) -> Float[Tensor, "waves dim"]:
        """A vector of whole numbers for each frequency, near its length, in a random direction."""
        if self.dim == 1:
            return torch.tensor(frequencies, dtype=torch.float64)[:, None]
        angles = math.pi * torch.rand(len(frequencies), generator=generator, dtype=torch.float64)
        directions = torch.stack([angles.cos(), angles.sin()], dim=1)
        return (torch.tensor(frequencies)[:, None] * directions).round()


def frequencies_until(highest: int) -> list[float]:
    """1, 2, 3, 4, 6, 8, 11, 16, ...: about sqrt(2) apart."""
    whole = {max(round(2 ** (i / 2)), 1) for i in range(64)}
    return [float(k) for k in sorted(whole) if k <= highest]


def waves(
    t: Float[Tensor, "n dim"],
    vectors: Float[Tensor, "waves dim"],
    phases: Float[Tensor, " waves"] | float,
) -> Float[Tensor, "n waves"]:
    """sin(pi k . t + phase) of each wave at each point."""
    return torch.sin(math.pi * t @ vectors.T + phases)

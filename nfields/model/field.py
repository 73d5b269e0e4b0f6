"""The contract of a representation: coordinates in, values out, linear at the end.

Every representation ends in a linear readout, `values = readout.weight h(x) + readout.bias`. Who
uses a field may therefore replace the readout by linear combinations of it, one for each group of
points: a radiance field folds the spherical harmonics of a ray's direction into the readout once a
ray and then computes 4 values a sample, not 49.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nfields.optimizer import ParameterGroup


@dataclass(frozen=True)
class GroupReadout:
    """A linear readout for each group of consecutive points.

    Group g holds points offsets[g] .. offsets[g + 1] - 1; the groups cover all points in order.
    """

    weight: Float[Tensor, "groups out hidden"]
    bias: Float[Tensor, "groups out"]
    offsets: Int[Tensor, " groups_plus_1"] | None  # None: one group


class Field(nn.Module, ABC):
    """Coordinates in [-1, 1]^in_dim to out_dim values. A contract without behaviour."""

    in_dim: int
    out_dim: int
    readout: nn.Linear  # (out_dim, hidden)

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        """Values at x through the field's own readout, or through that of each point's group."""

    @abstractmethod
    def initialize(self, x: Float[Tensor, "m in_dim"], generator: torch.Generator) -> None:
        """Sets what depends on where the signal is; x are samples of it. Called once."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters, with their learning rates."""

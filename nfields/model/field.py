"""The contract of a representation: coordinates in, values out, linear at the end.

Every representation ends in a linear readout, `values = readout.weight h(x) + readout.bias`. Who
uses a field may therefore replace the readout by linear combinations of it, one for each group of
points: a radiance field folds the spherical harmonics of a ray's direction into the readout once a
ray and then computes 4 values a sample, not 49.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nfields.ops.render import GridNetwork
from nfields.optimizer import ParameterGroup


@dataclass(frozen=True)
class GroupReadout:
    """A linear readout for each group of consecutive points.

    Group g holds points offsets[g] .. offsets[g + 1] - 1; the groups cover all points in order.
    """

    weight: Float[Tensor, "groups out hidden"]
    bias: Float[Tensor, "groups out"]
    offsets: Int[Tensor, " groups_plus_1"] | None  # None: one group


@dataclass(frozen=True)
class Samples:
    """Points where a signal lives, drawn uniformly, and how much it varies at each.

    `weights` are at least 0, of mean 1 (all 1 where the task knows nothing better): the gradient
    of a picture, the closeness to a surface. Kernels are put where the weight is.
    """

    x: Float[Tensor, "m in_dim"]  # in [-1, 1]
    weights: Float[Tensor, " m"]

    @staticmethod
    def uniform(x: Float[Tensor, "m in_dim"]) -> "Samples":
        """Points of which none counts more than another."""
        return Samples(x, x.new_ones(len(x)))


@dataclass(frozen=True)
class Kernels:
    """The radial basis functions of a representation, to be looked at.

    In coordinate space they have centres and shapes (covariances: a kernel is at half of its
    height about one standard deviation from its centre); in feature space only what each
    answers at given points.
    """

    centers: Float[Tensor, "k in_dim"] | None = None
    covariances: Float[Tensor, "k in_dim in_dim"] | None = None
    responses: Float[Tensor, "n k"] | None = None


class Field(nn.Module, ABC):
    """Coordinates in [-1, 1]^in_dim to out_dim values. A contract without behaviour.

    All parameters count, trained or not: what a representation stores is what it is compared by.
    """

    in_dim: int
    out_dim: int
    readout: nn.Linear  # (out_dim, hidden)
    size_option: str  # the option whose growth adds parameters, to fit a model to a budget

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        """Values at x through the field's own readout, or through that of each point's group."""

    @abstractmethod
    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        """Sets every parameter, also by where the signal is. Called once."""

    @abstractmethod
    def kernels(self, x: Float[Tensor, "n in_dim"]) -> Kernels | None:
        """The field's radial basis functions, their responses at x; None if it has none."""

    @abstractmethod
    def parameter_groups(self) -> list[ParameterGroup]:
        """All parameters, with their learning rates."""


@runtime_checkable
class HasGridNetwork(Protocol):
    """What a field offers that may consist of a grid and a small network, as `render` takes it."""

    def grid_network(self) -> GridNetwork | None:
        """The field as tensors; None where its options make it something else."""
        ...

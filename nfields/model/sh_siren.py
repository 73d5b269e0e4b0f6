"""sh_siren: spherical harmonics of a direction into a network, for functions on the sphere.

Geographic location encoding (arXiv:2310.06743): no poles, no seam, and on the sphere a basis. A
degree L resolves about 180 / L degrees. `network=siren` is the paper's SirenNet; `relu` and
`linear` use the harmonics as a plain encoding.

Directions come from coordinates so that the field works on every task:

    3 coordinates   x / |x|
    2 coordinates   (x, y, 1) / |(x, y, 1)|: the square seen as one face of a cube around the sphere

With `append_point` the coordinates are inputs too: what tells points of one direction apart.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.model.readout import (
    hidden_layers,
    initialize_relu,
    initialize_sine,
    network,
    parameters_of,
    read_out,
)
from nfields.model.siren import sine_network
from nfields.ops.backend import Backend
from nfields.ops.harmonics import harmonics, num_harmonics
from nfields.optimizer import ParameterGroup

MAX_DEGREE = 200  # as far as float32 was checked; 40,401 features a point


class SphericalHarmonicsSiren(Field):
    """Harmonics and a network; options are explained in configs/model/sh_siren.yaml."""

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        degree: int,
        append_point: bool,
        network: Literal["siren", "relu", "linear"],
        width: int,
        num_layers: int,
        first_frequency: float | int,
        hidden_frequency: float | int,
        lr: float | int,
        weight_decay: float | int,
        backend: Backend,
    ):
        super().__init__()
        if not 0 <= degree <= MAX_DEGREE:
            raise ConfigError(f"model.degree={degree} is outside 0..{MAX_DEGREE}")
        if first_frequency <= 0 or hidden_frequency <= 0 or weight_decay < 0:
            raise ConfigError(
                f"model.first_frequency={first_frequency} and model.hidden_frequency="
                f"{hidden_frequency} must be above 0, model.weight_decay={weight_decay} at least 0"
            )
        self.in_dim, self.out_dim = in_dim, out_dim
        self.size_option = "degree" if network == "linear" else "width"
        self.degree, self.append_point, self.network = degree, append_point, network
        self.frequencies = (first_frequency, hidden_frequency)
        self.lr, self.weight_decay, self.backend = lr, weight_decay, backend
        dim = num_harmonics(degree) + (in_dim if append_point else 0)
        self.layers = nn.ModuleList()
        if network != "linear":
            self.layers = hidden_layers(dim, width, num_layers)
        self.readout = nn.Linear(width if network != "linear" else dim, out_dim)

    def features(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n features"]:
        """Harmonics of the direction of x, and x itself with append_point."""
        lifted = torch.cat([x, torch.ones_like(x[:, :1])], dim=1) if self.in_dim == 2 else x
        encoded = harmonics(lifted, self.degree, backend=self.backend)
        return torch.cat([encoded, x], dim=1) if self.append_point else encoded

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        features = self.features(x)
        if self.network == "linear":
            return read_out(features, self.readout, groups, self.backend)
        if self.network == "siren":
            return sine_network(
                features, self.layers, self.frequencies, self.readout, groups, self.backend
            )
        weights, biases = parameters_of(self.layers)
        return network(features, weights, biases, self.readout, groups, "relu", self.backend)

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        if self.network == "siren":
            initialize_sine(self.layers, self.readout, *self.frequencies, generator)
        else:
            initialize_relu(self.layers, self.readout, generator)

    def kernels(self, x: Float[Tensor, "n in_dim"]) -> Kernels | None:
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        return [
            ParameterGroup("network", [*self.parameters()], self.lr, weight_decay=self.weight_decay)
        ]

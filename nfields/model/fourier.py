"""fourier: Fourier features of the coordinates and a ReLU network, the baseline everybody knows.

    gaussian   cos, sin(pi b . x),  b ~ N(0, bandwidth^2): Fourier features (arXiv:2006.10739);
               x spans [-1, 1], so b counts cycles over the domain
    axis       cos, sin(pi 2^k x_d), k = 0 .. num_frequencies - 1: the encoding of NeRF
               (arXiv:2003.08934, Eq. 4)

In both x itself is an input too.
"""

import math
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.model.readout import hidden_layers, initialize_relu, network, parameters_of
from nfields.ops.backend import Backend
from nfields.optimizer import ParameterGroup

MAX_OCTAVES = 24  # beyond, pi 2^k x has no correct digit left in float32


class Fourier(Field):
    """Fourier features and a ReLU network; options are explained in configs/model/fourier.yaml."""

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        features: Literal["gaussian", "axis"],
        num_frequencies: int,
        bandwidth: float | int,
        width: int,
        num_layers: int,
        lr: float | int,
        backend: Backend,
    ):
        super().__init__()
        if num_frequencies < 1 or (features == "axis" and num_frequencies > MAX_OCTAVES):
            raise ConfigError(
                f"model.num_frequencies={num_frequencies} must be at least 1, and with "
                f"model.features=axis at most {MAX_OCTAVES}"
            )
        if bandwidth <= 0:
            raise ConfigError(f"model.bandwidth={bandwidth} must be above 0 cycles over the domain")
        self.in_dim, self.out_dim, self.size_option = in_dim, out_dim, "width"
        self.features, self.bandwidth = features, bandwidth
        self.lr, self.backend = lr, backend
        rows = num_frequencies * (in_dim if features == "axis" else 1)
        # Not trained, but stored with the model: without it the weights mean nothing.
        self.frequencies = nn.Parameter(torch.zeros(rows, in_dim), requires_grad=False)
        self.layers = hidden_layers(in_dim + 2 * rows, width, num_layers)
        self.readout = nn.Linear(width, out_dim)

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        phase = math.pi * x @ self.frequencies.T
        inputs = torch.cat([x, phase.cos(), phase.sin()], dim=1)
        weights, biases = parameters_of(self.layers)
        return network(inputs, weights, biases, self.readout, groups, "relu", self.backend)

    @torch.no_grad()
    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        if self.features == "gaussian":
            self.frequencies.normal_(0, self.bandwidth, generator=generator)
        else:
            octaves = 2.0 ** torch.arange(len(self.frequencies) // self.in_dim)
            self.frequencies.copy_(torch.kron(torch.eye(self.in_dim), octaves[:, None]))
        initialize_relu(self.layers, self.readout, generator)

    def kernels(self, x: Float[Tensor, "n in_dim"]) -> Kernels | None:
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        trained = [p for p in self.parameters() if p.requires_grad]
        return [ParameterGroup("network", trained, self.lr)]

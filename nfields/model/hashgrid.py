"""hashgrid: instant-ngp's multi-resolution hash grid and tiny ReLU network (arXiv:2201.05989).

Sizes of the tasks follow instant-ngp's own configuration files; configs/model_task/hashgrid_*.yaml.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.model.grid import GridEncoder
from nfields.model.readout import hidden_layers, initialize_relu, network, parameters_of
from nfields.ops.backend import Backend
from nfields.ops.render import GridNetwork
from nfields.optimizer import ParameterGroup


class HashGrid(Field):
    """Hash grid and ReLU network; options are explained in configs/model/hashgrid.yaml."""

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        num_levels: int,
        features_per_level: int,
        base_resolution: int,
        max_resolution: int,
        log2_entries: float | int,
        interpolation: Literal["linear", "smoothstep"],
        feature_init: float | int,
        width: int,
        num_layers: int,
        lr: float | int,
        network_lr: float | int,
        weight_decay: float | int,
        backend: Backend,
    ):
        super().__init__()
        if feature_init <= 0 or weight_decay < 0:
            raise ConfigError(
                f"model.feature_init={feature_init} must be above 0 and "
                f"model.weight_decay={weight_decay} at least 0"
            )
        self.in_dim, self.out_dim, self.size_option = in_dim, out_dim, "log2_entries"
        self.feature_init, self.weight_decay = feature_init, weight_decay
        self.lr, self.network_lr, self.backend = lr, network_lr, backend
        self.encoder = GridEncoder(
            in_dim=in_dim,
            kind="hash",
            num_levels=num_levels,
            features_per_level=features_per_level,
            base_resolution=base_resolution,
            max_resolution=max_resolution,
            log2_entries=log2_entries,
            smoothstep=interpolation == "smoothstep",
            backend=backend,
        )
        self.layers = hidden_layers(self.encoder.out_dim, width, num_layers)
        self.readout = nn.Linear(width, out_dim)

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        weights, biases = parameters_of(self.layers)
        features = self.encoder(x)
        return network(features, weights, biases, self.readout, groups, "relu", self.backend)

    @torch.no_grad()
    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        self.encoder.table.uniform_(-self.feature_init, self.feature_init, generator=generator)
        initialize_relu(self.layers, self.readout, generator)

    def grid_network(self) -> GridNetwork | None:
        weights, biases = parameters_of(self.layers)
        return GridNetwork(
            *self.encoder.as_tensors(), None, None, weights, biases, self.readout.weight,
            self.readout.bias,
        )  # fmt: skip

    def kernels(self, x: Float[Tensor, "n in_dim"]) -> Kernels | None:
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        layers = [*self.layers.parameters(), *self.readout.parameters()]
        return [
            ParameterGroup("grid", [self.encoder.table], self.lr, is_sparse=True),
            ParameterGroup("network", layers, self.network_lr, weight_decay=self.weight_decay),
        ]

"""siren: a network with sine activations, sin(w (W x + b)) (SIREN, arXiv:2006.09661).

The frequency w of the first layer decides the finest detail that is learned early; the hidden ones
only scale weights and gradients. Values of both are tuned for a task: too low blurs, too high
leaves noise (configs/model/siren.yaml and configs/model_task/siren_*.yaml say what was measured).
All derivatives are smooth, so it suits losses on gradients.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.model.readout import hidden_layers, initialize_sine, network, parameters_of
from nfields.ops.backend import Backend
from nfields.optimizer import ParameterGroup


class Siren(Field):
    """Sine network; options are explained in configs/model/siren.yaml."""

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        width: int,
        num_layers: int,
        first_frequency: float | int,
        hidden_frequency: float | int,
        lr: float | int,
        backend: Backend,
    ):
        super().__init__()
        if first_frequency <= 0 or hidden_frequency <= 0:
            raise ConfigError(
                f"model.first_frequency={first_frequency} and model.hidden_frequency="
                f"{hidden_frequency} must be above 0"
            )
        self.in_dim, self.out_dim, self.size_option = in_dim, out_dim, "width"
        self.frequencies = (first_frequency, hidden_frequency)
        self.lr, self.backend = lr, backend
        self.layers = hidden_layers(in_dim, width, num_layers)
        self.readout = nn.Linear(width, out_dim)

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        return sine_network(x, self.layers, self.frequencies, self.readout, groups, self.backend)

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        initialize_sine(self.layers, self.readout, *self.frequencies, generator)

    def kernels(self, x: Float[Tensor, "n in_dim"]) -> Kernels | None:
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("network", [*self.parameters()], self.lr)]


def sine_network(
    x: Float[Tensor, "n inputs"],
    layers: nn.ModuleList,
    frequencies: tuple[float | int, float | int],
    readout: nn.Linear,
    groups: GroupReadout | None,
    backend: str,
) -> Float[Tensor, "n out"]:
    """sin(w (W x + b)) a layer, w the first or the hidden frequency; then the readout."""
    weights, biases = parameters_of(layers)
    scales = [frequencies[min(k, 1)] for k in range(len(weights))]
    return network(
        x,
        [scale * weight for scale, weight in zip(scales, weights, strict=True)],
        [scale * bias for scale, bias in zip(scales, biases, strict=True)],
        readout,
        groups,
        "sine",
        backend,
    )

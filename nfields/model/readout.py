"""The end of every representation: hidden layers and a linear readout, of its own or of groups."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.model.field import GroupReadout
from nfields.ops.mlp import Activation, mlp
from nfields.ops.rbf_decode import grouped_linear

MAX_LAYERS, MAX_WIDTH = 16, 1 << 14


def hidden_layers(in_dim: int, width: int, num_layers: int) -> nn.ModuleList:
    """`num_layers` linear layers of `width` units; initialised by the model that owns them."""
    if not 1 <= num_layers <= MAX_LAYERS or not 1 <= width <= MAX_WIDTH:
        raise ConfigError(
            f"model.num_layers={num_layers}, model.width={width}: need 1 to {MAX_LAYERS} layers of "
            f"1 to {MAX_WIDTH} units"
        )
    sizes = [in_dim, *[width] * num_layers]
    return nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))


def network(
    x: Float[Tensor, "n inputs"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    readout: nn.Linear,
    groups: GroupReadout | None,
    activation: Activation,
    backend: str,
) -> Float[Tensor, "n out"]:
    """Hidden layers with an activation behind each, then the readout."""
    if groups is None:
        weights, biases = [*weights, readout.weight], [*biases, readout.bias]
        return mlp(x, weights, biases, activation=activation, backend=backend)
    hidden = mlp(x, weights, biases, activation=activation, activate_last=True, backend=backend)
    return read_out(hidden, readout, groups, backend)


def read_out(
    hidden: Float[Tensor, "n hidden"],
    readout: nn.Linear,
    groups: GroupReadout | None,
    backend: str,
) -> Float[Tensor, "n out"]:
    """values = W hidden + b, with W and b of `readout`, or of the group a point belongs to."""
    if groups is None:
        return readout(hidden)
    return grouped_linear(hidden, groups.weight, groups.bias, groups.offsets, backend=backend)


def parameters_of(
    layers: nn.ModuleList,
) -> tuple[list[Float[Tensor, "_ _"]], list[Float[Tensor, " _"]]]:
    """Weights and biases of linear layers."""
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    assert len(linear) == len(layers)
    return [layer.weight for layer in linear], [layer.bias for layer in linear]


@torch.no_grad()
def initialize_relu(layers: nn.ModuleList, readout: nn.Linear, generator: torch.Generator) -> None:
    """He's normal initialisation: variance 2 / inputs behind ReLU, 1 / inputs in the readout."""
    for layer in layers:
        assert isinstance(layer, nn.Linear)
        layer.weight.normal_(0, (2 / layer.in_features) ** 0.5, generator=generator)
        layer.bias.zero_()
    readout.weight.normal_(0, (1 / readout.in_features) ** 0.5, generator=generator)
    readout.bias.zero_()


@torch.no_grad()
def initialize_sine(
    layers: nn.ModuleList,
    readout: nn.Linear,
    first_frequency: float | int,
    hidden_frequency: float | int,
    generator: torch.Generator,
) -> None:
    """SIREN's initialisation (Sitzmann et al. 2020, section 3.2), for sin(w (W x + b)).

    First layer U(+-1/n), all others U(+-sqrt(6/n)/w), n inputs: activations stay distributed like
    arcsine whatever the depth. Biases U(+-1/sqrt(n)), which is PyTorch's own.
    """
    assert first_frequency > 0
    for k, layer in enumerate([*layers, readout]):
        assert isinstance(layer, nn.Linear)
        inputs = layer.in_features
        bound = 1 / inputs if k == 0 else (6 / inputs) ** 0.5 / hidden_frequency
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-(inputs**-0.5), inputs**-0.5, generator=generator)

"""A small dense network with ReLU or sine between its layers, in plain PyTorch: the definition."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear


def mlp_reference(
    x: Float[Tensor, "n inputs"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    activation: str,
    activate_last: bool,
) -> Float[Tensor, "n outputs"]:
    for k, weight in enumerate(weights):
        x = linear(x, weight, biases[k] if biases else None)
        if activate_last or k < len(weights) - 1:
            x = x.relu() if activation == "relu" else x.sin()
    return x

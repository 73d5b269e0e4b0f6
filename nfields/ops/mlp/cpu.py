"""A small dense network on the CPU: matrix products through torch in chunks that stay in cache.

The whole batch at once streams every activation through memory, n x width floats a layer, twice.
CHUNK rows of a 64-wide layer are 1 MB: they stay in L2 / L3 between one layer and the next, and the
backward pass recomputes them, which is cheaper than reading them back.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

CHUNK = 4096


def _layers(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    activate_last: bool,
    slopes: list[Tensor] | None,
) -> list[Tensor]:
    """Input and output of every layer for one chunk; `weights` are transposed (inputs, outputs).

    `slopes`, if given, is filled with what the backward pass of each activation multiplies by:
    the outputs of ReLU, the cosines of sine.
    """
    values = [x]
    for k, weight in enumerate(weights):
        out = torch.addmm(biases[k], values[-1], weight) if biases else values[-1] @ weight
        if activate_last or k < len(weights) - 1:
            if activation == "relu":
                out.relu_()
                slope = out
            else:
                slope = out.cos() if slopes is not None else out
                out.sin_()
            if slopes is not None:
                slopes.append(slope)
        values.append(out)
    return values


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    activate_last: bool,
) -> Tensor:
    transposed = [w.T for w in weights]
    out = x.new_empty(x.shape[0], weights[-1].shape[0])
    for start in range(0, x.shape[0], CHUNK):
        chunk = slice(start, start + CHUNK)
        out[chunk] = _layers(x[chunk], transposed, biases, activation, activate_last, None)[-1]
    return out


def backward(
    gradient: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    activate_last: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of x, of every weight and of every bias."""
    transposed = [w.T for w in weights]
    x_gradient = torch.empty_like(x)
    weight_gradients = [torch.zeros_like(w) for w in weights]
    bias_gradients = [torch.zeros_like(b) for b in biases]
    last = len(weights) - 1
    hidden = last + 1 if activate_last else last  # layers whose output is needed again
    for start in range(0, x.shape[0], CHUNK):
        chunk = slice(start, start + CHUNK)
        slopes: list[Tensor] = []
        values = _layers(x[chunk], transposed[:hidden], biases[:hidden], activation, True, slopes)
        back = gradient[chunk]
        for k in range(last, -1, -1):
            if k < hidden:
                if activation == "relu":
                    back = torch.ops.aten.threshold_backward(back, slopes[k], 0)
                else:
                    back = back * slopes[k]
            weight_gradients[k].addmm_(back.T, values[k])
            if biases:
                bias_gradients[k] += back.sum(dim=0)
            if k > 0:
                back = back @ weights[k]
            else:
                torch.mm(back, weights[0], out=x_gradient[chunk])
    return x_gradient, weight_gradients, bias_gradients

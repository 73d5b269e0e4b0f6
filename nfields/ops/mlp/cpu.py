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
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activate_last: bool
) -> list[Tensor]:
    """Input and output of every layer for one chunk; `weights` are transposed (inputs, outputs)."""
    values = [x]
    for k, weight in enumerate(weights):
        out = torch.addmm(biases[k], values[-1], weight) if biases else values[-1] @ weight
        if activate_last or k < len(weights) - 1:
            out.relu_()
        values.append(out)
    return values


def forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activate_last: bool
) -> Tensor:
    transposed = [w.T for w in weights]
    out = x.new_empty(x.shape[0], weights[-1].shape[0])
    for start in range(0, x.shape[0], CHUNK):
        chunk = slice(start, start + CHUNK)
        out[chunk] = _layers(x[chunk], transposed, biases, activate_last)[-1]
    return out


def backward(
    gradient: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activate_last: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of x, of every weight and of every bias."""
    transposed = [w.T for w in weights]
    x_gradient = torch.empty_like(x)
    weight_gradients = [torch.zeros_like(w) for w in weights]
    bias_gradients = [torch.zeros_like(b) for b in biases]
    last = len(weights) - 1
    for start in range(0, x.shape[0], CHUNK):
        chunk = slice(start, start + CHUNK)
        values = _layers(x[chunk], transposed, biases, activate_last)
        back = gradient[chunk]
        for k in range(last, -1, -1):
            if activate_last or k < last:
                back = torch.ops.aten.threshold_backward(back, values[k + 1], 0)
            weight_gradients[k].addmm_(back.T, values[k])
            if biases:
                bias_gradients[k] += back.sum(dim=0)
            if k > 0:
                back = back @ weights[k]
            else:
                torch.mm(back, weights[0], out=x_gradient[chunk])
    return x_gradient, weight_gradients, bias_gradients

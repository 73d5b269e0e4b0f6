"""A small dense network on the CPU.

Float32 has a kernel of its own (nfields/ops/mlp/dense_cpu.py). What is here, for float64 and
bfloat16, takes matrix products through torch in chunks that stay in cache: the whole batch at once
streams every activation through memory, n x width floats a layer, several times. CHUNK rows of a
64-wide layer are 1 MB: they stay in L2 / L3 between one layer and the next. What the backward pass
needs of the hidden layers is computed again in narrow networks and kept in wide ones, where a
product costs more than memory.

precision=bf16: products of all layers but the first (its inputs may be coordinates, which 8 bits
do not hold) take and give bfloat16, with sums in float32; parameters, their gradients, inputs and
outputs stay float32. Twice as fast and more where the processor has AVX512_BF16 or AMX.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from nfields.ops.mlp import dense_cpu
from nfields.ops.mlp.sine_cpu import sine, sine_and_cosine, through_sine

CHUNK = 4096


def has_kernel(x: Tensor, precision: str) -> bool:
    """Whether dense_cpu.py computes the network."""
    return x.dtype == torch.float32 and precision == "fp32"


def _prepared(weights: Sequence[Tensor], precision: str) -> list[Tensor]:
    """Weights in the dtype that their layer's product has."""
    if precision == "fp32":
        return list(weights)
    return [w if k == 0 else w.to(torch.bfloat16) for k, w in enumerate(weights)]


def _found(weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
    return list(biases) if biases else [w.new_zeros(w.shape[0]) for w in weights]


def _product(
    x: Tensor, weight: Tensor, bias: Tensor, is_biased: bool, out: Tensor | None
) -> Tensor:
    """x W^T, and + bias where `is_biased`; sine adds the bias itself."""
    x = x.to(weight.dtype)
    if is_biased:
        return torch.addmm(bias.to(weight.dtype), x, weight.T, out=out)
    return torch.mm(x, weight.T, out=out)


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    activate_last: bool,
    precision: str,
    keep: bool,
) -> list[Tensor]:
    """The output and, with `keep`, what the backward pass needs of each activated layer.

    That is the product before bias and sine, or what is behind ReLU.
    """
    if has_kernel(x, precision):
        return dense_cpu.forward(x, weights, biases, activation == "sine", activate_last, keep)
    biased, biases = len(biases) > 0, _found(weights, biases)
    weights = _prepared(weights, precision)
    num_points, num_activated = x.shape[0], len(weights) - (not activate_last)
    out = x.new_empty(num_points, weights[-1].shape[0])
    kept = []
    if keep:
        kept = [w.new_empty(num_points, w.shape[0]) for w in weights[:num_activated]]
    for start in range(0, num_points, CHUNK):
        chunk = slice(start, start + CHUNK)
        value = x[chunk]
        for k, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            is_activated = k < num_activated
            target = kept[k][chunk] if keep and is_activated else None
            is_sine = is_activated and activation == "sine"
            value = _product(value, weight, bias, biased and not is_sine, target)
            if is_activated:
                value = sine(value, bias) if is_sine else value.relu_()
        out[chunk] = value
    return [out, *kept]


def backward(
    gradient: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    kept: Sequence[Tensor],
    activation: str,
    activate_last: bool,
    precision: str,
    needs_x: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of x (empty if not needed), of every weight and of every bias."""
    if has_kernel(x, precision):
        return dense_cpu.backward(
            gradient, x, weights, biases, kept, activation == "sine", activate_last, needs_x
        )
    x_gradient = torch.empty_like(x) if needs_x else x.new_empty(0)
    weight_gradients = [torch.zeros_like(w) for w in weights]
    bias_gradients = [torch.zeros_like(b) for b in biases]
    biased, biases = len(biases) > 0, _found(weights, biases)
    weights = _prepared(weights, precision)
    num_activated = len(weights) - (not activate_last)
    is_sine = activation == "sine"
    for start in range(0, x.shape[0], CHUNK):
        chunk = slice(start, start + CHUNK)
        values, slopes = [x[chunk]], []
        for k in range(num_activated):
            if kept:
                layer = kept[k][chunk]
            else:
                layer = _product(values[-1], weights[k], biases[k], biased and not is_sine, None)
            if is_sine:
                value, slope = sine_and_cosine(layer, biases[k])
            else:
                value = slope = layer if kept else layer.relu_()
            values.append(value)
            slopes.append(slope)
        back = gradient[chunk]
        for k in range(len(weights) - 1, -1, -1):
            if is_sine and k < num_activated:
                back, total = through_sine(back.to(slopes[k].dtype), slopes[k])
            else:
                if k < num_activated:
                    back = back.to(slopes[k].dtype)
                    back = torch.ops.aten.threshold_backward(back, slopes[k], 0)
                total = back.sum(dim=0, dtype=x.dtype) if biased else None
            if biased and total is not None:
                bias_gradients[k] += total
            back = back.to(weights[k].dtype)
            inputs = values[k].to(weights[k].dtype)
            if inputs.dtype == x.dtype:
                weight_gradients[k].addmm_(back.T, inputs)
            else:
                weight_gradients[k] += back.T @ inputs
            if k > 0:
                back = back @ weights[k]
            elif needs_x:
                torch.mm(back, weights[0], out=x_gradient[chunk])
    return x_gradient, weight_gradients, bias_gradients

"""Operation mlp: a small dense network with ReLU or sine between its layers.

Contract
    x        (n, inputs)
    weights  one (outputs, inputs) a layer, as in torch.nn.Linear
    biases   one (outputs,) a layer, or an empty list
    activation      relu, or sine (sin of the layer; frequencies belong into the weights)
    activate_last   the activation behind the last layer too
    returns  (n, outputs of the last layer)

Gradients: x, weights, biases, first order with recomputed activations, second order through the
reference (ReLU: zero almost everywhere but across layers). The slope of ReLU at 0 is 0. n = 0 is
allowed.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.ops.backend import require_same_dtype, uses_reference
from nfields.ops.gradient import reference_gradients
from nfields.ops.mlp import cpu
from nfields.ops.mlp.reference import mlp_reference

Activation = Literal["relu", "sine"]


def mlp(
    x: Float[Tensor, "n inputs"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]] = (),
    *,
    activation: Activation = "relu",
    activate_last: bool = False,
    backend: str = "auto",
) -> Float[Tensor, "n outputs"]:
    """Output of the network; see the module's contract."""
    if not weights or (biases and len(biases) != len(weights)):
        raise ValueError(
            f"mlp: {len(weights)} weights and {len(biases)} biases; need at least one weight "
            "and as many biases as weights, or none"
        )
    if uses_reference(backend, "mlp", x):
        return mlp_reference(x, weights, biases, activation, activate_last)
    require_same_dtype("mlp", x=x, **{f"weights[{k}]": w for k, w in enumerate(weights)})
    return _mlp(x, list(weights), list(biases), activation, activate_last)


@torch.library.custom_op("nfields::mlp", mutates_args=(), device_types="cpu")
def _mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    activate_last: bool,
) -> Tensor:
    return cpu.forward(x, weights, biases, activation, activate_last)


@_mlp.register_fake
def _(x, weights, biases, activation, activate_last):
    return x.new_empty(x.shape[0], weights[-1].shape[0])


@torch.library.custom_op("nfields::mlp_backward", mutates_args=(), device_types="cpu")
def _mlp_backward(
    gradient: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    activate_last: bool,
) -> list[Tensor]:
    """Gradients of x, every weight, every bias, in one list."""
    x_gradient, weight_gradients, bias_gradients = cpu.backward(
        gradient.contiguous(), x.contiguous(), weights, biases, activation, activate_last
    )
    return [x_gradient, *weight_gradients, *bias_gradients]


@_mlp_backward.register_fake
def _(gradient, x, weights, biases, activation, activate_last):
    return [torch.empty_like(t) for t in (x, *weights, *biases)]


def _save(ctx, inputs, output) -> None:
    x, weights, biases, ctx.activation, ctx.activate_last = inputs
    ctx.num_weights = len(weights)
    ctx.save_for_backward(x, *weights, *biases)


def _backward(ctx, gradient):
    x, *parameters = ctx.saved_tensors
    weights, biases = parameters[: ctx.num_weights], parameters[ctx.num_weights :]
    first, *rest = _mlp_backward(gradient, x, weights, biases, ctx.activation, ctx.activate_last)
    return first, rest[: ctx.num_weights], rest[ctx.num_weights :], None, None


def _save_backward(ctx, inputs, output) -> None:
    gradient, x, weights, biases, ctx.activation, ctx.activate_last = inputs
    ctx.num_weights = len(weights)
    ctx.save_for_backward(gradient, x, *weights, *biases)


def _double_backward(ctx, gradient_gradients):
    gradient, *inputs = ctx.saved_tensors
    count = ctx.num_weights

    def flat(x: Tensor, *parameters: Tensor) -> Tensor:
        return mlp_reference(
            x, parameters[:count], parameters[count:], ctx.activation, ctx.activate_last
        )

    second, x_second, *rest = reference_gradients(flat, inputs, gradient, gradient_gradients)
    return second, x_second, rest[:count], rest[count:], None, None


_mlp.register_autograd(_backward, setup_context=_save)
_mlp_backward.register_autograd(_double_backward, setup_context=_save_backward)

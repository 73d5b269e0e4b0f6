"""Operation mlp: a small dense network with ReLU or sine between its layers.

Contract
    x        (n, inputs)
    weights  one (outputs, inputs) a layer, as in torch.nn.Linear
    biases   one (outputs,) a layer, or an empty list
    activation      relu, or sine (sin of the layer; frequencies belong into the weights)
    activate_last   the activation behind the last layer too
    returns  (n, outputs of the last layer)

Gradients: x, weights, biases, first order by the kernel, second order through the reference (ReLU:
zero almost everywhere but across layers). The slope of ReLU at 0 is 0. n = 0 is allowed.

Inside `matrix_products("bf16")` (nfields/ops/backend.py) the products of float32 networks behind
the first layer are taken in bfloat16; on CUDA "fp16" takes float16.
backend=tcnn: by tiny-cuda-nn, in float16, see nfields/ops/tiny_cuda_nn.py.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.ops import tiny_cuda_nn
from nfields.ops.backend import (
    implement_on_cuda,
    product_precision,
    require_same_dtype,
    uses_reference,
    uses_triton,
)
from nfields.ops.gradient import reference_gradients
from nfields.ops.mlp import cpu
from nfields.ops.mlp.dense_cpu import kept_shape, sizes_of
from nfields.ops.mlp.reference import mlp_reference

Activation = Literal["relu", "sine"]


# Layers this wide keep what the backward pass needs; narrower ones compute it again (on the CPU).
KEEP_WIDTH = 128


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
    if backend == "tcnn" and len(x) > 0:
        return tiny_cuda_nn.network(x, weights, biases, activation, activate_last)
    if uses_reference(backend, "mlp", x):
        return mlp_reference(x, weights, biases, activation, activate_last)
    require_same_dtype("mlp", x=x, **{f"weights[{k}]": w for k, w in enumerate(weights)})
    precision = product_precision() if x.dtype == torch.float32 else "fp32"
    is_wide = uses_triton(x) or max(len(w) for w in weights) >= KEEP_WIDTH
    keep = torch.is_grad_enabled() and is_wide
    return _mlp(x, list(weights), list(biases), activation, activate_last, precision, keep)[0]


@torch.library.custom_op("nfields::mlp", mutates_args=(), device_types="cpu")
def _mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activation: str,
    activate_last: bool,
    precision: str,
    keep: bool,
) -> list[Tensor]:
    """The output, and with `keep` what the backward pass needs of the hidden layers."""
    return cpu.forward(x, weights, biases, activation, activate_last, precision, keep)


@_mlp.register_fake
def _(x, weights, biases, activation, activate_last, precision, keep):
    sizes = [x.new_empty(x.shape[0], w.shape[0]) for w in weights]
    if x.device.type == "cuda":  # kept in one tensor of padded layers
        width = max(16, *(1 << (max(w.shape) - 1).bit_length() for w in weights))
        if width <= 64:
            kept = x.new_empty(len(weights) - (not activate_last), x.shape[0], width)
            return [sizes[-1], kept] if keep else [sizes[-1]]
    elif cpu.has_kernel(x, precision):
        shape = kept_shape(x.shape[0], sizes_of(weights))
        return [sizes[-1], *([x.new_empty(shape)] if keep else [])]
    kept = sizes if activate_last else sizes[:-1]
    if precision == "bf16":
        kept = [*kept[:1], *(t.to(torch.bfloat16) for t in kept[1:])]
    return [sizes[-1].clone(), *(kept if keep else [])]


@torch.library.custom_op("nfields::mlp_backward", mutates_args=(), device_types="cpu")
def _mlp_backward(
    gradient: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    kept: Sequence[Tensor],
    activation: str,
    activate_last: bool,
    precision: str,
    needs_x: bool,
) -> list[Tensor]:
    """Gradients of x (empty if not needed), every weight, every bias, in one list."""
    x_gradient, weight_gradients, bias_gradients = cpu.backward(
        gradient.contiguous(), x.contiguous(), weights, biases, kept, activation, activate_last,
        precision, needs_x,
    )  # fmt: skip
    return [x_gradient, *weight_gradients, *bias_gradients]


@_mlp_backward.register_fake
def _(gradient, x, weights, biases, kept, activation, activate_last, precision, needs_x):
    first = torch.empty_like(x) if needs_x else x.new_empty(0)
    return [first, *(torch.empty_like(t) for t in (*weights, *biases))]


def _save(ctx, inputs, output) -> None:
    x, weights, biases, *ctx.options, _ = inputs
    ctx.num_weights, ctx.num_parameters = len(weights), len(weights) + len(biases)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, *weights, *biases, *output[1:])


def _backward(ctx, gradients):
    x, *saved = ctx.saved_tensors
    parameters, kept = saved[: ctx.num_parameters], saved[ctx.num_parameters :]
    count, needs_x = ctx.num_weights, ctx.needs_input_grad[0]
    if gradients[0] is None:  # only what is kept was asked for, in a second derivative
        nothing = [None] * ctx.num_parameters
        return None, nothing[:count], nothing[count:], None, None, None, None
    first, *rest = _mlp_backward(
        gradients[0], x, parameters[:count], parameters[count:], kept, *ctx.options, needs_x
    )
    return first if needs_x else None, rest[:count], rest[count:], None, None, None, None


def _save_backward(ctx, inputs, output) -> None:
    gradient, x, weights, biases, kept, ctx.activation, ctx.activate_last, _, ctx.needs_x = inputs
    ctx.num_weights, ctx.num_kept = len(weights), len(kept)
    ctx.save_for_backward(gradient, x, *weights, *biases)


def _double_backward(ctx, gradient_gradients):
    gradient, *inputs = ctx.saved_tensors
    count = ctx.num_weights

    def flat(x: Tensor, *parameters: Tensor) -> Tensor:
        return mlp_reference(
            x, parameters[:count], parameters[count:], ctx.activation, ctx.activate_last
        )

    if not ctx.needs_x:
        gradient_gradients = [None, *gradient_gradients[1:]]
    second, x_second, *rest = reference_gradients(flat, inputs, gradient, gradient_gradients)
    kept = [None] * ctx.num_kept
    return second, x_second, rest[:count], rest[count:], kept, None, None, None, None


_mlp.register_autograd(_backward, setup_context=_save)
_mlp_backward.register_autograd(_double_backward, setup_context=_save_backward)
implement_on_cuda(_mlp, "nfields.ops.mlp.cuda:forward")
implement_on_cuda(_mlp_backward, "nfields.ops.mlp.cuda:backward")

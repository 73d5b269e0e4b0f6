"""Operation rbf_decode: a layer of Gaussian neurons in feature space and its linear readout.

Contract
    features    (n, D)         any real values
    centers     (N, D)
    inv_widths  (N, D)         1 / standard deviation of the neuron in every feature dimension
    weight      (G, O, H)      H = N, or N + D with a linear term from the features
    bias        (G, O)
    offsets     (G + 1,) int64 group g holds points offsets[g] .. offsets[g + 1] - 1; groups cover
                               all points in order and may be empty. G = 1: one readout for all
    returns     (n, O)         weight[g] @ [responses, features] + bias[g]

Groups are how a radiance field stays cheap: spherical-harmonics colour is linear in the model's
outputs, so the harmonics of a ray's direction are folded into the readout once a ray, and a sample
costs 4 outputs and not 49.

Gradients: everything but offsets, first order by the kernel, second order through the reference.
A point whose incoming gradient is zero is skipped in the backward pass. n = 0 is allowed. On CUDA
points behind the last offset belong to no group: output and gradients 0 (buffers of a fixed length,
see march).
Deterministic for any number of threads. Responses below exp(-60) are 0 (no denormals).
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.ops.backend import (
    implement_on_cuda,
    plain,
    require_same_dtype,
    uses_reference,
)
from nfields.ops.gradient import reference_gradients
from nfields.ops.rbf_decode import cpu
from nfields.ops.rbf_decode.reference import rbf_decode_reference


def rbf_decode(
    features: Float[Tensor, "n dim"],
    centers: Float[Tensor, "neurons dim"],
    inv_widths: Float[Tensor, "neurons dim"],
    weight: Float[Tensor, "groups out hidden"],
    bias: Float[Tensor, "groups out"],
    offsets: Int[Tensor, " groups_plus_1"] | None = None,
    *,
    backend: str = "auto",
) -> Float[Tensor, "n out"]:
    """Readout of the Gaussian responses; see the module's contract."""
    num_points, dim = features.shape
    num_neurons, num_groups = centers.shape[0], weight.shape[0]
    if weight.shape[2] not in (num_neurons, num_neurons + dim):
        raise ValueError(
            f"rbf_decode: weight takes {weight.shape[2]} inputs; allowed are {num_neurons} "
            f"(responses) and {num_neurons + dim} (responses and features)"
        )
    if offsets is None:
        if num_groups != 1:
            raise ValueError(f"rbf_decode: {num_groups} readouts need offsets of the groups")
        # Not torch.tensor, for which the host waits for a GPU.
        offsets = num_points * torch.arange(2, device=features.device)
    elif offsets.shape != (num_groups + 1,):
        raise ValueError(
            f"rbf_decode: {num_groups} readouts need {num_groups + 1} offsets, not "
            f"{tuple(offsets.shape)}"
        )
    if uses_reference(backend, "rbf_decode", features):
        return plain(rbf_decode_reference, backend)(
            features, centers, inv_widths, weight, bias, offsets
        )
    require_same_dtype(
        "rbf_decode",
        features=features,
        centers=centers,
        inv_widths=inv_widths,
        weight=weight,
        bias=bias,
    )
    return _decode(features, centers, inv_widths, weight, bias, offsets)[0]


def grouped_linear(
    hidden: Float[Tensor, "n hidden"],
    weight: Float[Tensor, "groups out hidden"],
    bias: Float[Tensor, "groups out"],
    offsets: Int[Tensor, " groups_plus_1"] | None = None,
    *,
    backend: str = "auto",
) -> Float[Tensor, "n out"]:
    """weight[g] @ hidden + bias[g]: the readout alone, a layer of no neurons with a linear term."""
    if weight.shape[0] == 1:
        return torch.nn.functional.linear(hidden, weight[0], bias[0])
    nothing = hidden.new_zeros(0, hidden.shape[1])
    return rbf_decode(hidden, nothing, nothing, weight, bias, offsets, backend=backend)


@torch.library.custom_op("nfields::rbf_decode", mutates_args=(), device_types="cpu")
def _decode(
    features: Tensor,
    centers: Tensor,
    inv_widths: Tensor,
    weight: Tensor,
    bias: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Outputs and, for the backward pass, the responses (n, N)."""
    num_points, (num_neurons, dim) = features.shape[0], centers.shape
    scale = features.new_zeros(dim, -(-num_neurons // cpu.PAD) * cpu.PAD)
    shift = torch.zeros_like(scale)
    scale[:, :num_neurons] = inv_widths.T
    shift[:, :num_neurons] = (inv_widths * centers).T
    out = features.new_empty(num_points, weight.shape[1])
    responses = features.new_empty(num_points, num_neurons)
    kernel = cpu.decode_kernel(dim, num_neurons, *weight.shape[1:])
    kernel(
        features.contiguous().numpy(), scale.numpy(), shift.numpy(), weight.contiguous().numpy(),
        bias.contiguous().numpy(), offsets.numpy(), out.numpy(), responses.numpy(),
    )  # fmt: skip
    return out, responses


@_decode.register_fake
def _(features, centers, inv_widths, weight, bias, offsets):
    num_points = features.shape[0]
    return (
        features.new_empty(num_points, weight.shape[1]),
        features.new_empty(num_points, centers.shape[0]),
    )


@torch.library.custom_op("nfields::rbf_decode_backward", mutates_args=(), device_types="cpu")
def _decode_backward(
    gradient: Tensor,
    features: Tensor,
    centers: Tensor,
    inv_widths: Tensor,
    weight: Tensor,
    bias: Tensor,
    offsets: Tensor,
    responses: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of features, centers, inv_widths, weight and bias."""
    (num_neurons, dim), num_groups = centers.shape, weight.shape[0]
    square = inv_widths.square()
    slots = num_groups if num_groups > 1 else cpu.NUM_CHUNKS
    features_gradient = torch.empty_like(features)
    weight_gradient = weight.new_zeros(slots, *weight.shape[1:])
    bias_gradient = bias.new_zeros(slots, bias.shape[1])
    columns = -(-2 * dim // cpu.PAD) * cpu.PAD
    slopes = square.new_zeros(num_neurons, columns)
    slopes[:, :dim] = 2 * square
    slopes[:, dim : 2 * dim] = -2 * square * centers
    zeroth = square.new_zeros(cpu.NUM_CHUNKS, num_neurons)
    moments = square.new_zeros(cpu.NUM_CHUNKS, -(-num_neurons // cpu.PAD) * cpu.PAD, columns)
    kernel = cpu.backward_kernel(dim, num_neurons, *weight.shape[1:])
    kernel(
        gradient.contiguous().numpy(), features.contiguous().numpy(), responses.numpy(),
        slopes.numpy(), weight.contiguous().numpy(), offsets.numpy(), features_gradient.numpy(),
        weight_gradient.numpy(), bias_gradient.numpy(), zeroth.numpy(), moments.numpy(),
    )  # fmt: skip
    if num_groups == 1:
        weight_gradient = weight_gradient.sum(dim=0, keepdim=True)
        bias_gradient = bias_gradient.sum(dim=0, keepdim=True)
    # With E = sum_d s^2 (F - mu)^2 and q = d(loss)/dE per point and neuron:
    zeroth = zeroth.sum(dim=0)[:, None]
    moments = moments.sum(dim=0)[:num_neurons]
    second, first = moments[:, :dim], moments[:, dim : 2 * dim]
    centers_gradient = 2 * square * (centers * zeroth - first)
    spread = second - 2 * centers * first + centers.square() * zeroth
    return (
        features_gradient,
        centers_gradient,
        2 * inv_widths * spread,
        weight_gradient,
        bias_gradient,
    )


@_decode_backward.register_fake
def _(gradient, features, centers, inv_widths, weight, bias, offsets, responses):
    return tuple(torch.empty_like(t) for t in (features, centers, inv_widths, weight, bias))


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, gradient, _):
    if gradient is None:
        return (None,) * 6
    return (*_decode_backward(gradient, *ctx.saved_tensors), None)


def _save_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:-1])


def _double_backward(ctx, *gradient_gradients):
    gradient, *inputs, offsets = ctx.saved_tensors
    second = reference_gradients(
        lambda *tensors: rbf_decode_reference(*tensors, offsets),
        inputs,
        gradient,
        gradient_gradients,
    )
    return (*second, None, None)


_decode.register_autograd(_backward, setup_context=_save)
_decode_backward.register_autograd(_double_backward, setup_context=_save_backward)
implement_on_cuda(_decode, "nfields.ops.rbf_decode.cuda:decode")
implement_on_cuda(_decode_backward, "nfields.ops.rbf_decode.cuda:decode_backward")

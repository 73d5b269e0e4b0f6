"""Operation distortion: how spread out the weights of each ray are (mip-NeRF 360's regulariser).

Contract
    density            (s,) >= 0, per unit length
    t_starts, t_ends   (s,), offsets (n + 1,) int64: see nfields.ops.march.Samples
    s_starts, s_ends   (s,) the same places on the scale that distances are to be measured on
    min_transmittance  as in nfields.ops.composite: the weights are the same
    returns            (n,) the loss of equation 15 for every ray; see the reference

A ray without samples is zero. Gradient: density, first order only. Samples behind
the last offset (buffers of a fixed length, see march) have none. Deterministic.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.ops.backend import implement_on_cuda, require_same_dtype, uses_reference
from nfields.ops.distortion import cpu
from nfields.ops.distortion.reference import distortion_reference


def distortion(
    density: Float[Tensor, " samples"],
    t_starts: Float[Tensor, " samples"],
    t_ends: Float[Tensor, " samples"],
    s_starts: Float[Tensor, " samples"],
    s_ends: Float[Tensor, " samples"],
    offsets: Int[Tensor, " n_plus_1"],
    *,
    min_transmittance: float = 1e-4,
    backend: str = "auto",
) -> Float[Tensor, " n"]:
    """The distortion of every ray; see the module's contract."""
    tensors = (density, t_starts, t_ends, s_starts, s_ends, offsets)
    if uses_reference(backend, "distortion", density):
        return distortion_reference(*tensors, min_transmittance)
    require_same_dtype(
        "distortion", density=density, t_starts=t_starts, t_ends=t_ends, s_starts=s_starts,
        s_ends=s_ends,
    )  # fmt: skip
    return _distortion(*tensors, min_transmittance)[0]


@torch.library.custom_op("nfields::distortion", mutates_args=(), device_types="cpu")
def _distortion(
    density: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    s_starts: Tensor,
    s_ends: Tensor,
    offsets: Tensor,
    min_transmittance: float,
) -> tuple[Tensor, Tensor]:
    num_rays = offsets.shape[0] - 1
    loss, sums = density.new_empty(num_rays), density.new_empty(num_rays, 2)
    tensors = (density, t_starts, t_ends, s_starts, s_ends, offsets)
    arrays = [t.contiguous().numpy() for t in tensors]
    limit = arrays[0].dtype.type(min_transmittance)
    cpu.distortion(*arrays, limit, loss.numpy(), sums.numpy())
    return loss, sums


@_distortion.register_fake
def _(density, t_starts, t_ends, s_starts, s_ends, offsets, min_transmittance):
    num_rays = offsets.shape[0] - 1
    return density.new_empty(num_rays), density.new_empty(num_rays, 2)


@torch.library.custom_op("nfields::distortion_backward", mutates_args=(), device_types="cpu")
def _distortion_backward(
    gradient: Tensor,
    density: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    s_starts: Tensor,
    s_ends: Tensor,
    offsets: Tensor,
    min_transmittance: float,
    loss: Tensor,
    sums: Tensor,
) -> Tensor:
    density_gradient = torch.zeros_like(density, memory_format=torch.contiguous_format)
    tensors = (gradient, density, t_starts, t_ends, s_starts, s_ends, offsets)
    arrays = [t.contiguous().numpy() for t in tensors]
    limit = arrays[1].dtype.type(min_transmittance)
    cpu.distortion_backward(*arrays, limit, loss.numpy(), sums.numpy(), density_gradient.numpy())
    return density_gradient


@_distortion_backward.register_fake
def _(gradient, density, *others):
    return torch.empty_like(density)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.min_transmittance = inputs
    ctx.save_for_backward(*tensors, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx, gradient: Tensor, _: Tensor):
    *tensors, loss, sums = ctx.saved_tensors
    density_gradient = _distortion_backward(gradient, *tensors, ctx.min_transmittance, loss, sums)
    return density_gradient, *(None,) * 6


_distortion.register_autograd(_backward, setup_context=_save)
implement_on_cuda(_distortion, "nfields.ops.distortion.cuda:distortion")
implement_on_cuda(_distortion_backward, "nfields.ops.distortion.cuda:distortion_backward")

"""Operation composite: packed samples of rays to colour, opacity and depth.

Contract
    density   (s,) >= 0, per unit length
    color     (s, channels)
    t_starts, t_ends   (s,), offsets (n + 1,) int64: see nfields.ops.march.Samples
    min_transmittance  a ray ends behind the sample that brings its transmittance below this
    returns   color (n, channels), opacity (n,), depth (n,): sums over the ray, no background;
              depth is the weighted sum of the samples' middles: divide by opacity for a mean

A ray without samples is zero. Gradients: density and color, first order by the kernel, second order
through the reference; samples behind the end of a ray have gradient 0. Deterministic.
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
from nfields.ops.composite import cpu
from nfields.ops.composite.reference import composite_reference
from nfields.ops.gradient import reference_gradients


def composite(
    density: Float[Tensor, " samples"],
    color: Float[Tensor, "samples channels"],
    t_starts: Float[Tensor, " samples"],
    t_ends: Float[Tensor, " samples"],
    offsets: Int[Tensor, " n_plus_1"],
    *,
    min_transmittance: float = 1e-4,
    backend: str = "auto",
) -> tuple[Float[Tensor, "n channels"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Colour, opacity and depth of every ray; see the module's contract."""
    if uses_reference(backend, "composite", density):
        return plain(composite_reference, backend)(
            density, color, t_starts, t_ends, offsets, min_transmittance
        )
    require_same_dtype("composite", density=density, color=color, t_starts=t_starts, t_ends=t_ends)
    return _composite(density, color, t_starts, t_ends, offsets, min_transmittance)


@torch.library.custom_op("nfields::composite", mutates_args=(), device_types="cpu")
def _composite(
    density: Tensor,
    color: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    offsets: Tensor,
    min_transmittance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    num_rays = offsets.shape[0] - 1
    rgb = color.new_empty(num_rays, color.shape[1])
    opacity, depth = color.new_empty(num_rays), color.new_empty(num_rays)
    arrays = [t.contiguous().numpy() for t in (density, color, t_starts, t_ends, offsets)]
    limit = arrays[0].dtype.type(min_transmittance)
    cpu.composite(*arrays, limit, rgb.numpy(), opacity.numpy(), depth.numpy())
    return rgb, opacity, depth


@_composite.register_fake
def _(density, color, t_starts, t_ends, offsets, min_transmittance):
    num_rays = offsets.shape[0] - 1
    rgb = color.new_empty(num_rays, color.shape[1])
    return rgb, color.new_empty(num_rays), color.new_empty(num_rays)


@torch.library.custom_op("nfields::composite_backward", mutates_args=(), device_types="cpu")
def _composite_backward(
    rgb_gradient: Tensor,
    opacity_gradient: Tensor,
    depth_gradient: Tensor,
    density: Tensor,
    color: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    offsets: Tensor,
    min_transmittance: float,
    rgb: Tensor,
    opacity: Tensor,
    depth: Tensor,
) -> tuple[Tensor, Tensor]:
    density_gradient, color_gradient = torch.zeros_like(density), torch.zeros_like(color)
    tensors = (
        rgb_gradient, opacity_gradient, depth_gradient, density, color, t_starts, t_ends, offsets
    )  # fmt: skip
    arrays = [t.contiguous().numpy() for t in tensors]
    cpu.composite_backward(
        *arrays, arrays[3].dtype.type(min_transmittance), rgb.numpy(), opacity.numpy(),
        depth.numpy(), density_gradient.numpy(), color_gradient.numpy(),
    )  # fmt: skip
    return density_gradient, color_gradient


@_composite_backward.register_fake
def _(*args):
    return torch.empty_like(args[3]), torch.empty_like(args[4])


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.min_transmittance = inputs
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx, rgb_gradient, opacity_gradient, depth_gradient):
    *tensors, rgb, opacity, depth = ctx.saved_tensors
    density_gradient, color_gradient = _composite_backward(
        rgb_gradient, opacity_gradient, depth_gradient, *tensors, ctx.min_transmittance,
        rgb, opacity, depth,
    )  # fmt: skip
    return density_gradient, color_gradient, None, None, None, None


def _save_backward(ctx, inputs, output) -> None:
    *tensors, ctx.min_transmittance, _, _, _ = inputs
    ctx.save_for_backward(*tensors)


def _double_backward(ctx, density_gradient_gradient, color_gradient_gradient):
    *gradients, density, color, t_starts, t_ends, offsets = ctx.saved_tensors

    def flat(density: Tensor, color: Tensor) -> Tensor:
        outputs = composite_reference(
            density, color, t_starts, t_ends, offsets, ctx.min_transmittance
        )
        return torch.cat([output.reshape(-1) for output in outputs])

    gradient = torch.cat([g.reshape(-1) for g in gradients])
    second, *rest = reference_gradients(
        flat, (density, color), gradient, (density_gradient_gradient, color_gradient_gradient)
    )
    parts = (None,) * 3
    if second is not None:
        pieces = second.split([g.numel() for g in gradients])
        parts = tuple(p.view_as(g) for p, g in zip(pieces, gradients, strict=True))
    return (*parts, *rest, *(None,) * 7)


_composite.register_autograd(_backward, setup_context=_save)
_composite_backward.register_autograd(_double_backward, setup_context=_save_backward)
implement_on_cuda(_composite, "nfields.ops.composite.cuda:composite")
implement_on_cuda(_composite_backward, "nfields.ops.composite.cuda:composite_backward")

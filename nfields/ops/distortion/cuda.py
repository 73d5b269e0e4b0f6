"""The distortion of packed samples on CUDA (Triton).

Mapping. As composite, whose weights these are: one program of one warp a ray, its samples in tiles,
front to back; sums in front of a sample are a scan within the tile and what the tiles before have
left. Every sample is read once forward and once backward (20 bytes). The loss is of degree two in
the weights, so sum_i w_i dloss/dw_i = 2 loss: what is still to come needs no pass of its own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfields.ops.composite.cuda import TILE, optical_limit, tile_weights


@triton.jit
def _tile_sums(s_starts_ptr, s_ends_ptr, sample, mask, weight, mass, moment):
    """Middle and width of each sample, and mass and moment of the weights in front of it."""
    start = tl.load(s_starts_ptr + sample, mask=mask, other=0.0)
    end = tl.load(s_ends_ptr + sample, mask=mask, other=0.0)
    middle = 0.5 * (start + end)
    part = weight * middle
    in_front = mass + tl.cumsum(weight, axis=0) - weight
    return middle, end - start, in_front, moment + tl.cumsum(part, axis=0) - part


@triton.jit
def distortion_kernel(
    density_ptr, starts_ptr, ends_ptr, s_starts_ptr, s_ends_ptr, offsets_ptr, limit, loss_ptr,
    sums_ptr, TILE: tl.constexpr,
):  # fmt: skip
    """Loss, and sums (n, 2) of the weights and of weight times middle."""
    ray = tl.program_id(0)
    first = tl.load(offsets_ptr + ray)
    last = tl.load(offsets_ptr + ray + 1)
    kind = density_ptr.dtype.element_ty
    loss = tl.full([], 0, kind)
    mass = tl.full([], 0, kind)
    moment = tl.full([], 0, kind)
    optical_depth = tl.full([], 0, kind)
    while (first < last) & (optical_depth <= limit):
        sample = first + tl.arange(0, TILE)
        mask = sample < last
        _, _, weight, _, _, total = tile_weights(
            density_ptr, starts_ptr, ends_ptr, sample, mask, optical_depth, limit
        )
        middle, width, mass_before, moment_before = _tile_sums(
            s_starts_ptr, s_ends_ptr, sample, mask, weight, mass, moment
        )
        apart = middle * mass_before - moment_before
        loss += tl.sum(2.0 * weight * apart + weight * weight * width / 3.0, axis=0)
        mass += tl.sum(weight, axis=0)
        moment += tl.sum(weight * middle, axis=0)
        optical_depth += total
        first += TILE
    tl.store(loss_ptr + ray, loss)
    tl.store(sums_ptr + 2 * ray, mass)
    tl.store(sums_ptr + 2 * ray + 1, moment)


@triton.jit
def distortion_backward_kernel(
    gradient_ptr, density_ptr, starts_ptr, ends_ptr, s_starts_ptr, s_ends_ptr, offsets_ptr, limit,
    loss_ptr, sums_ptr, density_gradient_ptr, TILE: tl.constexpr,
):  # fmt: skip
    """The gradient arrives zeroed: samples behind the stop keep zero."""
    ray = tl.program_id(0)
    first = tl.load(offsets_ptr + ray)
    last = tl.load(offsets_ptr + ray + 1)
    kind = density_ptr.dtype.element_ty
    gradient = tl.load(gradient_ptr + ray)
    all_mass = tl.load(sums_ptr + 2 * ray)
    all_moment = tl.load(sums_ptr + 2 * ray + 1)
    remaining = 2.0 * tl.load(loss_ptr + ray)
    mass = tl.full([], 0, kind)
    moment = tl.full([], 0, kind)
    optical_depth = tl.full([], 0, kind)
    while (first < last) & (optical_depth <= limit):
        sample = first + tl.arange(0, TILE)
        mask = sample < last
        dt, _, weight, behind, seen, total = tile_weights(
            density_ptr, starts_ptr, ends_ptr, sample, mask, optical_depth, limit
        )
        middle, width, mass_before, moment_before = _tile_sums(
            s_starts_ptr, s_ends_ptr, sample, mask, weight, mass, moment
        )
        mass_behind = all_mass - mass_before - weight
        moment_behind = all_moment - moment_before - weight * middle
        value = middle * mass_before - moment_before + moment_behind - middle * mass_behind
        value = 2.0 * (value + weight * width / 3.0)
        to_come = remaining - tl.cumsum(weight * value, axis=0)
        slope = tl.where(seen, gradient * dt * (behind * value - to_come), 0.0)
        tl.store(density_gradient_ptr + sample, slope, mask=mask)
        remaining -= tl.sum(weight * value, axis=0)
        mass += tl.sum(weight, axis=0)
        moment += tl.sum(weight * middle, axis=0)
        optical_depth += total
        first += TILE


def distortion(
    density: Tensor, t_starts: Tensor, t_ends: Tensor, s_starts: Tensor, s_ends: Tensor,
    offsets: Tensor, min_transmittance: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The loss of every ray and, for the backward pass, the sums of its weights."""
    num_rays = offsets.shape[0] - 1
    loss, sums = density.new_empty(num_rays), density.new_empty(num_rays, 2)
    tensors = (density, t_starts, t_ends, s_starts, s_ends, offsets)
    if num_rays > 0:
        distortion_kernel[(num_rays,)](
            *(t.contiguous() for t in tensors), optical_limit(min_transmittance), loss, sums,
            TILE=TILE, num_warps=1,
        )  # fmt: skip
    return loss, sums


def distortion_backward(
    gradient: Tensor, density: Tensor, t_starts: Tensor, t_ends: Tensor, s_starts: Tensor,
    s_ends: Tensor, offsets: Tensor, min_transmittance: float, loss: Tensor, sums: Tensor,
) -> Tensor:  # fmt: skip
    """The gradient of density."""
    num_rays = offsets.shape[0] - 1
    density_gradient = torch.zeros_like(density, memory_format=torch.contiguous_format)
    tensors = (gradient, density, t_starts, t_ends, s_starts, s_ends, offsets)
    if num_rays > 0:
        distortion_backward_kernel[(num_rays,)](
            *(t.contiguous() for t in tensors), optical_limit(min_transmittance), loss, sums,
            density_gradient, TILE=TILE, num_warps=1,
        )  # fmt: skip
    return density_gradient

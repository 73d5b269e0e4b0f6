"""Volume rendering of packed samples on CUDA (Triton).

Mapping. One program of one warp a ray; it goes through the ray's samples in tiles of TILE, front to
back, and carries the optical depth so far: within a tile transmittance is the exponential of a
scan. Every sample is read once forward and once backward (24 bytes with three colours). A ray stops
at the first tile whose start is behind min_transmittance. The backward pass goes front to back
with what is still to come, sum_{k > i} w_k v_k = total - (sum so far).
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 32


@triton.jit
def tile_weights(density_ptr, starts_ptr, ends_ptr, sample, mask, optical_depth, limit):
    """Step, middle, weight and transmittance behind each sample, and the tile's optical depth."""
    start = tl.load(starts_ptr + sample, mask=mask, other=0.0)
    end = tl.load(ends_ptr + sample, mask=mask, other=0.0)
    density = tl.load(density_ptr + sample, mask=mask, other=0.0)
    dt = end - start
    optical = density * dt
    behind = optical_depth + tl.cumsum(optical, axis=0)
    in_front = behind - optical
    seen = mask & (in_front <= limit)
    transmittance = tl.exp(-in_front)
    weight = tl.where(seen, transmittance * (1 - tl.exp(-optical)), 0.0)
    return dt, 0.5 * (start + end), weight, tl.exp(-behind), seen, tl.sum(optical, axis=0)


@triton.jit
def composite_kernel(
    density_ptr, color_ptr, starts_ptr, ends_ptr, offsets_ptr, limit, rgb_ptr, opacity_ptr,
    depth_ptr, channels, CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """limit = -log(min_transmittance): optical depth behind which samples do not count."""
    ray = tl.program_id(0)
    first = tl.load(offsets_ptr + ray)
    last = tl.load(offsets_ptr + ray + 1)
    channel = tl.arange(0, CHANNELS)
    kind = density_ptr.dtype.element_ty
    rgb = tl.full([CHANNELS], 0, kind)
    opacity = tl.full([], 0, kind)
    depth = tl.full([], 0, kind)
    optical_depth = tl.full([], 0, kind)
    while (first < last) & (optical_depth <= limit):
        sample = first + tl.arange(0, TILE)
        mask = sample < last
        _, middle, weight, _, _, total = tile_weights(
            density_ptr, starts_ptr, ends_ptr, sample, mask, optical_depth, limit
        )
        color = tl.load(
            color_ptr + sample[:, None] * channels + channel[None, :],
            mask=mask[:, None] & (channel[None, :] < channels), other=0.0,
        )  # fmt: skip
        rgb += tl.sum(weight[:, None] * color, axis=0)
        opacity += tl.sum(weight, axis=0)
        depth += tl.sum(weight * middle, axis=0)
        optical_depth += total
        first += TILE
    tl.store(rgb_ptr + ray * channels + channel, rgb, mask=channel < channels)
    tl.store(opacity_ptr + ray, opacity)
    tl.store(depth_ptr + ray, depth)


@triton.jit
def composite_backward_kernel(
    rgb_gradient_ptr, opacity_gradient_ptr, depth_gradient_ptr, density_ptr, color_ptr, starts_ptr,
    ends_ptr, offsets_ptr, limit, rgb_ptr, opacity_ptr, depth_ptr, density_gradient_ptr,
    color_gradient_ptr, channels, CHANNELS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The gradients arrive zeroed: samples behind the stop keep zero."""
    ray = tl.program_id(0)
    first = tl.load(offsets_ptr + ray)
    last = tl.load(offsets_ptr + ray + 1)
    channel = tl.arange(0, CHANNELS)
    is_channel = channel < channels
    kind = density_ptr.dtype.element_ty
    by_rgb = tl.load(rgb_gradient_ptr + ray * channels + channel, mask=is_channel, other=0.0)
    by_opacity = tl.load(opacity_gradient_ptr + ray)
    by_depth = tl.load(depth_gradient_ptr + ray)
    rgb = tl.load(rgb_ptr + ray * channels + channel, mask=is_channel, other=0.0)
    remaining = tl.sum(by_rgb * rgb, axis=0) + by_opacity * tl.load(opacity_ptr + ray)
    remaining += by_depth * tl.load(depth_ptr + ray)
    optical_depth = tl.full([], 0, kind)
    while (first < last) & (optical_depth <= limit):
        sample = first + tl.arange(0, TILE)
        mask = sample < last
        dt, middle, weight, behind, seen, total = tile_weights(
            density_ptr, starts_ptr, ends_ptr, sample, mask, optical_depth, limit
        )
        where = sample[:, None] * channels + channel[None, :]
        both = mask[:, None] & is_channel[None, :]
        color = tl.load(color_ptr + where, mask=both, other=0.0)
        value = by_opacity + by_depth * middle + tl.sum(by_rgb[None, :] * color, axis=1)
        tl.store(color_gradient_ptr + where, weight[:, None] * by_rgb[None, :], mask=both)
        to_come = remaining - tl.cumsum(weight * value, axis=0)
        slope = tl.where(seen, dt * (behind * value - to_come), 0.0)
        tl.store(density_gradient_ptr + sample, slope, mask=mask)
        remaining -= tl.sum(weight * value, axis=0)
        optical_depth += total
        first += TILE


def optical_limit(min_transmittance: float) -> float:
    """The optical depth behind which samples do not count."""
    return -math.log(min_transmittance) if min_transmittance > 0 else math.inf


def composite(
    density: Tensor, color: Tensor, t_starts: Tensor, t_ends: Tensor, offsets: Tensor,
    min_transmittance: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Colour, opacity and depth of every ray."""
    num_rays, channels = offsets.shape[0] - 1, color.shape[1]
    rgb = color.new_empty(num_rays, channels)
    opacity, depth = color.new_empty(num_rays), color.new_empty(num_rays)
    if num_rays > 0:
        composite_kernel[(num_rays,)](
            *(t.contiguous() for t in (density, color, t_starts, t_ends, offsets)),
            optical_limit(min_transmittance), rgb, opacity, depth, channels,
            CHANNELS=triton.next_power_of_2(channels), TILE=TILE, num_warps=1,
        )  # fmt: skip
    return rgb, opacity, depth


def composite_backward(
    rgb_gradient: Tensor, opacity_gradient: Tensor, depth_gradient: Tensor, density: Tensor,
    color: Tensor, t_starts: Tensor, t_ends: Tensor, offsets: Tensor, min_transmittance: float,
    rgb: Tensor, opacity: Tensor, depth: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of density and color."""
    num_rays, channels = offsets.shape[0] - 1, color.shape[1]
    density_gradient, color_gradient = torch.zeros_like(density), torch.zeros_like(color)
    inputs = (
        rgb_gradient, opacity_gradient, depth_gradient, density, color, t_starts, t_ends, offsets
    )  # fmt: skip
    if num_rays > 0:
        composite_backward_kernel[(num_rays,)](
            *(t.contiguous() for t in inputs), optical_limit(min_transmittance), rgb, opacity,
            depth, density_gradient, color_gradient, channels,
            CHANNELS=triton.next_power_of_2(channels), TILE=TILE, num_warps=1,
        )  # fmt: skip
    return density_gradient, color_gradient

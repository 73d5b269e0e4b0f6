"""Volume rendering of packed samples on the CPU (Numba).

Mapping. One thread a block of rays; a ray's samples are consecutive, so every sample is read once
forward and once backward. The exponentials are the kernel's own (no denormals: a ray stops once
its transmittance is below `min_transmittance`). The backward pass walks front to back with what is
still to come, sum_{k > i} w_k v_k = total - (sum so far), as the forward totals are known.
"""

from typing import Any

import numpy as np

from nfields.jit import njit, prange
from nfields.ops.simd import exp_negative

_BLOCK = 32


@njit(parallel=True, cache=True)
def composite(
    density: Any, color: Any, starts: Any, ends: Any, offsets: Any, min_transmittance: Any,
    rgb: Any, opacity: Any, depth: Any,
) -> None:  # fmt: skip
    num_rays, channels = rgb.shape
    kind = density.dtype.type
    for block in prange((num_rays + _BLOCK - 1) // _BLOCK):
        for i in range(np.int64(block) * _BLOCK, min(np.int64(block + 1) * _BLOCK, num_rays)):
            transmittance = kind(1)
            depth[i] = kind(0)
            for c in range(channels):
                rgb[i, c] = kind(0)
            for s in range(offsets[i], offsets[i + 1]):
                kept = exp_negative(density[s] * (ends[s] - starts[s]))
                weight = transmittance * (kind(1) - kept)
                for c in range(channels):
                    rgb[i, c] += weight * color[s, c]
                depth[i] += weight * kind(0.5) * (starts[s] + ends[s])
                transmittance *= kept
                if transmittance < min_transmittance:
                    break
            opacity[i] = kind(1) - transmittance


@njit(parallel=True, cache=True)
def composite_backward(
    rgb_gradient: Any, opacity_gradient: Any, depth_gradient: Any, density: Any, color: Any,
    starts: Any, ends: Any, offsets: Any, min_transmittance: Any, rgb: Any, opacity: Any,
    depth: Any, density_gradient: Any, color_gradient: Any,
) -> None:  # fmt: skip
    """density_gradient and color_gradient arrive zeroed: samples behind the stop keep zero."""
    num_rays, channels = rgb.shape
    kind = density.dtype.type
    for block in prange((num_rays + _BLOCK - 1) // _BLOCK):
        for i in range(np.int64(block) * _BLOCK, min(np.int64(block + 1) * _BLOCK, num_rays)):
            remaining = opacity_gradient[i] * opacity[i] + depth_gradient[i] * depth[i]
            for c in range(channels):
                remaining += rgb_gradient[i, c] * rgb[i, c]
            transmittance = kind(1)
            for s in range(offsets[i], offsets[i + 1]):
                dt = ends[s] - starts[s]
                kept = exp_negative(density[s] * dt)
                weight = transmittance * (kind(1) - kept)
                value = opacity_gradient[i] + depth_gradient[i] * kind(0.5) * (starts[s] + ends[s])
                for c in range(channels):
                    value += rgb_gradient[i, c] * color[s, c]
                    color_gradient[s, c] = weight * rgb_gradient[i, c]
                transmittance *= kept
                remaining -= weight * value
                density_gradient[s] = dt * (transmittance * value - remaining)
                if transmittance < min_transmittance:
                    break

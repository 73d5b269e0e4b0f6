"""The distortion of packed samples on the CPU (Numba).

Mapping. One thread a block of rays; every sample is read once forward, twice backward (the slope of
a weight needs the sums behind it, totals minus what lies in front). The loss is of degree two in
the weights, so sum_i w_i dloss/dw_i = 2 loss: what is still to come needs no pass of its own.
"""

from typing import Any

import numpy as np

from nfields.jit import njit, prange
from nfields.ops.simd import exp_negative

_BLOCK = 32


@njit(parallel=True, cache=True)
def distortion(
    density: Any, starts: Any, ends: Any, s_starts: Any, s_ends: Any, offsets: Any,
    min_transmittance: Any, loss: Any, sums: Any,
) -> None:  # fmt: skip
    """Writes the loss of every ray, and sums (n, 2) of its weights and of weight times middle."""
    num_rays = loss.shape[0]
    kind = density.dtype.type
    half, third, two = kind(0.5), kind(1 / 3), kind(2)
    for block in prange((num_rays + _BLOCK - 1) // _BLOCK):
        for i in range(np.int64(block) * _BLOCK, min(np.int64(block + 1) * _BLOCK, num_rays)):
            transmittance, total, mass, moment = kind(1), kind(0), kind(0), kind(0)
            for s in range(offsets[i], offsets[i + 1]):
                kept = exp_negative(density[s] * (ends[s] - starts[s]))
                weight = transmittance * (kind(1) - kept)
                middle = half * (s_starts[s] + s_ends[s])
                total += two * weight * (middle * mass - moment)
                total += third * weight * weight * (s_ends[s] - s_starts[s])
                mass += weight
                moment += weight * middle
                transmittance *= kept
                if transmittance < min_transmittance:
                    break
            loss[i], sums[i, 0], sums[i, 1] = total, mass, moment


@njit(parallel=True, cache=True)
def distortion_backward(
    gradient: Any, density: Any, starts: Any, ends: Any, s_starts: Any, s_ends: Any, offsets: Any,
    min_transmittance: Any, loss: Any, sums: Any, density_gradient: Any,
) -> None:  # fmt: skip
    """density_gradient arrives zeroed: samples behind the stop keep zero."""
    num_rays = loss.shape[0]
    kind = density.dtype.type
    half, third, two = kind(0.5), kind(1 / 3), kind(2)
    for block in prange((num_rays + _BLOCK - 1) // _BLOCK):
        for i in range(np.int64(block) * _BLOCK, min(np.int64(block + 1) * _BLOCK, num_rays)):
            if gradient[i] == 0:
                continue
            transmittance, mass, moment = kind(1), kind(0), kind(0)
            remaining = two * loss[i]
            for s in range(offsets[i], offsets[i + 1]):
                dt = ends[s] - starts[s]
                kept = exp_negative(density[s] * dt)
                weight = transmittance * (kind(1) - kept)
                middle = half * (s_starts[s] + s_ends[s])
                behind = (sums[i, 1] - moment - weight * middle) - middle * (
                    sums[i, 0] - mass - weight
                )
                slope = two * (middle * mass - moment + behind)
                slope += two * third * weight * (s_ends[s] - s_starts[s])
                mass += weight
                moment += weight * middle
                transmittance *= kept
                remaining -= weight * slope
                density_gradient[s] = gradient[i] * dt * (transmittance * slope - remaining)
                if transmittance < min_transmittance:
                    break

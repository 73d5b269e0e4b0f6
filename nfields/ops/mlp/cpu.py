"""A small dense network on the CPU (Numba).

Mapping. One thread a chunk of points; the number of chunks is fixed, so sums do not depend on the
number of threads. A chunk goes through its points in tiles of TILE: all layers of a tile are
computed before the next tile is read, so activations (TILE x width floats a layer) stay in L1 and
never reach memory; the backward pass computes them again, which is cheaper than reading them back.
The layers are small matrix products over register tiles (nfields/ops/simd.py).

All widths are padded to PAD with zeros: layer k takes widths[k] values to widths[k + 1]. `forward`
holds its weights as (widths[k], widths[k + 1]) from starts[k] on, `transposed` the same numbers as
(widths[k + 1], widths[k]), `biases` (zeros if there are none) from widths-sum on.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numba import njit, prange
from torch import Tensor

from nfields.ops.simd import TILE_COLUMNS, TILE_ROWS, multiply_tile

TILE = 32
PAD = TILE_COLUMNS
NUM_CHUNKS = 16
_FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}


@njit(cache=True, **_FAST)
def _layers(
    values: Any, widths: Any, places: Any, forward: Any, starts: Any, biases: Any, bias_starts: Any,
    activate_last: bool,
) -> None:  # fmt: skip
    """Fills the tile's outputs of every layer; values[places[k]:] is TILE x widths[k]."""
    num_layers = widths.shape[0] - 1
    for k in range(num_layers):
        width, out = widths[k], widths[k + 1]
        for i in range(TILE):
            for j in range(out):
                values[places[k + 1] + i * out + j] = biases[bias_starts[k] + j]
        for i in range(0, TILE, TILE_ROWS):
            for j in range(0, out, TILE_COLUMNS):
                multiply_tile(
                    TILE_ROWS, values, places[k] + i * width, width, 1, forward, starts[k] + j,
                    out, width, values, places[k + 1] + i * out + j, out,
                )  # fmt: skip
        if activate_last or k < num_layers - 1:
            zero = values.dtype.type(0)
            for j in range(places[k + 1], places[k + 1] + TILE * out):
                values[j] = max(values[j], zero)


@njit(cache=True, **_FAST)
def _load(x: Any, first: int, count: int, width: int, values: Any) -> None:
    """The tile's points, zero where there are no more."""
    for i in range(TILE):
        for j in range(x.shape[1]):
            values[i * width + j] = x[first + i, j] if i < count else x.dtype.type(0)


@njit(parallel=True, cache=True, **_FAST)
def evaluate(
    x: Any, widths: Any, places: Any, forward: Any, starts: Any, biases: Any, bias_starts: Any,
    activate_last: bool, out: Any,
) -> None:  # fmt: skip
    num_points = x.shape[0]
    last = widths.shape[0] - 1
    for chunk in prange(NUM_CHUNKS):
        c = np.int64(chunk)
        values = np.zeros(places[last + 1], x.dtype)
        stop = num_points * (c + 1) // NUM_CHUNKS
        for p in range(num_points * c // NUM_CHUNKS, stop, TILE):
            count = min(TILE, stop - p)
            _load(x, p, count, widths[0], values)
            _layers(values, widths, places, forward, starts, biases, bias_starts, activate_last)
            for i in range(count):
                for j in range(out.shape[1]):
                    out[p + i, j] = values[places[last] + i * widths[last] + j]


@njit(parallel=True, cache=True, **_FAST)
def differentiate(
    gradient: Any, x: Any, widths: Any, places: Any, forward: Any, transposed: Any, starts: Any,
    biases: Any, bias_starts: Any, activate_last: bool, x_gradient: Any, weight_gradient: Any,
    bias_gradient: Any,
) -> None:  # fmt: skip
    """weight_gradient, bias_gradient: one row a chunk, laid out as `forward` and `biases`."""
    num_points = x.shape[0]
    for chunk in prange(NUM_CHUNKS):
        c = np.int64(chunk)
        _differentiate_chunk(
            num_points * c // NUM_CHUNKS, num_points * (c + 1) // NUM_CHUNKS, gradient, x, widths,
            places, forward, transposed, starts, biases, bias_starts, activate_last, x_gradient,
            weight_gradient[c], bias_gradient[c],
        )  # fmt: skip


@njit(cache=True, **_FAST)
def _differentiate_chunk(
    start: int, stop: int, gradient: Any, x: Any, widths: Any, places: Any, forward: Any,
    transposed: Any, starts: Any, biases: Any, bias_starts: Any, activate_last: bool,
    x_gradient: Any, weight_gradient: Any, bias_gradient: Any,
) -> None:  # fmt: skip
    num_layers = widths.shape[0] - 1
    values = np.zeros(places[num_layers + 1], x.dtype)
    back = np.zeros(places[num_layers + 1], x.dtype)  # gradients of the same values
    zero = x.dtype.type(0)
    for p in range(start, stop, TILE):
        count = min(TILE, stop - p)
        _load(x, p, count, widths[0], values)
        _layers(values, widths, places, forward, starts, biases, bias_starts, activate_last)
        back[: places[num_layers]] = 0
        width = widths[num_layers]
        for i in range(TILE):
            for j in range(gradient.shape[1]):
                value = gradient[p + i, j] if i < count else zero
                back[places[num_layers] + i * width + j] = value
        for k in range(num_layers - 1, -1, -1):
            width, out = widths[k], widths[k + 1]
            if activate_last or k < num_layers - 1:
                for j in range(places[k + 1], places[k + 1] + TILE * out):
                    back[j] = back[j] if values[j] > zero else zero
            for i in range(TILE):
                for j in range(out):
                    bias_gradient[bias_starts[k] + j] += back[places[k + 1] + i * out + j]
            for j in range(0, out, TILE_COLUMNS):
                for i in range(0, width, TILE_ROWS):
                    multiply_tile(
                        TILE_ROWS, values, places[k] + i, 1, width, back, places[k + 1] + j, out,
                        TILE, weight_gradient, starts[k] + i * out + j, out,
                    )  # fmt: skip
            for i in range(0, TILE, TILE_ROWS):
                for j in range(0, width, TILE_COLUMNS):
                    multiply_tile(
                        TILE_ROWS, back, places[k + 1] + i * out, out, 1, transposed,
                        starts[k] + j, width, out, back, places[k] + i * width + j, width,
                    )  # fmt: skip
        for i in range(count):
            for j in range(x.shape[1]):
                x_gradient[p + i, j] = back[i * widths[0] + j]


class _Packed:
    """The network's parameters, padded and side by side; see the module's head."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]):
        sizes = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
        self.sizes = sizes
        self.widths = [-(-size // PAD) * PAD for size in sizes]
        areas = [a * b for a, b in zip(self.widths[:-1], self.widths[1:], strict=True)]
        self.starts = np.cumsum([0, *areas])
        self.bias_starts = np.cumsum([0, *self.widths[1:]])
        self.places = np.cumsum([0, *(TILE * width for width in self.widths)])
        self.forward = weights[0].new_zeros(int(self.starts[-1]))
        self.transposed = torch.zeros_like(self.forward)
        self.biases = weights[0].new_zeros(int(self.bias_starts[-1]))
        for k, weight in enumerate(weights):
            self.matrix(self.forward, k)[: sizes[k], : sizes[k + 1]] = weight.T
            back = self.transposed[self.starts[k] : self.starts[k + 1]]
            back.view(self.widths[k + 1], self.widths[k])[: sizes[k + 1], : sizes[k]] = weight
            if biases:
                self.vector(self.biases, k).copy_(biases[k])

    def matrix(self, flat: Tensor, k: int) -> Tensor:
        """Layer k's (widths[k], widths[k + 1]) part of an array laid out as `forward`."""
        part = flat[self.starts[k] : self.starts[k + 1]]
        return part.view(self.widths[k], self.widths[k + 1])

    def vector(self, flat: Tensor, k: int) -> Tensor:
        """Layer k's outputs in an array laid out as `biases`."""
        return flat[self.bias_starts[k] :][: self.sizes[k + 1]]


def forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activate_last: bool
) -> Tensor:
    packed = _Packed(weights, biases)
    out = x.new_empty(x.shape[0], packed.sizes[-1])
    evaluate(
        x.contiguous().numpy(), np.array(packed.widths), packed.places, packed.forward.numpy(),
        packed.starts, packed.biases.numpy(), packed.bias_starts, activate_last, out.numpy(),
    )  # fmt: skip
    return out


def backward(
    gradient: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activate_last: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of x, of every weight and of every bias."""
    packed = _Packed(weights, biases)
    x_gradient = torch.empty_like(x)
    weight_gradient = x.new_zeros(NUM_CHUNKS, len(packed.forward))
    bias_gradient = x.new_zeros(NUM_CHUNKS, len(packed.biases))
    differentiate(
        gradient.contiguous().numpy(), x.contiguous().numpy(), np.array(packed.widths),
        packed.places, packed.forward.numpy(), packed.transposed.numpy(), packed.starts,
        packed.biases.numpy(), packed.bias_starts, activate_last, x_gradient.numpy(),
        weight_gradient.numpy(), bias_gradient.numpy(),
    )  # fmt: skip
    total, bias_total = weight_gradient.sum(dim=0), bias_gradient.sum(dim=0)
    sizes = packed.sizes
    weight_gradients = [
        packed.matrix(total, k)[: sizes[k], : sizes[k + 1]].T.contiguous()
        for k in range(len(weights))
    ]
    bias_gradients = [packed.vector(bias_total, k).clone() for k in range(len(biases))]
    return x_gradient, weight_gradients, bias_gradients

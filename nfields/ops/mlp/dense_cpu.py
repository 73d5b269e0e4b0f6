"""A float32 network on the CPU (Numba): all layers of a few points in one go.

Mapping. A thread takes blocks of ROWS points; their layers stay in its L1 / L2 cache, and so do the
weights, packed into the panels that products read (nfields/ops/mlp/panels.py), with layers padded
to multiples of TILE_COLUMNS. Sines and cosines are taken of a layer that is still in cache. The
backward pass takes the layers that the forward pass kept, block by block, or computes them
again, and sums the gradients of the parameters per thread, added up at the end.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numba import get_num_threads
from torch import Tensor

from nfields.jit import njit, prange
from nfields.ops.mlp.panels import (
    OPTIONS,
    add_product,
    affine,
    affine_relu,
    pack_panels,
    panel_width,
    product,
    product_through_relu,
    product_through_sine,
)
from nfields.ops.mlp.sine_lanes import pack_sines, take_sines
from nfields.ops.tiles import TILE_COLUMNS

ROWS = 96  # points a block: enough to pay for reading the weights into L1, once a layer


@njit(parallel=True, cache=True, **OPTIONS)
def _pack(weights: Any, layout: Any, forth: Any, back: Any) -> None:
    """Panels of every layer's weight^T into `forth` and weight into `back`, where not empty."""
    sizes, widths, _, _, weight_first, _ = layout
    num_layers = len(sizes) - 1
    for task in prange(2 * num_layers):
        k = task // 2
        first = 0
        for layer in range(k):
            first += sizes[layer] * sizes[layer + 1]
        inputs, outputs = sizes[k], sizes[k + 1]
        if task % 2 == 0 and forth.shape[0] > 0:
            pack_panels(weights[first:], inputs, 1, outputs, inputs, widths[k + 1], forth,
                        weight_first[k])  # fmt: skip
        elif task % 2 == 1 and back.shape[0] > 0:
            pack_panels(weights[first:], 1, inputs, inputs, outputs, widths[k], back,
                        weight_first[k])  # fmt: skip


@njit(**OPTIONS)
def _scratch(count: int) -> Any:
    """`count` floats from the start of a cache line on: no vector lies across two."""
    numbers = np.empty(count + TILE_COLUMNS, np.float32)
    skip = (-(numbers.ctypes.data // 4)) % TILE_COLUMNS
    return numbers[skip : skip + count]


@njit(**OPTIONS)
def _read_block(
    source: Any, first: int, count: int, columns: int, block: Any, rows: int, width: int
) -> None:
    """block (rows, width) = rows first .. first + count of `source`, zeros around them."""
    for i in range(rows):
        for j in range(width):
            block[i * width + j] = 0
        if i < count:
            for j in range(columns):
                block[i * width + j] = source[(first + i) * columns + j]


@njit(**OPTIONS)
def _write_block(
    block: Any, start: int, width: int, out: Any, first: int, count: int, columns: int
) -> None:
    for i in range(count):
        for j in range(columns):
            out[(first + i) * columns + j] = block[start + i * width + j]


@njit(**OPTIONS)
def _add_rows(block: Any, rows: int, stride: int, width: int, out: Any) -> None:
    for i in range(rows):
        row = block[i * stride : i * stride + width]
        for j in range(width):
            out[j] += row[j]


@njit(**OPTIONS)
def _through_last(back: Any, values: Any, is_sine: bool) -> None:
    """back times the slope of the activation behind the last layer."""
    for i in range(len(values)):
        if is_sine:
            back[i] *= np.cos(values[i])
        else:
            back[i] = np.float32(0) if values[i] <= 0 else back[i]


@njit(**OPTIONS)
def _pack_sines(
    z: Any, first: int, rows: int, stride: int, width: int, panels: Any, cosines: Any
) -> None:
    """The panels of sin z and, in rows of `stride`, cos z; z (rows, width) from `first` on."""
    n = 0
    while n < width:
        size = panel_width(width - n)
        pack_sines(z, first + n, rows, stride, size, panels[n * rows :], cosines[n:])
        n += size


@njit(**OPTIONS)
def _run_layers(
    num_layers: int, num_activated: int, is_sine: bool, x: Any, x_first: int, forth: Any,
    biases: Any, layout: Any, layers: Any, sines: Any, rows: int,
) -> None:  # fmt: skip
    """The layers of a block of points, before a sine and behind a ReLU; `sines` are the last's."""
    sizes, widths, strides, layer_first, weight_first, bias_first = layout
    for k in range(num_layers):
        below, below_first = layers, layer_first[k]
        if k == 0:
            below, below_first = x, x_first
        elif is_sine:
            below, below_first = sines, 0
        start = layer_first[k + 1]
        if k < num_activated and not is_sine:
            affine_relu(
                below, below_first, strides[k], 1, forth, weight_first[k], layers, start,
                strides[k + 1], widths[k + 1], rows, sizes[k], biases, bias_first[k],
            )  # fmt: skip
        else:
            affine(
                below, below_first, strides[k], 1, forth, weight_first[k], layers, start,
                strides[k + 1], widths[k + 1], rows, sizes[k], biases, bias_first[k],
            )  # fmt: skip
        if k < num_activated and is_sine:
            take_sines(layers, start, rows, strides[k + 1], widths[k + 1], sines)


@njit(parallel=True, cache=True, **OPTIONS)
def _forward(
    x: Any, forth: Any, biases: Any, layout: Any, num_activated: int, is_sine: bool,
    num_parts: int, kept: Any, out: Any,
) -> None:  # fmt: skip
    """kept (blocks or parts, all layers): every block's layers stay, or a thread uses one place."""
    sizes, widths, strides, layer_first, _, _ = layout
    num_layers = len(sizes) - 1
    num_inputs, num_outputs = sizes[0], sizes[num_layers]
    num_points = out.shape[0] // num_outputs
    num_blocks = (num_points + ROWS - 1) // ROWS
    for part in prange(num_parts):
        sines = _scratch(ROWS * strides.max() if is_sine else 0)
        for b in range(part * num_blocks // num_parts, (part + 1) * num_blocks // num_parts):
            layers = kept[b] if kept.shape[0] == num_blocks else kept[part]
            first = b * ROWS
            count = min(ROWS, num_points - first)
            rows = (count + TILE_COLUMNS - 1) // TILE_COLUMNS * TILE_COLUMNS
            # Points are read where they are if they need no padding.
            below, below_first = x, first * num_inputs
            if rows != count or widths[0] != num_inputs:
                _read_block(x, first, count, num_inputs, layers, rows, widths[0])
                below, below_first = layers, 0
            _run_layers(
                num_layers, num_activated, is_sine, below, below_first, forth, biases, layout,
                layers, sines, rows,
            )  # fmt: skip
            last, last_first = layers, layer_first[num_layers]
            if num_activated == num_layers and is_sine:
                last, last_first = sines, 0
            _write_block(last, last_first, strides[num_layers], out, first, count, num_outputs)


# A part is a function of its own: inside the parallel loop it takes much longer to compile.


@njit(**OPTIONS)
def _backward_part(
    part: int, num_parts: int, gradient: Any, x: Any, forth: Any, back_weights: Any, biases: Any,
    layout: Any, num_activated: int, is_sine: bool, is_biased: bool, needs_x: bool, is_kept: bool,
    kept: Any, x_gradient: Any, sums: Any, bias_sum: Any,
) -> None:  # fmt: skip
    """`_backward` for a thread's blocks of points."""
    sizes, widths, strides, layer_first, weight_first, bias_first = layout
    num_layers = len(sizes) - 1
    num_inputs, num_outputs = sizes[0], sizes[num_layers]
    num_points = gradient.shape[0] // num_outputs
    num_blocks = (num_points + ROWS - 1) // ROWS
    size = ROWS * strides.max()
    back, before, panels = _scratch(size), _scratch(size), _scratch(size)
    cosines = _scratch(size if is_sine else 0)
    sums[:] = 0
    bias_sum[:] = 0
    for b in range(part * num_blocks // num_parts, (part + 1) * num_blocks // num_parts):
        layers = kept[b] if is_kept else kept[part]
        first = b * ROWS
        count = min(ROWS, num_points - first)
        rows = (count + TILE_COLUMNS - 1) // TILE_COLUMNS * TILE_COLUMNS
        below, below_first = x, first * num_inputs
        is_whole = rows == count and widths[0] == num_inputs
        if not is_whole:
            _read_block(x, first, count, num_inputs, layers, rows, widths[0])
            below, below_first = layers, 0
        if not is_kept:
            _run_layers(
                num_activated, num_activated, is_sine, below, below_first, forth, biases,
                layout, layers, panels, rows,
            )  # fmt: skip
        _read_block(gradient, first, count, num_outputs, back, rows, strides[num_layers])
        if num_activated == num_layers:
            last = layer_first[num_layers]
            _through_last(back, layers[last : last + rows * strides[num_layers]], is_sine)
        for k in range(num_layers - 1, -1, -1):
            outputs, inputs, stride = widths[k + 1], widths[k], strides[k]
            if is_biased:
                _add_rows(back, rows, strides[k + 1], outputs, bias_sum[bias_first[k] :])
            source, source_first = layers, layer_first[k]
            if k == 0:
                source, source_first = below, below_first
            if k > 0 and is_sine:
                _pack_sines(source, source_first, rows, stride, inputs, panels, cosines)
                source, source_first = panels, 0
            elif inputs != panel_width(inputs):  # else it is a panel
                pack_panels(source[source_first:], 1, stride, inputs, rows, inputs, panels, 0)
                source, source_first = panels, 0
            add_product(
                back, 0, 1, strides[k + 1], source, source_first, sums, weight_first[k],
                inputs, inputs, outputs, rows, layers, 0,
            )  # fmt: skip
            if k > 0 and is_sine:
                product_through_sine(
                    back, 0, strides[k + 1], 1, back_weights, weight_first[k], before, 0,
                    stride, inputs, rows, sizes[k + 1], cosines, 0,
                )  # fmt: skip
                back, before = before, back
            elif k > 0:
                product_through_relu(
                    back, 0, strides[k + 1], 1, back_weights, weight_first[k], before, 0,
                    stride, inputs, rows, sizes[k + 1], layers, layer_first[k],
                )  # fmt: skip
                back, before = before, back
            elif needs_x:
                target = x_gradient if is_whole else before
                product(
                    back, 0, strides[k + 1], 1, back_weights, weight_first[k], target,
                    first * num_inputs if is_whole else 0, stride, inputs, rows, sizes[k + 1],
                    layers, 0,
                )  # fmt: skip
                if not is_whole:
                    _write_block(before, 0, inputs, x_gradient, first, count, num_inputs)


@njit(parallel=True, cache=True, **OPTIONS)
def _backward(
    gradient: Any, x: Any, forth: Any, back_weights: Any, biases: Any, layout: Any,
    num_activated: int, is_sine: bool, is_biased: bool, needs_x: bool, is_kept: bool, kept: Any,
    x_gradient: Any, weight_sums: Any, bias_sums: Any,
) -> None:  # fmt: skip
    """weight_sums (parts, all weights) and bias_sums (parts, all biases), of any content before."""
    num_parts = weight_sums.shape[0]
    for part in prange(num_parts):
        _backward_part(
            np.int64(part), num_parts, gradient, x, forth, back_weights, biases, layout,
            num_activated, is_sine, is_biased, needs_x, is_kept, kept, x_gradient,
            weight_sums[part], bias_sums[part],
        )  # fmt: skip


@njit(cache=True, **OPTIONS)
def _add_parts(sums: Any, first: int, width: int, out: Any) -> None:
    """out (rows, columns) = the sum over the parts of rows of `width` from `first` on."""
    for i in range(out.shape[0]):
        start = first + i * width
        for j in range(out.shape[1]):
            out[i, j] = sums[0, start + j]
        for part in range(1, sums.shape[0]):
            for j in range(out.shape[1]):
                out[i, j] += sums[part, start + j]


class _Layout:
    """Where layers, weights and biases start, in rows of multiples of TILE_COLUMNS."""

    def __init__(self, sizes: Sequence[int]):
        self.sizes = np.array(sizes)
        self.widths = -(-self.sizes // TILE_COLUMNS) * TILE_COLUMNS
        # Rows of a multiple of 512 bytes would meet in few sets of the L1 cache, and drive each
        # other out where a gradient of weights reads down a column. Points lie as they are given.
        padding = np.where(self.widths % 128 == 0, TILE_COLUMNS, 0)
        padding[0] = 0
        self.strides = self.widths + padding
        self.layer_first = ROWS * np.cumsum([0, *self.strides])
        self.weight_first = np.cumsum([0, *(a * b for a, b in pairwise(self.widths))])
        self.bias_first = np.cumsum([0, *self.widths[1:]])
        self.arrays = (
            self.sizes, self.widths, self.strides, self.layer_first, self.weight_first,
            self.bias_first,
        )  # fmt: skip


@cache
def _layout(sizes: tuple[int, ...]) -> _Layout:
    return _Layout(sizes)


class _Parameters:
    """The parameters of a network as the kernels read them; `forth` and `back` if needed."""

    def __init__(
        self, weights: Sequence[Tensor], biases: Sequence[Tensor], *, forth: bool, back: bool
    ):
        self.layout = _layout(sizes_of(weights))
        self.num_weights, self.num_biases = (
            int(first[-1]) for first in (self.layout.weight_first, self.layout.bias_first)
        )
        self.forth, self.back = (
            torch.empty(self.num_weights if is_needed else 0).numpy() for is_needed in (forth, back)
        )
        flat = torch.cat([weight.detach().reshape(-1) for weight in weights]).numpy()
        _pack(flat, self.layout.arrays, self.forth, self.back)
        self.biases = np.zeros(self.num_biases, np.float32)
        for first, bias in zip(self.layout.bias_first, biases, strict=False):
            self.biases[first:][: len(bias)] = bias.detach().numpy()


def sizes_of(weights: Sequence[Tensor]) -> tuple[int, ...]:
    """The numbers of inputs of the first layer and of outputs of every layer."""
    return weights[0].shape[1], *(weight.shape[0] for weight in weights)


def kept_shape(num_points: int, sizes: Sequence[int]) -> tuple[int, int]:
    """(blocks, numbers of all layers of a block): the shape of what the forward pass keeps."""
    return -(-num_points // ROWS), int(_layout(tuple(sizes)).layer_first[-1])


def _num_parts(num_points: int) -> int:
    return min(get_num_threads(), max(1, -(-num_points // ROWS)))


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    is_sine: bool,
    activate_last: bool,
    keep: bool,
) -> list[Tensor]:
    """The output and, with `keep`, the layers: before a sine, behind a ReLU."""
    own, num_parts = _Parameters(weights, biases, forth=True, back=False), _num_parts(len(x))
    out = x.new_empty(len(x), len(weights[-1]))
    num_blocks, num_layers = kept_shape(len(x), sizes_of(weights))
    kept = x.new_empty(num_blocks if keep else num_parts, num_layers)
    _forward(
        x.detach().contiguous().view(-1).numpy(), own.forth, own.biases, own.layout.arrays,
        len(weights) - (not activate_last), is_sine, num_parts, kept.numpy(), out.view(-1).numpy(),
    )  # fmt: skip
    return [out, kept] if keep else [out]


def backward(
    gradient: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    kept: Sequence[Tensor],
    is_sine: bool,
    activate_last: bool,
    needs_x: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of x (empty if not needed), of every weight and of every bias."""
    own, num_parts = _Parameters(weights, biases, forth=not kept, back=True), _num_parts(len(x))
    x_gradient = torch.empty_like(x) if needs_x else x.new_empty(0)
    _, num_layers = kept_shape(len(x), sizes_of(weights))
    layers = kept[0] if kept else x.new_empty(num_parts, num_layers)
    weight_sums = x.new_empty(num_parts, own.num_weights).numpy()
    bias_sums = x.new_empty(num_parts, own.num_biases).numpy()
    _backward(
        gradient.view(-1).numpy(), x.detach().view(-1).numpy(), own.forth, own.back, own.biases,
        own.layout.arrays, len(weights) - (not activate_last), is_sine, len(biases) > 0, needs_x,
        len(kept) > 0, layers.numpy(), x_gradient.view(-1).numpy(), weight_sums, bias_sums,
    )  # fmt: skip
    weight_gradients = [torch.empty_like(weight) for weight in weights]
    bias_gradients = [torch.empty_like(bias) for bias in biases]
    for k, out in enumerate(weight_gradients):
        _add_parts(weight_sums, own.layout.weight_first[k], own.layout.widths[k], out.numpy())
    for k, out in enumerate(bias_gradients):
        _add_parts(bias_sums, own.layout.bias_first[k], 0, out.view(1, -1).numpy())
    return x_gradient, weight_gradients, bias_gradients

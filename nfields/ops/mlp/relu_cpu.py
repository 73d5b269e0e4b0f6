"""A narrow float32 ReLU network on the CPU (Numba): all layers of a few points in one go.

Mapping. A thread takes blocks of ROWS points; their layers stay in its L1 / L2 cache, and so do
the weights, padded to multiples of TILE_COLUMNS. The backward pass computes the hidden layers again
(less than a third of its work; to keep them costs more in memory traffic) and sums the gradients of
the parameters per thread, added up at the end. The products are tiles whose sums stay in registers
(nfields/ops/tiles.py).
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import llvmlite.binding
import numpy as np
import torch
from numba import get_num_threads
from torch import Tensor

from nfields.jit import njit, prange
from nfields.ops.tiles import (
    AS_IS,
    BIAS,
    RELU,
    SUM,
    TILE_COLUMNS,
    WHERE_POSITIVE,
    ZERO,
    multiply_tile,
)

MAX_WIDTH = 128  # wider weights do not stay in the L1 and L2 caches
ROWS = 96  # points a block: enough to pay for reading the weights into L1, once a layer
DEPTH = 48  # points whose products a gradient of weights takes in at a time: their layers fit L1
# Rows and vectors of columns of a tile, for wide and for narrow layers: AVX-512's 32 registers of
# 16 floats hold 16 sums and what they need, 16 registers of 8 floats only 4 of 16.
_IS_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
_TILES = ((4, 4), (8, 2), (16, 1)) if _IS_WIDE else ((4, 1),) * 3
_OPTIONS: Any = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
    "error_model": "numpy",
}


def _panel(begin: int, finish: int, tile_rows: int, tile_columns: int) -> Any:
    """As `multiply` below, for the columns n .. n + tile_columns * TILE_COLUMNS alone."""

    @njit(**_OPTIONS)
    def panel(
        n: int, a: Any, a_start: int, a_row: int, a_step: int, b: Any, b_start: int, out: Any,
        start: int, width: int, rows: int, depth: int, other: Any, other_start: int,
    ) -> None:  # fmt: skip
        other_row = 0 if begin == BIAS else width
        for m in range(0, rows, tile_rows):
            multiply_tile(
                tile_rows, tile_columns, begin, finish, a, a_start + m * a_row, a_row, a_step,
                b, b_start + n, width, depth, out, start + m * width + n, width,
                other, other_start + m * other_row + n,
            )  # fmt: skip

    return panel


def _multiplier(begin: int, finish: int) -> Any:
    """multiply(...): out (rows, width) = finish(begin + a (rows, depth) b (depth, width)).

    a[m, k] is a[a_start + m a_row + k a_step]; b, out and `other` lie row by row from b_start,
    start, other_start on. rows and width are multiples of TILE_COLUMNS.
    """
    (rows4, columns4), (rows2, columns2), (rows1, columns1) = _TILES
    panel4 = _panel(begin, finish, rows4, columns4)
    panel2 = _panel(begin, finish, rows2, columns2)
    panel1 = _panel(begin, finish, rows1, columns1)

    @njit(**_OPTIONS)
    def multiply(
        a: Any, a_start: int, a_row: int, a_step: int, b: Any, b_start: int, out: Any, start: int,
        width: int, rows: int, depth: int, other: Any, other_start: int,
    ) -> None:  # fmt: skip
        n = 0
        while n < width:
            left = (width - n) // TILE_COLUMNS
            if left >= columns4:
                panel4(n, a, a_start, a_row, a_step, b, b_start, out, start, width, rows, depth,
                       other, other_start)  # fmt: skip
                n += columns4 * TILE_COLUMNS
            elif left >= columns2:
                panel2(n, a, a_start, a_row, a_step, b, b_start, out, start, width, rows, depth,
                       other, other_start)  # fmt: skip
                n += columns2 * TILE_COLUMNS
            else:
                panel1(n, a, a_start, a_row, a_step, b, b_start, out, start, width, rows, depth,
                       other, other_start)  # fmt: skip
                n += columns1 * TILE_COLUMNS

    return multiply


_affine = _multiplier(BIAS, AS_IS)
_affine_relu = _multiplier(BIAS, RELU)
_product = _multiplier(ZERO, AS_IS)
_product_through_relu = _multiplier(ZERO, WHERE_POSITIVE)
_add_product = _multiplier(SUM, AS_IS)


@njit(**_OPTIONS)
def _scratch(count: int) -> Any:
    """`count` floats from the start of a cache line on: no vector lies across two."""
    numbers = np.empty(count + TILE_COLUMNS, np.float32)
    skip = (-(numbers.ctypes.data // 4)) % TILE_COLUMNS
    return numbers[skip : skip + count]


@njit(**_OPTIONS)
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


@njit(**_OPTIONS)
def _write_block(
    block: Any, start: int, width: int, out: Any, first: int, count: int, columns: int
) -> None:
    for i in range(count):
        for j in range(columns):
            out[(first + i) * columns + j] = block[start + i * width + j]


@njit(**_OPTIONS)
def _add_rows(block: Any, rows: int, width: int, out: Any) -> None:
    for i in range(rows):
        for j in range(width):
            out[j] += block[i * width + j]


@njit(**_OPTIONS)
def _layer(
    k: int, x: Any, x_first: int, transposed: Any, weight_first: Any, biases: Any, bias_first: Any,
    widths: Any, num_activated: int, out: Any, out_first: int, rows: int,
) -> None:  # fmt: skip
    """out (rows, widths[k + 1]) = layer k of x (rows, widths[k])."""
    if k < num_activated:
        _affine_relu(
            x, x_first, widths[k], 1, transposed, weight_first[k], out, out_first, widths[k + 1],
            rows, widths[k], biases, bias_first[k],
        )  # fmt: skip
    else:
        _affine(
            x, x_first, widths[k], 1, transposed, weight_first[k], out, out_first, widths[k + 1],
            rows, widths[k], biases, bias_first[k],
        )  # fmt: skip


@njit(parallel=True, cache=True, **_OPTIONS)
def _forward(
    x: Any, transposed: Any, biases: Any, widths: Any, layer_first: Any, weight_first: Any,
    bias_first: Any, num_activated: int, num_inputs: int, num_outputs: int, num_parts: int,
    out: Any,
) -> None:  # fmt: skip
    num_points, num_layers = out.shape[0] // num_outputs, widths.shape[0] - 1
    num_blocks = (num_points + ROWS - 1) // ROWS
    for part in prange(num_parts):
        layers = _scratch(layer_first[num_layers + 1])
        for b in range(part * num_blocks // num_parts, (part + 1) * num_blocks // num_parts):
            first = b * ROWS
            count = min(ROWS, num_points - first)
            rows = (count + TILE_COLUMNS - 1) // TILE_COLUMNS * TILE_COLUMNS
            # Points are read and written where they are if they need no padding.
            below, below_first = x, first * num_inputs
            if rows != count or widths[0] != num_inputs:
                _read_block(x, first, count, num_inputs, layers, rows, widths[0])
                below, below_first = layers, 0
            for k in range(num_layers - 1):
                _layer(
                    k, below, below_first, transposed, weight_first, biases, bias_first, widths,
                    num_activated, layers, layer_first[k + 1], rows,
                )  # fmt: skip
                below, below_first = layers, layer_first[k + 1]
            is_whole = rows == count and widths[num_layers] == num_outputs
            target = out if is_whole else layers
            _layer(
                num_layers - 1, below, below_first, transposed, weight_first, biases, bias_first,
                widths, num_activated, target,
                first * num_outputs if is_whole else layer_first[num_layers], rows,
            )  # fmt: skip
            if not is_whole:
                _write_block(
                    layers, layer_first[num_layers], widths[num_layers], out, first, count,
                    num_outputs,
                )  # fmt: skip


@njit(parallel=True, cache=True, **_OPTIONS)
def _backward(
    gradient: Any, x: Any, weights: Any, transposed: Any, biases: Any, widths: Any,
    layer_first: Any, weight_first: Any, bias_first: Any, num_activated: int, num_inputs: int,
    num_outputs: int, is_biased: bool, needs_x: bool, x_gradient: Any, weight_sums: Any,
    bias_sums: Any,
) -> None:  # fmt: skip
    """weight_sums (parts, all weights) and bias_sums (parts, all biases) start from zero."""
    num_points, num_layers = gradient.shape[0] // num_outputs, widths.shape[0] - 1
    num_blocks = (num_points + ROWS - 1) // ROWS
    num_parts = weight_sums.shape[0]
    for part in prange(num_parts):
        layers = _scratch(layer_first[num_layers + 1])
        back, before = _scratch(ROWS * widths.max()), _scratch(ROWS * widths.max())
        sums, bias_sum = weight_sums[part], bias_sums[part]
        for b in range(part * num_blocks // num_parts, (part + 1) * num_blocks // num_parts):
            first = b * ROWS
            count = min(ROWS, num_points - first)
            rows = (count + TILE_COLUMNS - 1) // TILE_COLUMNS * TILE_COLUMNS
            below, below_first = x, first * num_inputs
            is_whole = rows == count and widths[0] == num_inputs
            if not is_whole:
                _read_block(x, first, count, num_inputs, layers, rows, widths[0])
                below, below_first = layers, 0
            for k in range(num_activated):
                _layer(
                    k, below if k == 0 else layers, below_first if k == 0 else layer_first[k],
                    transposed, weight_first, biases, bias_first, widths, num_activated, layers,
                    layer_first[k + 1], rows,
                )  # fmt: skip
            _read_block(gradient, first, count, num_outputs, back, rows, widths[num_layers])
            if num_activated == num_layers:
                last = layer_first[num_layers]
                for i in range(rows * widths[num_layers]):
                    back[i] = np.float32(0) if layers[last + i] <= 0 else back[i]
            for k in range(num_layers - 1, -1, -1):
                outputs, inputs = widths[k + 1], widths[k]
                if is_biased:
                    _add_rows(back, rows, outputs, bias_sum[bias_first[k] :])
                source = below if k == 0 else layers
                source_first = below_first if k == 0 else layer_first[k]
                for i in range(0, rows, DEPTH):
                    _add_product(
                        back, i * outputs, 1, outputs, source, source_first + i * inputs, sums,
                        weight_first[k], inputs, outputs, min(DEPTH, rows - i), layers, 0,
                    )  # fmt: skip
                if k > 0:
                    _product_through_relu(
                        back, 0, outputs, 1, weights, weight_first[k], before, 0, inputs, rows,
                        outputs, layers, layer_first[k],
                    )  # fmt: skip
                    back, before = before, back
                elif needs_x:
                    target = x_gradient if is_whole else before
                    _product(
                        back, 0, outputs, 1, weights, weight_first[k], target,
                        first * num_inputs if is_whole else 0, inputs, rows, outputs, layers, 0,
                    )  # fmt: skip
                    if not is_whole:
                        _write_block(before, 0, inputs, x_gradient, first, count, num_inputs)


class _Padded:
    """Parameters in rows of multiples of TILE_COLUMNS, and where each layer's start."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]):
        sizes = [weights[0].shape[1], *(len(weight) for weight in weights)]
        self.sizes = sizes
        self.widths = np.array([-(-size // TILE_COLUMNS) * TILE_COLUMNS for size in sizes])
        ends = np.cumsum([0, *(a * b for a, b in pairwise(self.widths))])
        self.weight_first, num_weights = ends[:-1], int(ends[-1])
        self.bias_first = np.cumsum([0, *self.widths[1:]])
        self.layer_first = ROWS * np.cumsum([0, *self.widths])
        self.weights, self.transposed = _scratch(num_weights), _scratch(num_weights)
        self.weights[:] = self.transposed[:] = 0
        self.biases = np.zeros(int(self.bias_first[-1]), np.float32)
        for k, weight in enumerate(weights):
            values = weight.detach().numpy()
            self.layer(self.weights, k)[:] = values
            rows = self.transposed[self.weight_first[k] : ends[k + 1]]
            rows.reshape(self.widths[k], -1)[: sizes[k], : sizes[k + 1]] = values.T
            if biases:
                self.bias(self.biases, k)[:] = biases[k].detach().numpy()

    def layer(self, flat: Any, k: int) -> Any:
        """(outputs, inputs) of layer k in an array like `weights`."""
        rows = flat[self.weight_first[k] :][: self.widths[k] * self.widths[k + 1]]
        return rows.reshape(-1, self.widths[k])[: self.sizes[k + 1], : self.sizes[k]]

    def bias(self, flat: Any, k: int) -> Any:
        return flat[self.bias_first[k] :][: self.sizes[k + 1]]


def _num_parts(num_points: int) -> int:
    return min(get_num_threads(), max(1, -(-num_points // ROWS)))


def forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activate_last: bool
) -> Tensor:
    """The output of the network; float32."""
    out = x.new_empty(len(x), len(weights[-1]))
    own = _Padded(weights, biases)
    _forward(
        x.detach().contiguous().view(-1).numpy(), own.transposed, own.biases, own.widths,
        own.layer_first, own.weight_first, own.bias_first,
        len(weights) - (not activate_last), own.sizes[0], own.sizes[-1], _num_parts(len(x)),
        out.view(-1).numpy(),
    )  # fmt: skip
    return out


def backward(
    gradient: Tensor,
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activate_last: bool,
    needs_x: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Gradients of x (empty if not needed), of every weight and of every bias."""
    x_gradient = torch.empty_like(x) if needs_x else x.new_empty(0)
    own = _Padded(weights, biases)
    num_parts = _num_parts(len(x))
    weight_sums = _scratch(num_parts * len(own.weights)).reshape(num_parts, -1)
    weight_sums[:] = 0
    bias_sums = np.zeros((num_parts, len(own.biases)), np.float32)
    _backward(
        gradient.view(-1).numpy(), x.detach().view(-1).numpy(), own.weights, own.transposed,
        own.biases, own.widths, own.layer_first, own.weight_first, own.bias_first,
        len(weights) - (not activate_last), own.sizes[0], own.sizes[-1], len(biases) > 0,
        needs_x, x_gradient.view(-1).numpy(), weight_sums, bias_sums,
    )  # fmt: skip
    weight_sum, bias_sum = weight_sums.sum(axis=0), bias_sums.sum(axis=0)
    return (
        x_gradient,
        [torch.from_numpy(own.layer(weight_sum, k).copy()) for k in range(len(weights))],
        [torch.from_numpy(own.bias(bias_sum, k).copy()) for k in range(len(biases))],
    )

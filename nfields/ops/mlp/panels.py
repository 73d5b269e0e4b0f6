"""Products of small matrices out of cache (Numba): float32, with what follows in the same pass.

The right factor lies in panels, as many columns as a tile takes at once, so that the inner loop
reads it in order (nfields/ops/tiles.py). One core with AVX-512, 256 wide: 172 GFLOP/s, where
torch.mm reaches 158, and 144 in the gradients of weights.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from typing import Any

import llvmlite.binding
import numpy as np

from nfields.jit import njit
from nfields.ops.tiles import (
    AS_IS,
    BIAS,
    RELU,
    SUM,
    TILE_COLUMNS,
    TIMES,
    WHERE_POSITIVE,
    ZERO,
    multiply_tile,
)

# Rows and vectors of columns of a tile, for wide and for narrow layers: AVX-512's 32 registers of
# 16 floats hold 16 sums and what they need, 16 registers of 8 floats only 4 of 16.
_IS_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
_TILES = ((4, 4), (8, 2), (16, 1)) if _IS_WIDE else ((4, 1),) * 3
_PANELS = tuple(columns * TILE_COLUMNS for _, columns in _TILES)
OPTIONS: Any = {
    "fastmath": {"contract", "reassoc", "nsz", "arcp"},
    "error_model": "numpy",
}


def _panel(begin: int, finish: int, tile_rows: int, tile_columns: int) -> Any:
    """As `multiply` below, for the columns n .. n + tile_columns * TILE_COLUMNS alone."""

    @njit(**OPTIONS)
    def panel(
        n: int, a: Any, a_start: int, a_row: int, a_step: int, b: Any, b_start: int, out: Any,
        start: int, stride: int, rows: int, depth: int, other: Any, other_start: int,
    ) -> None:  # fmt: skip
        other_row = 0 if begin == BIAS else stride
        for m in range(0, rows, tile_rows):
            multiply_tile(
                tile_rows, tile_columns, begin, finish, a, a_start + m * a_row, a_row, a_step,
                b, b_start + n * depth, tile_columns * TILE_COLUMNS, depth,
                out, start + m * stride + n, stride,
                other, other_start + m * other_row + n,
            )  # fmt: skip

    return panel


def _multiplier(begin: int, finish: int) -> Any:
    """multiply(...): out (rows, width) = finish(begin + a (rows, depth) b (depth, width)).

    a[m, k] is a[a_start + m a_row + k a_step]; b lies panel by panel (`pack_panels`) from b_start
    on, out and `other` in rows of `stride` from start and other_start on. rows and width are
    multiples of TILE_COLUMNS.
    """
    panel4, panel2, panel1 = (_panel(begin, finish, *tile) for tile in _TILES)
    width4, width2, width1 = _PANELS

    @njit(**OPTIONS)
    def multiply(
        a: Any, a_start: int, a_row: int, a_step: int, b: Any, b_start: int, out: Any, start: int,
        stride: int, width: int, rows: int, depth: int, other: Any, other_start: int,
    ) -> None:  # fmt: skip
        n = 0
        while n < width:
            if width - n >= width4:
                panel4(n, a, a_start, a_row, a_step, b, b_start, out, start, stride, rows, depth,
                       other, other_start)  # fmt: skip
                n += width4
            elif width - n >= width2:
                panel2(n, a, a_start, a_row, a_step, b, b_start, out, start, stride, rows, depth,
                       other, other_start)  # fmt: skip
                n += width2
            else:
                panel1(n, a, a_start, a_row, a_step, b, b_start, out, start, stride, rows, depth,
                       other, other_start)  # fmt: skip
                n += width1

    return multiply


affine = _multiplier(BIAS, AS_IS)
affine_relu = _multiplier(BIAS, RELU)
product = _multiplier(ZERO, AS_IS)
product_through_relu = _multiplier(ZERO, WHERE_POSITIVE)
product_through_sine = _multiplier(ZERO, TIMES)
add_product = _multiplier(SUM, AS_IS)


@njit(**OPTIONS)
def panel_width(left: int) -> int:
    """The columns that a product of `left` columns takes in next."""
    if left >= _PANELS[0]:
        return _PANELS[0]
    return _PANELS[1] if left >= _PANELS[1] else _PANELS[2]


@njit(**OPTIONS)
def pack_panels(
    b: Any, row: int, step: int, columns: int, depth: int, width: int, packed: Any, start: int
) -> None:
    """The panels of b (depth, columns), b[k, c] at k step + c row, zeros up to `width` columns."""
    n = 0
    while n < width:
        size = panel_width(width - n)
        panel = packed[start + n * depth : start + (n + size) * depth]
        count = min(size, columns - n)
        if count < size:
            panel[:] = 0
        if row == 1:
            for k in range(depth):
                for c in range(np.uintp(count)):
                    panel[np.uintp(k * size) + c] = b[np.uintp(k * step + n) + c]
        else:  # a cache line of b for as many lines of the panel
            for first in range(0, depth, TILE_COLUMNS):
                for c in range(count):
                    for k in range(first, min(first + TILE_COLUMNS, depth)):
                        panel[k * size + c] = b[k * step + (n + c) * row]
        n += size

"""Kernels that draw pixels of a picture and look up their values, one pass each.

Mapping. One thread takes BLOCK consecutive samples at a time; it reads c codes a sample, at places
that rise with the sample, and writes an index, two coordinates and c values. The same in PyTorch is
some fifteen operations over as many intermediate tensors.

Random numbers are a hash (splitmix64) of the seed and the number of the sample, so that they do not
depend on the number of threads.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge jitted functions.)

from typing import Any

import numpy as np
from numba import njit, prange

BLOCK = 4096

# splitmix64 (Steele, Lea and Flood 2014); Numba turns mixed signs into floats, hence the types.
_STEP = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)


@njit(inline="always")
def _uniform(seed: Any, i: int) -> float:
    """A number in [0, 1) of 32 bits: the sum with the number of a sample is then exact."""
    bits = seed + np.uint64(i + 1) * _STEP
    bits = (bits ^ (bits >> _30)) * _MIX_1
    bits = (bits ^ (bits >> _27)) * _MIX_2
    return float((bits ^ (bits >> _31)) >> _32) * 2.0**-32


@njit(parallel=True, cache=True, nogil=True)
def draw_pixels(seed: Any, width: int, height: int, side: int, index: Any, coords: Any) -> None:
    """Fills index with one pixel from each of len(index) equal parts of the picture, and coords.

    The parts cut a path through all pixels into equal lengths. It runs along bands of `side` rows,
    column by column, so that a part of side^2 pixels is about a square.
    """
    num, total, band_pixels = len(index), width * height, side * width
    share = total / num
    for block in prange((num + BLOCK - 1) // BLOCK):
        for i in range(block * BLOCK, min(num, (block + 1) * BLOCK)):
            place = min(int((i + _uniform(seed, i)) * share), total - 1)
            band = place // band_pixels
            first_row = band * side
            rows = min(side, height - first_row)
            place -= band * band_pixels
            column = place // rows
            row = first_row + place - column * rows
            index[i] = row * width + column
            coords[i, 0] = np.float32(2 * column + 1) / np.float32(width) - np.float32(1)
            coords[i, 1] = np.float32(2 * row + 1) / np.float32(height) - np.float32(1)


@njit(parallel=True, cache=True, nogil=True)
def look_up(codes: Any, tables: Any, index: Any, values: Any) -> None:
    """values[i, k] = tables[k, codes[index[i], k]]."""
    num, num_channels = values.shape
    for block in prange((num + BLOCK - 1) // BLOCK):
        for i in range(block * BLOCK, min(num, (block + 1) * BLOCK)):
            for k in range(num_channels):
                values[i, k] = tables[k, codes[index[i], k]]


@njit(parallel=True, cache=True, nogil=True)
def gather(stored: Any, index: Any, values: Any) -> None:
    """values[i] = stored[index[i]]."""
    num, num_channels = values.shape
    for block in prange((num + BLOCK - 1) // BLOCK):
        for i in range(block * BLOCK, min(num, (block + 1) * BLOCK)):
            for k in range(num_channels):
                values[i, k] = stored[index[i], k]

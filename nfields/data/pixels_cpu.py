"""Kernels that draw pixels of a picture and look up their values, one pass each.

Mapping. One thread takes BLOCK consecutive samples at a time; it reads c codes a sample, at places
near those of the sample before, and writes an index, two coordinates and c values. The same in
PyTorch is some fifteen operations over as many intermediate tensors.

Random numbers are a hash (splitmix64) of the seed and the number of the sample, so that they do not
depend on the number of threads.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge jitted functions.)

from typing import Any

import numpy as np

from nfields.jit import njit, prange

BLOCK = 4096
# Fewer samples are done by the calling thread: threads take as long to wake up (0.3 ms), and where
# other programs run, waiting for a thread that shares its core takes many times that.
SERIAL = 1 << 15

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


@njit(cache=True, nogil=True)
def _draw_block(
    seed: Any, width: int, height: int, side: int, start: int, stop: int, index: Any, coords: Any
) -> None:
    total, band_pixels = width * height, side * width
    share = total / len(index)
    for i in range(start, stop):
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


@njit(cache=True, nogil=True)
def _look_up_block(codes: Any, tables: Any, index: Any, values: Any, start: int, stop: int) -> None:
    for i in range(start, stop):
        for k in range(values.shape[1]):
            values[i, k] = tables[k, codes[index[i], k]]


@njit(cache=True, nogil=True)
def _gather_block(stored: Any, index: Any, values: Any, start: int, stop: int) -> None:
    for i in range(start, stop):
        for k in range(values.shape[1]):
            values[i, k] = stored[index[i], k]


@njit(parallel=True, cache=True, nogil=True)
def _draw_all(seed: Any, width: int, height: int, side: int, index: Any, coords: Any) -> None:
    num = len(index)
    for block in prange((num + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        _draw_block(seed, width, height, side, start, min(num, start + BLOCK), index, coords)


@njit(parallel=True, cache=True, nogil=True)
def _look_up_all(codes: Any, tables: Any, index: Any, values: Any) -> None:
    num = len(index)
    for block in prange((num + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        _look_up_block(codes, tables, index, values, start, min(num, start + BLOCK))


@njit(parallel=True, cache=True, nogil=True)
def _gather_all(stored: Any, index: Any, values: Any) -> None:
    num = len(index)
    for block in prange((num + BLOCK - 1) // BLOCK):
        start = block * BLOCK
        _gather_block(stored, index, values, start, min(num, start + BLOCK))


def draw_pixels(seed: Any, width: int, height: int, side: int, index: Any, coords: Any) -> None:
    """Fills index with one pixel from each of len(index) equal parts of the picture, and coords.

    The parts cut a path through all pixels into equal lengths. It runs along bands of `side` rows,
    column by column, so that a part of side^2 pixels is about a square.
    """
    if len(index) <= SERIAL:
        _draw_block(seed, width, height, side, 0, len(index), index, coords)
    else:
        _draw_all(seed, width, height, side, index, coords)


def look_up(codes: Any, tables: Any, index: Any, values: Any) -> None:
    """values[i, k] = tables[k, codes[index[i], k]]."""
    if len(index) <= SERIAL:
        _look_up_block(codes, tables, index, values, 0, len(index))
    else:
        _look_up_all(codes, tables, index, values)


def gather(stored: Any, index: Any, values: Any) -> None:
    """values[i] = stored[index[i]]."""
    if len(index) <= SERIAL:
        _gather_block(stored, index, values, 0, len(index))
    else:
        _gather_all(stored, index, values)

"""The k nearest of fixed centres: a tree of cells, each with all that may count.

The tree is built on the CPU and lies with its centres; here is the CPU's search (Numba), the other
is in cuda.py.

The tree halves the box of all centres and of [-1, 1]^d. A leaf lists every centre that is among the
k nearest of any of its points: those whose least distance to the cell is not above R, the k-th
smallest of the centres' greatest distances to it. Children take their lists from their parent's, so
that building costs a few passes over the centres a level. A cell is halved until its list is short,
or until it is so small against the distance to its centres that halving would not shorten it:
cells follow the density of the centres, whatever it is.

A query walks down and compares the leaf's candidates, which lie one after another in memory. Points
outside the box take the union of the lists of cells at its surface. That is all they need: if c is
among the k nearest of x, it is among those of every point p between c and x, because the ball
around p through c lies in that around x; and one such p is on the surface.

Mapping of the search: one thread a block of BLOCK points. Its points walk down side by side and the
k smallest are kept without branches: a processor cannot predict such
branches (5 000 centres, k = 4, one core: 330 ns a point with them, 90 without).
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload
from torch import Tensor

from nfields.jit import njit, prange
from nfields.ops.backend import uses_triton

PAD = 8  # lists are padded to whole vectors with centres at infinity
BLOCK = 64
MAX_DEPTH = 60
# Candidates of a leaf that are few enough, a neighbour. Fewer are faster to compare, but then the
# lists leave the cache (measured: 2-D best at 4 to 8; 3-D at 8, 12 takes a third less memory, which
# is 2.5 KB a kernel at k = 8, and 0.25 KB in 2-D at k = 4).
_CANDIDATES = {2: 6, 3: 12}
STEPS = 3  # down the tree between two looks whether all points have arrived
# A cell whose half diagonal is below this part of its distance to the k-th centre stays whole.
_FINE_ENOUGH = 0.1
# Distances are compared with this margin while building (float64) for queries in float32.
_MARGIN = 1 + 1e-5
# Not nnan and ninf: a point that is not a number must find some kernel all the same.
_FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}
_u32 = np.uint32


@dataclass(frozen=True)
class NeighborTree:
    """The tree of cells for one set of centres and one k; see the module's head."""

    centers: Tensor  # (K, d), a copy: tells whether the tree is still that of a model's centres
    num_neighbors: int
    bounds: Tensor  # (2, d): lowest and highest corner of the box
    split: Tensor  # (nodes,) where a node is halved; infinity at a leaf
    link: Tensor  # (nodes, 2) int32: axis and first of two children; 0 and itself at a leaf
    leaf: Tensor  # (nodes,) int32: number of the leaf
    starts: Tensor  # (leaves + 1,) int64; the last leaf is for points outside
    index: Tensor  # (candidates,) int32, ascending in a leaf
    position: Tensor  # (d, candidates)
    source: Tensor  # the memory that the centres were read from
    version: int  # how often it had been written to by then

    def fits(self, centers: Tensor, num_neighbors: int) -> bool:
        """Whether these are the centres that the tree was built for.

        Asked in every step: on a GPU it must not look at numbers, and asks for the same memory, not
        written to since.
        """
        if self.num_neighbors != num_neighbors or self.centers.dtype != centers.dtype:
            return False
        if self.centers.device != centers.device:
            return False
        if uses_triton(centers):
            same = self.source.data_ptr() == centers.data_ptr()
            return same and self.version == centers._version
        return torch.equal(self.centers, centers)


@torch.no_grad()
def build_tree(centers: Tensor, num_neighbors: int) -> NeighborTree:
    """The tree of cells for the `num_neighbors` nearest of `centers`, on their device."""
    num_centers, dim = centers.shape
    assert 1 <= num_neighbors <= num_centers, f"{num_neighbors} nearest of {num_centers}"
    device = centers.device
    points = centers.detach().cpu().double().contiguous().numpy()
    members = _able_to_count(points, num_neighbors)
    wanted = max(PAD, _CANDIDATES[dim] * num_neighbors)
    low = np.minimum(points.min(axis=0), -1.0)[None]
    high = np.maximum(points.max(axis=0), 1.0)[None]
    bounds = np.concatenate([low, high])
    counts, kept = np.array([len(members)]), members
    levels, lists, lengths, at_surface = [], [], [], []
    num_leaves, num_nodes = 0, 1
    for depth in range(MAX_DEPTH + 1):
        begins = np.cumsum(counts) - counts
        counts, done, kept = _prune(points, low, high, begins, counts, kept, num_neighbors, wanted)
        done |= depth == MAX_DEPTH
        begins, rows, halves = (
            np.cumsum(counts) - counts,
            np.arange(len(counts)),
            np.where(~done)[0],
        )
        axis = (high - low).argmax(axis=1)
        # Rounded as the centres are, so that points and boxes agree on the side.
        middle = 0.5 * (low[rows, axis] + high[rows, axis])
        middle = torch.from_numpy(middle).to(centers.dtype).double().numpy()
        first = num_nodes - len(rows)
        child = first + rows
        child[halves] = num_nodes + 2 * np.arange(len(halves))
        leaf = np.zeros(len(rows), np.int32)
        leaf[done] = num_leaves + np.arange(done.sum())
        # NaN: no point is to the right of it, not one at infinity either, and a leaf is not left.
        levels.append((np.where(done, np.nan, middle), np.where(done, 0, axis), child, leaf))
        lists.append(_copies(kept, begins[done], counts[done]))
        lengths.append(counts[done])
        at_surface.append(((low <= bounds[0]) | (high >= bounds[1])).any(axis=1)[done])
        num_leaves, num_nodes = num_leaves + int(done.sum()), num_nodes + 2 * len(halves)
        if not len(halves):
            break
        twice = np.repeat(halves, 2)  # both children, with their parent's list
        low, high = low[twice], high[twice]
        left = np.arange(0, len(twice), 2)
        high[left, axis[halves]] = low[left + 1, axis[halves]] = middle[halves]
        counts, kept = counts[twice], _copies(kept, begins[twice], counts[twice])
    split, axis, child, leaf = (np.concatenate(parts) for parts in zip(*levels, strict=True))
    members, lengths = np.concatenate(lists), np.concatenate(lengths)
    outer = np.unique(members[np.repeat(np.concatenate(at_surface), lengths)])
    members, lengths = np.concatenate([members, outer]), np.append(lengths, len(outer))
    padded = -(-lengths // PAD) * PAD
    starts = np.concatenate([[0], np.cumsum(padded)])
    slots = np.arange(len(members)) + np.repeat(
        starts[:-1] - (np.cumsum(lengths) - lengths), lengths
    )
    index = np.zeros(starts[-1], np.int32)
    position = np.full((dim, starts[-1]), np.inf)
    index[slots], position[:, slots] = members, points[members].T
    return NeighborTree(
        centers=centers.detach().clone(),
        num_neighbors=num_neighbors,
        bounds=torch.from_numpy(bounds).to(device, centers.dtype),
        split=torch.from_numpy(split).to(device, centers.dtype),
        link=torch.from_numpy(np.stack([axis, child], axis=1).astype(np.int32)).to(device),
        leaf=torch.from_numpy(leaf).to(device),
        starts=torch.from_numpy(starts).to(device),
        index=torch.from_numpy(index).to(device),
        position=torch.from_numpy(position).to(device, centers.dtype),
        source=centers.detach(),
        version=centers._version,
    )


def _able_to_count(points: Any, num_neighbors: int) -> Any:
    """Indices of all points but those behind k others, of lower index, in the very same place."""
    order = np.lexsort(points.T)  # stable: in the same place by index
    is_new = np.ones(len(points), np.bool_)
    is_new[1:] = (points[order[1:]] != points[order[:-1]]).any(axis=1)
    first = np.flatnonzero(is_new)[np.cumsum(is_new) - 1]
    return np.sort(order[np.arange(len(points)) - first < num_neighbors]).astype(np.int32)


def _copies(values: Any, begins: Any, counts: Any) -> Any:
    """values[begins[i] : begins[i] + counts[i]] for all i, one after another."""
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return values[within + np.repeat(begins, counts)]


@njit(cache=True)
def _distances(point: Any, low: Any, high: Any) -> tuple[float, float]:
    """Squares of the least and the greatest distance between a point and a box."""
    least = greatest = 0.0
    for d in range(point.shape[0]):
        below, above = low[d] - point[d], point[d] - high[d]
        least += max(below, above, 0.0) ** 2
        greatest += max(-below, -above) ** 2
    return least, greatest


@njit(parallel=True, cache=True)
def _prune(
    points: Any, low: Any, high: Any, begins: Any, counts: Any, members: Any, num_neighbors: int,
    wanted: int,
) -> Any:  # fmt: skip
    """Of each cell's list those that may count: how many, whether it is a leaf, all in one list."""
    num_cells, dim = low.shape
    new_counts, done = np.zeros(num_cells, np.int64), np.zeros(num_cells, np.bool_)
    scratch = np.zeros(members.shape[0], np.int32)
    for cell in prange(num_cells):
        best = np.full(num_neighbors, np.inf)
        start, stop = begins[cell], begins[cell] + counts[cell]
        for i in range(start, stop):
            greatest = _distances(points[members[i]], low[cell], high[cell])[1]
            if greatest < best[-1]:
                j = num_neighbors - 1
                while j > 0 and best[j - 1] > greatest:
                    best[j] = best[j - 1]
                    j -= 1
                best[j] = greatest
        reach = best[-1] * _MARGIN
        count = 0
        for i in range(start, stop):
            if _distances(points[members[i]], low[cell], high[cell])[0] <= reach:
                scratch[start + count] = members[i]
                count += 1
        diagonal = 0.0
        for d in range(dim):
            diagonal += (high[cell, d] - low[cell, d]) ** 2
        new_counts[cell] = count
        done[cell] = count <= wanted or 0.25 * diagonal < _FINE_ENOUGH**2 * best[-1]
    ends = np.cumsum(new_counts)
    kept = np.zeros(ends[-1], np.int32)
    for cell in prange(num_cells):
        for i in range(new_counts[cell]):
            kept[ends[cell] - new_counts[cell] + i] = scratch[begins[cell] + i]
    return new_counts, done, kept


_INT32, _INT64 = ir.IntType(32), ir.IntType(64)
_INFINITY_BITS = 0x7F800000


@intrinsic(prefer_literal=True)
def _keep_smallest_float32(
    typing_context: Any, num: Any, square: Any, index: Any, start: Any, count: Any, out: Any,
    position: Any,
) -> Any:  # fmt: skip
    """The branchless form of `_keep_smallest`: keys of the value's bits and, below them, the index.

    Bits of floats that are not negative are ordered as the floats are.
    """
    size = types.int64
    signature = types.void(num, square, index, size, size, out, size)

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        square_ptr, index_ptr, out_ptr = (
            context.make_array(signature.args[k])(context, builder, args[k]).data for k in (1, 2, 5)
        )
        start, count, position = args[3], args[4], args[6]
        best = [cgutils.alloca_once(builder, _INT64) for _ in range(num.literal_value)]
        for j, slot in enumerate(best):
            builder.store(ir.Constant(_INT64, (_INFINITY_BITS << 32) + j), slot)
        with cgutils.for_range(builder, count, intp=_INT64) as loop:
            value = builder.load(builder.gep(square_ptr, [loop.index]))
            bits = builder.zext(builder.bitcast(value, _INT32), _INT64)
            i = builder.load(builder.gep(index_ptr, [builder.add(start, loop.index)]))
            key = builder.shl(bits, ir.Constant(_INT64, 32))
            key = builder.or_(key, builder.zext(i, _INT64))
            for slot in best:
                old = builder.load(slot)
                is_less = builder.icmp_signed("<", key, old)
                builder.store(builder.select(is_less, key, old), slot)
                key = builder.select(is_less, old, key)
        for j, slot in enumerate(best):
            target = builder.gep(out_ptr, [builder.add(position, ir.Constant(_INT64, j))])
            builder.store(builder.trunc(builder.load(slot), _INT32), target)
        return context.get_dummy_value()

    return signature, codegen


@njit
def _keep_smallest_float64(
    num: int, square: Any, index: Any, start: int, count: int, out: Any, position: int
) -> None:
    best = np.full(num, np.inf)
    for j in range(num):
        out[position + j] = j
    for i in range(count):
        value = square[i]
        if value < best[num - 1]:
            j = num - 1
            while j > 0 and best[j - 1] > value:
                best[j], out[position + j] = best[j - 1], out[position + j - 1]
                j -= 1
            best[j], out[position + j] = value, index[start + i]


def _keep_smallest(num, square, index, start, count, out, position) -> None:
    """out[position : position + num] = index[start + i] of the smallest square[i], i < count."""
    raise NotImplementedError("for kernels only")


@overload(_keep_smallest, inline="always", prefer_literal=True)
def _(num, square, index, start, count, out, position):
    if square.dtype == types.float32:
        return lambda num, square, index, start, count, out, position: _keep_smallest_float32(
            num, square, index, start, count, out, position
        )
    return lambda num, square, index, start, count, out, position: _keep_smallest_float64(
        num, square, index, start, count, out, position
    )


@cache
def search_kernel(dim: int, num_neighbors: int) -> Any:
    """kernel(x, bounds, split, link, leaf, starts, index, position, out): fills flat out (n, k)."""

    @njit(parallel=True, cache=True, **_FAST)
    def search(
        x: Any, bounds: Any, split: Any, link: Any, leaf: Any, starts: Any, index: Any,
        position: Any, out: Any,
    ) -> None:  # fmt: skip
        num_points, outside = x.shape[0], starts.shape[0] - 2
        longest = 0
        for k in range(outside + 1):
            longest = max(longest, starts[k + 1] - starts[k])
        for b in prange((num_points + BLOCK - 1) // BLOCK):
            first = b * BLOCK
            size = min(BLOCK, num_points - first)
            square = np.empty(longest, x.dtype)
            nodes = np.zeros(BLOCK, np.uint32)
            is_moving = True
            while is_moving:
                for _ in range(STEPS):
                    for i in range(size):
                        node = nodes[i]
                        right = x[first + i, _u32(link[node, 0])] >= split[node]
                        nodes[i] = _u32(link[node, 1]) + _u32(right)
                is_moving = False
                for i in range(size):
                    is_moving |= _u32(link[nodes[i], 1]) != nodes[i]
            for i in range(size):
                p = first + i
                is_inside = True
                for d in range(dim):
                    is_inside &= x[p, d] >= bounds[0, d] and x[p, d] <= bounds[1, d]
                cell = leaf[nodes[i]] if is_inside else outside
                start = starts[cell]
                count = starts[cell + 1] - start
                for k in range(count):
                    difference = x[p, 0] - position[0, start + k]
                    total = difference * difference
                    for d in range(1, dim):
                        difference = x[p, d] - position[d, start + k]
                        total += difference * difference
                    square[k] = total
                _keep_smallest(num_neighbors, square, index, start, count, out, p * num_neighbors)

    return search

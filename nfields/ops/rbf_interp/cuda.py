"""Interpolation between the nearest radial basis functions on CUDA (Triton).

Mapping. Search: a point a lane; it walks down the tree of neighbors.py and goes through its leaf's
candidates with the k best in registers, inserted without branches; a warp takes as long as its
longest leaf. No fused multiply-adds: of two centres that are equally far neither may win by the
order of a sum. Forward and point gradient: one program a block of points, channels side by side; a
point touches the rows of its k kernels (4 F bytes each). Responses, which are cheap beside the k F
sines, are computed twice forward: registers do not hold what k neighbours need.

Feature gradient: pairs (point, neighbour) are sorted by kernel, and a program of one warp adds up
those of a kernel in their order. No atomics: sums do not vary, and the sort (keys of 32 bits) moves
k pairs a point where atomics would be k F.
"""

# ruff: noqa: RUF005
# (Triton adds tuples, but does not unpack them.)

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfields.ops.rbf_interp.reference import NORMALIZER_FLOOR
from nfields.ops.sine import PI, sine_of_half_turns

BLOCK = 32
SEARCH_BLOCK = 128
TILE = 32
FLOOR = tl.constexpr(NORMALIZER_FLOOR)


@triton.jit
def _coordinate(x_ptr, point, mask, k, DIM: tl.constexpr):
    """Coordinate k of the points; 0 where there is none."""
    return tl.load(x_ptr + point * DIM + k, mask=mask & (k < DIM), other=0.0)


@triton.jit
def search_kernel(
    x_ptr, bounds_ptr, split_ptr, link_ptr, leaf_ptr, leaf_starts_ptr, index_ptr, position_ptr,
    nearest_ptr, num_points, num_leaves, num_candidates, DIM: tl.constexpr,
    NEIGHBORS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The k nearest centres of each point; the last leaf is for points outside the tree's box."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = point < num_points
    x = _coordinate(x_ptr, point, mask, 0, DIM)
    y = _coordinate(x_ptr, point, mask, 1, DIM)
    z = _coordinate(x_ptr, point, mask, 2, DIM)
    inside = (x >= tl.load(bounds_ptr)) & (x <= tl.load(bounds_ptr + DIM))
    inside &= (y >= tl.load(bounds_ptr + 1)) & (y <= tl.load(bounds_ptr + DIM + 1))
    if DIM == 3:
        inside &= (z >= tl.load(bounds_ptr + 2)) & (z <= tl.load(bounds_ptr + 5))
    node = tl.full([BLOCK], 0, tl.int32)
    child = tl.load(link_ptr + 2 * node + 1)
    while tl.max((child != node).to(tl.int32), axis=0) > 0:
        axis = tl.load(link_ptr + 2 * node)
        along = tl.where(axis == 0, x, tl.where(axis == 1, y, z))
        right = (along >= tl.load(split_ptr + node)).to(tl.int32)
        node = tl.where(child != node, child + right, node)
        child = tl.load(link_ptr + 2 * node + 1)
    cell = tl.where(inside, tl.load(leaf_ptr + node), num_leaves)
    first = tl.load(leaf_starts_ptr + cell)
    count = tl.where(mask, tl.load(leaf_starts_ptr + cell + 1) - first, 0).to(tl.int32)
    best = ()  # squared distances in ascending order, and whose they are
    owner = ()
    for j in tl.static_range(NEIGHBORS):
        best = best + (tl.full([BLOCK], float("inf"), x.dtype),)
        owner = owner + (tl.full([BLOCK], j, tl.int32),)
    for k in range(tl.max(count, axis=0)):
        is_one = k < count
        where = position_ptr + first + k
        dx = x - tl.load(where, mask=is_one, other=float("inf"))
        dy = y - tl.load(where + num_candidates, mask=is_one, other=float("inf"))
        square = dx * dx + dy * dy
        if DIM == 3:
            dz = z - tl.load(where + 2 * num_candidates, mask=is_one, other=float("inf"))
            square += dz * dz
        index = tl.load(index_ptr + first + k, mask=is_one, other=0)
        # Candidates come by ascending index: behind what is equally far, a later one stays.
        new_best = ()
        new_owner = ()
        for j in tl.static_range(NEIGHBORS):
            value, one = square, index
            if j > 0:
                before = square < best[j - 1]
                value = tl.where(before, best[j - 1], square)
                one = tl.where(before, owner[j - 1], index)
            moves = square < best[j]
            new_best = new_best + (tl.where(moves, value, best[j]),)
            new_owner = new_owner + (tl.where(moves, one, owner[j]),)
        best = new_best
        owner = new_owner
    for j in tl.static_range(NEIGHBORS):
        tl.store(nearest_ptr + point * NEIGHBORS + j, owner[j], mask=mask)


@triton.jit
def _tent(offset, scale):
    """1 - |offset| scale where it is not negative, and its slope; both NaN for an offset of NaN."""
    value = 1.0 - tl.abs(offset) * scale
    slope = tl.where(offset > 0.0, -scale, tl.where(offset < 0.0, scale, 0.0))
    return tl.where(value < 0.0, 0.0, value), tl.where(value < 0.0, 0.0, slope)


@triton.jit
def _response(
    x, y, z, centers_ptr, shapes_ptr, i, KERNEL: tl.constexpr, DIM: tl.constexpr,
    SHAPE: tl.constexpr,
):  # fmt: skip
    """phi of kernels i at points, and its slope along every axis; SHAPE numbers are a shape."""
    x -= tl.load(centers_ptr + i * DIM)
    y -= tl.load(centers_ptr + i * DIM + 1)
    if DIM == 3:
        z -= tl.load(centers_ptr + i * DIM + 2)
    shapes_ptr += i * SHAPE
    if KERNEL == "tent":
        phi_x, dx = _tent(x, tl.load(shapes_ptr))
        phi_y, dy = _tent(y, tl.load(shapes_ptr + 1 % SHAPE))
        phi_z, dz = tl.full(x.shape, 1, x.dtype), tl.zeros_like(x)
        if DIM == 3:
            phi_z, dz = _tent(z, tl.load(shapes_ptr + 2 % SHAPE))
        return phi_x * phi_y * phi_z, dx * phi_y * phi_z, phi_x * dy * phi_z, phi_x * phi_y * dz
    # S (x - c): q is its product with x - c and has the derivative 2 S (x - c).
    if SHAPE <= DIM:
        sx = tl.load(shapes_ptr) * x
        sy = tl.load(shapes_ptr + 1 % SHAPE) * y
        sz = tl.zeros_like(x)
        if DIM == 3:
            sz = tl.load(shapes_ptr + 2 % SHAPE) * z
    elif DIM == 2:
        xy = tl.load(shapes_ptr + 1)
        sx = tl.load(shapes_ptr) * x + xy * y
        sy = xy * x + tl.load(shapes_ptr + 2) * y
        sz = tl.zeros_like(x)
    else:
        xy, xz, yz = tl.load(shapes_ptr + 1), tl.load(shapes_ptr + 2), tl.load(shapes_ptr + 4)
        sx = tl.load(shapes_ptr) * x + xy * y + xz * z
        sy = xy * x + tl.load(shapes_ptr + 3) * y + yz * z
        sz = xz * x + yz * y + tl.load(shapes_ptr + 5) * z
    q = sx * x + sy * y + sz * z
    if KERNEL == "gaussian":
        # Products with what is smaller would soon be denormal, and slow. NaN stays.
        phi = tl.where(q > 120.0, 0.0, tl.exp(-0.5 * q))
        slope = -phi
    elif KERNEL == "ivq":
        phi = 1.0 / (1.0 + q)
        slope = -2.0 * phi * phi
    else:
        phi = 1.0 / tl.sqrt(1.0 + q)
        slope = -phi * phi * phi
    return phi, slope * sx, slope * sy, slope * sz


@triton.jit
def _channels(half_turns_ptr, weight, channel, is_channel, SINES: tl.constexpr):
    """What each channel makes of the weights: (points, channels), or (points, 1) without sines."""
    if SINES:
        half_turns = tl.load(half_turns_ptr + channel, mask=is_channel, other=0.0)
        return sine_of_half_turns(half_turns[None, :] * weight[:, None])
    else:
        return weight[:, None]


@triton.jit
def interp_kernel(
    x_ptr, features_ptr, centers_ptr, shapes_ptr, half_turns_ptr, nearest_ptr, weights_ptr,
    out_ptr, num_points, num_neighbors, width, KERNEL: tl.constexpr, DIM: tl.constexpr,
    SHAPE: tl.constexpr, NORMALIZE: tl.constexpr, SINES: tl.constexpr, FEATURES: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Values and weights of the points."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = point < num_points
    channel = tl.arange(0, FEATURES)
    is_channel = channel < width
    x = _coordinate(x_ptr, point, mask, 0, DIM)
    y = _coordinate(x_ptr, point, mask, 1, DIM)
    z = _coordinate(x_ptr, point, mask, 2, DIM)
    normalizer = tl.full([BLOCK], FLOOR, x.dtype)
    if NORMALIZE:
        for j in range(num_neighbors):
            i = tl.load(nearest_ptr + point * num_neighbors + j, mask=mask, other=0).to(tl.int64)
            normalizer += _response(x, y, z, centers_ptr, shapes_ptr, i, KERNEL, DIM, SHAPE)[0]
    total = tl.full([BLOCK, FEATURES], 0, x.dtype)
    for j in range(num_neighbors):
        i = tl.load(nearest_ptr + point * num_neighbors + j, mask=mask, other=0).to(tl.int64)
        weight = _response(x, y, z, centers_ptr, shapes_ptr, i, KERNEL, DIM, SHAPE)[0]
        if NORMALIZE:
            weight /= normalizer
        tl.store(weights_ptr + point * num_neighbors + j, weight, mask=mask)
        both = mask[:, None] & is_channel[None, :]
        row = i[:, None] * width + channel[None, :]
        feature = tl.load(features_ptr + row, mask=both, other=0.0)
        total += feature * _channels(half_turns_ptr, weight, channel, is_channel, SINES)
    target = out_ptr + point[:, None] * width + channel[None, :]
    tl.store(target, total, mask=mask[:, None] & is_channel[None, :])


@triton.jit
def point_gradient_kernel(
    gradient_ptr, x_ptr, features_ptr, centers_ptr, shapes_ptr, half_turns_ptr, nearest_ptr,
    weights_ptr, out_ptr, num_points, num_neighbors, width, KERNEL: tl.constexpr,
    DIM: tl.constexpr, SHAPE: tl.constexpr, NORMALIZE: tl.constexpr, SINES: tl.constexpr,
    FEATURES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """With a_j = d(loss)/d(w_j) and D the normaliser: sum_j (a_j - sum_i a_i w_i) / D dphi_j/dx."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = point < num_points
    channel = tl.arange(0, FEATURES)
    is_channel = channel < width
    both = mask[:, None] & is_channel[None, :]
    x = _coordinate(x_ptr, point, mask, 0, DIM)
    y = _coordinate(x_ptr, point, mask, 1, DIM)
    z = _coordinate(x_ptr, point, mask, 2, DIM)
    incoming = tl.load(
        gradient_ptr + point[:, None] * width + channel[None, :], mask=both, other=0.0
    )
    if SINES:
        half_turns = tl.load(half_turns_ptr + channel, mask=is_channel, other=0.0)[None, :]
        incoming *= PI * half_turns
    normalizer = tl.full([BLOCK], FLOOR, x.dtype)
    mean = tl.full([BLOCK], 0, x.dtype)
    # Sums of a_j times the slopes, and of the slopes alone.
    ax, ay, az = tl.zeros_like(mean), tl.zeros_like(mean), tl.zeros_like(mean)
    sx, sy, sz = tl.zeros_like(mean), tl.zeros_like(mean), tl.zeros_like(mean)
    for j in range(num_neighbors):
        i = tl.load(nearest_ptr + point * num_neighbors + j, mask=mask, other=0).to(tl.int64)
        weight = tl.load(weights_ptr + point * num_neighbors + j, mask=mask, other=0.0)
        row = i[:, None] * width + channel[None, :]
        term = incoming * tl.load(features_ptr + row, mask=both, other=0.0)
        if SINES:
            # cos(m w) = sin(m w + pi / 2)
            term *= sine_of_half_turns(half_turns * weight[:, None] + 0.5)
        a = tl.sum(term, axis=1)
        phi, dx, dy, dz = _response(x, y, z, centers_ptr, shapes_ptr, i, KERNEL, DIM, SHAPE)
        normalizer += phi
        mean += a * weight
        ax += a * dx
        ay += a * dy
        az += a * dz
        sx += dx
        sy += dy
        sz += dz
    if NORMALIZE:
        ax = (ax - mean * sx) / normalizer
        ay = (ay - mean * sy) / normalizer
        az = (az - mean * sz) / normalizer
    tl.store(out_ptr + point * DIM, ax, mask=mask)
    tl.store(out_ptr + point * DIM + 1, ay, mask=mask)
    if DIM == 3:
        tl.store(out_ptr + point * DIM + 2, az, mask=mask)


@triton.jit
def feature_gradient_kernel(
    gradient_ptr, weights_ptr, half_turns_ptr, pairs_ptr, pair_starts_ptr, out_ptr, num_neighbors,
    width, SINES: tl.constexpr, FEATURES: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The sum over the pairs (point, neighbour) of one kernel."""
    i = tl.program_id(0).to(tl.int64)
    first = tl.load(pair_starts_ptr + i)
    last = tl.load(pair_starts_ptr + i + 1)
    channel = tl.arange(0, FEATURES)
    is_channel = channel < width
    total = tl.full([FEATURES], 0, weights_ptr.dtype.element_ty)
    while first < last:
        slot = first + tl.arange(0, TILE)
        mask = slot < last
        pair = tl.load(pairs_ptr + slot, mask=mask, other=0)
        weight = tl.load(weights_ptr + pair, mask=mask, other=0.0)
        incoming = tl.load(
            gradient_ptr + (pair // num_neighbors)[:, None] * width + channel[None, :],
            mask=mask[:, None] & is_channel[None, :], other=0.0,
        )  # fmt: skip
        part = incoming * _channels(half_turns_ptr, weight, channel, is_channel, SINES)
        total += tl.sum(part, axis=0)
        first += TILE
    tl.store(out_ptr + i * width + channel, total, mask=is_channel)


def nearest_centers(
    x: Tensor, bounds: Tensor, split: Tensor, link: Tensor, leaf: Tensor, starts: Tensor,
    index: Tensor, position: Tensor, num_neighbors: int,
) -> Tensor:  # fmt: skip
    """Indices (n, k) of the nearest centres."""
    num_points, dim = x.shape
    out = torch.empty(num_points, num_neighbors, dtype=torch.int32, device=x.device)
    if num_points > 0:
        search_kernel[(triton.cdiv(num_points, SEARCH_BLOCK),)](
            x.contiguous(), bounds, split, link, leaf, starts, index, position, out, num_points,
            starts.shape[0] - 2, index.shape[0], DIM=dim, NEIGHBORS=num_neighbors,
            BLOCK=SEARCH_BLOCK, enable_fp_fusion=False,
        )  # fmt: skip
    return out


def interp(
    x: Tensor, features: Tensor, centers: Tensor, shapes: Tensor, half_turns: Tensor,
    nearest: Tensor, kernel: str, normalize: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Values and, for the backward pass, the weights (n, k)."""
    (num_points, num_neighbors), width = nearest.shape, features.shape[1]
    out, weights = x.new_empty(num_points, width), x.new_empty(num_points, num_neighbors)
    if num_points > 0:
        interp_kernel[(triton.cdiv(num_points, BLOCK),)](
            *(t.contiguous() for t in (x, features, centers, shapes, half_turns, nearest)), weights,
            out, num_points, num_neighbors, width, KERNEL=kernel, DIM=x.shape[1],
            SHAPE=shapes.shape[1], NORMALIZE=normalize, SINES=len(half_turns) > 0,
            FEATURES=triton.next_power_of_2(width), BLOCK=BLOCK,
        )  # fmt: skip
    return out, weights


def interp_backward(
    gradient: Tensor, x: Tensor, features: Tensor, centers: Tensor, shapes: Tensor,
    half_turns: Tensor, nearest: Tensor, kernel: str, normalize: bool, weights: Tensor,
    needs_x: bool, needs_features: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of x and features; an empty tensor where not needed."""
    (num_points, num_neighbors), (num_kernels, width) = nearest.shape, features.shape
    x_gradient = x.new_empty(x.shape if needs_x else 0)
    features_gradient = x.new_empty(features.shape if needs_features else 0)
    gradient, half_turns = gradient.contiguous(), half_turns.contiguous()
    channels = {"SINES": len(half_turns) > 0, "FEATURES": triton.next_power_of_2(width)}
    if needs_x and num_points > 0:
        point_gradient_kernel[(triton.cdiv(num_points, BLOCK),)](
            gradient, *(t.contiguous() for t in (x, features, centers, shapes)), half_turns,
            nearest.contiguous(), weights, x_gradient, num_points, num_neighbors, width,
            KERNEL=kernel, DIM=x.shape[1], SHAPE=shapes.shape[1], NORMALIZE=normalize, BLOCK=BLOCK,
            **channels,
        )  # fmt: skip
    if needs_features:
        kernels, pairs = torch.sort(nearest.view(-1), stable=True)
        bounds = torch.arange(num_kernels + 1, dtype=kernels.dtype, device=kernels.device)
        feature_gradient_kernel[(num_kernels,)](
            gradient, weights, half_turns, pairs, torch.searchsorted(kernels, bounds),
            features_gradient, num_neighbors, width, TILE=TILE, num_warps=1, **channels,
        )  # fmt: skip
    return x_gradient, features_gradient

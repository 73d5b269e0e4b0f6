"""Gaussian neurons and their readout on CUDA (Triton).

Mapping. Responses: one program a block of points, all neurons side by side; the exponent is a sum
of squares (s (F - mu))^2 over the dimensions, never negative, no cancellation: 2 D N fused
operations a point. Readout of groups (one a ray): one program of one warp a group, which reads its
readout once and goes through its points in tiles; in the backward pass the same program has all of
a group's points and so the whole gradient of its readout: no atomics. One readout for all points is
PyTorch's products, tall and narrow. Gradients of neurons: a fixed number of programs, each with
moments sum q, sum q F and sum q F^2 of its part of the points, added up in a fixed order.

With q = d(loss)/d(sum of squares) of a point and neuron, as on the CPU:
    d/dF = sum_j q 2 s^2 (F - mu),   d/dmu = -2 s^2 (sum q F - mu sum q),
    d/ds = 2 s (sum q F^2 - 2 mu sum q F + mu^2 sum q)
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK, SMALL_BLOCK = 64, 32
TILE = 16
# Hidden values of a group's readout at once. With these and no pipelining of their loads the
# products on tensor cores, three a float32, fit the registers (tests/ops/cuda/resources.json).
_READOUT = {"CHUNK": 32, "TILE": TILE, "num_warps": 1, "num_stages": 1}
_READOUT_BACKWARD = {"CHUNK": 64, "TILE": TILE, "num_warps": 4, "num_stages": 1}
MAX_PARTS = 512


@triton.jit
def responses_kernel(
    features_ptr, centers_ptr, inv_widths_ptr, responses_ptr, num_points, dim, num_neurons,
    NEURONS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    neuron = tl.arange(0, NEURONS)
    mask, is_neuron = point < num_points, neuron < num_neurons
    total = tl.full([BLOCK, NEURONS], 0, features_ptr.dtype.element_ty)
    for d in range(dim):
        feature = tl.load(features_ptr + point * dim + d, mask=mask, other=0.0)
        center = tl.load(centers_ptr + neuron * dim + d, mask=is_neuron, other=0.0)
        inv_width = tl.load(inv_widths_ptr + neuron * dim + d, mask=is_neuron, other=0.0)
        scaled = (feature[:, None] - center[None, :]) * inv_width[None, :]
        total += scaled * scaled
    # Products with what is smaller would soon be denormal, and slow.
    response = tl.where(total < 120.0, tl.exp(-0.5 * total), 0.0)
    tl.store(
        responses_ptr + point[:, None] * num_neurons + neuron[None, :], response,
        mask=mask[:, None] & is_neuron[None, :],
    )  # fmt: skip


@triton.jit
def _add_readout(
    total, hidden_ptr, weight_ptr, point, mask, length, hidden_size, out, is_out,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """total + hidden W^T over `length` hidden values."""
    for start in range(0, length, CHUNK):
        h = start + tl.arange(0, CHUNK)
        is_hidden = h < length
        hidden = tl.load(
            hidden_ptr + point[:, None] * length + h[None, :],
            mask=mask[:, None] & is_hidden[None, :], other=0.0,
        )  # fmt: skip
        weight = tl.load(
            weight_ptr + out[None, :] * hidden_size + h[:, None],
            mask=is_hidden[:, None] & is_out[None, :], other=0.0,
        )  # fmt: skip
        total += tl.dot(hidden, weight, input_precision="tf32x3")
    return total


@triton.jit
def readout_kernel(
    responses_ptr, features_ptr, weight_ptr, bias_ptr, offsets_ptr, out_ptr, num_neurons,
    num_linear, num_out, OUT: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """out = W [responses, features] + b of a group; num_linear: features that are read out."""
    group = tl.program_id(0).to(tl.int64)
    first = tl.load(offsets_ptr + group)
    last = tl.load(offsets_ptr + group + 1)
    out = tl.arange(0, OUT)
    is_out = out < num_out
    hidden_size = num_neurons + num_linear
    weight_ptr += group * num_out * hidden_size
    bias = tl.load(bias_ptr + group * num_out + out, mask=is_out, other=0.0)
    while first < last:
        point = first + tl.arange(0, TILE)
        mask = point < last
        total = tl.full([TILE, OUT], 0, bias.dtype) + bias[None, :]
        total = _add_readout(
            total, responses_ptr, weight_ptr, point, mask, num_neurons, hidden_size, out, is_out,
            CHUNK,
        )  # fmt: skip
        total = _add_readout(
            total, features_ptr, weight_ptr + num_neurons, point, mask, num_linear, hidden_size,
            out, is_out, CHUNK,
        )  # fmt: skip
        target = out_ptr + point[:, None] * num_out + out[None, :]
        tl.store(target, total, mask=mask[:, None] & is_out[None, :])
        first += TILE


@triton.jit
def _through_readout(
    gradient_ptr, hidden_ptr, weight_ptr, hidden_gradient_ptr, weight_gradient_ptr, first, last,
    length, hidden_size, num_out, out, is_out, OUT: tl.constexpr, CHUNK: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Gradients of `length` hidden values of a group's points, and of their readout."""
    for start in range(0, length, CHUNK):
        h = start + tl.arange(0, CHUNK)
        is_hidden = h < length
        both = is_out[:, None] & is_hidden[None, :]
        row = out[:, None] * hidden_size + h[None, :]
        weight = tl.load(weight_ptr + row, mask=both, other=0.0)
        total = tl.full([OUT, CHUNK], 0, weight.dtype)
        tile = first
        while tile < last:
            point = tile + tl.arange(0, TILE)
            mask = point < last
            gradient = tl.load(
                gradient_ptr + point[:, None] * num_out + out[None, :],
                mask=mask[:, None] & is_out[None, :], other=0.0,
            )  # fmt: skip
            where = point[:, None] * length + h[None, :]
            seen = mask[:, None] & is_hidden[None, :]
            hidden = tl.load(hidden_ptr + where, mask=seen, other=0.0)
            total += tl.dot(tl.trans(gradient), hidden, input_precision="tf32x3")
            back = tl.dot(gradient, weight, input_precision="tf32x3")
            tl.store(hidden_gradient_ptr + where, back, mask=seen)
            tile += TILE
        tl.store(weight_gradient_ptr + row, total, mask=both)


@triton.jit
def readout_backward_kernel(
    gradient_ptr, responses_ptr, features_ptr, weight_ptr, offsets_ptr, responses_gradient_ptr,
    features_gradient_ptr, weight_gradient_ptr, bias_gradient_ptr, num_neurons, num_linear,
    num_out, OUT: tl.constexpr, CHUNK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    group = tl.program_id(0).to(tl.int64)
    first = tl.load(offsets_ptr + group)
    last = tl.load(offsets_ptr + group + 1)
    out = tl.arange(0, OUT)
    is_out = out < num_out
    hidden_size = num_neurons + num_linear
    weight_ptr += group * num_out * hidden_size
    weight_gradient_ptr += group * num_out * hidden_size
    _through_readout(
        gradient_ptr, responses_ptr, weight_ptr, responses_gradient_ptr, weight_gradient_ptr,
        first, last, num_neurons, hidden_size, num_out, out, is_out, OUT, CHUNK, TILE,
    )  # fmt: skip
    _through_readout(
        gradient_ptr, features_ptr, weight_ptr + num_neurons, features_gradient_ptr,
        weight_gradient_ptr + num_neurons, first, last, num_linear, hidden_size, num_out, out,
        is_out, OUT, CHUNK, TILE,
    )  # fmt: skip
    bias = tl.full([OUT], 0, gradient_ptr.dtype.element_ty)
    tile = first
    while tile < last:
        point = tile + tl.arange(0, TILE)
        gradient = tl.load(
            gradient_ptr + point[:, None] * num_out + out[None, :],
            mask=(point < last)[:, None] & is_out[None, :], other=0.0,
        )  # fmt: skip
        bias += tl.sum(gradient, axis=0)
        tile += TILE
    tl.store(bias_gradient_ptr + group * num_out + out, bias, mask=is_out)


@triton.jit
def _by_neuron(
    responses_gradient_ptr, responses_ptr, point, mask, num_neurons, NEURONS: tl.constexpr
):  # fmt: skip
    """q of points and neurons."""
    neuron = tl.arange(0, NEURONS)
    where = point[:, None] * num_neurons + neuron[None, :]
    seen = mask[:, None] & (neuron[None, :] < num_neurons)
    response = tl.load(responses_ptr + where, mask=seen, other=0.0)
    return -0.5 * response * tl.load(responses_gradient_ptr + where, mask=seen, other=0.0)


@triton.jit
def features_gradient_kernel(
    responses_gradient_ptr, responses_ptr, features_ptr, centers_ptr, inv_widths_ptr,
    features_gradient_ptr, num_points, dim, num_neurons, NEURONS: tl.constexpr, DIM: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Adds to the gradient of the features."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = point < num_points
    neuron, d = tl.arange(0, NEURONS), tl.arange(0, DIM)
    both = (neuron[:, None] < num_neurons) & (d[None, :] < dim)
    row = neuron[:, None] * dim + d[None, :]
    inv_width = tl.load(inv_widths_ptr + row, mask=both, other=0.0)
    square = 2.0 * inv_width * inv_width
    q = _by_neuron(responses_gradient_ptr, responses_ptr, point, mask, num_neurons, NEURONS)
    where = point[:, None] * dim + d[None, :]
    seen = mask[:, None] & (d[None, :] < dim)
    feature = tl.load(features_ptr + where, mask=seen, other=0.0)
    slope = tl.dot(q, square, input_precision="tf32x3") * feature
    square *= tl.load(centers_ptr + row, mask=both, other=0.0)
    slope -= tl.dot(q, square, input_precision="tf32x3")
    direct = tl.load(features_gradient_ptr + where, mask=seen, other=0.0)
    tl.store(features_gradient_ptr + where, direct + slope, mask=seen)


@triton.jit
def moments_kernel(
    responses_gradient_ptr, responses_ptr, features_ptr, moments_ptr, zeroth_ptr, num_points, dim,
    num_neurons, NEURONS: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """moments (parts, 2, NEURONS, DIM): sums of q F and q F^2; zeroth (parts, NEURONS): of q."""
    part = tl.program_id(0)
    neuron, d = tl.arange(0, NEURONS), tl.arange(0, DIM)
    kind = features_ptr.dtype.element_ty
    zeroth = tl.full([NEURONS], 0, kind)
    first = tl.full([NEURONS, DIM], 0, kind)
    second = tl.full([NEURONS, DIM], 0, kind)
    for block in range(part, tl.cdiv(num_points, BLOCK), tl.num_programs(0)):
        point = tl.arange(0, BLOCK).to(tl.int64) + block * BLOCK
        mask = point < num_points
        q = _by_neuron(responses_gradient_ptr, responses_ptr, point, mask, num_neurons, NEURONS)
        where = point[:, None] * dim + d[None, :]
        seen = mask[:, None] & (d[None, :] < dim)
        feature = tl.load(features_ptr + where, mask=seen, other=0.0)
        zeroth += tl.sum(q, axis=0)
        q = tl.trans(q)
        first += tl.dot(q, feature, input_precision="tf32x3")
        second += tl.dot(q, feature * feature, input_precision="tf32x3")
    target = moments_ptr + (part * 2 * NEURONS + neuron[:, None]) * DIM + d[None, :]
    tl.store(target, first)
    tl.store(target + NEURONS * DIM, second)
    tl.store(zeroth_ptr + part * NEURONS + neuron, zeroth)


def _power(size: int) -> int:
    """The power of two, at least 16 (a side of tl.dot), that holds `size`."""
    return max(16, triton.next_power_of_2(size))


def decode(
    features: Tensor, centers: Tensor, inv_widths: Tensor, weight: Tensor, bias: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Outputs and, for the backward pass, the responses (n, N)."""
    num_points, (num_neurons, dim) = features.shape[0], centers.shape
    num_groups, num_out, num_hidden = weight.shape
    features = features.contiguous()
    responses = features.new_empty(num_points, num_neurons)
    if num_points > 0 and num_neurons > 0:
        responses_kernel[(triton.cdiv(num_points, BLOCK),)](
            features, centers.contiguous(), inv_widths.contiguous(), responses, num_points, dim,
            num_neurons, NEURONS=_power(num_neurons), BLOCK=BLOCK,
        )  # fmt: skip
    if num_groups == 1:
        out = torch.addmm(bias[0], responses, weight[0, :, :num_neurons].T)
        if num_hidden > num_neurons:
            out = torch.addmm(out, features, weight[0, :, num_neurons:].T)
        return out, responses
    out = features.new_zeros(num_points, num_out)
    if num_points > 0:
        readout_kernel[(num_groups,)](
            responses, features, weight.contiguous(), bias.contiguous(), offsets.contiguous(), out,
            num_neurons, num_hidden - num_neurons, num_out, OUT=_power(num_out), **_READOUT,
        )  # fmt: skip
    return out, responses


def decode_backward(
    gradient: Tensor, features: Tensor, centers: Tensor, inv_widths: Tensor, weight: Tensor,
    bias: Tensor, offsets: Tensor, responses: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of features, centers, inv_widths, weight and bias."""
    num_points, (num_neurons, dim) = features.shape[0], centers.shape
    num_groups, num_out, num_hidden = weight.shape
    num_linear = num_hidden - num_neurons
    features, gradient = features.contiguous(), gradient.contiguous()
    features_gradient = torch.zeros_like(features)
    if num_groups == 1:
        responses_gradient = gradient @ weight[0, :, :num_neurons]
        if num_linear > 0:
            features_gradient = gradient @ weight[0, :, num_neurons:]
        parts = [responses, features] if num_linear > 0 else [responses]
        weight_gradient = torch.cat([gradient.T @ hidden for hidden in parts], dim=1)[None]
        bias_gradient = gradient.sum(dim=0, keepdim=True)
    else:
        responses_gradient = torch.zeros_like(responses)
        weight_gradient, bias_gradient = torch.zeros_like(weight), torch.zeros_like(bias)
        if num_points > 0:
            readout_backward_kernel[(num_groups,)](
                gradient, responses, features, weight.contiguous(), offsets.contiguous(),
                responses_gradient, features_gradient, weight_gradient, bias_gradient,
                num_neurons, num_linear, num_out, OUT=_power(num_out), **_READOUT_BACKWARD,
            )  # fmt: skip
    if num_points == 0 or num_neurons == 0:
        nothing = torch.zeros_like(centers), torch.zeros_like(inv_widths)
        return features_gradient, *nothing, weight_gradient, bias_gradient
    rows, columns = _power(num_neurons), _power(dim)
    parts = min(triton.cdiv(num_points, SMALL_BLOCK), MAX_PARTS)
    moments = features.new_empty(parts, 2, rows, columns)
    zeroth = features.new_empty(parts, rows)
    sizes = {"NEURONS": rows, "DIM": columns, "BLOCK": SMALL_BLOCK, "num_warps": 8}
    inputs = (responses_gradient.contiguous(), responses, features)
    features_gradient_kernel[(triton.cdiv(num_points, SMALL_BLOCK),)](
        *inputs, centers.contiguous(), inv_widths.contiguous(), features_gradient, num_points, dim,
        num_neurons, **sizes,
    )  # fmt: skip
    moments_kernel[(parts,)](*inputs, moments, zeroth, num_points, dim, num_neurons, **sizes)
    first, second = moments.sum(dim=0)[:, :num_neurons, :dim]
    zeroth = zeroth.sum(dim=0)[:num_neurons, None]
    spread = second - 2 * centers * first + centers.square() * zeroth
    return (
        features_gradient,
        2 * inv_widths.square() * (centers * zeroth - first),
        2 * inv_widths * spread,
        weight_gradient,
        bias_gradient,
    )

"""A small dense network on CUDA (Triton), fused up to 64 units; wider ones layer by layer.

Mapping. Forward and gradient of the inputs: one program a block of BLOCK points, which goes through
all layers; a layer's values are a tile in registers, its weights (16 KB at 64 units) come from L2,
products run on tensor cores. All layers are padded with zeros to one width, a power of two: the
loop over layers is then a loop in the kernel, whatever their number and sizes. What the backward
pass needs of the hidden layers is written once and read twice. Gradient of the weights: a program a
layer and a part of the points; the parts are added up in a fixed order, so sums do not vary.

Products of float32 are taken as three of TF32 (relative error near 1e-6, a third of the speed).
precision=bf16 or fp16: products behind the first layer (whose inputs may be coordinates, which 8
bits do not hold) take 16-bit numbers, with sums in float32. float16 ends at 6e-8: gradients, which
are smaller, are multiplied by the power of two that brings the largest to 2^8 and divided again.

Wider layers are PyTorch's products: there cuBLAS is at its peak, and fusing gains nothing.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from nfields.ops.sine import cosine, sine

BLOCK, NUM_WARPS = 32, 8  # without spills on all architectures: tests/ops/cuda/resources.json
MAX_FUSED_WIDTH = 64
MAX_PARTS = 128  # of the points, each with its own sum of weight gradients
_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_GRADIENT_EXPONENT = 8


@triton.jit
def _product(a, b, PRODUCT: tl.constexpr):
    return tl.dot(a.to(PRODUCT), b.to(PRODUCT), input_precision="tf32x3")


@triton.jit
def _weight(weights_ptr, layer, WIDTH: tl.constexpr):
    """(outputs, inputs) of a layer."""
    unit = tl.arange(0, WIDTH)
    return tl.load(weights_ptr + layer * WIDTH * WIDTH + unit[:, None] * WIDTH + unit[None, :])


@triton.jit
def forward_kernel(
    x_ptr, weights_ptr, biases_ptr, out_ptr, kept_ptr, num_points, num_inputs, num_outputs,
    num_layers, WIDTH: tl.constexpr, SINE: tl.constexpr, ACTIVATE_LAST: tl.constexpr,
    KEEP: tl.constexpr, PRODUCT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """weights (L, WIDTH, WIDTH), biases (L, WIDTH), kept (activated layers, n, WIDTH)."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    unit = tl.arange(0, WIDTH)
    mask = point[:, None] < num_points
    x = tl.load(
        x_ptr + point[:, None] * num_inputs + unit[None, :],
        mask=mask & (unit[None, :] < num_inputs), other=0.0,
    )  # fmt: skip
    z = _product(x, tl.trans(_weight(weights_ptr, 0, WIDTH)), x_ptr.dtype.element_ty)
    z += tl.load(biases_ptr + unit)[None, :]
    for layer in range(1, num_layers):
        value = sine(z) if SINE else tl.maximum(z, 0.0)
        if KEEP:
            target = kept_ptr + ((layer - 1) * num_points + point[:, None]) * WIDTH + unit[None, :]
            tl.store(target, z if SINE else value, mask=mask)
        z = _product(value, tl.trans(_weight(weights_ptr, layer, WIDTH)), PRODUCT)
        z += tl.load(biases_ptr + layer * WIDTH + unit)[None, :]
    if ACTIVATE_LAST:
        value = sine(z) if SINE else tl.maximum(z, 0.0)
        if KEEP:
            last = (num_layers - 1) * num_points
            target = kept_ptr + (last + point[:, None]) * WIDTH + unit[None, :]
            tl.store(target, z if SINE else value, mask=mask)
        z = value
    tl.store(
        out_ptr + point[:, None] * num_outputs + unit[None, :], z,
        mask=mask & (unit[None, :] < num_outputs),
    )  # fmt: skip


@triton.jit
def _through_activation(back, kept_ptr, row, mask, SINE: tl.constexpr):
    kept = tl.load(kept_ptr + row, mask=mask, other=0.0).to(back.dtype)
    return back * cosine(kept) if SINE else tl.where(kept > 0.0, back, 0.0)


@triton.jit
def backward_kernel(
    gradient_ptr, weights_ptr, kept_ptr, back_ptr, x_gradient_ptr, scale_ptr, num_points,
    num_inputs, num_outputs, num_layers, WIDTH: tl.constexpr, SINE: tl.constexpr,
    ACTIVATE_LAST: tl.constexpr, NEEDS_X: tl.constexpr, SCALED: tl.constexpr,
    PRODUCT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """back (L, n, WIDTH): gradient of each layer before its activation, times `scale`."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    unit = tl.arange(0, WIDTH)
    mask = point[:, None] < num_points
    back = tl.load(
        gradient_ptr + point[:, None] * num_outputs + unit[None, :],
        mask=mask & (unit[None, :] < num_outputs), other=0.0,
    )  # fmt: skip
    if SCALED:
        back *= tl.load(scale_ptr)
    row = ((num_layers - 1) * num_points + point[:, None]) * WIDTH + unit[None, :]
    if ACTIVATE_LAST:
        back = _through_activation(back, kept_ptr, row, mask, SINE)
    tl.store(back_ptr + row, back, mask=mask)
    for k in range(1, num_layers):
        layer = num_layers - k
        back = _product(back, _weight(weights_ptr, layer, WIDTH), PRODUCT)
        row = ((layer - 1) * num_points + point[:, None]) * WIDTH + unit[None, :]
        back = _through_activation(back, kept_ptr, row, mask, SINE)
        tl.store(back_ptr + row, back, mask=mask)
    if NEEDS_X:
        back = _product(back, _weight(weights_ptr, 0, WIDTH), gradient_ptr.dtype.element_ty)
        if SCALED:
            back /= tl.load(scale_ptr)
        tl.store(
            x_gradient_ptr + point[:, None] * num_inputs + unit[None, :], back,
            mask=mask & (unit[None, :] < num_inputs),
        )  # fmt: skip


@triton.jit
def weight_gradient_kernel(
    inputs_ptr, back_ptr, weights_ptr, biases_ptr, num_points, num_inputs, first_layer, num_layers,
    WIDTH: tl.constexpr, SINE: tl.constexpr, PRODUCT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients (parts, L, WIDTH, WIDTH) and (parts, L, WIDTH) of layers first_layer, ...

    inputs: x, (n, num_inputs), with first_layer = 0 and PRODUCT = float32, or what was kept.
    """
    layer = tl.program_id(0) + first_layer
    part = tl.program_id(1)
    unit = tl.arange(0, WIDTH)
    kind = weights_ptr.dtype.element_ty
    weight = tl.full([WIDTH, WIDTH], 0, kind)
    bias = tl.full([WIDTH], 0, kind)
    for block in range(part, tl.cdiv(num_points, BLOCK), tl.num_programs(1)):
        point = tl.arange(0, BLOCK).to(tl.int64) + block * BLOCK
        mask = point[:, None] < num_points
        row = layer * num_points + point[:, None]
        back = tl.load(back_ptr + row * WIDTH + unit[None, :], mask=mask, other=0.0)
        before = row - num_points if first_layer > 0 else row
        value = tl.load(
            inputs_ptr + before * num_inputs + unit[None, :],
            mask=mask & (unit[None, :] < num_inputs), other=0.0,
        )  # fmt: skip
        if SINE and first_layer > 0:
            value = sine(value.to(kind))
        weight += _product(tl.trans(back), value, PRODUCT)
        bias += tl.sum(back.to(kind), axis=0)
    target = (part * num_layers + layer) * WIDTH
    tl.store(weights_ptr + (target + unit[:, None]) * WIDTH + unit[None, :], weight)
    tl.store(biases_ptr + target + unit, bias)


def _fused_width(weights: Sequence[Tensor]) -> int | None:
    """The width of all layers in the fused kernels, None for networks that are too wide."""
    width = max(max(w.shape) for w in weights)
    return max(16, triton.next_power_of_2(width)) if width <= MAX_FUSED_WIDTH else None


def pad_and_stack(tensors: Sequence[Tensor], *shape: int) -> Tensor:
    """The tensors as one, each with zeros behind its numbers."""
    out = tensors[0].new_zeros(len(tensors), *shape)
    for target, tensor in zip(out, tensors, strict=True):
        target[tuple(slice(size) for size in tensor.shape)] = tensor
    return out


def _triton_type(dtype: torch.dtype) -> tl.dtype:
    return getattr(tl, str(dtype).removeprefix("torch."))


def forward(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str,
    activate_last: bool, precision: str, keep: bool,
) -> list[Tensor]:  # fmt: skip
    """The output and, with `keep`, what the backward pass needs of the activated layers.

    One tensor (layers, n, width) of a fused network, of wider ones a tensor a layer: the values
    behind ReLU, or before sine.
    """
    width = _fused_width(weights)
    if width is None:
        return _forward_wide(x, weights, biases, activation, activate_last, precision, keep)
    num_points, num_layers = x.shape[0], len(weights)
    num_activated = num_layers - (not activate_last)
    product = _HALF.get(precision, x.dtype)
    out = x.new_empty(num_points, weights[-1].shape[0])
    is_sine = activation == "sine"
    kept = x.new_empty(
        (num_activated, num_points, width) if keep else 0, dtype=x.dtype if is_sine else product
    )
    if num_points > 0:
        zeros = [w.new_zeros(w.shape[0]) for w in weights]
        forward_kernel[(triton.cdiv(num_points, BLOCK),)](
            x.contiguous(), pad_and_stack(weights, width, width),
            pad_and_stack([*biases] or zeros, width),
            out, kept, num_points, x.shape[1], out.shape[1], num_layers, WIDTH=width, SINE=is_sine,
            ACTIVATE_LAST=activate_last, KEEP=keep, PRODUCT=_triton_type(product), BLOCK=BLOCK,
            num_warps=NUM_WARPS,
        )  # fmt: skip
    return [out, kept] if keep else [out]


def backward(
    gradient: Tensor, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor],
    kept: Sequence[Tensor], activation: str, activate_last: bool, precision: str, needs_x: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients of x (empty if not needed), every weight, every bias, in one list."""
    width = _fused_width(weights)
    if width is None:
        return _backward_wide(
            gradient, x, weights, biases, kept, activation, activate_last, precision, needs_x
        )
    num_points, num_layers = x.shape[0], len(weights)
    is_sine, product = activation == "sine", _HALF.get(precision, x.dtype)
    x_gradient = torch.zeros_like(x) if needs_x else x.new_empty(0)
    num_parts = min(triton.cdiv(num_points, BLOCK), MAX_PARTS)
    weight_parts = x.new_zeros(max(num_parts, 1), num_layers, width, width)
    bias_parts = x.new_zeros(max(num_parts, 1), num_layers, width)
    scale = x.new_ones(1)
    if num_points > 0:
        x, gradient, padded = (
            x.contiguous(),
            gradient.contiguous(),
            pad_and_stack(weights, width, width),
        )
        if precision == "fp16":
            largest = gradient.abs().amax().clamp(min=1e-30)
            scale = torch.exp2(_GRADIENT_EXPONENT - torch.ceil(torch.log2(largest)))
        back = x.new_empty(num_layers, num_points, width, dtype=product)
        options = {
            "WIDTH": width, "SINE": is_sine, "BLOCK": BLOCK, "num_warps": NUM_WARPS,
        }  # fmt: skip
        backward_kernel[(triton.cdiv(num_points, BLOCK),)](
            gradient, padded, kept[0], back, x_gradient, scale, num_points, x.shape[1],
            gradient.shape[1], num_layers, ACTIVATE_LAST=activate_last, NEEDS_X=needs_x,
            SCALED=precision == "fp16", PRODUCT=_triton_type(product), **options,
        )  # fmt: skip
        weight_gradient_kernel[(1, num_parts)](
            x, back, weight_parts, bias_parts, num_points, x.shape[1], 0, num_layers,
            PRODUCT=_triton_type(x.dtype), **options,
        )  # fmt: skip
        if num_layers > 1:
            weight_gradient_kernel[(num_layers - 1, num_parts)](
                kept[0], back, weight_parts, bias_parts, num_points, width, 1, num_layers,
                PRODUCT=_triton_type(product), **options,
            )  # fmt: skip
    weight_sum, bias_sum = weight_parts.sum(dim=0) / scale, bias_parts.sum(dim=0) / scale
    pairs = (*zip(weight_sum, weights, strict=True), *zip(bias_sum, biases, strict=False))
    parts = [total[tuple(slice(n) for n in shaped.shape)].clone() for total, shaped in pairs]
    return [x_gradient, *parts]


def _forward_wide(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str,
    activate_last: bool, precision: str, keep: bool,
) -> list[Tensor]:  # fmt: skip
    num_activated = len(weights) - (not activate_last)
    half, kept, value = _HALF.get(precision, x.dtype), [], x
    for k, weight in enumerate(weights):
        dtype = x.dtype if k == 0 else half
        value = (value.to(dtype) @ weight.to(dtype).T).to(x.dtype)
        if biases:
            value = value + biases[k]
        if k < num_activated:
            z = value
            value = value.sin() if activation == "sine" else value.relu()
            kept.append(z if activation == "sine" else value)
    # With activate_last and ReLU the output is the last that is kept: no two results may be one.
    return [value.clone(), *kept] if keep else [value]


def _backward_wide(
    gradient: Tensor, x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor],
    kept: Sequence[Tensor], activation: str, activate_last: bool, precision: str, needs_x: bool,
) -> list[Tensor]:  # fmt: skip
    num_activated = len(weights) - (not activate_last)
    # Gradients leave the range of float16; bfloat16 has that of float32 at the same speed.
    half = x.dtype if precision == "fp32" else torch.bfloat16
    weight_gradients, bias_gradients = [], []
    back = gradient
    for k in range(len(weights) - 1, -1, -1):
        if k < num_activated:
            slope = kept[k].cos() if activation == "sine" else (kept[k] > 0).to(x.dtype)
            back = back * slope
        dtype = x.dtype if k == 0 else half
        value = x if k == 0 else kept[k - 1]
        if k > 0 and activation == "sine":
            value = value.sin()
        weight_gradients.append((back.to(dtype).T @ value.to(dtype)).to(x.dtype))
        if biases:
            bias_gradients.append(back.sum(dim=0))
        if k > 0 or needs_x:
            back = (back.to(dtype) @ weights[k].to(dtype)).to(x.dtype)
    x_gradient = back if needs_x else x.new_empty(0)
    return [x_gradient, *reversed(weight_gradients), *reversed(bias_gradients)]

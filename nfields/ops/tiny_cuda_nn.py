"""tiny-cuda-nn behind `grid_encode` and `mlp` (backend=tcnn): our parameters in its layout.

The package keeps all parameters of a module in one vector. Here that vector is made of our table or
our weights at every call, so that checkpoints, optimiser and models know nothing of it; gradients
come back the same way. The layout is that of its sources:

grid      include/tiny-cuda-nn/encodings/grid.h (commits 03a659d, 2ec562e) and common_device.h
          (6ee3546: grid_index, grid_scale). Level by level, entry by entry, feature by feature: our
          table, row by row. Level l has scale base_resolution 2^(l log2(per_level_scale)) - 1 in
          float32, ceil(scale) + 1 vertices a side and min(round8(vertices^d),
          2^log2_hashmap_size) entries; it is hashed if its vertices are more.
network   src/fully_fused_mlp.cu (087d07c), src/cpp_api.cu (087d07c) and
          include/tiny-cuda-nn/encodings/identity.h (0e7c624). Layer by layer, each matrix row by
          row: (W, round16(inputs)), then (W, W) between hidden layers, at last (round16(outputs),
          W), with W = 16, 32, 64 or 128. There are no biases; numbers are half.

Biases become weights of one more input and one more unit of each hidden layer that are always 1.
So a network with biases of 63 units takes W = 64, one of 64 units W = 128.

Networks have first derivatives alone; the package has no others.
"""

import importlib
import importlib.util
import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad
from torch.utils.weak import WeakTensorKeyDictionary

from nfields.errors import ConfigError
from nfields.ops.backend import product_precision, uses_triton

INSTALL = "pip install git+https://github.com/NVlabs/tiny-cuda-nn/#subdirectory=bindings/torch"
WIDTHS = (16, 32, 64, 128)  # of FullyFusedMLP
ALIGNMENT = 16  # of its inputs and outputs

# Encodings by the layout tensor they were made for: to read it is to wait for a GPU, once.
_encodings = WeakTensorKeyDictionary()


def package(operation: str, tensor: Tensor) -> Any:
    """The module `tinycudann`. Raises ConfigError where it is absent or the tensor is on no GPU."""
    if importlib.util.find_spec("tinycudann") is None:
        raise ConfigError(
            f"{operation}: backend=tcnn needs tiny-cuda-nn, which is built with a CUDA compiler; "
            f"install it with: {INSTALL} ; or use model.backend=auto"
        )
    if not uses_triton(tensor):
        raise ConfigError(
            f"{operation}: backend=tcnn runs on CUDA alone and the tensors are on {tensor.device}; "
            "use trainer.device=cuda on a machine with an NVIDIA GPU, or model.backend=auto"
        )
    if tensor.dtype != torch.float32:
        raise ValueError(f"{operation}: backend=tcnn takes float32, not {tensor.dtype}")
    return importlib.import_module("tinycudann")


# ---- grid -----------------------------------------------------------------------------------


def encode(
    x: Float[Tensor, "n d"],
    table: Float[Tensor, "entries features"],
    scales: Float[Tensor, " levels"],
    layout: Int[Tensor, "levels 4"],
    smoothstep: bool,
) -> Float[Tensor, "n level_features"]:
    """What `grid_encode` returns; inside `matrix_products` of 16 bits the table is float16."""
    tinycudann = package("grid_encode", x)
    kind = torch.float32 if product_precision() == "fp32" else torch.float16
    made: dict[Any, nn.Module] = _encodings.setdefault(layout, {})  # pyright: ignore
    key = (x.shape[1], table.shape[1], smoothstep, kind)
    if key not in made:
        config = grid_config(scales, layout, x.shape[1], table.shape[1], smoothstep)
        encoding = tinycudann.Encoding(x.shape[1], config, dtype=kind)
        if encoding.params.numel() != table.numel():
            raise ConfigError(
                f"grid_encode: backend=tcnn has {encoding.params.numel():,} parameters for "
                f"{config}, nfields {table.numel():,}; use model.backend=auto, and report this"
            )
        made[key] = _without_parameters(encoding)
    clamped = torch.where(x >= 0, x, torch.zeros_like(x)).clamp(max=1)  # as the contract has it
    return functional_call(made[key], {"params": table.reshape(-1)}, (clamped,)).to(x.dtype)


def grid_config(
    scales: Float[Tensor, " levels"],
    layout: Int[Tensor, "levels 4"],
    dim: int,
    features: int,
    smoothstep: bool,
) -> dict[str, Any]:
    """Options of tiny-cuda-nn's grid with the levels of ours. Raises ConfigError if it has none."""
    resolution, _, entries, hashed = np.array(layout.tolist(), dtype=np.int64).T
    scale = np.array(scales.tolist())
    base = round(scale[0] + 1)
    limit = int(entries[hashed == 1].max()) if hashed.any() else int(entries.max())
    log2_entries = math.ceil(math.log2(limit))
    if hashed.any() and limit != 1 << log2_entries:
        raise ConfigError(
            f"model.log2_entries={math.log2(limit):.2f}: tiny-cuda-nn's tables have a power of two "
            f"of entries; set {log2_entries - 1} or {log2_entries}, or model.backend=auto"
        )
    return {
        "otype": "Grid",
        "type": "Hash",
        "n_levels": len(layout),
        "n_features_per_level": features,
        "log2_hashmap_size": log2_entries,
        "base_resolution": base,
        "per_level_scale": _growth(scale, base, resolution[hashed == 0]),
        "interpolation": "Smoothstep" if smoothstep else "Linear",
    }


def _growth(scale: np.ndarray, base: int, dense_resolution: np.ndarray) -> float:
    """per_level_scale whose dense levels have our resolutions, in float32.

    A level of 2^k cells sits on the edge of `ceil`, where the last bit decides: some steps below,
    both sides round alike. That moves the finest of 16 levels by 1e-6 of its resolution a step.
    """
    if len(scale) == 1:
        return 2.0
    exact = ((scale[-1] + 1) / base) ** (1 / (len(scale) - 1))
    levels = np.arange(len(dense_resolution), dtype=np.float32)
    for step in range(64):
        growth = np.float32(exact * (1 - step * 2.0**-23))
        found = np.exp2(levels * np.log2(growth)) * np.float32(base) - np.float32(1)
        sides = [np.ceil(found * slack) + 1 for slack in (1 - 4e-7, 1 + 4e-7)]
        # The coarsest level is exact: 2^0 times the base.
        if all((side[1:] == dense_resolution[1:]).all() for side in sides):
            return float(growth)
    raise ConfigError(
        f"model.base_resolution={base}, model.max_resolution={scale[-1] + 1:.0f}: tiny-cuda-nn "
        "rounds the resolution of a dense level to another number; change model.max_resolution by "
        "one, or use model.backend=auto"
    )


# ---- network --------------------------------------------------------------------------------


def network(
    x: Float[Tensor, "n inputs"],
    weights: Sequence[Float[Tensor, "_ _"]],
    biases: Sequence[Float[Tensor, " _"]],
    activation: str,
    activate_last: bool,
) -> Float[Tensor, "n outputs"]:
    """What `mlp` returns, with numbers between the layers and weights in float16."""
    tinycudann = package("mlp", x)
    weights, biases = list(weights), list(biases)
    num_outputs = len(weights[-1])
    if activate_last:  # its last layer has no activation, and there is at least one before
        weights.append(torch.eye(num_outputs, dtype=x.dtype, device=x.device))
        biases += [x.new_zeros(num_outputs)] if biases else []
    if activation != "relu" or len(weights) < 2:
        raise ConfigError(
            f"mlp: backend=tcnn is for ReLU networks with a hidden layer, not {activation} with "
            f"{len(weights) - 1}; use model.backend=auto"
        )
    if biases:
        x = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    width = _width([len(weight) for weight in weights[:-1]], bool(biases))
    module = _network(tinycudann, x.shape[1], num_outputs, width, len(weights) - 1, x.device)
    flat = network_to_params(weights, biases)
    return functional_call(module, {"params": flat}, (_FirstDerivative.apply(x),)).to(x.dtype)


def network_to_params(
    weights: Sequence[Float[Tensor, "_ _"]], biases: Sequence[Float[Tensor, " _"]]
) -> Float[Tensor, " params"]:
    """Our layers as tiny-cuda-nn's vector, biases as weights of inputs and units that are 1."""
    parts, matrices = [], _matrices([(len(w), w.shape[1]) for w in weights], bool(biases))
    for k, (weight, (rows, columns)) in enumerate(zip(weights, matrices, strict=True)):
        if biases:
            weight = torch.cat([weight, biases[k][:, None]], dim=1)
            if k < len(weights) - 1:
                one = weight.new_zeros(1, weight.shape[1])
                one[0, -1] = 1
                weight = torch.cat([weight, one])
        padded = pad(weight, (0, columns - weight.shape[1], 0, rows - weight.shape[0]))
        parts.append(padded.reshape(-1))
    return torch.cat(parts)


def params_to_network(
    params: Float[Tensor, " params"], shapes: Sequence[tuple[int, int]], has_biases: bool
) -> tuple[list[Float[Tensor, "_ _"]], list[Float[Tensor, " _"]]]:
    """Weights and biases of layers of `shapes` (outputs, inputs), from `network_to_params`."""
    matrices = _matrices(shapes, has_biases)
    parts = params.split([rows * columns for rows, columns in matrices])
    layers = [part.view(size) for part, size in zip(parts, matrices, strict=True)]
    weights = [m[:o, :i] for m, (o, i) in zip(layers, shapes, strict=True)]
    biases = [m[:o, i] for m, (o, i) in zip(layers, shapes, strict=True)] if has_biases else []
    return weights, biases


def _matrices(shapes: Sequence[tuple[int, int]], has_biases: bool) -> list[tuple[int, int]]:
    """The padded sizes of tiny-cuda-nn's matrices."""
    width = _width([outputs for outputs, _ in shapes[:-1]], has_biases)
    rows = [width] * (len(shapes) - 1) + [_padded(shapes[-1][0])]
    columns = [_padded(shapes[0][1] + has_biases)] + [width] * (len(shapes) - 1)
    return list(zip(rows, columns, strict=True))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _width(hidden: Sequence[int], has_biases: bool) -> int:
    needed = max(hidden) + has_biases
    for width in WIDTHS:
        if needed <= width:
            return width
    raise ConfigError(
        f"model.width={max(hidden)}: tiny-cuda-nn's FullyFusedMLP has at most {WIDTHS[-1]} units, "
        f"one of which stands for the biases; lower model.width to {WIDTHS[-1] - 1}, or use "
        "model.backend=auto"
    )


@cache
def _network(
    tinycudann: Any, inputs: int, outputs: int, width: int, num_hidden: int, device: torch.device
) -> nn.Module:
    """One module a size and device (it belongs to the device that is the current one)."""
    config = {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": width,
        "n_hidden_layers": num_hidden,
    }
    return _without_parameters(tinycudann.Network(inputs, outputs, config))


def _without_parameters(module: Any) -> nn.Module:
    """The module with the memory of its own parameters given back: each call brings ours."""
    module.params = nn.Parameter(module.params.detach().new_zeros(0), requires_grad=False)
    return module


class _FirstDerivative(torch.autograd.Function):
    """The input, whose gradient cannot be differentiated again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _NoSecondDerivative.apply(gradient)


class _NoSecondDerivative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise ConfigError(
            "backend=tcnn: tiny-cuda-nn's networks have no second derivatives, which losses on "
            "slopes need (eikonal, normal and curvature of task=sdf); use model.backend=auto"
        )

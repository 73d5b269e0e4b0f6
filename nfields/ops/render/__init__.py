"""Operation render: rays to colour, opacity and depth in one pass: march, field, composite.

Contract
    origins     (n, 3)   in the scene's frame
    directions  (n, 3)   of unit length
    basis       (n, B)   what a ray multiplies the colour coefficients with: harmonics of its
                         direction; value 1 + c B + k of the network is coefficient k of colour c
    network     GridNetwork: the field as tensors; value 0 is log density
    bits        occupancy, and near, dt_min, dt_max, cone, max_samples: see nfields.ops.march;
                a ray's first step is moved by `jitter` steps
    center, half_size    the field's [-1, 1]^3 is center +- half_size of the scene
    density_bias         density = exp(min(value 0 + density_bias, 15))
    min_transmittance    a ray ends behind the sample that brings its transmittance below this
    returns     color (n, 3) without a background, opacity (n,), depth (n,): see
                nfields.ops.composite

What training computes as march, grid_encode, rbf_decode or mlp, and composite, without their
buffers: samples behind the end of a ray are not evaluated, which are most in a trained scene.
float32. No gradients. A ray without samples is zero. Deterministic for any number of
threads. Use it to look at a field; to train it, use the operations it joins.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numba
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from nfields.errors import ConfigError
from nfields.ops.backend import cuda_function, require_same_dtype, uses_reference, uses_triton
from nfields.ops.grid_encode.lanes import HAS_GATHER
from nfields.ops.march import cpu as march_cpu
from nfields.ops.render import cpu
from nfields.ops.render.reference import render_reference

__all__ = ["MAX_CUDA_WIDTH", "GridNetwork", "render"]

MAX_CUDA_WIDTH = 64  # units of a layer or neurons that the CUDA kernel takes
_render_on_cuda = cuda_function("nfields.ops.render.cuda:render")


@dataclass(frozen=True)
class GridNetwork:
    """A field as tensors: grid features, hidden values, a linear readout.

    Hidden are Gaussian responses (and the features behind them, where the readout takes so many),
    or the last of some ReLU layers.
    """

    table: Float[Tensor, "entries features"]  # see nfields.ops.grid_encode
    scales: Float[Tensor, " levels"]
    levels: Int[Tensor, "levels 4"]
    smoothstep: bool
    centers: Float[Tensor, "neurons dim"] | None  # see nfields.ops.rbf_decode
    inv_widths: Float[Tensor, "neurons dim"] | None
    weights: Sequence[Float[Tensor, "_ _"]]  # see nfields.ops.mlp; empty with neurons
    biases: Sequence[Float[Tensor, " _"]]
    readout_weight: Float[Tensor, "out hidden"]
    readout_bias: Float[Tensor, " out"]


def render(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    basis: Float[Tensor, "n coefficients"],
    network: GridNetwork,
    bits: UInt8[Tensor, "cascades cells cells bytes"],
    *,
    center: Sequence[float],
    half_size: float,
    density_bias: float,
    near: float,
    dt_min: float,
    dt_max: float,
    cone: float,
    max_samples: int,
    min_transmittance: float = 1e-4,
    jitter: float = 0.5,
    backend: str = "auto",
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Colour, opacity and depth of every ray; see the module's contract."""
    num_values = 1 + 3 * basis.shape[1]
    if network.readout_weight.shape[0] != num_values:
        raise ValueError(
            f"render: the network has {network.readout_weight.shape[0]} values; a basis of "
            f"{basis.shape[1]} needs 1 + 3 * {basis.shape[1]} = {num_values}"
        )
    if not (0 < dt_min <= dt_max and near >= 0 and cone >= 0 and 0 <= jitter < 1):
        raise ValueError(
            f"render: near={near}, dt_min={dt_min}, dt_max={dt_max}, cone={cone}, jitter={jitter}; "
            "need near >= 0, 0 < dt_min <= dt_max, cone >= 0, 0 <= jitter < 1"
        )
    frame = (*center, half_size)
    steps = (near, dt_min, dt_max, cone, jitter)
    limits = (density_bias, min_transmittance)
    if uses_reference(backend, "render", origins):
        return render_reference(
            origins, directions, basis, network, bits, frame, steps, limits, max_samples
        )
    require_same_dtype(
        "render", origins=origins, directions=directions, basis=basis, table=network.table
    )
    if origins.dtype != torch.float32:
        raise ValueError(f"render: rays are {origins.dtype}; the kernel takes float32")
    if uses_triton(origins):
        neurons = [] if network.centers is None else [network.centers]
        width = max(len(weight) for weight in (*network.weights, *neurons))
        if width > MAX_CUDA_WIDTH:
            raise ConfigError(
                f"render: {width} units are more than the {MAX_CUDA_WIDTH} that the CUDA kernel "
                "takes; set task.renderer=plain"
            )
        return _render_on_cuda(
            origins, directions, basis, network, bits, frame, steps, limits, max_samples
        )
    num_rays, features = len(origins), network.table.shape[1]
    out = torch.zeros(num_rays, 5)
    if num_rays == 0:
        return out[:, :3], out[:, 3], out[:, 4]
    packed = cpu.pack(network)
    clear, box = march_cpu.surroundings(bits)
    arguments = (
        features, packed.num_neurons, HAS_GATHER and features <= 2, origins.contiguous().numpy(),
        directions.contiguous().numpy(), basis.contiguous().numpy(), bits.contiguous().numpy(),
        clear, box.astype("float32"),
        torch.tensor([*frame, *steps, *limits]).numpy(), max_samples,
        network.table.detach().contiguous().view(-1).numpy(), network.scales.numpy(),
        network.levels.numpy(), network.smoothstep, packed.scale, packed.shift, packed.layers,
        packed.sizes, packed.readout, packed.bias, out.numpy(),
    )  # fmt: skip
    num_threads = numba.get_num_threads()
    others = [
        _threads().submit(cpu.render, thread, num_threads, *arguments)
        for thread in range(1, num_threads)
    ]
    cpu.render(0, num_threads, *arguments)
    for other in others:
        other.result()
    return out[:, :3], out[:, 3], out[:, 4]


@cache
def _threads() -> ThreadPoolExecutor:
    """Threads of our own: Numba's must not be entered from two threads at once, and a live view
    renders beside a training. It also spares the compilation of a parallel kernel, 15 seconds.
    """
    return ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, "render")  # pyright: ignore

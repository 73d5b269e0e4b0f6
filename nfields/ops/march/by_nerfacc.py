"""march by nerfacc (arXiv:2305.04966), for task.marcher=nerfacc: CUDA alone.

Its traversal of nested grids (nerfacc 0.5.3, nerfacc/cuda/csrc/grid.cu, traverse_grids_kernel)
takes steps from `near_planes` on and keeps those whose middle lies in an occupied cell, as `march`
does. Two rules differ, both for cones alone: a step grows with the distance without dt_max, and its
cell is of the finest cascade around it, however long the step. The host waits for the number of
samples.
"""

import importlib
import importlib.util
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nfields.errors import ConfigError
from nfields.ops.backend import uses_triton
from nfields.ops.march import Samples, within
from nfields.ops.march.reference import box_interval, unpack_bits

INSTALL = "pip install 'nerfacc>=0.5.3,<1'"


def march_by_nerfacc(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    bits: UInt8[Tensor, "cascades cells cells bytes"],
    jitter: Float[Tensor, " n"],
    *,
    near: float,
    dt_min: float,
    dt_max: float,
    cone: float,
    max_samples: int,
    capacity: int | None,
    backend: str,
) -> Samples:
    """What `march` returns; dt_max and backend are not for nerfacc, see the module's head."""
    nerfacc = package(origins)
    if len(origins) == 0:
        nothing = origins.new_zeros(0)
        return within(Samples(nothing, nothing, bits.new_zeros(1).long()), capacity)
    occupied = unpack_bits(bits).permute(0, 3, 2, 1)  # [cascade, x, y, z]
    half_sizes = 2.0 ** torch.arange(len(bits), device=bits.device)
    corners = half_sizes[:, None].expand(-1, 3)
    enter, leave = box_interval(origins, directions, float(2 ** (len(bits) - 1)), near)
    # A ray that misses the scene has no length; one with a NaN, which is no hit, would never end.
    is_hit = enter < leave
    first = enter + jitter * (enter * cone).clamp(dt_min, dt_max)
    nowhere = torch.zeros_like(first)
    anywhere = torch.nn.functional.normalize(torch.ones_like(directions), dim=1)
    intervals, samples, _ = nerfacc.traverse_grids(
        torch.where(is_hit[:, None], origins, torch.zeros_like(origins)),
        torch.where(is_hit[:, None], directions, anywhere),
        occupied.contiguous(),
        torch.cat([-corners, corners], dim=1),
        near_planes=torch.where(is_hit, first, nowhere),
        far_planes=torch.where(is_hit, leave, nowhere),
        step_size=dt_min,
        cone_angle=cone,
        traverse_steps_limit=max_samples,
    )
    counts = samples.packed_info[:, 1]
    return within(
        Samples(
            intervals.vals[intervals.is_left],
            intervals.vals[intervals.is_right],
            torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        ),
        capacity,
    )


def package(tensor: Tensor) -> Any:
    """The module `nerfacc`. Raises ConfigError where it, CUDA or its kernels are absent."""
    if importlib.util.find_spec("nerfacc") is None:
        raise ConfigError(
            f"task.marcher=nerfacc needs nerfacc; install it with: {INSTALL} ; or use "
            "task.marcher=native"
        )
    if not uses_triton(tensor):
        raise ConfigError(
            f"task.marcher=nerfacc runs on CUDA alone and the rays are on {tensor.device}; use "
            "trainer.device=cuda on a machine with an NVIDIA GPU, or task.marcher=native"
        )
    if tensor.dtype != torch.float32:
        raise ValueError(f"task.marcher=nerfacc takes float32 rays, not {tensor.dtype}")
    try:
        kernels = importlib.import_module("nerfacc.cuda._backend")._C
        reason = "no CUDA compiler was found"
    except (ImportError, OSError, RuntimeError) as error:
        kernels, reason = None, str(error)
    if kernels is None:
        raise ConfigError(
            f"task.marcher=nerfacc: nerfacc has no CUDA kernels here ({reason}). It compiles them "
            "at its first use with the CUDA toolkit (nvcc, CUDA_HOME); install that, or one of "
            "the built wheels that nerfacc's README lists, or use task.marcher=native"
        )
    return importlib.import_module("nerfacc")

"""Operation march_contracted: where along each ray to ask a field that has all of space.

Contract
    origins     (n, 3)   in the scene's frame
    directions  (n, 3)   of unit length
    bits        (1, G, G, G / 8) uint8; cell (x, y, z) of c(p / radius) / 2 in [-1, 1]^3, c the
                         contraction of nfields/render/contraction.py, is bit x % 8 of
                         [0, z, y, x / 8]
    jitter      (n,)     in [0, 1): moves a ray's first step
    near, dt_min         see the reference; dt_min is the step where space is not contracted
    radius               up to which it is not; the reference has 1
    max_samples          a ray's later samples are left out
    capacity             see nfields.ops.march
    returns     Samples, as of nfields.ops.march: t_starts, t_ends in scene units, offsets

Choose it over `march` for photographs of a place without an end: one grid for everything, where
cascades have a box and end there. No gradients. Deterministic. A ray that is not finite has no
samples.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from dataclasses import replace

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nfields.ops.backend import cuda_function, require_same_dtype, uses_reference, uses_triton
from nfields.ops.march import Samples, within
from nfields.ops.march_contracted import cpu
from nfields.ops.march_contracted.reference import march_contracted_reference

_march_on_cuda = cuda_function("nfields.ops.march_contracted.cuda:march_contracted")


def march_contracted(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    bits: UInt8[Tensor, "1 cells cells bytes"],
    jitter: Float[Tensor, " n"],
    *,
    near: float,
    dt_min: float,
    radius: float = 1.0,
    max_samples: int = 1024,
    capacity: int | None = None,
    backend: str = "auto",
) -> Samples:
    """Samples of every ray in occupied cells; see the module's contract."""
    if not (0 < dt_min < radius and near >= 0):
        raise ValueError(
            f"march_contracted: near={near}, dt_min={dt_min}, radius={radius}; need near >= 0, "
            "0 < dt_min < radius"
        )
    if radius != 1:
        found = march_contracted(
            origins / radius, directions, bits, jitter, near=near / radius, dt_min=dt_min / radius,
            max_samples=max_samples, capacity=capacity, backend=backend,
        )  # fmt: skip
        return replace(found, t_starts=radius * found.t_starts, t_ends=radius * found.t_ends)
    options = (near, dt_min, max_samples)
    rays = (origins.detach(), directions.detach(), bits, jitter)
    if uses_reference(backend, "march_contracted", origins):
        return within(Samples(*march_contracted_reference(*rays, *options)), capacity)
    require_same_dtype("march_contracted", origins=origins, directions=directions, jitter=jitter)
    if uses_triton(origins):
        *found, wanted = _march_on_cuda(*rays, *options, capacity)
        return Samples(*found, None if capacity is None else wanted)
    arrays = [t.contiguous().numpy() for t in rays]
    kind = arrays[0].dtype.type
    offsets = torch.zeros(len(origins) + 1, dtype=torch.int64)
    nothing = arrays[3][:0]
    numbers = (kind(near), kind(dt_min), max_samples)
    cpu.march_contracted(*arrays, *numbers, nothing, nothing, offsets.numpy(), False)
    offsets = offsets.cumsum(0)
    starts, ends = origins.new_empty(2, int(offsets[-1]))
    cpu.march_contracted(*arrays, *numbers, starts.numpy(), ends.numpy(), offsets.numpy(), True)
    return within(Samples(starts, ends, offsets), capacity)

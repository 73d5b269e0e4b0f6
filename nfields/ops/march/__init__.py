"""Operation march: where along each ray to ask the field.

Contract
    origins     (n, 3)   in the scene's frame
    directions  (n, 3)   of unit length
    bits        (C, G, G, G / 8) uint8; cell (x, y, z) of cascade k is bit x % 8 of
                         [k, z, y, x / 8]; cascade k covers [-2^k, 2^k]^3, the scene the largest
    jitter      (n,)     in [0, 1): moves a ray's first step
    near, dt_min, dt_max, cone   see the reference; all in scene units, cone is dt / t
    max_samples          a ray's later samples are left out
    capacity             None, or the length s of the buffers, whatever the rays meet: samples that
                         find no room are left out, what is left of the buffers is 0
    returns     Samples: t_starts, t_ends (s,), offsets (n + 1,) int64, num_wanted () int64

With a capacity the host never waits for a GPU: the number of samples that there would be with room
for all, num_wanted, stays there.

No gradients: sample positions are constants of the rendering. Deterministic. A ray that misses the
scene, or is not finite, has no samples. `sample_points` turns samples into points. The same by
nerfacc: nfields/ops/march/by_nerfacc.py.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from nfields.ops.backend import (
    cuda_function,
    implement_on_cuda,
    require_same_dtype,
    uses_reference,
    uses_triton,
)
from nfields.ops.march import cpu
from nfields.ops.march.reference import march_reference, num_cascades

__all__ = ["Samples", "march", "num_cascades", "sample_points", "within"]

_march_on_cuda = cuda_function("nfields.ops.march.cuda:march")
_points_on_cuda = cuda_function("nfields.ops.march.cuda:sample_points")


@dataclass(frozen=True)
class Samples:
    """Packed samples: those of ray i are offsets[i] .. offsets[i + 1] - 1, front to back.

    num_wanted is None without a capacity: there was room for all.
    """

    t_starts: Float[Tensor, " samples"]
    t_ends: Float[Tensor, " samples"]
    offsets: Int[Tensor, " n_plus_1"]
    num_wanted: Int[Tensor, ""] | None = None

    def ray_index(self) -> Int[Tensor, " samples"]:
        """The ray of every sample."""
        return torch.repeat_interleave(self.offsets.diff())


def march(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    bits: UInt8[Tensor, "cascades cells cells bytes"],
    jitter: Float[Tensor, " n"],
    *,
    near: float,
    dt_min: float,
    dt_max: float,
    cone: float = 0.0,
    max_samples: int = 1024,
    capacity: int | None = None,
    backend: str = "auto",
) -> Samples:
    """Samples of every ray in occupied cells; see the module's contract."""
    if bits.shape[1] != bits.shape[2] or bits.shape[3] * 8 != bits.shape[1]:
        raise ValueError(f"march: bits must be (C, G, G, G / 8), not {tuple(bits.shape)}")
    if not (0 < dt_min <= dt_max and near >= 0 and cone >= 0):
        raise ValueError(
            f"march: near={near}, dt_min={dt_min}, dt_max={dt_max}, cone={cone}; "
            "need near >= 0, 0 < dt_min <= dt_max, cone >= 0"
        )
    options = (near, dt_min, dt_max, cone, max_samples)
    if uses_reference(backend, "march", origins):
        samples = Samples(*march_reference(origins, directions, bits, jitter, *options))
        return within(samples, capacity)
    require_same_dtype("march", origins=origins, directions=directions, jitter=jitter)
    if capacity is not None and uses_triton(origins):
        return Samples(*_march_on_cuda(origins, directions, bits, jitter, *options, capacity))
    return within(Samples(*_march(origins, directions, bits, jitter, *options)), capacity)


def within(samples: Samples, capacity: int | None) -> Samples:
    """The samples in buffers of a fixed length, if there is to be one."""
    if capacity is None:
        return samples
    length = min(len(samples.t_starts), capacity)
    starts, ends = samples.t_starts.new_zeros(2, capacity)
    starts[:length], ends[:length] = samples.t_starts[:length], samples.t_ends[:length]
    offsets = samples.offsets.clamp(max=capacity)
    return Samples(starts, ends, offsets, samples.offsets[-1])


@torch.library.custom_op("nfields::march", mutates_args=(), device_types="cpu")
def _march(
    origins: Tensor,
    directions: Tensor,
    bits: Tensor,
    jitter: Tensor,
    near: float,
    dt_min: float,
    dt_max: float,
    cone: float,
    max_samples: int,
) -> tuple[Tensor, Tensor, Tensor]:
    offsets = torch.zeros(origins.shape[0] + 1, dtype=torch.int64)
    arrays = [t.contiguous().numpy() for t in (origins, directions, bits, jitter)]
    kind = arrays[0].dtype.type
    options = (kind(near), kind(dt_min), kind(dt_max), kind(cone), max_samples)
    options = (*options, cpu.rays_at_once(len(origins)))
    nothing = arrays[3][:0]
    clear, box = cpu.surroundings(bits)
    arrays[3:3] = [clear, box.astype(arrays[0].dtype)]
    cpu.march(*arrays, *options, nothing, nothing, offsets.numpy(), False)
    offsets = offsets.cumsum(0)
    starts = origins.new_empty(int(offsets[-1]))
    ends = torch.empty_like(starts)
    cpu.march(*arrays, *options, starts.numpy(), ends.numpy(), offsets.numpy(), True)
    return starts, ends, offsets


@_march.register_fake
def _(origins, directions, bits, jitter, near, dt_min, dt_max, cone, max_samples):
    num_samples = torch.library.get_ctx().new_dynamic_size()
    starts = origins.new_empty(num_samples)
    return starts, torch.empty_like(starts), bits.new_empty(origins.shape[0] + 1).long()


implement_on_cuda(_march, "nfields.ops.march.cuda:march_all")


def sample_points(
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    samples: Samples,
    *,
    scale: float = 1.0,
    backend: str = "auto",
) -> Float[Tensor, "samples 3"]:
    """Middle of every sample, times `scale`; differentiable in the rays, then by the reference."""
    needs_gradient = origins.requires_grad or directions.requires_grad
    if needs_gradient or uses_reference(backend, "sample_points", origins):
        ray = samples.ray_index()
        middle = 0.5 * (samples.t_starts + samples.t_ends)
        return scale * (origins[ray] + middle[:, None] * directions[ray])
    arrays = (origins, directions, samples.t_starts, samples.t_ends, samples.offsets)
    if uses_triton(origins):
        return _points_on_cuda(*arrays, scale)
    points = origins.new_zeros(samples.t_starts.shape[0], 3)
    contiguous = [tensor.contiguous().numpy() for tensor in arrays]
    cpu.sample_points(*contiguous, contiguous[0].dtype.type(scale), points.numpy())
    return points

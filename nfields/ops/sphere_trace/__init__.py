"""Operation sphere_trace: where rays meet the zero set of a field.

Contract
    distance    points (m, 3) to values (m,); called without gradients, m >= 1
    origins     (n, 3)
    directions  (n, 3)   of unit length
    t_near, t_far (n,)   the part of each ray to search; empty if t_near > t_far or NaN
    bound       BoundGrid over the box that holds all of those parts
    slopes      the greatest of f, (k,): where |f| is below the spacing of `bound`, then up to
                twice that and so on, the last for all beyond. The zero set is at least as far as
                |f| takes to fall at these. None: values of f say nothing about that
    gap         a ray may go this much further than is known to be safe
    tolerance   of the depth where the field is straight over the last step; never off by more
                than a step, which is `gap` at a thin part
    returns     depth (n,) of the first change of sign after t_near, infinite if there is none,
                and whether each ray starts where f < 0

No gradients; deterministic. Missed are pieces that a ray crosses within less than `gap`, and what
breaks the promise of `bound` or `slopes`; no fixed number of steps ends a search. f = 0 and NaN
are outside, so a field without a negative value is never hit.

`backend=reference` asks the field every `gap` and uses no promise: slow, for any device.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor

from nfields.ops.backend import require_same_dtype, uses_reference
from nfields.ops.sphere_trace import cpu
from nfields.ops.sphere_trace.reference import sphere_trace_reference

__all__ = ["BoundGrid", "sphere_trace"]


@dataclass(frozen=True)
class BoundGrid:
    """How far a surface is at least from the corners of a grid, and on which side they are.

    The zero set is at least |values| away from every corner, negative values are inside. Then it is
    at least |I(x)| - `margin` away from any point x of the box, I the trilinear interpolant: with
    weights w_i and corners x_i, sum w_i |x - x_i| <= sqrt(3) / 2 spacing = `margin`.
    """

    values: Float32[Tensor, "x y z"]  # two corners or more along each axis
    low: Float[Tensor, " 3"]  # the first corner
    spacing: float

    @property
    def margin(self) -> float:
        """By how much the interpolant may exceed the distance to the zero set."""
        return 0.5 * 3**0.5 * self.spacing


def sphere_trace(
    distance: Callable[[Float[Tensor, "m 3"]], Float[Tensor, " m"]],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t_near: Float[Tensor, " n"],
    t_far: Float[Tensor, " n"],
    *,
    bound: BoundGrid,
    slopes: Sequence[float] | None,
    gap: float,
    tolerance: float,
    backend: str = "auto",
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Depth of the first crossing and the side of the start; see the module's contract."""
    if not (gap > 0 and tolerance > 0):
        raise ValueError(f"sphere_trace: gap={gap} and tolerance={tolerance} must be above 0")
    if slopes is not None and not (len(slopes) and min(slopes) > 0):
        raise ValueError(f"sphere_trace: slopes={tuple(slopes)} must be above 0, or None")
    if min(bound.values.shape) < 2:
        raise ValueError(f"sphere_trace: a bound grid of {tuple(bound.values.shape)} has no cell")
    if uses_reference(backend, "sphere_trace", origins):
        return sphere_trace_reference(distance, origins, directions, t_near, t_far, gap, tolerance)
    require_same_dtype(
        "sphere_trace", origins=origins, directions=directions, t_near=t_near, t_far=t_far
    )
    num_rays = len(origins)
    o, d = origins.contiguous().numpy(), directions.contiguous().numpy()
    far = t_far.contiguous().numpy()
    grid = (bound.values.contiguous().numpy(), bound.low.double().numpy(), bound.spacing)
    limits = (bound.margin, np.array(slopes or (), np.float64), gap, tolerance)
    state = origins.new_empty(num_rays, cpu.NUM_COLUMNS)
    status = torch.empty(num_rays, dtype=torch.uint8)
    starts_inside = torch.empty(num_rays, dtype=torch.bool)
    points = origins.new_empty(max(num_rays, cpu.MOST_POINTS), 3)
    active = torch.arange(num_rays, dtype=torch.int32).numpy()
    memory = (state.numpy(), status.numpy(), starts_inside.numpy())
    cpu.start(o, d, t_near.contiguous().numpy(), far, *grid, bound.margin, gap, *memory)
    active = active[: cpu.compact(memory[1], active)]
    while len(active):
        ahead = cpu.places_ahead(len(active))
        count = len(active) * ahead
        cpu.write_points(o, d, far, gap, *memory[:2], active, ahead, points.numpy())
        values = distance(points[:count])
        if values.shape != (count,) or values.dtype != origins.dtype:
            raise ValueError(
                f"sphere_trace: distance gave {tuple(values.shape)} of {values.dtype} for {count} "
                f"points; it must be ({count},) of {origins.dtype}"
            )
        cpu.advance(values.contiguous().numpy(), ahead, active, o, d, far, *grid, *limits, *memory)
        active = active[: cpu.compact(memory[1], active)]
    return state[:, cpu.DEPTH].clone(), starts_inside

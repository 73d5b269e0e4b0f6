"""First sign change along rays, in plain PyTorch: the definition.

Notation
    f(t)   the field at o + t d
    s      its sign at t_near: -1 if f < 0, else 1 (NaN counts as 1)
The samples are t_i = min(t_near + i gap, t_far). The first i with s f(t_i) < 0 ends the search; the
root is bisected in [t_(i-1), t_i].
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def sphere_trace_reference(
    distance: Callable[[Float[Tensor, "m 3"]], Float[Tensor, " m"]],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
    t_near: Float[Tensor, " n"],
    t_far: Float[Tensor, " n"],
    gap: float,
    tolerance: float,
) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """Depths (infinite without a sign change) and which rays start where f < 0."""
    low, high = t_near.clone(), torch.full_like(t_near, torch.inf)
    starts_inside = torch.zeros_like(t_near, dtype=torch.bool)
    searching = (t_near <= t_far).nonzero()[:, 0]
    step = 0
    while len(searching):
        t = torch.minimum(t_near[searching] + step * gap, t_far[searching])
        value = distance(origins[searching] + t[:, None] * directions[searching])
        if step == 0:
            starts_inside[searching] = value < 0
        crossed = torch.where(starts_inside[searching], value > 0, value < 0)
        high[searching[crossed]] = t[crossed]
        low[searching[~crossed]] = t[~crossed]
        searching = searching[~crossed & (t < t_far[searching])]
        step += 1
    found = high.isfinite().nonzero()[:, 0]
    o, d, a, b = origins[found], directions[found], low[found], high[found]
    for _ in range(max(1, math.ceil(math.log2(max(gap / tolerance, 1.0))) + 1)):
        middle = 0.5 * (a + b)
        value = distance(o + middle[:, None] * d)
        crossed = torch.where(starts_inside[found], value > 0, value < 0)
        a, b = torch.where(crossed, a, middle), torch.where(crossed, middle, b)
    return high.index_copy(0, found, 0.5 * (a + b)), starts_inside

"""How far apart the samples of a ray are: farther where rays have many.

A batch has a number of samples. Where nothing is known to be empty yet, as in photographs, they
make a few hundred rays, which teach little; rays of long steps are many. As cells become empty,
steps become as short as asked for. Pictures are rendered with the steps that the field last learned
with, since a density that was never seen between samples is not settled there.

    S         samples a ray now
    factor    of all steps: clamp((S / samples_per_ray)^p, 1, 8), p = 0.8
    at rest   S factor = what rays would have with the shortest steps, so that
              S = (S factor samples_per_ray^p)^(1 / (1 + p)) within the bounds

fox, a quarter of its size, hashgrid, 1,500 steps: 27.1 dB against 24.3 with a factor of 1.
"""

from typing import NamedTuple

_POWER = 0.8
_MAX_FACTOR = 8.0


class Steps(NamedTuple):
    """`ops/march`: the shortest and the longest step in scene units, their growth with distance."""

    dt_min: float
    dt_max: float
    cone: float | int

    def longer(self, num_samples: float, samples_per_ray: float | int | None) -> "Steps":
        """These steps, when rays have `num_samples`."""
        factor = factor_of(num_samples, samples_per_ray)
        dt_min = factor * self.dt_min
        return Steps(dt_min, max(self.dt_max, dt_min), factor * self.cone)


def factor_of(num_samples: float, samples_per_ray: float | int | None) -> float:
    """What steps are multiplied by; 1 for samples_per_ray=None."""
    if samples_per_ray is None:
        return 1.0
    return min(max((num_samples / samples_per_ray) ** _POWER, 1.0), _MAX_FACTOR)


def samples_at_rest(
    num_samples: float, factor: float, samples_per_ray: float | int | None
) -> float:
    """How many samples a ray are to be had for good, where it has `num_samples` by some factor."""
    shortest = num_samples * factor
    if samples_per_ray is None or shortest <= samples_per_ray:
        return shortest
    free = (shortest * samples_per_ray**_POWER) ** (1 / (1 + _POWER))
    return max(free, shortest / _MAX_FACTOR)

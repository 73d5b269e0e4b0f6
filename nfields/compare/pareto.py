"""The Pareto front: what nothing else beats in both cost and quality."""

from collections.abc import Sequence

# Costs this near count as equal: a budget of 60 s ends a run at 60.01 s or at 60.03 s.
EQUAL_COST = 1.01

Point = tuple[float | int, float | int]  # cost, quality

LOWER_IS_BETTER = ("error", "flip", "lpips", "chamfer", "rmse", "mae", "mse", "loss", "seconds")


def pareto_front(
    costs: Sequence[float | int], qualities: Sequence[float | int], lower_is_better: bool = False
) -> list[int]:
    """Indices of the points that no other dominates, by rising cost.

    A point is dominated by one that costs no more (within a percent) and is at least as good, and
    is better in one of the two.
    """
    sign = -1 if lower_is_better else 1
    points = [(cost, sign * quality) for cost, quality in zip(costs, qualities, strict=True)]
    front = [i for i, point in enumerate(points) if not any(_beats(o, point) for o in points)]
    return sorted(front, key=lambda i: points[i])


def is_lower_better(measure: str) -> bool:
    """Whether a measure of this name is an error or a time, rather than a quality."""
    return any(word in measure.lower().split("_") for word in LOWER_IS_BETTER)


def _beats(a: Point, b: Point) -> bool:
    is_no_worse = a[0] <= EQUAL_COST * b[0] and a[1] >= b[1]
    return is_no_worse and (EQUAL_COST * a[0] < b[0] or a[1] > b[1])

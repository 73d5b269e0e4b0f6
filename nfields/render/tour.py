"""Tours: in which order to visit points, and which of them when there are too many."""

import numpy as np
from jaxtyping import Float, Int

Array = np.ndarray


def travelling_order(position: Float[Array, "n 3"]) -> Int[Array, " m"]:
    """The order of a short open tour of all points: nearest neighbours first, then 2-opt.

    Starts at the point farthest from the mean. Two or three per cent above the optimum, typically.
    """
    n = len(position)
    distance = np.linalg.norm(position[:, None] - position[None], axis=2)
    order = [int(np.argmax(np.linalg.norm(position - position.mean(0), axis=1)))]
    is_left = np.ones(n, bool)
    is_left[order[0]] = False
    while len(order) < n:
        following = int(np.argmin(np.where(is_left, distance[order[-1]], np.inf)))
        order.append(following)
        is_left[following] = False
    tour = np.array(order)
    tolerance = 1e-9 * distance.max()
    for _ in range(20 * n):  # one reversal each; the bound only guards against rounding
        d = distance[np.ix_(tour, tour)]
        along = np.append(np.diagonal(d, 1), 0.0)  # edge from i to i + 1; none after the last
        # Reversing i+1 .. j replaces the edges (i, i+1) and (j, j+1) by (i, j) and (i+1, j+1).
        new_end = np.pad(d[1:, 1:], ((0, 1), (0, 1)))
        gain = along[:, None] + along[None, :] - d - new_end
        gain[np.tril_indices(n)] = 0.0
        i, j = np.unravel_index(int(np.argmax(gain)), gain.shape)
        if gain[i, j] <= tolerance:
            break
        tour[i + 1 : j + 1] = tour[i + 1 : j + 1][::-1]
    return tour


def spread_out(position: Float[Array, "n 3"], count: int) -> Int[Array, " m"]:
    """Indices of `count` points far from each other: farthest-point sampling.

    Starts with the point farthest from the mean.
    """
    chosen = [int(np.argmax(np.linalg.norm(position - position.mean(0), axis=1)))]
    nearest = np.linalg.norm(position - position[chosen[0]], axis=1)
    while len(chosen) < count:
        nearest[chosen[-1]] = -1.0
        chosen.append(int(np.argmax(nearest)))
        away = np.linalg.norm(position - position[chosen[-1]], axis=1)
        nearest = np.where(nearest < 0, nearest, np.minimum(nearest, away))
    return np.array(chosen)

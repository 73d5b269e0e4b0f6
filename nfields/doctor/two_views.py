"""The geometry of two views: how far matched rays are from meeting, and where they do.

Notation: unit rays a, b of two cameras (world or camera axes), t from the first camera to the
second, c = a . b. Rays that meet are coplanar with t: e = a . (t x b) = 0. Divided by its gradient
along both unit spheres this is Sampson's distance (first order, in radians), for any lens:

    e / sqrt(|t x b|^2 + |a x t|^2 - 2 e^2)
"""

import numpy as np
from jaxtyping import Bool, Float

Vectors = Float[np.ndarray, "*n 3"]


def epipolar_angle(a: Vectors, b: Vectors, t: Vectors) -> Float[np.ndarray, "*n"]:
    """Sampson's distance of matched rays in radians; infinite where the cameras coincide."""
    across_b, across_a = np.cross(t, b), np.cross(a, t)
    return _sampson((a * across_b).sum(-1), across_a, across_b)


def essential_angle(
    a: Float[np.ndarray, "n 3"],
    b: Float[np.ndarray, "n 3"],
    essential: Float[np.ndarray, "m 3 3"],
) -> Float[np.ndarray, "m n"]:
    """The same for essential matrices, a^T E b = 0."""
    across_b = b @ essential.swapaxes(-1, -2)
    across_a = a @ essential
    return _sampson((a * across_b).sum(-1), across_a, across_b)


def _sampson(error: np.ndarray, across_a: np.ndarray, across_b: np.ndarray) -> np.ndarray:
    # The parts of the gradients along the rays are e: those across the spheres are left.
    square = (across_a**2).sum(-1) + (across_b**2).sum(-1) - 2 * error**2
    size = (across_a**2).sum(-1) + (across_b**2).sum(-1)
    is_fine = square > 1e-24 + 1e-12 * size
    return np.where(is_fine, np.abs(error) / np.sqrt(np.where(is_fine, square, 1.0)), np.inf)


def depths(
    a: Vectors, b: Vectors, t: Vectors
) -> tuple[Float[np.ndarray, "*n"], Float[np.ndarray, "*n"]]:
    """Signed distances along both rays to where they come nearest to each other."""
    c = (a * b).sum(-1)
    along_a, along_b = (t * a).sum(-1), (t * b).sum(-1)
    square = np.maximum(1 - c * c, 1e-12)
    return (along_a - c * along_b) / square, (c * along_a - along_b) / square


def in_front(a: Vectors, b: Vectors, t: Vectors, min_angle: float) -> Bool[np.ndarray, "*n"]:
    """True where both rays meet ahead of the cameras, or are parallel within min_angle radians."""
    first, second = depths(a, b, t)
    is_parallel = (a * b).sum(-1) > np.cos(min_angle)
    return is_parallel | ((first > 0) & (second > 0))


def robust_essential(
    a: Float[np.ndarray, "n 3"],
    b: Float[np.ndarray, "n 3"],
    max_angle: float,
    random: np.random.Generator,
    num_samples: int = 384,
) -> Bool[np.ndarray, " n"]:
    """Which matches agree with the best rank-2 matrix of many from eight matches each (RANSAC).

    Needs no calibration: a wrong focal length is absorbed, as by a fundamental matrix.
    """
    n = len(a)
    if n < 8:
        return np.zeros(n, dtype=bool)
    # Hartley's conditioning, for rays: whitened by their second moments.
    whiten_a, whiten_b = _whitening(a), _whitening(b)
    u, v = a @ whiten_a.T, b @ whiten_b.T
    chosen = random.random((num_samples, n)).argsort(axis=1)[:, :8]
    best = np.zeros(n, dtype=bool)
    for _ in range(3):  # the second and third time from all that agree
        found = whiten_a.T @ _eight_points(u[chosen], v[chosen]) @ whiten_b
        error = essential_angle(a, b, found)
        k = int((error < max_angle).sum(axis=1).argmax())
        agrees = error[k] < max_angle
        if agrees.sum() <= best.sum() or agrees.sum() < 8:
            break
        best = agrees
        chosen = agrees.nonzero()[0][None]
    return best


def _whitening(rays: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "3 3"]:
    moments = rays.T @ rays / len(rays) + 1e-9 * np.eye(3)
    return np.linalg.inv(np.linalg.cholesky(moments))


def _eight_points(
    u: Float[np.ndarray, "m k 3"], v: Float[np.ndarray, "m k 3"]
) -> Float[np.ndarray, "m 3 3"]:
    """The rank-2 matrices with the least sum of (u^T E v)^2, |E| = 1, over each set of matches."""
    rows = (u[..., :, None] * v[..., None, :]).reshape(*u.shape[:2], 9)
    _, vectors = np.linalg.eigh(rows.swapaxes(1, 2) @ rows)
    left, values, right = np.linalg.svd(vectors[:, :, 0].reshape(-1, 3, 3))
    values[:, 2] = 0
    return left * values[:, None, :] @ right

"""Spherical harmonics on the CPU (Numba).

Mapping. One thread a block of BLOCK points; rows of the recurrence (over m) as structure of arrays,
every operation vectorised over the points of the block. Memory a block touches: 4 (L + 1) rows of
BLOCK doubles and the block's rows of the output.
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions and of intrinsics.)

import math
from typing import Any

import numpy as np

from nfields.jit import njit, prange

BLOCK = 64
_FAST = {"fastmath": {"contract", "reassoc", "nsz", "arcp"}, "error_model": "numpy"}
_ROOT_2 = math.sqrt(2)


@njit(parallel=True, cache=True, **_FAST)
def harmonics(directions: Any, degree: int, out: Any) -> None:
    num_points = directions.shape[0]
    kind = out.dtype.type
    for b in prange((num_points + BLOCK - 1) // BLOCK):
        start = b * BLOCK
        count = min(BLOCK, num_points - start)
        rho, z = np.zeros(BLOCK), np.zeros(BLOCK)
        cosines, sines = np.zeros((degree + 1, BLOCK)), np.zeros((degree + 1, BLOCK))
        # N_{l-1}^m and N_{l-2}^m; a new row l overwrites the older one.
        legendre = np.zeros((2, degree + 2, BLOCK))
        for i in range(count):
            px, py = np.float64(directions[start + i, 0]), np.float64(directions[start + i, 1])
            pz = np.float64(directions[start + i, 2])
            inverse = 1 / math.sqrt(px * px + py * py + pz * pz)
            z[i] = pz * inverse
            radius = math.sqrt(px * px + py * py)
            rho[i] = radius * inverse
            cosines[0, i], sines[0, i] = 1.0, 0.0
            if degree > 0:
                # At the poles the azimuth does not matter: every product with it is 0.
                cosines[1, i] = px / radius if radius > 0 else 0.0
                sines[1, i] = py / radius if radius > 0 else 0.0
            legendre[0, 0, i] = math.sqrt(0.25 / math.pi)
            out[start + i, 0] = kind(legendre[0, 0, i])
        for m in range(2, degree + 1):
            for i in range(BLOCK):
                c, s = cosines[m - 1, i], sines[m - 1, i]
                cosines[m, i] = c * cosines[1, i] - s * sines[1, i]
                sines[m, i] = s * cosines[1, i] + c * sines[1, i]
        for l in range(1, degree + 1):  # noqa: E741
            last, older = legendre[(l - 1) % 2], legendre[l % 2]
            center = l * l + l
            for m in range(l):
                a = math.sqrt((4 * l * l - 1) / (l * l - m * m))
                b_lm = 0.0
                if m < l - 1:
                    b_lm = math.sqrt(((l - 1) ** 2 - m * m) / (4 * (l - 1) ** 2 - 1))
                for i in range(BLOCK):
                    older[m, i] = a * (z[i] * last[m, i] - b_lm * older[m, i])
            diagonal = math.sqrt((2 * l + 1) / (2 * l))
            for i in range(BLOCK):
                older[l, i] = diagonal * rho[i] * last[l - 1, i]
            for i in range(count):
                out[start + i, center] = kind(older[0, i])
            for m in range(1, l + 1):
                for i in range(count):
                    value = _ROOT_2 * older[m, i]
                    out[start + i, center + m] = kind(value * cosines[m, i])
                    out[start + i, center - m] = kind(value * sines[m, i])

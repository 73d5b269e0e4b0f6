"""Spherical harmonics on CUDA (Triton).

Mapping. One program a block of points, all orders m side by side, which goes up the degrees with
the last two rows N_{l-1}^m and N_{l-2}^m in registers and writes a row at a time: neighbours in
memory are neighbours in the program. Half of the lanes wait, as m <= l. cos(m phi) and sin(m phi)
are powers of (cos phi, sin phi), by squaring. Memory: 2 (L + 1)^2 coefficients in float64, which
all programs share (2 KB at degree 10), and the output, written once.

In float64, as the contract has it, which consumer cards do at 1/64 of the speed of float32: at
degree 10 some 1,500 operations a point, beside 484 bytes of output.
"""

import math
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

VALUES = 256  # points times orders of a program
NORM = tl.constexpr(math.sqrt(0.25 / math.pi))
ROOT_2 = tl.constexpr(math.sqrt(2))


@triton.jit
def harmonics_kernel(
    directions_ptr, coefficients_ptr, out_ptr, num_points, degree, BITS: tl.constexpr,
    ORDERS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """coefficients (2, L + 1, ORDERS): a and b, and at m = l the factor of rho N_{l-1}^{l-1}."""
    point = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = point < num_points
    m = tl.arange(0, ORDERS)
    x = tl.load(directions_ptr + point * 3, mask=mask, other=1.0).to(tl.float64)
    y = tl.load(directions_ptr + point * 3 + 1, mask=mask, other=0.0).to(tl.float64)
    z = tl.load(directions_ptr + point * 3 + 2, mask=mask, other=0.0).to(tl.float64)
    inverse = 1.0 / tl.sqrt(x * x + y * y + z * z)
    radius = tl.sqrt(x * x + y * y)
    z, rho = z * inverse, radius * inverse
    # At the poles the azimuth does not matter: every product with it is 0.
    safe = tl.where(radius > 0.0, radius, 1.0)
    base_cosine, base_sine = x / safe, y / safe
    root_2 = tl.full([BLOCK, ORDERS], ROOT_2, tl.float64)  # a bare number would be a float32
    cosine = tl.where((m == 0)[None, :], 1.0, root_2)
    sine = tl.full([BLOCK, ORDERS], 0, tl.float64)
    for bit in tl.static_range(BITS):
        has_bit = ((m >> bit) & 1 != 0)[None, :]
        c, s = base_cosine[:, None], base_sine[:, None]
        turned = cosine * c - sine * s
        sine = tl.where(has_bit, sine * c + cosine * s, sine)
        cosine = tl.where(has_bit, turned, cosine)
        double = base_cosine * base_cosine - base_sine * base_sine
        base_sine = 2.0 * base_cosine * base_sine
        base_cosine = double
    diagonal = tl.full([BLOCK], NORM, tl.float64)
    before = tl.full([BLOCK, ORDERS], 0, tl.float64)
    last = tl.where((m == 0)[None, :], diagonal[:, None], 0.0)
    out_ptr += point[:, None] * ((degree + 1) * (degree + 1))
    tl.store(out_ptr + m[None, :], last, mask=mask[:, None] & (m == 0)[None, :])
    for l in range(1, degree + 1):  # noqa: E741
        row = coefficients_ptr + l * ORDERS
        a, b = tl.load(row + m), tl.load(row + (degree + 1) * ORDERS + m)
        diagonal = tl.load(row + l) * rho * diagonal
        lower = a[None, :] * (z[:, None] * last - b[None, :] * before)
        before = last
        last = tl.where((m == l)[None, :], diagonal[:, None], lower)
        center = out_ptr + l * l + l
        is_order = mask[:, None] & (m <= l)[None, :]
        tl.store(center + m[None, :], last * cosine, mask=is_order)
        tl.store(center - m[None, :], last * sine, mask=is_order & (m > 0)[None, :])


@cache
def coefficients(degree: int, device: torch.device) -> Tensor:
    """What the kernel takes, by the reference's formulas; 0 where there is nothing."""
    l = torch.arange(degree + 1, dtype=torch.float64, device=device)[:, None]  # noqa: E741
    m = torch.arange(triton.next_power_of_2(degree + 1), dtype=torch.float64, device=device)
    a = ((4 * l * l - 1) / (l * l - m * m).clamp(min=1)).clamp(min=0).sqrt()
    b = (((l - 1) ** 2 - m * m).clamp(min=0) / (4 * (l - 1) ** 2 - 1).abs()).sqrt()
    diagonal = ((2 * l + 1) / (2 * l).clamp(min=1)).sqrt()
    a = torch.where(m == l, diagonal, torch.where(m < l, a, 0.0))
    return torch.stack([a, torch.where(m < l - 1, b, 0.0)])


def harmonics(directions: Tensor, degree: int) -> Tensor:
    """Harmonics of the directions."""
    num_points = directions.shape[0]
    out = directions.new_empty(num_points, (degree + 1) ** 2)
    table = coefficients(degree, directions.device)
    orders = table.shape[2]
    block = max(1, VALUES // orders)
    if num_points > 0:
        harmonics_kernel[(triton.cdiv(num_points, block),)](
            directions.contiguous(), table, out, num_points, degree, BITS=degree.bit_length(),
            ORDERS=orders, BLOCK=block,
        )  # fmt: skip
    return out

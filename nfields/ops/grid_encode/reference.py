"""Multi-resolution grid features in plain PyTorch: the definition.

Notation (instant-ngp, arXiv:2201.05989, section 3, and tiny-cuda-nn's `grid.h`):
    x        point in [0, 1]^d
    scale    per level, N_min * b^l - 1
    res      per level, ceil(scale) + 1 vertices a side
    pos      x * scale + 0.5        (the offset is deliberate: levels do not share their vertices)
    cell, t  floor(pos), pos - cell
    index    sum_k cell_k res^k (dense) or xor_k cell_k pi_k (hashed), modulo the level's entries
"""

import itertools

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

# Prime factors of the spatial hash; the first is 1 so that neighbours along x stay neighbours.
HASH_PRIMES = (1, 2654435761, 805459861, 3674653429, 2097192037, 1434869437, 2165219737)


def vertex_index(
    vertex: Int[Tensor, "n d"],
    resolution: Int[Tensor, ""] | int,
    num_entries: Int[Tensor, ""] | int,
    hashed: Shaped[Tensor, ""],
) -> Int[Tensor, " n"]:
    """Entry of each vertex within its level, in uint32 arithmetic carried out in int64."""
    index, hash_of = torch.zeros_like(vertex[:, 0]), torch.zeros_like(vertex[:, 0])
    stride = 1
    for k in range(vertex.shape[1]):
        hash_of = hash_of ^ ((vertex[:, k] * HASH_PRIMES[k]) & 0xFFFFFFFF)
        index = index + vertex[:, k] * stride
        stride = stride * resolution
    return torch.where(hashed != 0, hash_of, index) % num_entries


def grid_encode_reference(
    x: Float[Tensor, "n d"],
    table: Float[Tensor, "entries features"],
    scales: Float[Tensor, " levels"],
    layout: Int[Tensor, "levels 4"],
    smoothstep: bool,
) -> Float[Tensor, "n level_features"]:
    """Features of all levels side by side; layout rows: resolution, first, entries, hashed.

    On a GPU these stay there: second derivatives come here, and the host is not to wait for them.
    """
    dim = x.shape[1]
    levels = []
    clamped = torch.where(x >= 0, x, torch.zeros_like(x)).clamp(max=1)  # NaN becomes 0
    for scale, (resolution, first, num_entries, hashed) in zip(
        scales.to(x.dtype), layout, strict=True
    ):
        position = clamped * scale + 0.5
        cell = position.detach().floor()
        t = position - cell
        if smoothstep:
            t = t * t * (3 - 2 * t)
        cell = cell.long()
        feature = x.new_zeros(x.shape[0], table.shape[1])
        for corner in itertools.product((0, 1), repeat=dim):
            weight = torch.ones_like(t[:, 0])
            for k in range(dim):
                weight = weight * (t[:, k] if corner[k] else 1 - t[:, k])
            vertex = torch.stack([cell[:, k] + corner[k] for k in range(dim)], dim=1)
            index = vertex_index(vertex, resolution, num_entries, hashed)
            feature = feature + weight[:, None] * table[first + index]
        levels.append(feature)
    return torch.cat(levels, dim=1)

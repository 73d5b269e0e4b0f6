"""Interpolation between radial basis functions in coordinate space, in plain PyTorch.

Notation (NeuRBF, arXiv:2309.15426)
    c_i, S_i   centre and inverse covariance of kernel i; f_i its F features
    q          (x - c_i)^T S_i (x - c_i)
    phi_i(x)   1 / (1 + q) (ivq), exp(-q / 2) (gaussian), 1 / sqrt(1 + q) (imq) or
               prod_d max(0, 1 - |x_d - c_id| s_id) (tent)
    w_j        phi_j / (sum of phi over the k nearest + 1e-8), or phi_j
    g_c(x)     sum over the k nearest of f_jc sin(m_c w_j), or of f_jc w_j without frequencies m
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

Kernel = Literal["ivq", "gaussian", "imq", "tent"]
NORMALIZER_FLOOR = 1e-8
_CHUNK_DISTANCES = 1 << 24  # distances held at once: 128 MB in float64


def nearest_reference(
    x: Float[Tensor, "n d"], centers: Float[Tensor, "kernels d"], num_neighbors: int
) -> Int[Tensor, "n k"]:
    """Indices of the nearest centres, nearest first, of equals the lower index."""
    chunk = max(1, _CHUNK_DISTANCES // max(1, centers.numel()))
    parts = [
        (part[:, None, :] - centers).square().sum(dim=2).sort(dim=1, stable=True).indices
        for part in x.detach().split(chunk)
    ]
    return torch.cat([part[:, :num_neighbors] for part in parts])


def squared_distances(
    offsets: Float[Tensor, "*n d"], shapes: Float[Tensor, "*n s"]
) -> Float[Tensor, "*n"]:
    """q of offsets x - c; shapes are the upper triangle of S by rows, its diagonal, or a scalar."""
    dim = offsets.shape[-1]
    if shapes.shape[-1] <= dim:
        return (offsets.square() * shapes).sum(dim=-1)
    rows, columns = torch.triu_indices(dim, dim, device=offsets.device)
    twice = torch.where(rows == columns, 1.0, 2.0).to(offsets)
    return (offsets[..., rows] * offsets[..., columns] * shapes * twice).sum(dim=-1)


def responses(
    offsets: Float[Tensor, "*n d"], shapes: Float[Tensor, "*n s"], kernel: Kernel
) -> Float[Tensor, "*n"]:
    """phi of offsets x - c."""
    if kernel == "tent":
        return (1 - offsets.abs() * shapes).clamp(min=0).prod(dim=-1)
    q = squared_distances(offsets, shapes)
    if kernel == "gaussian":
        return torch.exp(-0.5 * q)
    return 1 / (1 + q) if kernel == "ivq" else torch.rsqrt(1 + q)


def rbf_interp_reference(
    x: Float[Tensor, "n d"],
    features: Float[Tensor, "kernels f"],
    centers: Float[Tensor, "kernels d"],
    shapes: Float[Tensor, "kernels s"],
    frequencies: Float[Tensor, " f"] | None,
    nearest: Int[Tensor, "n k"],
    kernel: Kernel,
    normalize: bool,
) -> Float[Tensor, "n f"]:
    """g at x, given the nearest kernels of each point."""
    nearest = nearest.long()
    weights = responses(x[:, None, :] - centers[nearest], shapes[nearest], kernel)
    if normalize:
        weights = weights / (weights.sum(dim=1, keepdim=True) + NORMALIZER_FLOOR)
    by_channel = weights[:, :, None]
    if frequencies is not None:
        by_channel = torch.sin(frequencies * by_channel)
    return (features[nearest] * by_channel).sum(dim=1)

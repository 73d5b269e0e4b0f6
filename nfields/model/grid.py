"""Multi-scale grid features, the encoder of rbfnet and hashgrid.

dense   every level stores all its vertices
hash    levels with more than 2^log2_entries vertices share entries by a spatial hash
        (instant-ngp, arXiv:2201.05989)
dif     periodic grids: level k repeats over the scene frequencies[k] / 2 times, a sawtooth
        coordinate each (the basis of Dictionary Fields, arXiv:2302.01226), times the features of
        a plain coefficient grid if there is one
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.ops.grid_encode import GridLayout, grid_encode

# A dense grid of more entries than this is a mistake, not a wish (2^26 entries x 4 features: 1 GB).
MAX_DENSE_ENTRIES = 1 << 26


class GridEncoder(nn.Module):
    """Features of points in [-1, 1]^d from levels of growing resolution; see the module's head."""

    def __init__(
        self,
        *,
        in_dim: int,
        kind: Literal["dense", "hash"],
        num_levels: int,
        features_per_level: int,
        base_resolution: int,
        max_resolution: int,
        log2_entries: float | int,
        smoothstep: bool,
        backend: str,
    ):
        super().__init__()
        if features_per_level not in (1, 2, 4, 8):
            raise ConfigError(f"model.features_per_level={features_per_level}: choose 1, 2, 4 or 8")
        layout = GridLayout.build(
            dim=in_dim,
            num_levels=num_levels,
            base_resolution=base_resolution,
            max_resolution=max_resolution,
            log2_entries=30 if kind == "dense" else log2_entries,
        )
        if layout.num_entries > MAX_DENSE_ENTRIES:
            raise ConfigError(
                f"the grid would have {layout.num_entries:,} entries (at most "
                f"{MAX_DENSE_ENTRIES:,}); lower model.max_resolution={max_resolution} or use "
                "model.encoder=hash"
            )
        self.backend, self.smoothstep = backend, smoothstep
        self.out_dim = num_levels * features_per_level
        self.table = nn.Parameter(torch.zeros(layout.num_entries, features_per_level))
        self.scales: Tensor
        self.levels: Tensor
        self.register_buffer("scales", layout.scales, persistent=False)
        self.register_buffer("levels", layout.levels, persistent=False)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n features"]:
        """Features of all levels side by side, coarse to fine."""
        return grid_encode(
            0.5 * x + 0.5,
            self.table,
            self.scales,
            self.levels,
            smoothstep=self.smoothstep,
            backend=self.backend,
        )

    def as_tensors(
        self,
    ) -> tuple[Float[Tensor, "n f"], Float[Tensor, " l"], Int[Tensor, "l 4"], bool]:
        """Table, scales, levels and smoothstep: what `grid_encode` computes with."""
        return self.table, self.scales, self.levels, self.smoothstep


class PeriodicGridEncoder(nn.Module):
    """The "dif" encoder: products of periodic basis grids and a coefficient grid."""

    def __init__(
        self,
        *,
        in_dim: int,
        features: Sequence[int],
        resolutions: Sequence[int],
        frequencies: Sequence[float | int],
        coefficient_resolution: int | None,
        scale: float | int,
        backend: str,
    ):
        super().__init__()
        if not len(features) == len(resolutions) == len(frequencies) > 0:
            raise ConfigError(
                f"model.dif_features, model.dif_resolutions and model.dif_frequencies have "
                f"{len(features)}, {len(resolutions)} and {len(frequencies)} entries; they need "
                "one entry a level each"
            )
        if scale <= 0:
            raise ConfigError(f"model.dif_scale={scale} must be above 0")
        resolutions = [max(1, round(scale * resolution)) for resolution in resolutions]
        if coefficient_resolution is not None:
            coefficient_resolution = max(1, round(scale * coefficient_resolution))
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.tensor(frequencies).float(), persistent=False)
        self.out_dim = sum(features)

        def grid(resolution: int, num_levels: int, width: int) -> GridEncoder:
            return GridEncoder(
                in_dim=in_dim,
                kind="dense",
                num_levels=num_levels,
                features_per_level=width,
                base_resolution=resolution,
                max_resolution=resolution,
                log2_entries=30,
                smoothstep=False,
                backend=backend,
            )

        self.basis = nn.ModuleList(
            grid(resolution, 1, width)
            for resolution, width in zip(resolutions, features, strict=True)
        )
        self.coefficients = None
        if coefficient_resolution is not None:  # all of one resolution: one call
            width = math.gcd(*features)
            self.coefficients = grid(coefficient_resolution, self.out_dim // width, width)

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n features"]:
        """Basis features at the sawtooth coordinates, times the coefficients at x."""
        phase = (0.5 * self.frequencies)[:, None, None] * (x + 1)
        sawtooth = 2 * (phase - phase.detach().floor()) - 1
        parts = [basis(sawtooth[k]) for k, basis in enumerate(self.basis)]
        features = torch.cat(parts, dim=1)
        return features if self.coefficients is None else features * self.coefficients(x)

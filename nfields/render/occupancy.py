"""The occupancy grid: which cells of the scene are worth a sample.

instant-ngp's (arXiv:2201.05989, appendix E.2): G^3 cells a cascade, cascade k covers [-2^k, 2^k]^3.
A cell keeps a decaying maximum of the optical depth sigma dt_min seen in it; it is occupied above
min(threshold, mean). Cells that can never hold anything (outside the visual hull, or in no
camera's view) are -1 and stay empty.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor, nn

from nfields.errors import ConfigError

# Cells of one update: enough that every cell has its turn within some tens of steps, few enough
# that an update costs about as much as two steps of training.
_MAX_CELLS = 1 << 17


class OccupancyGrid(nn.Module):
    """Decaying maxima of optical depth, and the bits that `march` reads; all state in buffers."""

    def __init__(self, *, cascades: int, cells: int, decay: float, threshold: float):
        super().__init__()
        if cells < 8 or cells % 8 != 0 or cells > 512:
            raise ConfigError(f"task.grid_cells={cells} must be a multiple of 8 in 8..512")
        if not 0 < decay < 1 or threshold <= 0:
            raise ConfigError(
                f"task.grid_decay={decay} must lie between 0 and 1, "
                f"task.grid_threshold={threshold} above 0"
            )
        self.cascades, self.cells = cascades, cells
        self.decay, self.threshold = decay, threshold
        shape = (cascades, cells, cells, cells)  # [cascade, z, y, x]
        self.optical_depth: Tensor
        self.bits: Tensor
        self.phase: Tensor
        self.register_buffer("optical_depth", torch.zeros(shape))
        self.register_buffer("bits", torch.full((*shape[:3], cells // 8), 255, dtype=torch.uint8))
        self.register_buffer("phase", torch.zeros((), dtype=torch.int64))

    def positions(self, index: Tensor, jitter: Tensor | float) -> Float[Tensor, "n 3"]:
        """Points in cells given by flat index; jitter in [0, 1)^3 within the cell, 0.5: centres."""
        cells = self.cells
        x, rest = index % cells, index // cells
        y, rest = rest % cells, rest // cells
        z, cascade = rest % cells, rest // cells
        corner = torch.stack([x, y, z], dim=1)
        unit = (corner + jitter) * (2 / cells) - 1
        return (unit * (2.0**cascade)[:, None]).float()

    def exclude(self, inside: Callable[[Tensor, float], Bool[Tensor, " n"]]) -> None:
        """Empties for good the cells for which `inside(centres, half_size)` is False."""
        for cascade in range(self.cascades):
            first = cascade * self.cells**3
            index = torch.arange(first, first + self.cells**3)
            half_size = 2.0**cascade / self.cells
            kept = inside(self.positions(index, 0.5), half_size)
            flat = self.optical_depth.view(-1)
            flat[first : first + self.cells**3] = torch.where(kept, 0.0, -1.0).to(flat.device)
        self._set_bits(self.optical_depth >= 0)

    def allowed(self) -> Bool[Tensor, "cascades cells cells cells"]:
        """Cells that may hold something."""
        return self.optical_depth >= 0

    @torch.no_grad()
    def update(
        self,
        optical_depth: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]],
        generator: torch.Generator,
        everywhere: bool,
    ) -> None:
        """Looks at some cells again, all cells in turn (a part of them if not `everywhere`).

        `optical_depth(points)` is sigma dt_min. A quarter of the allowed cells and a quarter of the
        occupied ones have their turn, every cell once in four updates.
        """
        flat = self.optical_depth.view(-1)
        candidates = (flat >= 0).nonzero()[:, 0]
        if everywhere:
            turns = [candidates]
        else:
            occupied = self._occupied().view(-1).nonzero()[:, 0]
            turns = [self._turn(candidates), self._turn(occupied)]
        flat.copy_(torch.where(flat > 0, flat * self.decay, flat))
        for index in turns:
            for part in index.split(_MAX_CELLS):
                jitter = torch.rand(len(part), 3, generator=generator).to(flat.device)
                seen = optical_depth(self.positions(part, jitter))
                flat[part] = torch.maximum(flat[part], seen)
        self.phase += 1
        self._set_bits(self._occupied())

    def _turn(self, index: Tensor) -> Tensor:
        step = max(4, -(-len(index) // _MAX_CELLS))
        return index[int(self.phase) % step :: step]

    def _occupied(self) -> Bool[Tensor, "cascades cells cells cells"]:
        allowed = self.optical_depth.clamp(min=0)
        count = (self.optical_depth >= 0).sum().clamp(min=1)
        limit = torch.clamp(allowed.sum() / count, max=self.threshold)
        return self.optical_depth > limit

    def _set_bits(self, occupied: Bool[Tensor, "cascades cells cells cells"]) -> None:
        for cascade in range(1, self.cascades):
            # A coarse cell is occupied if a finer cell inside it is.
            finer = occupied[cascade - 1].float()[None, None]
            merged = nn.functional.max_pool3d(finer, 2)[0, 0] > 0
            low, high = self.cells // 4, self.cells // 4 + self.cells // 2
            occupied[cascade, low:high, low:high, low:high] |= merged
        shifts = torch.arange(8, dtype=torch.uint8, device=occupied.device)
        grouped = occupied.view(*occupied.shape[:3], -1, 8).to(torch.uint8)
        self.bits.copy_((grouped << shifts).sum(dim=-1, dtype=torch.uint8))

    def occupied_bits(self) -> UInt8[Tensor, "cascades cells cells bytes"]:
        """The bit field that `march` reads."""
        return self.bits

"""The occupancy grid: which cells of the scene are worth a sample.

instant-ngp's (arXiv:2201.05989, appendix E.2): G^3 cells a cascade, cascade k covers [-2^k, 2^k]^3.
A cell keeps a decaying maximum of the optical depth sigma dt_min seen in it; it is occupied above
min(threshold, mean). Cells that can never hold anything (outside the visual hull, or in no
camera's view) are -1 and stay empty.
"""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn

from nfields.errors import ConfigError, DataError
from nfields.ops.backend import uses_triton

# Cells of one update: enough that every cell has its turn within some tens of steps, few enough
# that an update costs about as much as two steps of training.
_MAX_CELLS = 1 << 17


def _forget_candidates(grid: nn.Module, _: object) -> None:
    assert isinstance(grid, OccupancyGrid)
    grid._candidates = None


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
        self._candidates: Tensor | None = None  # follows from optical_depth
        self.register_load_state_dict_post_hook(_forget_candidates)
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
        self._candidates = None
        self._set_bits(self.candidates())

    def candidates(self) -> Int[Tensor, " n"]:
        """Flat indices of the cells that may hold something."""
        if self._candidates is None or self._candidates.device != self.bits.device:
            self._candidates = (self.optical_depth.view(-1) >= 0).nonzero()[:, 0]
        return self._candidates

    def is_occupied(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Whether points lie in occupied cells, of the finest cascade that has them."""
        largest = points.detach().abs().amax(dim=1).clamp_min(2.0**-20)
        cascade = largest.log2().ceil().clamp(0, self.cascades - 1).long()
        unit = points.detach() / (2.0**cascade)[:, None]
        cell = ((unit + 1) * (self.cells / 2)).long().clamp(0, self.cells - 1)
        x, y, z = cell.unbind(1)
        return ((self.bits[cascade, z, y, x // 8] >> (x % 8).to(torch.uint8)) & 1).bool()

    def occupied_bounds(self) -> Float[Tensor, "2 3"]:
        """The lowest and highest corner of the box around all occupied cells."""
        shifts = torch.arange(8, dtype=torch.uint8, device=self.bits.device)
        index = ((self.bits[..., None] >> shifts) & 1).reshape(-1).nonzero()[:, 0]
        if len(index) == 0:
            raise DataError("the field is empty: no cell of its occupancy grid is occupied")
        low, high = self.positions(index, 0.0), self.positions(index, 1.0)
        return torch.stack([low.amin(dim=0), high.amax(dim=0)])

    def bits_within(self, box: Float[Tensor, "2 3"]) -> UInt8[Tensor, "cascades cells cells bytes"]:
        """The bits without the cells whose centres lie outside a box (lowest, highest corner)."""
        inside = []
        for axis in range(3):
            centers = (torch.arange(self.cells) + 0.5) * (2 / self.cells) - 1
            places = centers * 2.0 ** torch.arange(self.cascades)[:, None]
            inside.append((places >= box[0, axis]) & (places <= box[1, axis]))
        x, y, z = inside
        shifts = torch.arange(8)
        bytes_x = (x.view(self.cascades, -1, 8).long() << shifts).sum(dim=2).to(torch.uint8)
        kept = (z[:, :, None, None] & y[:, None, :, None]).to(torch.uint8) * 255
        return self.bits & (kept & bytes_x[:, None, None, :]).to(self.bits.device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "OccupancyGrid":
        phase = self.phase  # stays where the host reads it: on a GPU that would be to wait for it
        super()._apply(fn, recurse)
        self.phase = phase
        return self

    @torch.no_grad()
    def update(
        self,
        optical_depth: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]],
        generator: torch.Generator,
        everywhere: bool,
    ) -> None:
        """Looks at some cells again, all cells in turn (a part of them if not `everywhere`).

        `optical_depth(points)` is sigma dt_min; steps grow with the cascades. A quarter of the
        candidates and a quarter of the occupied cells have their turn, every cell once in four
        updates.
        """
        flat, candidates = self.optical_depth.view(-1), self.candidates()
        if uses_triton(flat):
            self._update_unseen(optical_depth, generator, everywhere)
            return
        if everywhere:
            turns = [candidates]
        else:
            turns = [self._turn(candidates), self._turn(self._occupied())]
        flat[candidates] *= self.decay
        for index in turns:
            for part in index.split(_MAX_CELLS):
                jitter = torch.rand(len(part), 3, generator=generator)
                seen = optical_depth(self.positions(part, jitter)) * 2.0 ** (part // self.cells**3)
                flat[part] = torch.maximum(flat[part], seen)
        self.phase += 1
        self._set_bits(self._occupied())

    def _update_unseen(
        self,
        optical_depth: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]],
        generator: torch.Generator,
        everywhere: bool,
    ) -> None:
        """`update` on a GPU: the host never learns how many cells are occupied.

        Occupied cells have their turn from a list of fixed length; what is left of it looks at
        cells again that have their turn anyway.
        """
        flat, candidates = self.optical_depth.view(-1), self.candidates()
        turns = [candidates] if everywhere else [self._turn(candidates), self._occupied_turn()]
        flat[candidates] *= self.decay
        # A generator of the GPU, as its numbers need not be sent; where it starts is random.
        seed = int(torch.randint(1 << 62, (), generator=generator))
        on_gpu = torch.Generator(flat.device).manual_seed(seed) if flat.is_cuda else None
        for index in turns:
            for part in index.split(_MAX_CELLS):
                jitter = torch.rand(len(part), 3, generator=on_gpu, device=flat.device)
                seen = optical_depth(self.positions(part, jitter)) * 2.0 ** (part // self.cells**3)
                flat.scatter_reduce_(0, part, seen, "amax")
        self.phase += 1
        flags = torch.zeros_like(self.optical_depth, dtype=torch.uint8)
        flags.view(-1)[candidates] = self._is_occupied(candidates).to(torch.uint8)
        self._pack(flags)

    def _occupied_turn(self) -> Int[Tensor, " turn"]:
        """The occupied cells that have their turn, as many as fit, then candidates."""
        candidates = self.candidates()
        length = min(_MAX_CELLS, -(-len(candidates) // 4))
        rank = self._is_occupied(candidates).cumsum(0)
        step = (-(-rank[-1] // length)).clamp(min=4)
        wanted = int(self.phase) % step + step * torch.arange(length, device=rank.device)
        place = torch.searchsorted(rank, wanted + 1)  # of the wanted-th occupied cell
        return candidates[torch.where(wanted < rank[-1], place, wanted % len(candidates))]

    def _turn(self, index: Int[Tensor, " n"]) -> Int[Tensor, " turn"]:
        step = max(4, -(-len(index) // _MAX_CELLS))
        return index[int(self.phase) % step :: step]

    def _occupied(self) -> Int[Tensor, " n"]:
        candidates = self.candidates()
        return candidates[self._is_occupied(candidates)]

    def _is_occupied(self, candidates: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
        values = self.optical_depth.view(-1)[candidates]
        return values > values.mean().clamp(max=self.threshold)

    def _set_bits(self, occupied: Int[Tensor, " n"]) -> None:
        flags = torch.zeros_like(self.optical_depth, dtype=torch.uint8)
        flags.view(-1)[occupied] = 1
        self._pack(flags)

    def _pack(self, flags: UInt8[Tensor, "cascades cells cells cells"]) -> None:
        for cascade in range(1, self.cascades):
            # A coarse cell is occupied if a finer cell inside it is.
            half, low = self.cells // 2, self.cells // 4
            merged = flags[cascade - 1].view(half, 2, half, 2, half, 2).amax(dim=(1, 3, 5))
            part = (slice(low, low + half),) * 3
            flags[cascade][part] |= merged
        if flags.device.type == "cpu":
            packed = torch.from_numpy(np.packbits(flags.numpy(), axis=-1, bitorder="little"))
        else:
            shifts = torch.arange(8, dtype=torch.uint8, device=flags.device)
            packed = (flags.view(*flags.shape[:3], -1, 8) << shifts).sum(-1, dtype=torch.uint8)
        self.bits.copy_(packed)

"""The occupancy grid: bits, turns, decay, excluded cells."""

import pytest
import torch
from torch import Tensor

from nfields.config import compose
from nfields.errors import ConfigError, DataError
from nfields.ops.march.reference import unpack_bits
from nfields.render.occupancy import OccupancyGrid
from tests.compare import assert_matches


def grid(cascades: int = 1) -> OccupancyGrid:
    return OccupancyGrid(cascades=cascades, cells=16, decay=0.5, threshold=0.01)


def ball(points: Tensor) -> Tensor:
    return (points.norm(dim=1) < 0.5).float()


def test_positions_of_centres_round_trip_through_the_bits() -> None:
    occupancy = grid(cascades=2)
    index = torch.arange(2 * 16**3)
    centres = occupancy.positions(index, 0.5)
    assert centres[: 16**3].abs().max() == 1 - 1 / 16
    assert centres[16**3 :].abs().max() == 2 - 2 / 16


def test_update_finds_a_ball_and_nothing_else() -> None:
    occupancy = grid()
    for _ in range(8):
        occupancy.update(ball, torch.Generator().manual_seed(0), everywhere=True)
    occupied = unpack_bits(occupancy.bits)[0].view(-1)
    radius = occupancy.positions(torch.arange(16**3), 0.5).norm(dim=1)
    reach = 3**0.5 / 16  # half a cell's diagonal
    assert bool(occupied[radius < 0.5 - reach].all())
    assert not bool(occupied[radius > 0.5 + reach].any())


def test_every_cell_has_its_turn_within_four_updates() -> None:
    occupancy = grid()
    seen = torch.zeros(16**3, dtype=torch.bool)

    def look(points: Tensor) -> Tensor:
        cell = ((points + 1) * 8).long().clamp(0, 15)
        seen[cell[:, 0] + 16 * (cell[:, 1] + 16 * cell[:, 2])] = True
        return torch.zeros(len(points))

    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        occupancy.update(look, generator, everywhere=False)
    assert bool(seen.all())


def test_things_thinner_than_a_cell_stay() -> None:
    """Slabs that fill a fifth of their cells, by task=nerf's own options."""
    options = compose(["task=nerf"]).task
    occupancy = OccupancyGrid(
        cascades=1, cells=32, decay=options.grid_decay, threshold=options.grid_threshold
    )

    def slabs(points: Tensor) -> Tensor:
        return (((points[:, 0] + 1) * 4) % 1 < 0.05).float()  # a cell in four, along x

    generator = torch.Generator().manual_seed(0)
    for _ in range(16):
        occupancy.update(slabs, generator, everywhere=True)
    for _ in range(100):
        occupancy.update(slabs, generator, everywhere=False)
    occupied = unpack_bits(occupancy.bits)[0].float().mean(dim=(0, 1))
    assert occupied[::4].min() > 0.97 and occupied[1::4].max() == 0


def test_what_became_empty_is_forgotten() -> None:
    occupancy = grid()
    generator = torch.Generator().manual_seed(0)
    occupancy.update(ball, generator, everywhere=True)
    assert unpack_bits(occupancy.bits).any()
    for _ in range(30):
        occupancy.update(lambda p: torch.zeros(len(p)), generator, everywhere=True)
    assert not (occupancy.optical_depth > 1e-6).any()


def test_excluded_cells_stay_empty() -> None:
    occupancy = grid()
    occupancy.exclude(lambda centres, half: centres[:, 0] < 0)
    occupancy.update(lambda p: torch.ones(len(p)), torch.Generator(), everywhere=True)
    occupied = unpack_bits(occupancy.bits)[0]
    assert bool(occupied[..., :8].all()) and not bool(occupied[..., 8:].any())


def test_a_coarse_cell_is_occupied_where_a_finer_one_is() -> None:
    occupancy = grid(cascades=2)
    occupancy.optical_depth[0, 3, 5, 7] = 1.0
    occupancy.update(lambda p: torch.zeros(len(p)), torch.Generator(), everywhere=False)
    bits = unpack_bits(occupancy.bits)
    assert bits[0, 3, 5, 7] and bits[1, 4 + 1, 4 + 2, 4 + 3]


def test_state_goes_through_a_state_dict() -> None:
    first, second = grid(), grid()
    first.update(ball, torch.Generator().manual_seed(0), everywhere=True)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.bits, second.bits) and second.phase == 1


def test_bad_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="grid_cells"):
        OccupancyGrid(cascades=1, cells=12, decay=0.9, threshold=0.01)
    with pytest.raises(ConfigError, match="grid_decay"):
        OccupancyGrid(cascades=1, cells=16, decay=1.0, threshold=0.01)


def test_points_are_occupied_where_their_finest_cell_is() -> None:
    occupancy = grid(cascades=2)
    for _ in range(8):
        occupancy.update(ball, torch.Generator().manual_seed(0), everywhere=True)
    points = torch.rand(4000, 3, generator=torch.Generator().manual_seed(1)) * 4 - 2
    points[:2000] /= 2
    cell = ((points + 1) * 8).long().clamp(0, 15)
    bits = unpack_bits(occupancy.bits)
    x, y, z = cell.unbind(1)
    inner = points.abs().amax(dim=1) < 1
    assert bool(inner.any()) and not bool(inner.all())
    expected = bits[0, z, y, x].bool()
    assert (occupancy.is_occupied(points) == expected)[inner].all()
    assert not occupancy.is_occupied(points)[~inner].any()


def test_bounds_are_those_of_the_occupied_cells() -> None:
    occupancy = grid(cascades=2)
    occupancy._set_bits(torch.tensor([0, 1 + 16 * (2 + 16 * 3)]))
    found = occupancy.occupied_bounds()
    # A coarse cell is occupied with a finer one in it; its far corners reach further.
    assert found[0].tolist() == [-1.0, -1.0, -1.0]
    assert found[1].tolist() == [-0.75, -0.5, -0.5]
    occupancy._set_bits(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(DataError, match="no cell of its occupancy grid"):
        occupancy.occupied_bounds()


def cell_values(points: Tensor) -> Tensor:
    """Optical depths in [0, 0.02) that depend on the cell alone, in both cascades."""
    cell = ((points + 2) * 4).floor().clamp(0, 15)
    return (cell @ torch.tensor([1.7, 3.1, 5.3])).sin().abs() * 0.02


@pytest.mark.parametrize("cascades", [1, 2])
def test_update_that_never_waits_finds_what_the_other_finds(
    cascades: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, unseen = grid(cascades), grid(cascades)
    for occupancy in (plain, unseen):
        occupancy.exclude(lambda centers, half: centers[:, 0] > -0.5)
    generator = torch.Generator().manual_seed(0)
    for step in range(7):
        everywhere = step < 2
        plain.update(cell_values, generator, everywhere=everywhere)
        with monkeypatch.context() as patch:
            patch.setattr("nfields.render.occupancy.uses_triton", lambda tensor: True)
            unseen.update(cell_values, generator, everywhere=everywhere)
        assert_matches(unseen.optical_depth, plain.optical_depth, num_operations=16)
        assert torch.equal(unseen.bits, plain.bits) and unseen.bits.any()
        assert int(unseen.phase) == int(plain.phase) == step + 1


@pytest.mark.parametrize("share", [0.0, 0.02, 0.9])
def test_turn_of_occupied_cells_has_a_fixed_length_and_has_them_all(share: float) -> None:
    occupancy = grid()
    occupancy.optical_depth.view(-1)[: int(share * 16**3)] = 1.0
    occupied = occupancy._occupied()
    reached = set()
    for phase in range(4):
        occupancy.phase.fill_(phase)
        turn = occupancy._occupied_turn()
        assert len(turn) == 16**3 // 4
        assert torch.equal(turn[: len(occupancy._turn(occupied))], occupancy._turn(occupied))
        reached |= set(turn.tolist())
    assert reached >= set(occupied.tolist())

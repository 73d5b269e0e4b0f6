"""task.space=contracted: what is near is as in a box, what is far is there too."""

import pytest
import torch
from torch import Tensor

import nfields
from nfields.config import build
from nfields.errors import ConfigError
from nfields.model.field import GroupReadout
from nfields.ops.march_contracted import march_contracted
from nfields.task.nerf_space import ContractedSpace, is_within_ball
from tests.compare import assert_matches
from tests.task.marble import Marble, make

UNIT_BALL = ("task.space=contracted", "task.contraction_radius=1")


class HalfMarble(Marble):
    """The marble for a field whose coordinates are half of the scene's in the unit ball."""

    def forward(self, x: Tensor, groups: GroupReadout | None = None) -> Tensor:
        return super().forward(2 * x, groups)


def test_contracted_space_shows_what_is_near_as_the_box_does() -> None:
    fine = "task.steps_per_unit=128"
    task, model = make(fine)
    endless, _ = make(fine, *UNIT_BALL)
    cameras = task.data.cameras["test"]
    expected = task.render_view(model, cameras, 0)
    found = endless.render_view(HalfMarble(), cameras, 0)
    hit = expected["opacity"] > 0.99  # at the rim the cells of the grids differ
    assert hit.float().mean() > 0.2
    error = (found["rgb"] - expected["rgb"])[hit].abs()  # samples lie elsewhere
    assert error.mean() < 0.005 and error.max() < 0.05
    assert_matches(found["depth"][hit], expected["depth"][hit], atol=0.03)


def test_density_of_contracted_space_falls_with_the_square_of_the_distance() -> None:
    task, _ = make(*UNIT_BALL)
    points = torch.tensor([[0.5, 0, 0], [2.0, 0, 0], [0, 10.0, 0]])
    density = task._density(torch.zeros(3), points)
    assert_matches(density, torch.tensor([1.0, 0.25, 0.01]))


def test_a_grid_of_contracted_space_finds_what_is_opaque_for_a_step() -> None:
    task, _ = make(*UNIT_BALL)
    task.grid.exclude(is_within_ball)
    for step in range(1, 40):
        task.before_step(HalfMarble(), 16 * step, torch.Generator().manual_seed(step))
    points = torch.tensor([[0.3, 0.0, 0.0], [0.0, 1.3, 0.0], [0.0, 0.0, 50.0]])
    assert task.is_occupied(points).tolist() == [True, False, False]


def test_radius_reaches_the_farthest_camera_unless_it_is_said() -> None:
    task, _ = make("task.space=contracted")
    places = task.data.cameras["train"].camera_to_world[:, :, 3]
    assert task.contracted is not None
    farthest = float(places.norm(dim=1).max())
    assert farthest > 1
    assert task.contracted.radius == pytest.approx(farthest)
    task, _ = make("task.space=contracted", "task.contraction_radius=2.5")
    assert task.contracted == ContractedSpace(2.5)
    with pytest.raises(ConfigError, match=r"task\.contraction_radius=-1 must be above 0"):
        make("task.space=contracted", "task.contraction_radius=-1")


def test_a_radius_is_a_change_of_units() -> None:
    """Space contracted beyond R is that beyond 1, seen R times as large."""
    one, three = ContractedSpace(1.0), ContractedSpace(3.0)
    random = torch.Generator().manual_seed(0)
    origins = torch.randn(50, 3, generator=random)
    directions = torch.nn.functional.normalize(torch.randn(50, 3, generator=random), dim=1)
    jitter = torch.rand(50, generator=random)
    bits = torch.randint(0, 256, (1, 16, 16, 2), generator=random, dtype=torch.uint8)
    near = march_contracted(origins, directions, bits, jitter, near=0.1, dt_min=1 / 32)
    far = march_contracted(
        3 * origins, directions, bits, jitter, near=0.3, dt_min=3 / 32, radius=3.0
    )
    assert len(near.t_starts) > 1000
    assert torch.equal(near.offsets, far.offsets)
    assert_matches(far.t_starts, 3 * near.t_starts, rtol=1e-4)
    assert_matches(far.t_ends, 3 * near.t_ends, rtol=1e-4)
    assert_matches(three.to_grid(9 * origins), one.to_grid(3 * origins))
    assert_matches(three.log_stretch(9 * origins), one.log_stretch(3 * origins))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task.marcher=nerfacc"], "leave it native"),
        (["data=toy_scene", "data.resolution=8"], "pictures with alpha end at their object"),
        (["task.renderer=fused", "data=toy_scene"], "task.renderer=fused marches through a box"),
        (["task.cone=0.01", "data=toy_scene"], "task.cone=0.01 has no effect"),
    ],
)
def test_contracted_space_is_refused_where_it_means_nothing(
    overrides: list[str], message: str
) -> None:
    cfg = nfields.compose(["task=nerf", "task.space=contracted", *overrides])
    with pytest.raises(ConfigError, match=message):
        build(cfg.task, data=build(cfg.data))

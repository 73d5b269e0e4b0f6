"""march: which samples a ray gets; kernel against reference."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nfields.ops.march import Samples, march, num_cascades, sample_points
from tests.compare import assert_matches

CELLS = 16


def random_bits(cascades: int) -> Tensor:
    shape = (cascades, CELLS, CELLS, CELLS // 8)
    first, second = (torch.randint(0, 256, shape, dtype=torch.uint8) for _ in range(2))
    return first & second


def full_bits(cascades: int = 1) -> Tensor:
    return torch.full((cascades, CELLS, CELLS, CELLS // 8), 255, dtype=torch.uint8)


def random_rays(num: int) -> tuple[Tensor, Tensor]:
    origins = 3 * torch.randn(num, 3, dtype=torch.float64)
    return origins, normalize(torch.randn(num, 3, dtype=torch.float64) - origins, dim=1)


@pytest.mark.parametrize(("cascades", "cone"), [(1, 0.0), (3, 1 / 64)])
def test_kernel_gives_the_samples_of_the_reference(cascades: int, cone: float) -> None:
    origins, directions = random_rays(400)
    origins[0], directions[0] = torch.tensor([-5.0, 0.1, 0.2]), torch.tensor([1.0, 0, 0])
    options: dict[str, Any] = {"near": 0.05, "dt_min": 0.02, "dt_max": 0.2, "cone": cone}
    options["max_samples"] = 100
    bits, jitter = random_bits(cascades), torch.rand(400, dtype=torch.float64)
    found = march(origins, directions, bits, jitter, **options, backend="numba")
    expected = march(origins, directions, bits, jitter, **options, backend="reference")
    assert len(expected.t_starts) > 1000
    assert torch.equal(found.offsets, expected.offsets)
    assert_matches(found.t_starts, expected.t_starts, num_operations=400)
    assert_matches(found.t_ends, expected.t_ends, num_operations=400)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_full_grid_is_filled_by_equal_steps_from_entry_to_exit(backend: str) -> None:
    samples = march(
        torch.tensor([[-3.0, 0.1, 0.2]]), torch.tensor([[1.0, 0, 0]]), full_bits(),
        torch.zeros(1), near=0.0, dt_min=0.125, dt_max=1.0, backend=backend,
    )  # fmt: skip
    assert_matches(samples.t_starts, 2 + 0.125 * torch.arange(16), num_operations=16)
    assert_matches(samples.t_ends, samples.t_starts + 0.125)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_steps_grow_with_the_distance_by_the_cone(backend: str) -> None:
    samples = march(
        torch.tensor([[-4.0, 0.1, 0.2]]), torch.tensor([[1.0, 0, 0]]), full_bits(3),
        torch.zeros(1), near=1.0, dt_min=0.01, dt_max=1.0, cone=0.1, backend=backend,
    )  # fmt: skip
    steps = samples.t_ends - samples.t_starts
    assert_matches(steps, 0.1 * samples.t_starts, num_operations=64)
    assert samples.t_ends[-1] > 7.2 and samples.t_starts[0] == 1.0


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_only_the_occupied_cell_is_sampled(backend: str) -> None:
    bits = torch.zeros_like(full_bits())
    bits[0, 4, 9, 1] = 1 << 3  # cell x = 11, y = 9, z = 4
    center = (torch.tensor([11, 9, 4]) + 0.5) * (2 / CELLS) - 1
    directions = normalize(torch.randn(50, 3), dim=1)
    origins = center - 2 * directions
    samples = march(
        origins, directions, bits, torch.rand(50), near=0.0, dt_min=0.003, dt_max=1.0,
        backend=backend,
    )  # fmt: skip
    assert bool((samples.offsets.diff() > 0).all())
    offset = (sample_points(origins, directions, samples) - center).abs().max()
    assert offset <= 1 / CELLS + 1e-5


def test_a_ray_that_misses_or_is_nan_has_no_samples() -> None:
    origins = torch.tensor([[3.0, 0, 0], [0, 0, 5.0], [math.nan, 0, 0]])
    directions = torch.tensor([[0.0, 1, 0], [0, 0, 1], [1, 0, 0]])
    samples = march(
        origins, directions, full_bits(), torch.zeros(3), near=0.0, dt_min=0.1, dt_max=0.1
    )
    assert samples.offsets.tolist() == [0, 0, 0, 0]


def test_no_sample_is_lost_to_rounding_far_from_the_origin() -> None:
    """Float32, from 300 times as far away as the scene is large: steps lie on faces of cells."""
    cells = 128
    shape = (1, cells, cells, cells // 8)
    bits = torch.randint(0, 256, shape, dtype=torch.uint8) & torch.randint(
        0, 256, shape, dtype=torch.uint8
    )
    origins = 300 * normalize(torch.randn(3000, 3), dim=1)
    directions = normalize(torch.rand(3000, 3) * 1.6 - 0.8 - origins, dim=1)
    options: dict[str, Any] = {"near": 0.0, "dt_min": 1 / 128, "dt_max": 1 / 16}
    jitter = torch.full((3000,), 0.5)
    found = march(origins, directions, bits, jitter, **options, backend="numba")
    expected = march(origins, directions, bits, jitter, **options, backend="reference")
    assert len(expected.t_starts) > 100_000
    assert torch.equal(found.offsets, expected.offsets)


def test_empty_grid_gives_no_samples_and_takes_no_time() -> None:
    """A million steps each, if rays did not know that nothing is there."""
    origins, directions = random_rays(10_000)
    samples = march(
        origins, directions, torch.zeros_like(full_bits(3)), torch.zeros(10_000).double(), near=0.0,
        dt_min=1e-5, dt_max=1e-5, cone=1e-9,
    )  # fmt: skip
    assert not samples.offsets.any()


def test_a_change_of_the_grid_is_seen() -> None:
    """What is derived of the bits is kept from call to call."""
    origins, directions = random_rays(50)
    bits = torch.zeros_like(full_bits())
    options: dict[str, Any] = {"near": 0.0, "dt_min": 0.05, "dt_max": 0.05}

    def count() -> int:
        jitter = torch.zeros(50).double()
        return int(march(origins, directions, bits, jitter, **options).offsets[-1])

    assert count() == count() == 0
    bits[0, 4:12, 4:12] = 255
    some = count()
    assert some > 100
    bits.copy_(full_bits())
    assert count() > some


@pytest.mark.parametrize("num", [1, 15, 17, 333, 5000])
def test_every_ray_is_marched_once_whatever_their_number(num: int) -> None:
    """As alone: sixteen go at once, and one that has ended makes room."""
    origins, directions = (part.float() for part in random_rays(num))
    bits, jitter = random_bits(2), torch.rand(num)
    options: dict[str, Any] = {"near": 0.0, "dt_min": 0.03, "dt_max": 0.2, "cone": 0.01}
    together = march(origins, directions, bits, jitter, **options)
    assert len(together.t_starts) > 10 or num < 15
    for i in range(0, num, max(1, num // 20)):
        one = slice(i, i + 1)
        alone = march(origins[one], directions[one], bits, jitter[one], **options)
        own = slice(int(together.offsets[i]), int(together.offsets[i + 1]))
        assert torch.equal(together.t_starts[own], alone.t_starts)
        assert torch.equal(together.t_ends[own], alone.t_ends)


def test_no_rays_give_no_samples() -> None:
    nothing = torch.zeros(0, 3)
    samples = march(nothing, nothing, full_bits(), torch.zeros(0), near=0.0, dt_min=0.1, dt_max=0.1)
    assert samples.offsets.tolist() == [0] and len(samples.t_starts) == 0


def test_points_on_a_face_do_not_hold_the_march_up() -> None:
    # Along cell faces and edges, in both directions: every ray must come to its end.
    bits = random_bits(1)
    for sign in (1.0, -1.0):
        for axis in range(3):
            direction = torch.zeros(1, 3, dtype=torch.float64)
            direction[0, axis] = sign
            origin = -2 * direction
            samples = march(
                origin, direction, bits, torch.zeros(1).double(), near=0.0, dt_min=1e-3, dt_max=1e-3
            )
            assert len(samples.t_starts) <= 1024


def test_sample_points_are_the_middles() -> None:
    origins, directions = random_rays(30)
    samples = march(
        origins, directions, random_bits(1), torch.rand(30).double(), near=0.0, dt_min=0.05,
        dt_max=0.05,
    )  # fmt: skip
    fast = sample_points(origins, directions, samples, scale=0.5)
    slow = sample_points(origins, directions, samples, scale=0.5, backend="reference")
    assert_matches(fast, slow, num_operations=4)


def test_cascades_cover_the_scene() -> None:
    assert [num_cascades(scale) for scale in (0.5, 1, 2, 4, 16)] == [1, 1, 2, 3, 5]


def test_impossible_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="dt_min"):
        march(
            torch.zeros(1, 3), torch.zeros(1, 3), full_bits(), torch.zeros(1), near=0.0,
            dt_min=0.0, dt_max=1.0,
        )  # fmt: skip


def test_ray_index_repeats_each_ray_by_its_samples() -> None:
    samples = Samples(torch.zeros(3), torch.ones(3), torch.tensor([0, 2, 2, 3]))
    assert samples.ray_index().tolist() == [0, 0, 2]

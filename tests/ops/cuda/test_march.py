"""march on CUDA: the kernel against the reference, buffers of a fixed length."""

# pyright: reportCallIssue=false
# (It takes a tuple of tensors for one argument.)

import math
from typing import Any

import pytest
import torch

from nfields.ops.march import march, sample_points
from tests.compare import assert_matches
from tests.ops.test_march import full_bits, random_bits, random_rays

RAYS = 40  # a block and a part of one


def setting(cascades: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """Origins, directions, bits and jitter; rays along an axis, and such as are not finite."""
    origins, directions = random_rays(RAYS)
    for k in range(3):
        origins[k], directions[k] = torch.tensor([0.1, 0.0, -0.2]), 0.0
        origins[k, k], directions[k, k] = -5.0, 1.0
    origins[3], directions[4, 1] = math.nan, math.inf
    jitter = torch.rand(RAYS, dtype=torch.float64)
    return tuple(t.to(device) for t in (origins, directions, random_bits(cascades), jitter))


@pytest.mark.parametrize(
    ("cascades", "cone", "dt_min", "most"),
    [(1, 0.0, 0.06, 1024), (1, 0.0, 0.06, 5), (3, 1 / 16, 0.1, 20)],
)
@pytest.mark.slow
def test_kernel_gives_the_samples_of_the_reference(
    device: torch.device, cascades: int, cone: float, dt_min: float, most: int
) -> None:
    rays = setting(cascades, device)
    options: dict[str, Any] = {"near": 0.05, "dt_min": dt_min, "dt_max": 0.4, "cone": cone}
    options["max_samples"] = most
    found = march(*rays, **options, backend="triton")
    expected = march(*rays, **options, backend="reference")
    assert len(expected.t_starts) > 50
    assert torch.equal(found.offsets, expected.offsets)
    assert_matches(found.t_starts, expected.t_starts, num_operations=400)
    assert_matches(found.t_ends, expected.t_ends, num_operations=400)
    points = sample_points(*rays[:2], found, scale=0.5, backend="triton")
    wanted = sample_points(*rays[:2], expected, scale=0.5, backend="reference")
    assert_matches(points, wanted, num_operations=400)


@pytest.mark.parametrize("backend", ["triton", "reference"])
@pytest.mark.slow
def test_what_finds_no_room_is_left_out_and_counted(device: torch.device, backend: str) -> None:
    rays = setting(1, device)
    options: dict[str, Any] = {"near": 0.0, "dt_min": 0.1, "dt_max": 0.1}
    whole = march(*rays, **options, backend="reference")
    total = len(whole.t_starts)
    for capacity in (0, total // 2, total + 30):
        part = march(*rays, **options, capacity=capacity, backend=backend)
        kept = min(capacity, total)
        assert part.num_wanted is not None and int(part.num_wanted) == total
        assert part.t_starts.shape == part.t_ends.shape == (capacity,)
        assert torch.equal(part.offsets, whole.offsets.clamp(max=capacity))
        assert_matches(part.t_starts[:kept], whole.t_starts[:kept], num_operations=400)
        assert not part.t_starts[kept:].any() and not part.t_ends[kept:].any()


def test_full_grid_is_filled_by_equal_steps_in_float32(device: torch.device) -> None:
    tensors = (
        torch.tensor([[-3.0, 0.1, 0.2]]), torch.tensor([[1.0, 0, 0]]), full_bits(), torch.zeros(1)
    )  # fmt: skip
    samples = march(*(t.to(device) for t in tensors), near=0.0, dt_min=0.125, dt_max=1.0)
    assert_matches(samples.t_starts.cpu(), 2 + 0.125 * torch.arange(16), num_operations=16)


def test_no_rays_and_no_occupied_cell(device: torch.device) -> None:
    nothing = torch.zeros(0, 3, device=device)
    bits = full_bits().to(device)
    options: dict[str, Any] = {"near": 0.0, "dt_min": 0.1, "dt_max": 0.1}
    samples = march(nothing, nothing, bits, nothing[:, 0], **options, capacity=7)
    assert samples.offsets.tolist() == [0] and samples.t_starts.shape == (7,)
    rays = setting(1, device)
    empty = march(*rays[:2], torch.zeros_like(bits), rays[3], **options)
    assert len(empty.t_starts) == 0 and not empty.offsets.any()

"""march_contracted on CUDA: the kernel against the reference, buffers of a fixed length."""

# pyright: reportCallIssue=false
# (It takes a tuple of tensors for one argument.)

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from nfields.ops.march_contracted import march_contracted
from tests.compare import assert_matches
from tests.ops.test_march_contracted import full, some_rays

OPTIONS: dict[str, Any] = {"near": 0.05, "dt_min": 1 / 16}


def setting(device: torch.device) -> tuple[Tensor, ...]:
    """Origins, directions, bits and jitter of 40 rays, a block and a part of one."""
    origins, directions, jitter = some_rays(40)
    origins[1], directions[1] = torch.tensor([-10.0, 0.0, 0.0]), torch.tensor([1.0, 0.0, 0.0])
    origins[2], directions[3, 1] = math.nan, math.inf
    generator = torch.Generator().manual_seed(1)
    bits = torch.randint(0, 256, (1, 16, 16, 2), dtype=torch.uint8, generator=generator)
    return tuple(t.to(device) for t in (origins, directions, bits, jitter))


@pytest.mark.slow
@pytest.mark.parametrize("most", [1024, 12])
def test_kernel_gives_the_samples_of_the_reference(device: torch.device, most: int) -> None:
    rays = setting(device)
    options = {**OPTIONS, "max_samples": most}
    found = march_contracted(*rays, **options, backend="triton")
    expected = march_contracted(*rays, **options, backend="reference")
    counts = expected.offsets.diff()
    assert (counts > 0).sum() > 30 and (counts.max() == most) == (most == 12)
    assert found.num_wanted is None and torch.equal(found.offsets, expected.offsets)
    # Rounding of a step grows with the distance, and all later steps have it.
    assert_matches(found.t_starts, expected.t_starts, rtol=1e-9)
    assert_matches(found.t_ends, expected.t_ends, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["triton", "reference"])
def test_what_finds_no_room_is_left_out_and_counted(device: torch.device, backend: str) -> None:
    rays = setting(device)
    whole = march_contracted(*rays, **OPTIONS, backend="reference")
    total = len(whole.t_starts)
    for capacity in (total // 2, total + 30):
        part = march_contracted(*rays, **OPTIONS, capacity=capacity, backend=backend)
        kept = min(capacity, total)
        assert part.num_wanted is not None and int(part.num_wanted) == total
        assert part.t_starts.shape == part.t_ends.shape == (capacity,)
        assert torch.equal(part.offsets, whole.offsets.clamp(max=capacity))
        assert_matches(part.t_starts[:kept], whole.t_starts[:kept], rtol=1e-9)
        assert not part.t_starts[kept:].any() and not part.t_ends[kept:].any()


def test_from_the_middle_steps_are_equal_up_to_the_unit_ball(device: torch.device) -> None:
    rays = (torch.zeros(1, 3), torch.tensor([[0.0, 0.6, 0.8]]), full(), torch.zeros(1))
    samples = march_contracted(*(t.to(device) for t in rays), near=0.0, dt_min=1 / 16)
    assert_matches(samples.t_starts[:17].cpu(), torch.arange(17) / 16, num_operations=16)


def test_no_rays_and_no_occupied_cell(device: torch.device) -> None:
    nothing = torch.zeros(0, 3, device=device)
    bits = torch.zeros_like(full()).to(device)
    samples = march_contracted(nothing, nothing, bits, nothing[:, 0], **OPTIONS, capacity=7)
    assert samples.offsets.tolist() == [0] and samples.t_starts.shape == (7,)
    rays = setting(device)
    empty = march_contracted(*rays[:2], bits, rays[3], **OPTIONS)
    assert len(empty.t_starts) == 0 and not empty.offsets.any()

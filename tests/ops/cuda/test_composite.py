"""composite on CUDA: the kernels against the reference, over rays longer than a tile."""

# pyright: reportCallIssue=false
# (It takes a tuple of tensors for one argument.)

import pytest
import torch

from nfields.ops.composite import composite
from nfields.ops.composite.reference import composite_reference
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives
from tests.ops.test_composite import packed


@pytest.mark.parametrize("min_transmittance", [0.0, 1e-2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.slow
def test_kernels_have_the_derivatives_of_the_reference(
    device: torch.device, min_transmittance: float, channels: int
) -> None:
    starts, ends, offsets = (t.to(device) for t in packed(20, 80))
    density = 5 * torch.rand(len(starts), dtype=torch.float64, device=device)
    color = torch.rand(len(starts), channels, dtype=torch.float64, device=device)

    def flat(outputs: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return torch.cat([output.reshape(len(offsets) - 1, -1) for output in outputs], dim=1)

    options = {"min_transmittance": min_transmittance, "backend": "triton"}
    assert_same_derivatives(
        lambda d, c: flat(composite(d, c, starts, ends, offsets, **options)),
        lambda d, c: flat(composite_reference(d, c, starts, ends, offsets, min_transmittance)),
        (density, color),
        # The reference takes differences of one sum over all samples, eps times which it is off.
        num_operations=len(starts) ** 2 // 16,
    )


def test_float32_kernel_agrees_with_the_float64_reference(device: torch.device) -> None:
    starts, ends, offsets = (t.float().to(device) for t in packed(20, 40))
    offsets = offsets.long()
    density = 20 * torch.rand(len(starts), device=device)
    color = torch.rand(len(starts), 3, device=device)
    geometry = (starts, ends, offsets)
    exact = (t.double() for t in (density, color, starts, ends))
    expected = composite_reference(*exact, offsets, 1e-4)
    for found, wanted in zip(composite(density, color, *geometry), expected, strict=True):
        assert_matches(found, wanted, num_operations=40 * 32, scale=4.0)


def test_padding_behind_the_last_ray_has_no_gradient(device: torch.device) -> None:
    starts = torch.zeros(50, device=device)
    density = torch.ones(50, device=device, requires_grad=True)
    color = torch.ones(50, 3, device=device, requires_grad=True)
    offsets = torch.tensor([0, 0, 20, 20], device=device)
    rgb, opacity, _ = composite(density, color, starts, starts + 0.1, offsets)
    (rgb.sum() + opacity.sum()).backward()
    assert density.grad is not None and color.grad is not None
    assert density.grad[:20].all() and not density.grad[20:].any() and not color.grad[20:].any()
    assert opacity[0] == 0 and opacity[1] > 0 and opacity[2] == 0


def test_no_rays_give_nothing(device: torch.device) -> None:
    nothing = torch.zeros(0, device=device)
    offsets = torch.zeros(1, dtype=torch.int64, device=device)
    rgb, opacity, depth = composite(nothing, nothing[:, None], nothing, nothing, offsets)
    assert rgb.shape == (0, 1) and opacity.shape == depth.shape == (0,)

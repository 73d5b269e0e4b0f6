"""distortion on CUDA: the kernels against the reference, over rays longer than a tile."""

# pyright: reportCallIssue=false
# (It takes a tuple of tensors for one argument.)

import pytest
import torch
from torch import Tensor

from nfields.ops.distortion import distortion
from nfields.ops.distortion.reference import distortion_reference
from tests.compare import assert_matches
from tests.ops.test_distortion import samples


@pytest.mark.parametrize(
    ("dtype", "min_transmittance"),
    [(torch.float64, 0.0), (torch.float64, 0.05), (torch.float32, 0.0)],
)
def test_kernels_have_the_value_and_gradient_of_the_reference(
    device: torch.device, dtype: torch.dtype, min_transmittance: float
) -> None:
    density, *geometry, offsets = samples([70, 3, 0, 32, 1, 33], dtype)
    upstream = torch.linspace(-1, 2, 6, dtype=torch.float64)
    found = [t.to(device) for t in (0.2 * density, *geometry, offsets)]
    exact = [t.double() if t.is_floating_point() else t for t in found]
    results = []
    for tensors, function in (
        (found, lambda *t: distortion(*t, min_transmittance=min_transmittance)),
        (exact, lambda *t: distortion_reference(*t, min_transmittance)),
    ):
        leaf = tensors[0].requires_grad_()
        value = function(leaf, *tensors[1:])
        (gradient,) = torch.autograd.grad(value, leaf, upstream.to(value))
        results.append((value.detach(), gradient))
    for ours, expected in zip(*results, strict=True):
        assert expected.abs().max() > 0.01
        # The reference takes differences of one sum over all samples.
        assert_matches(ours, expected, num_operations=139**2, scale=1.0)


def test_padding_behind_the_last_ray_has_no_gradient(device: torch.device) -> None:
    starts = torch.arange(50.0, device=device) / 50
    density = torch.ones(50, device=device, requires_grad=True)
    offsets = torch.tensor([0, 0, 20, 20], device=device)
    geometry = (starts, starts + 0.02, starts, starts + 0.02)
    loss = distortion(density, *geometry, offsets)
    loss.sum().backward()
    assert density.grad is not None and density.grad[:20].any() and not density.grad[20:].any()
    assert loss[0] == 0 and loss[1] > 0 and loss[2] == 0


def test_no_rays_and_no_samples_cost_nothing(device: torch.device) -> None:
    nothing = torch.zeros(0, device=device)

    def loss(num_rays: int) -> Tensor:
        return distortion(*(nothing,) * 5, torch.zeros(num_rays + 1, device=device).long())

    assert loss(0).shape == (0,) and not loss(2).any()

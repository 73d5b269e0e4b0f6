"""rbf_decode on CUDA: the kernels against the reference, groups and padding."""

# pyright: reportCallIssue=false
# (It takes a list of tensors for one argument.)

import pytest
import torch

from nfields.ops.rbf_decode import grouped_linear, rbf_decode
from nfields.ops.rbf_decode.reference import rbf_decode_reference
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives
from tests.ops.test_rbf_decode import SMALL, USUAL, layer


@pytest.mark.parametrize("size", [SMALL, USUAL], ids=["small", "usual"])
@pytest.mark.parametrize("groups", [1, 3, 10])
@pytest.mark.slow
def test_kernels_have_the_derivatives_of_the_reference(
    device: torch.device, size: tuple[int, int, int, bool], groups: int
) -> None:
    dim, neurons, out, linear = size
    inputs, offsets = layer(150, dim, neurons, out, groups, linear)
    inputs[2] *= 0.3
    offsets = offsets.to(device)
    assert_same_derivatives(
        lambda *tensors: rbf_decode(*tensors, offsets, backend="triton"),
        lambda *tensors: rbf_decode_reference(*tensors, offsets),
        [tensor.to(device) for tensor in inputs],
        num_operations=dim * neurons,
        zero_rows=slice(20, 90),
    )


@pytest.mark.parametrize("groups", [1, 20])
def test_float32_kernels_agree_with_the_float64_reference(
    device: torch.device, groups: int
) -> None:
    inputs, offsets = layer(100, *USUAL[:3], groups, linear=True)
    inputs[2] *= 0.2
    leaves = [tensor.float().to(device).requires_grad_() for tensor in inputs]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    offsets = offsets.to(device)
    found, expected = rbf_decode(*leaves, offsets), rbf_decode_reference(*exact, offsets)
    assert_matches(found, expected, num_operations=24 * 32)
    incoming = torch.randn_like(found)
    gradients = torch.autograd.grad(found, leaves, incoming)
    wanted = torch.autograd.grad(expected, exact, incoming.double())
    for a, b in zip(gradients, wanted, strict=True):
        # Moments about 0 cancel: by the square of a centre over a width.
        assert_matches(a, b, num_operations=24 * 32 * 100, scale=16 * float(b.abs().max()))


def test_points_of_no_group_give_nothing_and_get_nothing(device: torch.device) -> None:
    inputs, _ = layer(60, *SMALL[:3], 3, linear=True)
    leaves = [tensor.to(device).requires_grad_() for tensor in inputs]
    offsets = torch.tensor([0, 10, 10, 37], device=device)
    out = rbf_decode(*leaves, offsets)
    out.sum().backward()
    assert not out[37:].any() and out[:37].any()
    features = leaves[0].grad
    assert features is not None and not features[37:].any() and features[:37].any()
    short = [leaf.detach().requires_grad_() for leaf in leaves]
    cut = rbf_decode_reference(short[0][:37], *short[1:], offsets)
    cut.sum().backward()
    for leaf, wanted in zip(leaves, short, strict=True):
        assert leaf.grad is not None and wanted.grad is not None
        assert_matches(leaf.grad, wanted.grad, num_operations=6 * 5 * 60)


def test_far_neuron_has_no_response_and_no_gradient(device: torch.device) -> None:
    inputs, _ = layer(4, *SMALL[:3], 1, linear=False)
    features, centers, inv_widths, weight, bias = (t.float().to(device) for t in inputs)
    features, centers = features.requires_grad_(), (centers + 1e4).requires_grad_()
    out = rbf_decode(features, centers, inv_widths.abs() + 0.1, weight, torch.zeros_like(bias))
    out.sum().backward()
    assert not out.any()
    assert features.grad is not None and not features.grad.any()
    assert centers.grad is not None and not centers.grad.any()


def test_grouped_linear_is_a_linear_layer_for_each_group(device: torch.device) -> None:
    hidden = torch.randn(50, 70, device=device)
    weight, bias = torch.randn(3, 4, 70, device=device), torch.randn(3, 4, device=device)
    found = grouped_linear(hidden, weight, bias, torch.tensor([0, 10, 10, 50], device=device))
    expected = torch.cat([hidden[:10] @ weight[0].T + bias[0], hidden[10:] @ weight[2].T + bias[2]])
    assert_matches(found, expected, num_operations=70)


@pytest.mark.parametrize("groups", [1, 3])
def test_no_points_give_no_output_and_zero_gradients(device: torch.device, groups: int) -> None:
    inputs, _ = layer(0, *SMALL[:3], groups, linear=False)
    leaves = [tensor.to(device).requires_grad_() for tensor in inputs]
    out = rbf_decode(*leaves, torch.zeros(groups + 1, dtype=torch.int64, device=device))
    out.sum().backward()
    assert out.shape == (0, 3)
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)

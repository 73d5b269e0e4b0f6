"""rbf_decode: closed forms of the Gaussian layer, groups, kernel against reference."""

# pyright: reportCallIssue=false
# (It takes a list of tensors for one argument.)

import math

import pytest
import torch
from torch import Tensor

from nfields.ops.rbf_decode import grouped_linear, rbf_decode
from nfields.ops.rbf_decode.reference import rbf_decode_reference
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives

# Kernels are compiled for their sizes, so the tests share two: dim, neurons, outputs, linear term.
SMALL, USUAL = (6, 5, 3, False), (24, 32, 4, True)


def layer(
    num_points: int, dim: int, neurons: int, out: int, groups: int, linear: bool
) -> tuple[list[Tensor], Tensor]:
    """Random float64 inputs of the operation, and offsets with an empty group."""
    hidden = neurons + dim if linear else neurons
    shapes = ((num_points, dim), (neurons, dim), (neurons, dim), (groups, out, hidden))
    tensors = [torch.randn(*shape, dtype=torch.float64) for shape in (*shapes, (groups, out))]
    cuts = torch.randint(0, num_points + 1, (groups - 1,)).sort().values
    if groups > 2:
        cuts[1] = cuts[0]
    offsets = torch.cat([torch.tensor([0]), cuts, torch.tensor([num_points])])
    return tensors, offsets


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_neuron_answers_one_at_its_centre_and_falls_off_as_a_gaussian(backend: str) -> None:
    (_, centers, inv_widths, weight, bias), _ = layer(2, *SMALL[:3], 1, linear=False)
    weight, bias = torch.zeros_like(weight), torch.zeros_like(bias)
    weight[0, 0, 2] = 1  # the first output is the third neuron's response
    inv_widths[2] = 4.0
    features = centers[2].repeat(2, 1)
    features[1, 3] += 0.5
    response = rbf_decode(features, centers, inv_widths, weight, bias, backend=backend)[:, 0]
    expected = torch.tensor([1.0, math.exp(-0.5 * (0.5 * 4.0) ** 2)], dtype=torch.float64)
    assert_matches(response, expected, num_operations=4)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_scaling_features_centers_and_widths_together_changes_nothing(backend: str) -> None:
    (features, centers, inv_widths, weight, bias), _ = layer(40, *SMALL[:3], 1, linear=False)
    scale = torch.rand(6, dtype=torch.float64) + 0.5
    before = rbf_decode(features, centers, inv_widths, weight, bias, backend=backend)
    after = rbf_decode(
        features * scale, centers * scale, inv_widths / scale, weight, bias, backend=backend
    )
    assert_matches(after, before, num_operations=64)


@pytest.mark.parametrize("size", [SMALL, USUAL], ids=["small", "usual"])
@pytest.mark.parametrize("groups", [1, 3, 40])
def test_kernel_has_the_derivatives_of_the_reference(
    size: tuple[int, int, int, bool], groups: int
) -> None:
    dim, neurons, out, linear = size
    inputs, offsets = layer(211, dim, neurons, out, groups, linear)
    inputs[2] *= 0.3
    assert_same_derivatives(
        lambda *tensors: rbf_decode(*tensors, offsets, backend="numba"),
        lambda *tensors: rbf_decode_reference(*tensors, offsets),
        inputs,
        num_operations=dim * neurons,
        zero_rows=slice(20, 90),
    )


def test_float32_kernel_agrees_with_the_float64_reference() -> None:
    inputs, offsets = layer(300, *USUAL[:3], 20, linear=True)
    inputs[2] *= 0.2
    found = rbf_decode(*(tensor.float() for tensor in inputs), offsets)
    expected = rbf_decode_reference(*(t.float().double() for t in inputs), offsets)
    assert_matches(found, expected, num_operations=24 * 32)


def test_far_neuron_has_no_response_and_no_gradient() -> None:
    (features, centers, inv_widths, weight, bias), _ = layer(4, *SMALL[:3], 1, linear=False)
    features, centers = features.requires_grad_(), (centers + 1e4).requires_grad_()
    out = rbf_decode(features, centers, inv_widths.abs() + 0.1, weight, torch.zeros_like(bias))
    out.sum().backward()
    assert not out.any()
    assert features.grad is not None and not features.grad.any()
    assert centers.grad is not None and not centers.grad.any()


def test_groups_equal_separate_calls() -> None:
    (features, centers, inv_widths, weight, bias), offsets = layer(90, *USUAL[:3], 5, linear=True)
    together = rbf_decode(features, centers, inv_widths, weight, bias, offsets)
    apart = [
        rbf_decode(features[a:b], centers, inv_widths, weight[g : g + 1], bias[g : g + 1])
        for g, (a, b) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    ]
    assert torch.equal(together, torch.cat(apart))


def test_grouped_linear_is_a_linear_layer_for_each_group() -> None:
    hidden = torch.randn(50, 64)
    weight, bias = torch.randn(3, 4, 64), torch.randn(3, 4)
    offsets = torch.tensor([0, 10, 10, 50])
    found = grouped_linear(hidden, weight, bias, offsets)
    expected = torch.cat([hidden[:10] @ weight[0].T + bias[0], hidden[10:] @ weight[2].T + bias[2]])
    assert_matches(found, expected, num_operations=64)


@pytest.mark.parametrize("groups", [1, 3])
def test_no_points_give_no_output_and_zero_gradients(groups: int) -> None:
    inputs, _ = layer(0, *SMALL[:3], groups, linear=False)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    out = rbf_decode(*leaves, torch.zeros(groups + 1, dtype=torch.int64))
    out.sum().backward()
    assert out.shape == (0, 3)
    assert all(leaf.grad is not None and not leaf.grad.any() for leaf in leaves)


def test_wrong_shapes_are_refused() -> None:
    inputs, offsets = layer(10, 4, 3, 2, 3, linear=False)
    with pytest.raises(ValueError, match="need offsets"):
        rbf_decode(*inputs)
    with pytest.raises(ValueError, match="need 4 offsets"):
        rbf_decode(*inputs, offsets[:-1])
    inputs[3] = inputs[3][:, :, :2]
    with pytest.raises(ValueError, match="responses and features"):
        rbf_decode(*inputs, offsets)

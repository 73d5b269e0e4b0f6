"""rbf_decode: closed forms of the Gaussian layer, groups, kernel against reference."""

import math

import pytest
import torch
from torch import Tensor

from nfields.ops.rbf_decode import grouped_linear, rbf_decode
from nfields.ops.rbf_decode.reference import rbf_decode_reference
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives


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
    center = torch.randn(1, 3, dtype=torch.float64)
    features = center.repeat(2, 1)
    features[1, 2] += 0.5
    inv_widths = torch.full((1, 3), 4.0, dtype=torch.float64)
    one, zero = torch.ones(1, 1, 1).double(), torch.zeros(1, 1).double()
    response = rbf_decode(features, center, inv_widths, one, zero, backend=backend)[:, 0]
    expected = torch.tensor([1.0, math.exp(-0.5 * (0.5 * 4.0) ** 2)], dtype=torch.float64)
    assert_matches(response, expected, num_operations=4)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_scaling_features_centers_and_widths_together_changes_nothing(backend: str) -> None:
    (features, centers, inv_widths, weight, bias), _ = layer(40, 6, 5, 3, 1, linear=False)
    scale = torch.rand(6, dtype=torch.float64) + 0.5
    before = rbf_decode(features, centers, inv_widths, weight, bias, backend=backend)
    after = rbf_decode(
        features * scale, centers * scale, inv_widths / scale, weight, bias, backend=backend
    )
    assert_matches(after, before, num_operations=64)


@pytest.mark.parametrize(
    ("dim", "neurons", "out", "groups", "linear"),
    [(6, 5, 3, 1, False), (24, 32, 4, 40, True), (3, 17, 49, 1, True), (5, 2, 2, 3, False)],
)
def test_kernel_has_the_derivatives_of_the_reference(
    dim: int, neurons: int, out: int, groups: int, linear: bool
) -> None:
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
    inputs, offsets = layer(300, 16, 32, 4, 20, linear=True)
    inputs[2] *= 0.2
    found = rbf_decode(*(tensor.float() for tensor in inputs), offsets)
    expected = rbf_decode_reference(*(t.float().double() for t in inputs), offsets)
    assert_matches(found, expected, num_operations=16 * 32)


def test_far_neuron_has_no_response_and_no_gradient() -> None:
    features = torch.zeros(4, 2, requires_grad=True)
    centers = torch.full((1, 2), 1e4, requires_grad=True)
    out = rbf_decode(features, centers, torch.ones(1, 2), torch.ones(1, 1, 1), torch.zeros(1, 1))
    out.sum().backward()
    assert not out.any()
    assert features.grad is not None and not features.grad.any()
    assert centers.grad is not None and not centers.grad.any()


def test_groups_equal_separate_calls() -> None:
    (features, centers, inv_widths, weight, bias), offsets = layer(90, 4, 7, 3, 5, linear=True)
    together = rbf_decode(features, centers, inv_widths, weight, bias, offsets)
    apart = [
        rbf_decode(features[a:b], centers, inv_widths, weight[g : g + 1], bias[g : g + 1])
        for g, (a, b) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True))
    ]
    assert torch.equal(together, torch.cat(apart))


def test_grouped_linear_is_a_linear_layer_for_each_group() -> None:
    hidden = torch.randn(50, 8, dtype=torch.float64)
    weight = torch.randn(3, 2, 8, dtype=torch.float64)
    bias = torch.randn(3, 2, dtype=torch.float64)
    offsets = torch.tensor([0, 10, 10, 50])
    found = grouped_linear(hidden, weight, bias, offsets)
    expected = torch.cat([hidden[:10] @ weight[0].T + bias[0], hidden[10:] @ weight[2].T + bias[2]])
    assert_matches(found, expected, num_operations=8)


@pytest.mark.parametrize("groups", [1, 3])
def test_no_points_give_no_output_and_zero_gradients(groups: int) -> None:
    inputs, _ = layer(0, 4, 3, 2, groups, linear=True)
    leaves = [tensor.requires_grad_() for tensor in inputs]
    out = rbf_decode(*leaves, torch.zeros(groups + 1, dtype=torch.int64))
    out.sum().backward()
    assert out.shape == (0, 2)
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

"""mlp: kernel against reference, limits."""

import pytest
import torch
from torch import Tensor

from nfields.ops.mlp import mlp
from nfields.ops.mlp.reference import mlp_reference
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives


def network(biased: bool) -> tuple[list[Tensor], list[Tensor]]:
    sizes = ((7, 9), (9, 8), (8, 3))
    weights = [torch.randn(o, i, dtype=torch.float64) for i, o in sizes]
    return weights, [torch.randn(o, dtype=torch.float64) for _, o in sizes] if biased else []


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("activate_last", [True, False])
def test_kernel_has_the_derivatives_of_the_reference(biased: bool, activate_last: bool) -> None:
    weights, biases = network(biased)
    x = torch.randn(9000, 7, dtype=torch.float64)  # three chunks, the last one not full
    assert_same_derivatives(
        lambda x, *p: mlp(x, p[:3], p[3:], activate_last=activate_last, backend="numba"),
        lambda x, *p: mlp_reference(x, p[:3], p[3:], "relu", activate_last),
        (x, *weights, *biases),
        num_operations=9 * 3,
    )


def test_without_biases_scaling_the_input_scales_the_output() -> None:
    weights, _ = network(biased=False)
    x = torch.randn(20, 7, dtype=torch.float64)
    assert_matches(mlp(3 * x, weights), 3 * mlp(x, weights), num_operations=27)


def test_no_points_give_no_output() -> None:
    weights, biases = network(biased=True)
    assert mlp(torch.zeros(0, 7, dtype=torch.float64), weights, biases).shape == (0, 3)


def test_unequal_numbers_of_weights_and_biases_are_refused() -> None:
    weights, biases = network(biased=True)
    with pytest.raises(ValueError, match="as many biases"):
        mlp(torch.zeros(1, 7, dtype=torch.float64), weights, biases[:2])

"""mlp on CUDA: the kernels against the reference, in 32 and 16 bits, fused and wide."""

import itertools

import pytest
import torch
from torch import Tensor

from nfields.ops.backend import Precision, matrix_products
from nfields.ops.mlp import Activation, mlp
from nfields.ops.mlp.reference import mlp_reference
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives


def network(
    sizes: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> tuple[list[Tensor], list[Tensor]]:
    pairs = list(itertools.pairwise(sizes))
    options = {"dtype": dtype, "device": device}
    weights = [torch.randn(o, i, **options) / i**0.5 for i, o in pairs]  # pyright: ignore
    return weights, [torch.randn(o, **options) for _, o in pairs]  # pyright: ignore


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("activate_last", [True, False])
@pytest.mark.parametrize("activation", ["relu", "sine"])
@pytest.mark.parametrize("sizes", [(7, 3), (7, 20, 17, 3), (5, 70, 3)])  # the last is not fused
def test_kernels_have_the_derivatives_of_the_reference(
    device: torch.device,
    biased: bool,
    activate_last: bool,
    activation: Activation,
    sizes: tuple[int, ...],
) -> None:
    weights, biases = network(sizes, device, torch.float64)
    count, biases = len(weights), biases if biased else []
    options = {"activation": activation, "activate_last": activate_last, "backend": "triton"}
    assert_same_derivatives(
        lambda x, *p: mlp(x, p[:count], p[count:], **options),
        lambda x, *p: mlp_reference(x, p[:count], p[count:], activation, activate_last),
        (torch.randn(75, sizes[0], dtype=torch.float64, device=device), *weights, *biases),
        num_operations=70 * count,
    )


@pytest.mark.parametrize("activation", ["relu", "sine"])
@pytest.mark.parametrize(
    ("precision", "error"),
    [("fp32", 1e-5), ("bf16", 2**-6), ("fp16", 2**-9)],  # half the digits and three layers
)
@pytest.mark.parametrize("width", [40, 80])
def test_16_bits_lose_digits_and_no_small_gradient(
    device: torch.device, activation: Activation, precision: Precision, error: float, width: int
) -> None:
    weights, biases = network((9, width, width, 4), device, torch.float32)
    leaves = [tensor.requires_grad_() for tensor in (*weights, *biases)]
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    x = torch.randn(100, 9, device=device, requires_grad=True)
    with matrix_products(precision):
        found = mlp(x, leaves[:3], leaves[3:], activation=activation)
    assert found.dtype == torch.float32
    expected = mlp_reference(x.double(), exact[:3], exact[3:], activation, False)
    assert (found - expected).norm() < error * expected.norm()
    # Far below what float16 holds: 6e-8.
    gradients = torch.autograd.grad(1e-12 * found.square().sum(), [x, *leaves])
    wanted = torch.autograd.grad(1e-12 * expected.square().sum(), [x, *exact])
    for a, b in zip(gradients, wanted, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() < 4 * error * b.norm()


@pytest.mark.parametrize("num_points", [0, 1, 32])
def test_any_number_of_points(device: torch.device, num_points: int) -> None:
    weights, biases = network((5, 16, 3), device, torch.float32)
    leaves = [w.requires_grad_() for w in weights]
    x = torch.randn(num_points, 5, device=device)
    out = mlp(x, leaves, biases)
    assert_matches(out, mlp_reference(x, leaves, biases, "relu", False), num_operations=21)
    out.sum().backward()
    assert all(w.grad is not None and (num_points > 0 or not w.grad.any()) for w in leaves)
    with torch.no_grad():
        assert torch.equal(mlp(x, leaves, biases), out)

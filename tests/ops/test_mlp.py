"""mlp: kernel against reference, limits."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from nfields.ops.backend import matrix_products
from nfields.ops.mlp import Activation, mlp
from nfields.ops.mlp.reference import mlp_reference
from nfields.ops.mlp.sine_cpu import sine, sine_and_cosine, through_sine
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives


def network(biased: bool) -> tuple[list[Tensor], list[Tensor]]:
    sizes = ((7, 9), (9, 8), (8, 3))
    weights = [torch.randn(o, i, dtype=torch.float64) for i, o in sizes]
    return weights, [torch.randn(o, dtype=torch.float64) for _, o in sizes] if biased else []


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("activate_last", [True, False])
@pytest.mark.parametrize("activation", ["relu", "sine"])
@pytest.mark.parametrize("keep_width", [8, 128])  # kept, computed again
def test_kernel_has_the_derivatives_of_the_reference(
    biased: bool,
    activate_last: bool,
    activation: Activation,
    keep_width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nfields.ops.mlp.KEEP_WIDTH", keep_width)
    weights, biases = network(biased)
    x = torch.randn(9000, 7, dtype=torch.float64)  # three chunks, the last one not full
    assert_same_derivatives(
        lambda x, *p: mlp(
            x, p[:3], p[3:], activation=activation, activate_last=activate_last, backend="numba"
        ),
        lambda x, *p: mlp_reference(x, p[:3], p[3:], activation, activate_last),
        (x, *weights, *biases),
        num_operations=9 * 3,
    )


@pytest.mark.parametrize("num_points", [1, 15, 96, 1000])  # less than a tile, a block, blocks
@pytest.mark.parametrize("sizes", [(3, 16, 5), (32, 64, 64, 16), (40, 96, 112, 33)])
@pytest.mark.parametrize(("biased", "activate_last"), [(True, False), (False, True)])
@pytest.mark.parametrize("activation", ["relu", "sine"])
@pytest.mark.parametrize("keep_width", [8, 128])  # kept, computed again
def test_float32_kernel_has_the_derivatives_of_the_reference(
    num_points: int,
    sizes: tuple[int, ...],
    biased: bool,
    activate_last: bool,
    activation: Activation,
    keep_width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nfields.ops.mlp.KEEP_WIDTH", keep_width)
    weights = [torch.randn(b, a) / a**0.5 for a, b in pairwise(sizes)]
    biases = [torch.randn(b) for b in sizes[1:]] if biased else []
    inputs = [torch.randn(num_points, sizes[0]), *weights, *biases]
    upstream = torch.randn(num_points, sizes[-1])

    def derivatives(inputs: list[Tensor], backend: str) -> list[Tensor]:
        leaves = [tensor.clone().requires_grad_() for tensor in inputs]
        x, weights, biases = leaves[0], leaves[1 : len(sizes)], leaves[len(sizes) :]
        out = mlp(
            x, weights, biases, activation=activation, activate_last=activate_last, backend=backend
        )
        return [out, *torch.autograd.grad(out, leaves, upstream.to(out.dtype))]

    exact = derivatives([tensor.double() for tensor in inputs], "reference")
    for ours, wanted in zip(derivatives(inputs, "numba"), exact, strict=True):
        assert_matches(ours, wanted, num_operations=num_points * sum(sizes))


def test_nan_is_not_lost_in_relu() -> None:
    x = torch.tensor([[1.0, float("nan")], [1.0, 2.0]])
    out = mlp(x, [torch.ones(3, 2), torch.ones(1, 3)], activate_last=True, backend="numba")
    assert out[0].isnan() and out[1] == 9


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


def test_sines_and_cosines_are_within_3e_7() -> None:
    z = torch.linspace(-1000, 1000, 70 * 999).view(70, 999)
    bias = torch.linspace(-3, 3, 999)
    exact = (z + bias).double()
    sines, cosines = sine_and_cosine(z, bias)
    assert (sines - exact.sin()).abs().max() < 3e-7 and (cosines - exact.cos()).abs().max() < 3e-7
    assert torch.equal(sine(z, bias), sines)


def test_sines_of_a_float32_network_are_within_3e_7() -> None:
    z = torch.linspace(-1000, 1000, 70_001)[:, None]
    sines = mlp(z, [torch.ones(1, 1)], activation="sine", activate_last=True)
    assert (sines - z.double().sin()).abs().max() < 3e-7


def test_half_sines_are_the_nearest_bfloat16() -> None:
    z = torch.linspace(-30, 30, 64 * 33).view(64, 33).bfloat16()
    exact = z.double().sin()
    sines, cosines = sine_and_cosine(z, torch.zeros(33))
    assert torch.equal(sine(z, torch.zeros(33)), sines)
    for ours, wanted in ((sines, exact), (cosines, z.double().cos())):
        nearest = (wanted.bfloat16() - wanted).abs()
        assert ((ours - wanted).abs() <= nearest + 3e-7).all()  # and the error before rounding


def test_gradient_through_sine_and_its_sum_over_points() -> None:
    back, cosine = torch.randn(100, 17), torch.randn(100, 17)
    product = back * cosine
    out, total = through_sine(back, cosine.clone())
    assert torch.equal(out, product)
    assert_matches(total, product.double().sum(dim=0).float(), num_operations=100)


@pytest.mark.parametrize("activation", ["relu", "sine"])
@pytest.mark.parametrize("width", [16, 160])
def test_bf16_products_stay_near_fp32(activation: Activation, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = ((2, width), (width, width), (width, 3))
    weights = [(torch.randn(o, i, generator=generator) / i**0.5).requires_grad_() for i, o in sizes]
    x = torch.randn(500, 2, generator=generator)
    exact = mlp(x, weights, activation=activation)
    with matrix_products("bf16"):
        half = mlp(x, weights, activation=activation)
    assert half.dtype == torch.float32 and not torch.equal(half, exact)
    assert (half - exact).abs().max() < 0.03 * exact.abs().max()
    first = torch.autograd.grad(exact.square().sum(), weights)
    second = torch.autograd.grad(half.square().sum(), weights)
    for a, b in zip(first, second, strict=True):
        assert b.dtype == torch.float32 and (a - b).norm() < 0.03 * a.norm()

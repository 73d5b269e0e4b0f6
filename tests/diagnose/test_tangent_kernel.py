"""K against closed forms and against torch.func."""

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call, jacrev

from nfields.diagnose.slice import Slice
from nfields.diagnose.tangent_kernel import TangentKernel, both_phases, tangent_kernel
from tests.compare import assert_matches
from tests.diagnose.fields import LinearField, ReluField


def kernel_of(values: list[float | int]) -> TangentKernel:
    eigenvalues = torch.tensor(values, dtype=torch.float64)
    return TangentKernel(
        torch.diag(eigenvalues), eigenvalues, torch.eye(len(values)).double(), [0], 1
    )


@pytest.mark.parametrize("out_dim", [1, 2, 9])
def test_of_a_linear_field_it_is_the_gram_matrix_of_its_features(out_dim, generator):
    mixing = torch.randn(3, 20, generator=generator, dtype=torch.float64)

    def features(x):
        return (x @ mixing).sin()

    x = torch.randn(12, 3, generator=generator, dtype=torch.float64)
    kernel = tangent_kernel(LinearField(features, 3, 20, out_dim).double(), x)
    gram = features(x) @ features(x).T + 1  # the 1 is the bias
    assert_matches(kernel.kernel, gram, rtol=1e-13, atol=1e-13)
    true = np.linalg.eigvalsh(gram.numpy())[::-1].copy()
    assert_matches(kernel.eigenvalues, torch.from_numpy(true), rtol=1e-10, atol=1e-12)
    assert kernel.condition_number == pytest.approx(true[0] / true[-1], rel=1e-8)


@pytest.mark.parametrize("memory_bytes", [1 << 20, 2000, 1])
def test_of_a_network_it_is_that_of_torch_func_in_any_blocks(memory_bytes, generator):
    field = ReluField((2, 7, 3)).double()
    x = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    parameters = {name: p.detach() for name, p in field.named_parameters()}
    parts = jacrev(lambda p: functional_call(field, p, (x,)))(parameters)
    jacobian = torch.cat([part.flatten(2) for part in parts.values()], dim=2)
    true = torch.einsum("ncp,mcp->nm", jacobian, jacobian) / 3
    assert_matches(tangent_kernel(field, x, memory_bytes).kernel, true, rtol=1e-12, atol=1e-12)


def test_only_touched_and_trained_parameters_count(generator):
    def left_half(x):
        return torch.cat([x, torch.zeros_like(x)], dim=1)

    field = LinearField(left_half, 2, 4, 1).double()
    x = torch.randn(5, 2, generator=generator, dtype=torch.float64)
    assert tangent_kernel(field, x).num_touched == 3  # two weights and the bias
    field.readout.bias.requires_grad_(False)
    assert_matches(tangent_kernel(field, x).kernel, x @ x.T, rtol=1e-13, atol=1e-13)


def test_a_condition_number_below_rounding_is_not_one():
    assert kernel_of([4, 2, 1]).condition_number == 4
    deficient = kernel_of([4, 2, 1e-17])
    assert deficient.condition_number is None and deficient.numerical_rank == 2
    assert deficient.floor == 3 * torch.finfo(torch.float64).eps * 4


def test_effective_rank_counts_equal_eigenvalues():
    assert kernel_of([2, 2, 2, 2]).effective_rank == pytest.approx(4)
    assert kernel_of([5, 0, 0]).effective_rank == pytest.approx(1)
    assert 1 < kernel_of([5, 1, 0]).effective_rank < 2


def test_an_eigenvector_is_learned_at_its_eigenvalue_and_aligned_with_itself():
    kernel = kernel_of([4, 2, 1])
    waves = torch.tensor([[1.0, 0, 3], [0, 2, 3], [0, 0, 0]], dtype=torch.float64)
    assert_matches(kernel.learning_rates(waves), torch.tensor([1, 0.5, 0.75]).double())
    expected = torch.tensor([[1, 0, 0], [0, 1, 0], [0.5, 0.5, 0]]).double()
    assert_matches(kernel.alignment(waves), expected, rtol=1e-12, atol=1e-12)


def test_of_a_kernel_without_preferred_place_sinusoids_are_eigenvectors(generator):
    """K(t, t') = sum_k w_k cos(pi k (t - t')) has the sinusoids as eigenvectors (Mercer)."""
    place = Slice(1, 1, False)
    t = place.coordinates(64)

    def features(x):
        return torch.cat([w * f(math.pi * k * x) for k, w in ((1, 3), (4, 1)) for f in (torch.cos, torch.sin)], dim=1)  # fmt: skip  # noqa: E501

    field = LinearField(features, 1, 4, 1).double()
    field.readout.bias.requires_grad_(False)
    kernel = tangent_kernel(field, place.points(t))
    assert kernel.numerical_rank == 4
    for waves in both_phases(place, t, [1.0, 4.0, 7.0]):
        expected = torch.tensor([1, 1 / 9, 0], dtype=torch.float64)
        assert_matches(kernel.learning_rates(waves), expected, rtol=1e-9, atol=1e-12)
        energy = kernel.alignment(waves)
        assert_matches(energy[0, :2].sum(), torch.tensor(1.0).double(), rtol=1e-9, atol=0)
        assert_matches(energy[1, 2:4].sum(), torch.tensor(1.0).double(), rtol=1e-9, atol=0)
        assert_matches(energy.sum(dim=1), torch.ones(3).double(), rtol=1e-9, atol=0)

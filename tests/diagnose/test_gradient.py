"""The check agrees with right gradients and names wrong ones."""

from copy import deepcopy

import pytest
import torch

from nfields.diagnose.gradient import Check, failures, gradient_check
from tests.diagnose.fields import ReluField


def checks_of(field, generator, precise=None):
    x = torch.rand(256, field.in_dim, generator=generator) * 2 - 1
    precise = deepcopy(field) if precise is None else precise
    return gradient_check(field, precise.double(), x, generator)


def test_right_gradients_agree(generator):
    checks = checks_of(ReluField((3, 32, 2)), generator)
    assert not failures(checks) and len(checks) == 11
    assert {check.of for check in checks} == {
        *("f", "x", "first.weight", "first.bias", "readout.weight", "readout.bias")
    }


@pytest.mark.parametrize("scale", [1e-4, 1, 1e3])
def test_kinks_and_scales_do_not_raise_alarm(scale, generator):
    field = ReluField((3, 64, 2))
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.mul_(scale)
        field.first.bias.zero_()
    assert not failures(checks_of(field, generator))


@pytest.mark.parametrize("factor", [0.99, -1, 0])
def test_a_wrong_backward_is_told_by_the_differences(factor, generator):
    wrong = failures(checks_of(ReluField((3, 32, 2), gradient_factor=factor), generator))
    assert {(check.comparison, check.of) for check in wrong} == {
        ("differences", name) for name in ("x", "first.weight", "first.bias")
    }


def test_a_kernel_that_differs_from_its_reference_is_told_apart(generator):
    field = ReluField((3, 32, 2), gradient_factor=0.99)
    right = ReluField((3, 32, 2))
    right.load_state_dict(field.state_dict())
    wrong = failures(checks_of(field, generator, right))
    assert {(check.comparison, check.of) for check in wrong} == {
        ("kernels", name) for name in ("x", "first.weight", "first.bias")
    }


def test_wrong_values_and_nan_fail(generator):
    field, right = ReluField((3, 8, 1)), ReluField((3, 8, 1))
    assert ("values", "f") in {
        (c.comparison, c.of) for c in failures(checks_of(field, generator, right))
    }
    with torch.no_grad():
        field.readout.bias.fill_(float("nan"))
    assert failures(checks_of(field, generator))


def test_the_weights_are_put_back(generator):
    field = ReluField((3, 8, 1))
    precise = deepcopy(field).double()
    before = deepcopy(precise.state_dict())
    checks_of(field, generator, precise)
    assert all(torch.equal(before[name], value) for name, value in precise.state_dict().items())


def test_an_error_that_is_no_number_is_not_small():
    assert Check("kernels", "x", 0.1, 0.2).is_good
    assert not Check("kernels", "x", float("nan"), 0.2).is_good

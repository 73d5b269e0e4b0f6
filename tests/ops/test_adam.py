"""adam: kernel against reference; what skipping zero gradients means."""

from typing import Any

import pytest
import torch

from nfields.ops.adam import adam
from tests.compare import assert_matches

OPTIONS = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-15}


@pytest.mark.parametrize("skip_zero", [True, False])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_kernel_makes_the_steps_of_the_reference(skip_zero: bool, weight_decay: float) -> None:
    param = torch.randn(5000, dtype=torch.float64)
    states = [[param.clone(), torch.zeros(5000).double(), torch.zeros(5000).double()] for _ in "ab"]
    for step in range(1, 5):
        grad = torch.randn(5000, dtype=torch.float64) * (torch.rand(5000) < 0.3)
        for state, backend in zip(states, ("auto", "reference"), strict=True):
            adam(
                state[0], grad, state[1], state[2], **OPTIONS, weight_decay=weight_decay,
                num_steps=step, skip_zero=skip_zero, backend=backend,
            )  # fmt: skip
    for found, expected in zip(*states, strict=True):
        assert_matches(found, expected, num_operations=100)


def test_dense_kernel_is_torch_adam() -> None:
    param = torch.randn(300, dtype=torch.float64)
    theirs = torch.nn.Parameter(param.clone())
    optimizer = torch.optim.Adam([theirs], lr=1e-2, betas=(0.9, 0.99), eps=1e-15)
    moments = torch.zeros_like(param), torch.zeros_like(param)
    for step in range(1, 6):
        grad = torch.randn(300, dtype=torch.float64)
        theirs.grad = grad.clone()
        optimizer.step()
        adam(param, grad, *moments, **OPTIONS, weight_decay=0.0, num_steps=step, skip_zero=False)
    assert_matches(param, theirs.detach(), num_operations=100)


def test_entries_without_gradient_keep_value_and_moments() -> None:
    param, first, second = torch.ones(64), torch.full((64,), 0.5), torch.full((64,), 0.25)
    grad = torch.zeros(64)
    grad[3] = 1.0
    adam(param, grad, first, second, **OPTIONS, weight_decay=0.1, num_steps=7, skip_zero=True)
    others = torch.arange(64) != 3
    assert bool((param[others] == 1).all()) and bool((first[others] == 0.5).all())
    assert param[3] < 1 and first[3] > 0.5


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_a_step_that_is_left_out_is_as_if_it_had_never_been(backend: str) -> None:
    states = [list(torch.ones(3, 40, dtype=torch.float64).cumsum(1).unbind()) for _ in "ab"]
    for state in states:
        for moment in state[1:]:
            moment.zero_()
    left_out = 0
    for step, is_taken in enumerate([False, True, False, True, True], start=1):
        grad = torch.randn(40, dtype=torch.float64) if is_taken else torch.full((40,), torch.inf)
        scaling = torch.tensor([0.25 if is_taken else 0.0, float(left_out)])
        options: Any = {**OPTIONS, "weight_decay": 0.1, "skip_zero": True, "backend": backend}
        adam(
            states[0][0], 4 * grad.double(), *states[0][1:], **options, num_steps=step,
            scaling=scaling,
        )  # fmt: skip
        if is_taken:
            adam(states[1][0], grad, *states[1][1:], **options, num_steps=step - left_out)
        left_out += not is_taken
    for found, expected in zip(*states, strict=True):
        assert_matches(found, expected, num_operations=100)

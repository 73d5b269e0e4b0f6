"""adam on CUDA: the kernel against the reference."""

import math
from typing import Any

import pytest
import torch

from nfields.ops.adam import adam, step_numbers
from tests.compare import assert_matches

OPTIONS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-15}


@pytest.mark.parametrize("skip_zero", [True, False])
@pytest.mark.parametrize("size", [1, 1024, 2500])
@pytest.mark.slow
def test_kernel_makes_the_steps_of_the_reference(
    device: torch.device, skip_zero: bool, size: int
) -> None:
    param = torch.randn(size, dtype=torch.float64, device=device)
    states = [[param.clone(), torch.zeros_like(param), torch.zeros_like(param)] for _ in "ab"]
    for step in range(1, 4):
        grad = torch.randn_like(param) * (torch.rand_like(param) < 0.3)
        grad[1100:2200] = 0  # a whole block without gradient
        for state, backend in zip(states, ("triton", "reference"), strict=True):
            adam(
                state[0], grad, state[1], state[2], **OPTIONS, weight_decay=0.1, num_steps=step,
                skip_zero=skip_zero, backend=backend,
            )  # fmt: skip
    for found, expected in zip(*states, strict=True):
        assert_matches(found, expected, num_operations=100)


def test_steps_left_out_do_not_count_and_a_copy_follows(device: torch.device) -> None:
    param = torch.randn(1500, device=device)
    states = [[param.clone(), torch.zeros_like(param), torch.zeros_like(param)] for _ in "ab"]
    copy, left_out = param.half(), 0
    for step, is_taken in enumerate([False, True, True, False, True], start=1):
        grad = torch.randn_like(param) * (torch.rand_like(param) < 0.3)
        grad[7] = 1.0 if is_taken else math.nan
        scaling = torch.tensor([0.125 if is_taken else 0.0, float(left_out)], device=device)
        for state, backend in zip(states, ("triton", "reference"), strict=True):
            adam(
                state[0], grad, state[1], state[2], **OPTIONS, weight_decay=0.1, num_steps=step,
                skip_zero=True, scaling=scaling, copy=copy if backend == "triton" else None,
                backend=backend,
            )  # fmt: skip
        left_out += not is_taken
        assert torch.equal(copy, states[0][0].half())
    assert (states[0][0] != param).any()
    for found, expected in zip(*states, strict=True):
        # 1 - 0.99^t is computed from 0.99^t in float32: 100 times its rounding.
        assert_matches(found, expected, num_operations=1000)


@pytest.mark.parametrize("is_scaled", [False, True])
def test_numbers_in_memory_make_the_step_of_those_of_the_host(
    device: torch.device, is_scaled: bool
) -> None:
    scaling = torch.tensor([0.5, 1.0], device=device) if is_scaled else None
    start, grad = torch.randn(2, 1500, device=device)
    states = [[start.clone(), torch.zeros_like(start), torch.ones_like(start)] for _ in "ab"]
    common: Any = {"eps": 1e-15, "weight_decay": 0.1, "skip_zero": True, "scaling": scaling}
    betas = OPTIONS["betas"]
    for step in (2, 3):
        lr = 0.1 / step
        numbers = torch.tensor(step_numbers(lr, betas, step), dtype=torch.float64, device=device)
        for state, changing in (
            (states[0], {"lr": lr, "num_steps": step}),
            (states[1], {"lr": 7.0, "num_steps": 0, "numbers": numbers}),
        ):
            adam(state[0], grad, *state[1:], betas=betas, **changing, **common)
    for found, expected in zip(*states, strict=True):
        assert torch.equal(found, expected)


def test_a_gradient_that_is_not_a_number_makes_such_a_parameter(device: torch.device) -> None:
    param, first, second = torch.ones(3, 64, device=device)
    grad = torch.zeros_like(param)
    grad[5] = math.nan
    adam(param, grad, first, second, **OPTIONS, weight_decay=0.0, num_steps=1, skip_zero=True)
    assert param[5].isnan() and (param[torch.arange(64) != 5] == 1).all()


def test_no_entries_are_no_error(device: torch.device) -> None:
    nothing = torch.zeros(0, device=device)
    adam(*(nothing,) * 4, **OPTIONS, weight_decay=0.0, num_steps=1, skip_zero=True)

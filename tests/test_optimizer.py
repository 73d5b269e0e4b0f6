"""Adam: equal to PyTorch's on dense groups; sparse entries without gradient stand still."""

import pytest
import torch
from torch import nn

from nfields.optimizer import Adam, ParameterGroup


def quadratic_steps(optimizer: torch.optim.Optimizer, param: nn.Parameter, num_steps: int) -> None:
    target = torch.linspace(-1, 1, param.numel(), dtype=param.dtype).reshape(param.shape)
    for _ in range(num_steps):
        optimizer.zero_grad()
        ((param - target) ** 4).sum().backward()
        optimizer.step()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("is_sparse", [False, True])
def test_equals_adam_of_pytorch_where_all_have_gradients(
    weight_decay: float, is_sparse: bool, generator: torch.Generator
) -> None:
    start = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    group = ParameterGroup("all", [ours], 0.02, weight_decay, is_sparse)
    quadratic_steps(Adam([group], (0.9, 0.99), 1e-15), ours, 20)
    reference = torch.optim.Adam(
        [theirs], 0.02, betas=(0.9, 0.99), eps=1e-15, weight_decay=weight_decay
    )
    quadratic_steps(reference, theirs, 20)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_sparse_entries_without_gradient_stand_still() -> None:
    param = nn.Parameter(torch.ones(4))
    optimizer = Adam([ParameterGroup("grid", [param], 0.1, 0.5, is_sparse=True)], (0.9, 0.99), 1e-9)
    param.grad = torch.tensor([1.0, 1.0, 0.0, 0.0])
    optimizer.step()
    param.grad = torch.tensor([1.0, 0.0, 1.0, 0.0])
    before = {key: value.clone() for key, value in optimizer.state[param].items()}
    values = param.detach().clone()
    optimizer.step()
    stands = torch.tensor([False, True, False, True])
    assert torch.equal(param == values, stands)
    for key in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(optimizer.state[param][key] == before[key], stands)


def test_dense_entries_without_gradient_go_on() -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = Adam([ParameterGroup("net", [param], 0.1)], (0.9, 0.99), 1e-9)
    param.grad = torch.tensor([1.0, 1.0])
    optimizer.step()
    values = param.detach().clone()
    param.grad = torch.zeros(2)
    optimizer.step()
    assert bool((param != values).all())


def test_state_is_there_before_the_first_step() -> None:
    param = nn.Parameter(torch.ones(2))
    optimizer = Adam([ParameterGroup("net", [param], 0.1)], (0.9, 0.99), 1e-9)
    assert optimizer.state_dict()["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}


def test_parameters_without_gradient_and_empty_groups_are_left_out() -> None:
    param = nn.Parameter(torch.ones(2))
    groups = [ParameterGroup("net", [param], 0.1), ParameterGroup("none", [], 0.1)]
    optimizer = Adam(groups, (0.9, 0.99), 1e-9)
    optimizer.step()
    assert torch.equal(param, torch.ones(2)) and int(optimizer.state[param]["step"]) == 0


def test_learning_rate_scales_from_the_initial_one() -> None:
    optimizer = Adam([ParameterGroup("net", [nn.Parameter(torch.ones(1))], 0.3)], (0.9, 0.99), 1e-9)
    assert optimizer.param_groups[0]["initial_lr"] == 0.3


def test_rate_of_a_group_falls_to_its_own_part_by_the_end() -> None:
    groups = [
        ParameterGroup("net", [nn.Parameter(torch.ones(1))], 0.3),
        ParameterGroup("poses", [nn.Parameter(torch.ones(1))], 0.2, final_lr_part=0.01),
    ]
    optimizer = Adam(groups, (0.9, 0.99), 1e-9)
    for progress, part in ((0.0, 1.0), (0.5, 0.1), (1.0, 0.01)):
        optimizer.set_rates(0.5, progress)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == pytest.approx([0.15, 0.1 * part])


def test_pull_takes_away_what_no_gradient_holds_and_little_of_what_one_does() -> None:
    """Adam steps by the sign of a steady gradient, lr, and is pulled back by lr * pull * value."""
    held, free = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.ones(1))
    group = ParameterGroup("poses", [held, free], 0.01, pull=2.0)
    optimizer = Adam([group], (0.9, 0.99), 1e-12)
    for _ in range(300):
        held.grad, free.grad = -torch.ones(1), torch.zeros(1)
        optimizer.step()
    assert free.item() == pytest.approx(0.98**300, rel=1e-4)
    assert held.item() == pytest.approx(0.5 * (1 - 0.98**300), rel=1e-3)  # at rest at 1 / pull

"""The contract of every representation: all files of configs/model, in 2-D and 3-D."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

import nfields
from nfields.config import build, config_folder
from nfields.model.field import Field, GroupReadout, Samples
from nfields.optimizer import Adam
from tests.compare import assert_matches

MODELS = sorted(Path(file).stem for file in (config_folder() / "model").glob("*.yaml"))
NUM_SAMPLES = 4096


def options(name: str, *overrides: str) -> list[str]:
    """Overrides that make a model small; those that a model does not have are left out."""
    cfg = nfields.compose(["task=nerf", f"model={name}"]).model
    small = {
        "num_levels": 4, "max_resolution": 64, "log2_entries": 9, "width": 16, "mlp_width": 16,
        "num_frequencies": 6, "degree": 4, "num_kernels": 64, "num_neighbors": 4,
    }  # fmt: skip
    return [
        "task=nerf", f"model={name}",
        *(f"model.{key}={value}" for key, value in small.items() if key in cfg),
        *(f"model.{override}" for override in overrides),
    ]  # fmt: skip


def make(name: str, in_dim: int, *overrides: str, seed: int = 0) -> Field:
    cfg = nfields.compose(options(name, *overrides))
    model = build(cfg.model, in_dim=in_dim, out_dim=3)
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(NUM_SAMPLES, in_dim, generator=generator) - 1
    model.initialize(Samples(x, torch.ones(len(x))), generator)
    return model


def points(num: int, in_dim: int, seed: int = 1) -> Tensor:
    return 2 * torch.rand(num, in_dim, generator=torch.Generator().manual_seed(seed)) - 1


every_model = pytest.mark.parametrize("name", MODELS)
both_sizes = pytest.mark.parametrize("in_dim", [2, 3])


@every_model
@both_sizes
@pytest.mark.slow
def test_values_have_the_size_of_the_readout(name: str, in_dim: int) -> None:
    model = make(name, in_dim)
    assert model.in_dim == in_dim and model.out_dim == model.readout.out_features == 3
    for num in (0, 1, 130):
        values = model(points(num, in_dim))
        assert values.shape == (num, 3) and values.isfinite().all()


@every_model
def test_a_point_has_its_value_whatever_comes_with_it(name: str) -> None:
    model = make(name, 3)
    x = points(700, 3)
    assert_matches(model(x)[333:334], model(x[333:334]), num_operations=1000)


@every_model
def test_points_may_come_from_any_memory(name: str) -> None:
    model = make(name, 3)
    x = points(300, 3)
    strided = torch.stack([x, x], dim=2)[:, :, 0]
    assert not strided.is_contiguous()
    assert_matches(model(strided), model(x), num_operations=1000)


@every_model
@both_sizes
@pytest.mark.slow
def test_kernels_agree_with_the_reference_backend(name: str, in_dim: int) -> None:
    """In float64, so that a difference is a mistake and not rounding."""
    ours = make(name, in_dim).double()
    reference = make(name, in_dim, "backend=reference").double()
    reference.load_state_dict(ours.state_dict())
    x = points(200, in_dim).double()
    assert_matches(ours(x), reference(x), num_operations=10_000)
    for model in (ours, reference):
        model(x).square().sum().backward()
    wanted = dict(reference.named_parameters())
    for key, parameter in ours.named_parameters():
        if parameter.requires_grad:
            gradient, other = parameter.grad, wanted[key].grad
            assert gradient is not None and other is not None, key
            assert_matches(gradient, other, num_operations=100_000)


@every_model
@both_sizes
@pytest.mark.slow
def test_first_derivative_is_the_slope(name: str, in_dim: int) -> None:
    """Along short lines inside a cell or kernel's neighbourhood; in float64."""
    model = make(name, in_dim).double()
    x = points(60, in_dim).double().requires_grad_()
    (slope,) = torch.autograd.grad(model(x)[:, 0].sum(), x)
    step = 1e-6 * torch.ones(in_dim, dtype=torch.float64)
    with torch.no_grad():
        difference = (model(x + step)[:, 0] - model(x - step)[:, 0]) / 2e-6
    error = ((slope.sum(dim=1)) - difference).abs() / (difference.abs().mean() + 1e-12)
    # Grids and neighbour lists have kinks: a few lines may cross one.
    assert error.median() < 1e-4 and (error < 1e-2).double().mean() > 0.95


@every_model
def test_second_derivatives_reach_every_parameter(name: str) -> None:
    """A loss on gradients (eikonal) trains the model."""
    model = make(name, 3)
    x = points(100, 3).requires_grad_()
    (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    (slope.norm(dim=1) - 1).square().mean().backward()
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and not key.endswith("bias"):  # no part in slopes with ReLU
            assert parameter.grad is not None and parameter.grad.any(), f"{key} gets no gradient"
            assert parameter.grad.isfinite().all()


@every_model
@pytest.mark.slow
def test_initialisation_follows_the_generator_alone(name: str) -> None:
    first, second, other = make(name, 2), make(name, 2), make(name, 2, seed=3)
    state = second.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in first.state_dict().items())
    state = other.state_dict()
    assert not all(torch.equal(value, state[key]) for key, value in first.state_dict().items())


@every_model
@pytest.mark.slow
def test_saved_weights_give_the_same_values(name: str) -> None:
    first, second = make(name, 3), make(name, 3, seed=5)
    x = points(100, 3)
    assert not torch.equal(first(x), second(x))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))


@every_model
def test_groups_replace_the_readout(name: str) -> None:
    model = make(name, 3)
    generator = torch.Generator().manual_seed(2)
    hidden = model.readout.in_features
    weight = torch.randn(3, 4, hidden, generator=generator)
    bias = torch.randn(3, 4, generator=generator)
    offsets = torch.tensor([0, 40, 41, 100])
    x = points(100, 3)
    values = model(x, GroupReadout(weight, bias, offsets))
    assert values.shape == (100, 4)
    for g, (start, end) in enumerate(pairwise(offsets.tolist())):
        alone = model(x[start:end], GroupReadout(weight[g : g + 1], bias[g : g + 1], None))
        assert_matches(values[start:end], alone, num_operations=1000)


@every_model
def test_every_trained_parameter_is_in_one_group(name: str) -> None:
    model = make(name, 2)
    grouped = [p for group in model.parameter_groups() for p in group.params]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in trained(model)}


@every_model
@pytest.mark.slow
def test_size_option_adds_parameters(name: str) -> None:
    cfg = nfields.compose(options(name)).model
    option = make(name, 2).size_option
    small, large = (
        sum(p.numel() for p in make(name, 2, f"{option}={value}").parameters())
        for value in (cfg[option], cfg[option] + 2)
    )
    assert small < large


@every_model
@pytest.mark.slow
def test_a_few_steps_learn_a_wave(name: str) -> None:
    model = make(name, 2)
    optimizer = Adam(model.parameter_groups(), (0.9, 0.99), 1e-15)
    losses = []
    for step in range(150):
        x = points(512, 2, seed=step)
        target = torch.stack([(3 * x[:, 0]).sin(), (3 * x[:, 1]).cos(), x.prod(dim=1)], dim=1)
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def trained(model: Field) -> list[Tensor]:
    return [p for p in model.parameters() if p.requires_grad]

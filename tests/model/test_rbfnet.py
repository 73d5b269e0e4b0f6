"""rbfnet: its initialisation, its encoders and decoders, groups, and what a few steps learn."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import nfields
from nfields.config import build
from nfields.errors import ConfigError
from nfields.model.field import GroupReadout, Samples
from nfields.model.rbfnet import RBFNet
from nfields.optimizer import Adam
from tests.compare import assert_matches


def make(overrides: Sequence[str] = (), in_dim: int = 2, out_dim: int = 3) -> RBFNet:
    options = ["num_levels=4", "max_resolution=64", "log2_entries=12", *overrides]
    cfg = nfields.compose(["task=image", "model=rbfnet", *(f"model.{o}" for o in options)])
    return build(cfg.model, in_dim=in_dim, out_dim=out_dim)


def initialized(overrides: Sequence[str] = (), seed: int = 0, **sizes: int) -> RBFNet:
    model = make(overrides, **sizes)
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.rand(4096, model.in_dim, generator=generator) - 1
    model.initialize(Samples.uniform(x), generator)
    return model


ENCODERS = [["encoder=dense"], ["encoder=hash"], ["encoder=dif"]]
DIF_PLAIN = ["encoder=dif", "dif_coefficient_resolution=null"]


@pytest.mark.parametrize("encoder", [*ENCODERS, DIF_PLAIN], ids=" ".join)
@pytest.mark.parametrize("decoder", ["rbf", "mlp"])
@pytest.mark.parametrize("in_dim", [2, 3])
@pytest.mark.slow
def test_every_encoder_and_decoder_gives_values_and_gradients(
    encoder: list[str], decoder: str, in_dim: int
) -> None:
    small = ["dif_features=[4,4,4,4]", "dif_resolutions=[4,6,8,9]", "dif_frequencies=[2,3.2,4.4,8]"]
    small.append(f"decoder={decoder}")
    model = initialized([*encoder, *small], in_dim=in_dim)
    values = model(2 * torch.rand(50, in_dim) - 1)
    assert values.shape == (50, 3)
    values.square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), f"{name} gets no gradient"


def test_initial_responses_are_spread_whatever_the_scale_of_the_features() -> None:
    """Neurons must differ from each other, and each between points: the published start fails."""
    spreads = []
    for scale in (1e-4, 1e-2, 1.0):
        model = initialized([f"feature_init={scale}", "linear_term=false"])
        features = model.features(2 * torch.rand(1000, 2) - 1).detach()
        scaled = (features[:, None] - model.centers) * model.log_inv_widths.exp()
        responses = torch.exp(-0.5 * scaled.square().sum(dim=2)).detach()
        assert responses.mean() > 0.05 and responses.std(dim=1).mean() > 0.05
        spreads.append(responses.std(dim=0).mean().item())
    assert 0.01 < min(spreads) and max(spreads) < 1.03 * min(spreads)  # the same at every scale


def test_initialisation_depends_on_the_generator_alone() -> None:
    torch.manual_seed(1)  # noqa: TID251 - the claim is that this does not matter
    first = initialized(seed=5).state_dict()
    torch.manual_seed(2)  # noqa: TID251
    second = initialized(seed=5).state_dict()
    other = initialized(seed=6).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize("decoder", ["rbf", "mlp"])
def test_group_readouts_are_linear_combinations_of_the_values(decoder: str) -> None:
    model = initialized([f"decoder={decoder}"], out_dim=3)
    x = 2 * torch.rand(40, 2) - 1
    mixing = torch.randn(3, 3, 3)
    offsets = torch.tensor([0, 15, 15, 40])
    groups = GroupReadout(
        mixing @ model.readout.weight, (mixing @ model.readout.bias[:, None])[..., 0], offsets
    )
    group = torch.repeat_interleave(offsets.diff())
    expected = (mixing[group] @ model(x)[..., None])[..., 0]
    assert_matches(model(x, groups), expected, num_operations=200)


def test_backends_agree() -> None:
    numba, reference = initialized(), initialized(["backend=reference"])
    reference.load_state_dict(numba.state_dict())
    x = 2 * torch.rand(200, 2) - 1
    assert_matches(numba(x), reference(x), num_operations=4 * 64**2)  # positions: 64 eps


def fit_wave(model: RBFNet, steps: int) -> float:
    """Root mean square error after fitting a wave of two periods in each of three channels."""
    generator = torch.Generator().manual_seed(0)
    optimizer = Adam(model.parameter_groups(), (0.9, 0.99), 1e-15)

    def wave(x: Tensor) -> Tensor:
        return torch.sin(6 * x[:, :1]) * torch.cos(6 * x[:, 1:]) * torch.tensor([1.0, 0.5, -1.0])

    for _ in range(steps):
        x = 2 * torch.rand(1024, 2, generator=generator) - 1
        loss = (model(x) - wave(x)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x = 2 * torch.rand(4096, 2, generator=generator) - 1
    return (model(x) - wave(x)).square().mean().sqrt().item()


@pytest.mark.parametrize("decoder", ["rbf", "mlp"])
@pytest.mark.slow
def test_a_smooth_function_is_learned_in_two_hundred_steps(decoder: str) -> None:
    assert fit_wave(initialized([f"decoder={decoder}"]), 200) < 0.03


def test_published_initialisation_is_worse() -> None:
    """Centres U(+-1e-4) and widths 1 on features of 1e-4, as released: PAPERS' reason for ours."""
    dense = ["encoder=dense", "num_levels=6", "max_resolution=160"]
    ours = initialized(dense)
    theirs = initialized([*dense, "linear_term=false", "feature_init=1e-4"])
    with torch.no_grad():
        theirs.centers.uniform_(-1e-4, 1e-4)
        theirs.log_inv_widths.zero_()
    assert fit_wave(ours, 60) < 0.6 * fit_wave(theirs, 60)


def test_impossible_options_are_refused_with_their_names() -> None:
    for option in ("num_neurons=65", "num_neurons=0", "feature_init=0", "features_per_level=3"):
        with pytest.raises(ConfigError, match=option.split("=")[0]):
            make(["encoder=dense", option])
    with pytest.raises(ConfigError, match="dif_scale"):
        make(["encoder=dif", "dif_scale=0"])
    with pytest.raises(ConfigError, match="dif_frequencies"):
        make(["encoder=dif", "dif_frequencies=[2,3]"])
    with pytest.raises(ConfigError, match="max_resolution"):
        make(["encoder=dense", "max_resolution=2048"], in_dim=3)

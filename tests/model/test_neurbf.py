"""neurbf: where kernels go and how they are shaped, the size it takes, checkpoints, refusals."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import nfields
from nfields.config import build
from nfields.errors import ConfigError
from nfields.model.field import Samples
from nfields.model.kernel_placement import clip_axes, cluster_covariances, place_kernels
from nfields.model.neurbf import NeuRBF
from tests.compare import assert_matches


def make(
    overrides: Sequence[str] = (), in_dim: int = 2, out_dim: int = 3, task: str = "image"
) -> NeuRBF:
    small = ["num_kernels=64", "rbf_features=8", "width=16", "max_resolution=32", *overrides]
    cfg = nfields.compose([f"task={task}", "model=neurbf", *(f"model.{o}" for o in small)])
    return build(cfg.model, in_dim=in_dim, out_dim=out_dim)


def drawn(num: int, dim: int = 2, seed: int = 0) -> Tensor:
    return 2 * torch.rand(num, dim, generator=torch.Generator().manual_seed(seed)) - 1


def initialized(overrides: Sequence[str] = (), in_dim: int = 2, seed: int = 0) -> NeuRBF:
    model = make(overrides, in_dim)
    samples = Samples.uniform(drawn(4000, in_dim, seed))
    model.initialize(samples, torch.Generator().manual_seed(seed))
    return model


def size_of(model: NeuRBF | torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_kernels_are_dense_where_weights_are_large(generator: torch.Generator) -> None:
    """Ninety times the weight right of 0; k-means then puts in 2-D about sqrt(90) as many there."""
    x = drawn(20_000)
    weights = torch.where(x[:, 0] > 0, 90.0, 1.0)
    centers, _ = place_kernels(Samples(x, weights), 400, generator)
    right = (centers[:, 0] > 0).double().mean().item()
    assert 0.9 < right < 0.99


def test_every_sample_belongs_to_its_nearest_centre(generator: torch.Generator) -> None:
    x = drawn(3000, 3)
    centers, cluster = place_kernels(Samples.uniform(x), 50, generator)
    assert torch.equal(cluster, torch.cdist(x.double(), centers).argmin(dim=1))


def test_one_kernel_lies_at_the_weighted_mean(generator: torch.Generator) -> None:
    x, weights = drawn(5000).double(), torch.rand(5000, dtype=torch.float64)
    centers, _ = place_kernels(Samples(x, weights), 1, generator)
    mean = (weights[:, None] * x).sum(dim=0, keepdim=True) / weights.sum()
    assert_matches(centers, mean, num_operations=5000, scale=1.0)


def test_samples_without_weight_attract_no_kernel(generator: torch.Generator) -> None:
    x = drawn(4000)
    centers, _ = place_kernels(Samples(x, 2.0 * (x[:, 1] > 0)), 50, generator)
    assert (centers[:, 1] > 0).all()


@pytest.mark.parametrize("weights", [torch.zeros(40), torch.ones(40)], ids=["zero", "one"])
def test_all_points_in_one_place_give_finite_kernels(weights: Tensor) -> None:
    model = make(["num_kernels=10"])
    model.initialize(Samples(torch.zeros(40, 2), weights), torch.Generator().manual_seed(0))
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert model(drawn(20)).isfinite().all()


def test_elongated_clusters_give_their_own_covariance(generator: torch.Generator) -> None:
    places = torch.tensor([[-0.5, -0.5], [0.5, 0.5], [0.5, -0.5]], dtype=torch.float64)
    root = torch.tensor([[0.05, 0.04], [0.0, 0.01]], dtype=torch.float64)
    cloud = torch.randn(3, 4000, 2, generator=generator, dtype=torch.float64) @ root
    x = (places[:, None] + cloud).reshape(-1, 2)
    cluster = torch.arange(3).repeat_interleave(4000)
    found = cluster_covariances(Samples.uniform(x.float()), places, cluster)
    expected = (root.T @ root).expand(3, 2, 2)
    assert_matches(found, expected, rtol=0.1, atol=0)  # 4000 draws: an error of 1 / sqrt(2000)


def test_shapes_invert_the_covariances_that_kernels_report() -> None:
    """alpha divides: a full kernel of alpha 0.5 is sqrt(2) as wide as its samples."""
    model = initialized(["shape_alpha=0.5", "shape_bounds=[1e-4,10]"])
    x = drawn(4000)
    cluster = torch.cdist(x, model.centers).argmin(dim=1)
    samples = cluster_covariances(Samples.uniform(x), model.centers.double(), cluster)
    kernels = model.kernels(x[:1])
    assert kernels is not None and kernels.covariances is not None
    assert_matches(kernels.covariances.double(), 2 * samples, rtol=1e-2, atol=1e-7)


def test_deviations_along_the_axes_are_within_the_bounds() -> None:
    turn = torch.linalg.qr(torch.randn(20, 3, 3, dtype=torch.float64)).Q
    spread = torch.diag(torch.tensor([0.0, 0.25, 100.0], dtype=torch.float64))
    clipped = clip_axes(turn @ spread @ turn.mT, 0.1, 2)
    expected = torch.tensor([0.1**2, 0.25, 4.0], dtype=torch.float64).expand(20, 3)
    assert_matches(torch.linalg.eigvalsh(clipped), expected, num_operations=100, scale=100.0)


def test_the_size_is_that_of_the_reference_grid() -> None:
    """Of a hash grid with the same network, but for what makes no whole kernel."""
    ours = make(["num_kernels=null", "rbf_features=32", "width=64", "reference_log2_entries=13.7"])
    kernel_size = 32 + 2 + 3
    grid = nfields.compose(
        ["task=image", "model=hashgrid", "model.max_resolution=256", "model.log2_entries=13.7"]
    )
    theirs = build(grid.model, in_dim=2, out_dim=3)
    assert 0 <= size_of(theirs) - size_of(ours) < kernel_size
    assert len(ours.centers) > 1000


def test_centres_and_shapes_are_counted_but_not_trained() -> None:
    model = initialized()
    grouped = {id(p) for group in model.parameter_groups() for p in group.params}
    assert size_of(model) - sum(p.numel() for p in model.parameters() if p.requires_grad) == 64 * 5
    assert id(model.centers) not in grouped and id(model.shapes) not in grouped
    model(drawn(30)).sum().backward()
    assert model.centers.grad is None and model.shapes.grad is None


def test_neighbours_follow_centres_that_are_loaded() -> None:
    """The search structure is no part of a checkpoint; a stale one would give other values."""
    first, second = initialized(seed=1), initialized(seed=2)
    x = drawn(200)
    before = second(x)  # builds the structure for the wrong centres
    second.load_state_dict(first.state_dict())
    assert torch.equal(second(x), first(x)) and not torch.equal(before, first(x))


def test_the_structure_is_built_once() -> None:
    model = initialized()
    assert model.neighbors() is model.neighbors()


@pytest.mark.parametrize(("kernel", "shape"), [("tent", "diagonal"), ("tent", "scalar")])
def test_a_tent_reaches_its_neighbours(kernel: str, shape: str) -> None:
    """Hardly a point between kernels sees none; a tent that is too narrow leaves holes."""
    model = initialized([f"kernel={kernel}", f"shape={shape}"])
    x = 0.9 * drawn(2000)
    offsets = (x[:, None] - model.centers).abs() * model.shapes
    seen = (offsets < 1).all(dim=2).any(dim=1)
    assert seen.float().mean() > 0.99


@pytest.mark.parametrize("options", [["layer_frequencies=null"], ["rbf_frequencies=null"], []])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_sines_can_be_left_out(options: list[str], num_layers: int) -> None:
    model = initialized([*options, f"num_layers={num_layers}"])
    values = model(drawn(50))
    assert values.shape == (50, 3) and values.isfinite().all()
    values.square().sum().backward()
    assert model.features.grad is not None and model.features.grad.any()


def test_the_first_layer_is_h_plus_the_sines_of_h() -> None:
    """With one layer, the linear readout of h1 + sin(m' h1)."""
    model = initialized(["num_layers=1", "layer_frequencies=[2,50]", "rbf_features=1"]).double()
    x = drawn(30).double()
    with torch.no_grad():
        model.features.zero_()
        model.encoder.table.zero_()
        model.bias.uniform_(-1, 1)
        layer = model.layers[0]
        assert isinstance(layer, torch.nn.Linear)
        h1 = layer.weight @ model.bias + layer.bias
        frequencies = 2 * 25 ** torch.linspace(0, 1, 16, dtype=torch.float64)
        expected = model.readout(h1 + torch.sin(frequencies * h1))
    # Frequencies are stored in float32.
    assert_matches(model(x), expected.expand(30, 3), rtol=1e-5, atol=1e-5)


def test_impossible_options_are_refused_in_the_users_terms() -> None:
    for option, name in (
        (["kernel=tent", "shape=full"], "model.shape=diagonal or scalar"),
        (["num_kernels=3", "num_neighbors=4"], "larger than the kernel count 3"),
        (["num_kernels=null", "reference_log2_entries=4"], "model.num_kernels=null"),
        (["num_neighbors=0"], "model.num_neighbors=0"),
        (["shape_alpha=0"], "model.shape_alpha=0"),
        (["shape_bounds=[0.2,0.1]"], "model.shape_bounds"),
        (["rbf_frequencies=[1]"], "model.rbf_frequencies"),
        (["layer_frequencies=[0,10]"], "model.layer_frequencies"),
    ):
        with pytest.raises(ConfigError, match=name):
            make(option)


def test_fewer_points_than_kernels_are_refused() -> None:
    model = make(["num_kernels=64"])
    with pytest.raises(ConfigError, match=r"num_kernels=64 exceeds the 50 points"):
        model.initialize(Samples.uniform(drawn(50)), torch.Generator())

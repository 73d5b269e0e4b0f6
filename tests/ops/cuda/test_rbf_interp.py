"""rbf_interp on CUDA: exact neighbours, and the kernels against the reference."""

# pyright: reportCallIssue=false
# (It takes a tuple of tensors for one argument.)

import math
from typing import Any

import pytest
import torch

from nfields.model.neurbf import NeuRBF
from nfields.ops.rbf_interp import Kernel, build_tree, nearest_centers, rbf_interp
from nfields.ops.rbf_interp.reference import nearest_reference, rbf_interp_reference
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives
from tests.ops.test_rbf_interp import NEIGHBORS, WIDTH, clustered, setting


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dim", "num_neighbors"), [(2, 4), (3, 5), (2, 1)])
@pytest.mark.slow
def test_neighbours_are_the_nearest_however_the_centres_lie(
    device: torch.device, dim: int, num_neighbors: int, dtype: torch.dtype
) -> None:
    centers = clustered(240, dim).to(device, dtype)
    far = 10 * torch.randn(20, dim)
    x = torch.cat([2 * torch.rand(150, dim) - 1, far]).to(device, dtype)
    x = torch.cat([x, centers[::10]])
    found = nearest_centers(x, centers, num_neighbors)
    expected = nearest_reference(x, centers, num_neighbors)
    distances = [(x[:, None] - centers[i.long()]).square().sum(dim=2) for i in (found, expected)]
    # Where the sums were rounded otherwise, another may be as near.
    assert_matches(distances[0], distances[1], scale=0.0)
    assert (found == expected).float().mean() > 0.99


def test_of_equally_near_centres_the_lower_index_comes_first(device: torch.device) -> None:
    axis = torch.linspace(-1, 1, 5, device=device)
    grid = torch.cartesian_prod(axis, axis)
    centers = torch.cat([grid, grid.flip(0)])  # each twice
    x = torch.cat([grid, 3 * grid, grid + 0.25])
    found = nearest_centers(x, centers, 4, build_tree(centers, 4))
    assert torch.equal(found.long(), nearest_centers(x, centers, 4, backend="reference"))


@pytest.mark.parametrize(
    ("kernel", "num_shape", "dim", "sines", "normalize"),
    [
        ("ivq", 3, 2, True, True),
        ("ivq", 6, 3, False, False),
        ("gaussian", 2, 2, True, False),
        ("imq", 1, 3, False, True),
        ("imq", 3, 2, True, False),
        ("tent", 3, 3, True, True),
        ("tent", 1, 2, False, False),
    ],
)
@pytest.mark.slow
def test_kernels_have_the_derivatives_of_the_reference(
    device: torch.device, kernel: Kernel, num_shape: int, dim: int, sines: bool, normalize: bool
) -> None:
    inputs = {key: t.to(device) for key, t in setting(200, 20, dim, num_shape, kernel).items()}
    inputs["features"] = torch.cat([inputs["features"], inputs["features"][:, :3]], dim=1)
    inputs["frequencies"] = torch.cat([inputs["frequencies"], inputs["frequencies"][:3]])
    fixed = (inputs["centers"], inputs["shapes"], inputs["frequencies"] if sines else None)
    nearest = nearest_reference(inputs["x"], inputs["centers"], NEIGHBORS)
    assert_same_derivatives(
        lambda x, features: rbf_interp(
            x, features, *fixed, kernel=kernel, num_neighbors=NEIGHBORS, normalize=normalize,
            backend="triton",
        ),
        lambda x, features: rbf_interp_reference(
            x, features, *fixed, nearest, kernel, normalize
        ),
        (inputs["x"], inputs["features"]),
        num_operations=WIDTH * NEIGHBORS * 16**2,  # frequencies up to 16 amplify rounding
        zero_rows=slice(20, 50),
    )  # fmt: skip


def test_float32_kernel_agrees_with_the_float64_reference(device: torch.device) -> None:
    inputs = {key: t.float().to(device) for key, t in setting(150, 60, 2, 3).items()}
    inputs["frequencies"] = torch.logspace(-3, 12, WIDTH, base=2.0, device=device)
    options: dict[str, Any] = {"kernel": "ivq", "num_neighbors": NEIGHBORS, "normalize": True}
    found = rbf_interp(**inputs, **options)
    exact = {key: tensor.double() for key, tensor in inputs.items()}
    expected = rbf_interp(**exact, **options, backend="reference")
    # A weight is right to some eps, which a frequency of 2^12 makes 2^12 times as much.
    assert_matches(found[:, :4], expected[:, :4], num_operations=20 * NEIGHBORS, scale=10 * 2**3)
    assert_matches(found, expected, num_operations=20 * NEIGHBORS, scale=2.0**12)


def test_sines_of_a_weight_of_one_are_those_of_the_frequencies(device: torch.device) -> None:
    center, shape = torch.zeros(1, 2, device=device), torch.ones(1, 1, device=device)
    frequencies = torch.linspace(0, 3, 64, device=device)
    found = rbf_interp(
        center, torch.ones(1, 64, device=device), center, shape, frequencies, kernel="ivq",
        num_neighbors=1, normalize=False,
    )  # fmt: skip
    assert_matches(found[0], frequencies.double().sin(), rtol=0, atol=5e-7)


@pytest.mark.parametrize("kernel", ["ivq", "gaussian", "imq", "tent"])
def test_a_point_that_is_not_a_number_gives_nan(device: torch.device, kernel: Kernel) -> None:
    size = 2 if kernel == "tent" else 3
    inputs = {key: t.to(device) for key, t in setting(3, 20, 2, size, kernel).items()}
    inputs["x"][1, 0] = math.nan
    found = rbf_interp(**inputs, kernel=kernel, num_neighbors=NEIGHBORS, normalize=True)
    assert torch.isnan(found[1]).all() and torch.isfinite(found[[0, 2]]).all()


@pytest.mark.parametrize("num_points", [0, 1])
@pytest.mark.parametrize("num_neighbors", [1, 5])
def test_no_point_one_point_one_neighbour_and_all_kernels(
    device: torch.device, num_points: int, num_neighbors: int
) -> None:
    inputs: dict[str, Any] = {k: t.to(device) for k, t in setting(num_points, 5, 2, 3).items()}
    features = inputs["features"].requires_grad_()
    options: dict[str, Any] = {"kernel": "ivq", "num_neighbors": num_neighbors, "normalize": True}
    found = rbf_interp(**inputs, **options)
    expected = rbf_interp(**inputs, **options, backend="reference")
    assert found.shape == (num_points, WIDTH)
    assert_matches(found, expected, num_operations=100)
    found.sum().backward()
    assert features.grad is not None and features.grad.any() == (num_points > 0)


def test_a_tree_is_that_of_memory_not_written_to_since(device: torch.device) -> None:
    centers = torch.rand(20, 2, device=device)
    tree = build_tree(centers, 3)
    assert tree.fits(centers, 3) and tree.fits(centers.detach(), 3)
    assert not tree.fits(centers, 4) and not tree.fits(centers.clone(), 3)
    centers[7, 1] += 1e-6
    assert not tree.fits(centers, 3)


def test_the_model_agrees_with_its_reference(device: torch.device) -> None:
    kernels, reference = (small_neurbf(backend).to(device) for backend in ("triton", "reference"))
    reference.load_state_dict(kernels.state_dict())
    x = (2 * torch.rand(70, 2) - 1).to(device)
    assert_matches(kernels(x), reference(x), num_operations=4000)


def small_neurbf(backend: Any) -> NeuRBF:
    """A model whose kernels are scattered, and whose features and readout are not small."""
    model = NeuRBF(
        in_dim=2, out_dim=3, kernel="ivq", shape="full", num_kernels=30, num_neighbors=4,
        normalize=True, rbf_features=6, rbf_frequencies=[0.125, 16], layer_frequencies=None,
        shape_alpha=0.5, shape_bounds=[1e-3, 0.2], num_levels=2, features_per_level=2,
        base_resolution=4, max_resolution=16, log2_entries=8, reference_levels=2,
        reference_features=2, reference_base_resolution=4, reference_max_resolution=16,
        reference_log2_entries=8, feature_init=1e-4, width=16, num_layers=2, lr=1e-3, grid_lr=1e-3,
        network_lr=1e-3, backend=backend,
    )  # fmt: skip
    with torch.no_grad():
        model.centers.uniform_(-1, 1)
        model.shapes[:, [0, 2]] = 20.0
        for table in (model.encoder.table, model.features):
            table.normal_()
    return model

"""rbf_interp: closed forms of the kernels, exact neighbours, kernel against reference."""

import math
from typing import Any

import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from nfields.errors import ConfigError
from nfields.ops.rbf_interp import Kernel, build_tree, nearest_centers, rbf_interp
from nfields.ops.rbf_interp.reference import rbf_interp_reference
from tests.compare import assert_matches
from tests.ops.derivatives import assert_same_derivatives

# Kernels are compiled for their sizes and options, for seconds each, so most tests share these:
# 2-D, 4 neighbours, 8 features, and the kernels of `test_kernel_has_the_derivatives...`.
NEIGHBORS, WIDTH = 4, 8


def setting(
    num_points: int, num_kernels: int, dim: int, num_shape: int, kernel: Kernel = "ivq"
) -> dict[str, Any]:
    """Random float64 inputs; every kernel reaches some way to its neighbours."""
    spacing = 2 / num_kernels ** (1 / dim)
    root = torch.randn(num_kernels, dim, dim, dtype=torch.float64) / spacing
    matrices = root @ root.mT
    rows, columns = torch.triu_indices(dim, dim)
    shapes = matrices[:, rows, columns]
    if num_shape <= dim:
        shapes = (torch.rand(num_kernels, num_shape, dtype=torch.float64) + 0.5) / spacing**2
    if kernel == "tent":
        shapes = 0.3 * shapes.sqrt()
    return {
        "x": 2 * torch.rand(num_points, dim, dtype=torch.float64) - 1,
        "features": torch.randn(num_kernels, WIDTH, dtype=torch.float64),
        "centers": 2 * torch.rand(num_kernels, dim, dtype=torch.float64) - 1,
        "shapes": shapes,
        "frequencies": torch.logspace(-3, 4, WIDTH, base=2.0, dtype=torch.float64),
    }


def changed(inputs: dict[str, Any], **values: Any) -> dict[str, Any]:
    """Arguments of which some are others."""
    return {**inputs, **values}


def clustered(num_centers: int, dim: int) -> Tensor:
    """Half of the centres fill [-1, 1]^d, the others two knots, over a hundred times as dense."""
    scattered = 2 * torch.rand(num_centers // 2, dim) - 1
    knots = [torch.randn(num_centers // 4, dim) * size + 0.4 for size in (0.02, 1e-4)]
    return torch.cat([scattered, *knots])


def response(kernel: Kernel, offset: Tensor, shape: Tensor, backend: str) -> Tensor:
    """phi at points `offset` away from a kernel, the only one whose feature is not zero."""
    center = torch.tensor([[0.25, -0.5]], dtype=torch.float64)
    features = torch.zeros(NEIGHBORS, WIDTH, dtype=torch.float64)
    features[0] = 1
    return rbf_interp(
        center + offset, features, center.repeat(NEIGHBORS, 1), shape.repeat(NEIGHBORS, 1), None,
        kernel=kernel, num_neighbors=NEIGHBORS, normalize=False, backend=backend,
    )[:, 0]  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize(
    ("kernel", "shape", "expected"),
    [
        ("ivq", [1.0, 0.5, 2.5], [1, 1 / 14]),  # q = 1 * 1^2 + 2 * 0.5 * 1 * 2 + 2.5 * 2^2
        ("gaussian", [1.0, 3.0], [1, math.exp(-6.5)]),
        ("imq", [2.6], [1, 14**-0.5]),
    ],
)
def test_responses_have_their_closed_forms(
    kernel: Kernel, shape: list[float], expected: list[float], backend: str
) -> None:
    """At the centre and where q = 13."""
    offset = torch.tensor([[0.0, 0.0], [1.0, 2.0]], dtype=torch.float64)
    found = response(kernel, offset, torch.tensor([shape], dtype=torch.float64), backend)
    assert_matches(found, torch.tensor(expected, dtype=torch.float64), num_operations=10)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_tent_falls_linearly_to_zero_on_each_axis(backend: str) -> None:
    offset = torch.tensor([[0, 0], [0.25, 0], [0.25, -0.05], [0, 0.2]], dtype=torch.float64)
    shape = torch.tensor([[2.0, 10.0]], dtype=torch.float64)  # half widths 0.5 and 0.1
    expected = torch.tensor([1, 0.5, 0.25, 0], dtype=torch.float64)
    assert_matches(response("tent", offset, shape, backend), expected, num_operations=10)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_a_scalar_a_diagonal_and_a_full_shape_can_say_the_same(backend: str) -> None:
    offset = torch.randn(50, 2, dtype=torch.float64)
    shapes = [[3.0], [3.0, 3.0], [3.0, 0.0, 3.0]]
    scalar, diagonal, full = (
        response("ivq", offset, torch.tensor([s], dtype=torch.float64), backend) for s in shapes
    )
    assert_matches(diagonal, scalar, num_operations=10)
    assert_matches(full, scalar, num_operations=10)


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_normalised_weights_sum_to_one(backend: str) -> None:
    inputs = changed(setting(200, 60, 2, 3), frequencies=None)
    inputs["features"] = torch.ones_like(inputs["features"])
    found = rbf_interp(
        **inputs, kernel="ivq", num_neighbors=NEIGHBORS, normalize=True, backend=backend
    )
    assert_matches(found, torch.ones_like(found), rtol=1e-6)  # the sum is 1e-8 short, over phi


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_with_one_neighbour_the_value_is_the_sine_of_its_response(backend: str) -> None:
    inputs = setting(100, 30, 2, 3)
    x, centers = inputs["x"], inputs["centers"]
    nearest = torch.cdist(x, centers).argmin(dim=1)
    found = rbf_interp(**inputs, kernel="imq", num_neighbors=1, normalize=False, backend=backend)
    offset, s = x - centers[nearest], inputs["shapes"][nearest]
    matrix = torch.stack([s[:, 0], s[:, 1], s[:, 1], s[:, 2]], dim=1).view(-1, 2, 2)
    q = (offset[:, None] @ matrix @ offset[:, :, None])[:, 0, 0]
    sine = torch.sin(inputs["frequencies"] * (1 + q[:, None]) ** -0.5)
    assert_matches(found, inputs["features"][nearest] * sine, num_operations=100)


@pytest.mark.parametrize(
    ("dim", "num_neighbors", "dtype"),
    [(2, 4, torch.float32), (2, 4, torch.float64), (3, 8, torch.float32), (2, 1, torch.float64)],
)
@pytest.mark.slow
def test_neighbours_are_those_of_a_kd_tree_however_the_centres_lie(
    dim: int, num_neighbors: int, dtype: torch.dtype
) -> None:
    centers = clustered(3000, dim).to(dtype)
    near = centers[::2] + 1e-3 * torch.randn(1500, dim).to(dtype)
    x = torch.cat([2 * torch.rand(1000, dim) - 1, 10 * torch.randn(500, dim)]).to(dtype)
    x = torch.cat([x, near])
    found = nearest_centers(x, centers, num_neighbors).long()
    distance, expected = KDTree(centers.double()).query(x.double(), k=num_neighbors + 1)
    distance, expected = torch.from_numpy(distance), torch.from_numpy(expected)
    gaps = distance.diff(dim=1).amin(dim=1) / distance[:, -1]
    clear = gaps > 4 * torch.finfo(dtype).eps  # what is nearer may be decided by rounding elsewhere
    assert clear.float().mean() > 0.9
    assert torch.equal(found[clear], expected[clear, :num_neighbors])
    chosen = (x[:, None].double() - centers[found].double()).norm(dim=2)
    assert_matches(chosen.to(dtype), distance[:, :num_neighbors], num_operations=2 * dim)


def test_a_point_at_infinity_ends_its_way_down_the_tree() -> None:
    centers = clustered(300, 2).float()
    x = torch.tensor([[0.1, 0.2], [torch.inf, 0], [0, torch.inf], [torch.inf, torch.inf]])
    tree = build_tree(centers, 4)
    for point in x:
        node = -1
        child = 0
        while child != node:  # a leaf is its own child
            node = child
            axis, child = tree.link[node].tolist()
            child += int(point[axis] >= tree.split[node])
            assert child < len(tree.split)
    found = nearest_centers(x, centers, 4, tree)
    assert ((found >= 0) & (found < 300)).all()
    assert torch.equal(found[:1], nearest_centers(x[:1], centers, 4))


@pytest.mark.parametrize("backend", ["reference", "numba"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_of_equally_near_centres_the_lower_index_comes_first(
    dtype: torch.dtype, backend: str
) -> None:
    axis = torch.linspace(-1, 1, 9, dtype=dtype)
    grid = torch.cartesian_prod(axis, axis)
    centers = torch.cat([grid, grid])  # each twice
    x = torch.cat([grid, 3 * grid])
    found = nearest_centers(x, centers, 4, backend=backend).long()
    squares = (x[:, None] - centers).square().sum(dim=2)
    expected = squares.sort(dim=1, stable=True).indices[:, :4]
    assert torch.equal(found, expected)


def test_a_thousand_equal_centres_are_searched_all_the_same() -> None:
    centers = torch.cat([torch.full((1000, 2), 0.3), 2 * torch.rand(50, 2) - 1])
    tree = build_tree(centers, 4)
    x = torch.cat([torch.full((1, 2), 0.3), 2 * torch.rand(500, 2) - 1])
    found = nearest_centers(x, centers, 4, tree)
    assert torch.equal(found.long(), nearest_centers(x, centers, 4, backend="reference"))
    assert tree.index.numel() < 20_000  # only four of them can ever count


def test_a_tree_knows_the_centres_it_was_built_for() -> None:
    centers = torch.rand(20, 2)
    tree = build_tree(centers, 3)
    assert tree.fits(centers, 3) and not tree.fits(centers, 4)
    centers[7, 1] += 1e-6
    assert not tree.fits(centers, 3)


@pytest.mark.parametrize(
    ("kernel", "num_shape", "dim", "sines", "normalize"),
    [
        ("ivq", "full", 2, True, True),
        ("ivq", "full", 3, True, False),
        ("gaussian", "diagonal", 2, False, False),
        ("imq", "scalar", 2, False, False),
        ("tent", "diagonal", 2, False, False),
        ("tent", "scalar", 3, False, True),
    ],
)
def test_kernel_has_the_derivatives_of_the_reference(
    kernel: Kernel, num_shape: str, dim: int, sines: bool, normalize: bool
) -> None:
    size = {"scalar": 1, "diagonal": dim, "full": dim * (dim + 1) // 2}[num_shape]
    inputs = setting(150, 40, dim, size, kernel)
    fixed = (inputs["centers"], inputs["shapes"], inputs["frequencies"] if sines else None)
    nearest = nearest_centers(inputs["x"], inputs["centers"], NEIGHBORS, backend="reference")
    assert_same_derivatives(
        lambda x, features: rbf_interp(
            x, features, *fixed, kernel=kernel, num_neighbors=NEIGHBORS, normalize=normalize,
            backend="numba",
        ),
        lambda x, features: rbf_interp_reference(
            x, features, *fixed, nearest, kernel, normalize
        ),
        [inputs["x"], inputs["features"]],
        num_operations=WIDTH * NEIGHBORS * 16**2,  # frequencies up to 16 amplify rounding
        zero_rows=slice(20, 50),
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["reference", "numba"])
def test_the_slope_is_that_of_the_values_through_the_normaliser_too(backend: str) -> None:
    inputs = setting(100, 40, 2, 3)
    step = 1e-6 * torch.randn(100, 2, dtype=torch.float64)
    options: dict[str, Any] = {
        "kernel": "ivq", "num_neighbors": NEIGHBORS, "normalize": True, "backend": backend
    }  # fmt: skip
    x = inputs.pop("x").requires_grad_()
    with torch.no_grad():
        after = rbf_interp(x + step, **inputs, **options).sum(dim=1)
        before = rbf_interp(x - step, **inputs, **options).sum(dim=1)
        same = (
            nearest_centers(x + step, inputs["centers"], NEIGHBORS)
            == nearest_centers(x - step, inputs["centers"], NEIGHBORS)
        ).all(dim=1)
    rbf_interp(x, **inputs, **options).sum().backward()
    assert x.grad is not None and same.float().mean() > 0.9
    found = (x.grad * 2 * step).sum(dim=1)[same]
    # Central differences: the third derivative, times the step squared; and cancellation.
    assert_matches(found, (after - before)[same], rtol=1e-4, atol=1e-11)


def test_float32_kernel_agrees_with_the_float64_reference() -> None:
    inputs = setting(300, 100, 2, 3)
    inputs["frequencies"] = torch.logspace(-3, 12, WIDTH, base=2.0, dtype=torch.float64)
    inputs = {key: tensor.float() for key, tensor in inputs.items()}
    options: dict[str, Any] = {"kernel": "ivq", "num_neighbors": NEIGHBORS, "normalize": True}
    found = rbf_interp(**inputs, **options)
    exact = {key: tensor.double() for key, tensor in inputs.items()}
    expected = rbf_interp(**exact, **options, backend="reference")
    # A weight is right to some eps, which a frequency of 2^12 makes 2^12 times as much.
    assert_matches(found[:, :4], expected[:, :4], num_operations=20 * NEIGHBORS, scale=10 * 2**3)
    assert_matches(found, expected, num_operations=20 * NEIGHBORS, scale=2.0**12)


def test_the_number_of_threads_changes_nothing() -> None:
    inputs = {key: tensor.float() for key, tensor in setting(3000, 50, 2, 3).items()}
    gradients = []
    threads = torch.get_num_threads()
    for num_threads in (1, 2):
        torch.set_num_threads(num_threads)
        features = inputs["features"].clone().requires_grad_()
        values = rbf_interp(
            **changed(inputs, features=features), kernel="ivq", num_neighbors=NEIGHBORS,
            normalize=True,
        )  # fmt: skip
        values.square().sum().backward()
        gradients.append(features.grad)
    torch.set_num_threads(threads)
    assert torch.equal(gradients[0], gradients[1])


@pytest.mark.parametrize("kernel", ["ivq", "gaussian", "tent"])
def test_a_far_point_has_no_denormal_value_and_a_finite_slope(kernel: Kernel) -> None:
    num_shape = 2 if kernel == "tent" else 3
    inputs = {key: t.float() for key, t in setting(3, 20, 2, num_shape, kernel).items()}
    x = (inputs.pop("x") * 1e4).requires_grad_()
    values = rbf_interp(x, **inputs, kernel=kernel, num_neighbors=NEIGHBORS, normalize=True)
    values.sum().backward()
    assert x.grad is not None and torch.isfinite(x.grad).all() and torch.isfinite(values).all()
    tiny = torch.finfo(torch.float32).tiny
    assert ((values == 0) | (values.abs() > tiny)).all()


def test_a_point_that_is_not_a_number_gives_nan_and_no_crash() -> None:
    inputs = setting(3, 20, 2, 3)
    inputs["x"][1, 0] = math.nan
    found = rbf_interp(**inputs, kernel="ivq", num_neighbors=NEIGHBORS, normalize=True)
    assert torch.isnan(found[1]).all() and torch.isfinite(found[[0, 2]]).all()


@pytest.mark.parametrize("num_points", [0, 1])
@pytest.mark.parametrize(
    ("kernel", "num_neighbors", "normalize"), [("imq", 1, False), ("ivq", NEIGHBORS, True)]
)
def test_no_point_one_point_one_neighbour_and_all_kernels(
    num_points: int, kernel: Kernel, num_neighbors: int, normalize: bool
) -> None:
    inputs = setting(num_points, NEIGHBORS, 2, 3)
    features = inputs["features"].requires_grad_()
    inputs = changed(inputs, kernel=kernel, num_neighbors=num_neighbors, normalize=normalize)
    found = rbf_interp(**inputs)
    expected = rbf_interp(**inputs, backend="reference")
    assert found.shape == (num_points, WIDTH)
    assert_matches(found, expected, num_operations=100)
    found.sum().backward()
    assert features.grad is not None and features.grad.any() == (num_points > 0)


def test_wrong_arguments_are_refused() -> None:
    inputs = changed(setting(4, 5, 2, 3), kernel="ivq", num_neighbors=4, normalize=True)
    with pytest.raises(ValueError, match=r"num_neighbors=6 must be in 1\.\.5"):
        rbf_interp(**changed(inputs, num_neighbors=6))
    with pytest.raises(ValueError, match="numbers a shape"):
        rbf_interp(**changed(inputs, kernel="tent"))
    with pytest.raises(ValueError, match="must agree"):
        rbf_interp(**changed(inputs, x=inputs["x"].float()))
    with pytest.raises(ConfigError, match="triton"):
        rbf_interp(**inputs, backend="triton")

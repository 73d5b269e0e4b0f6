"""sphere_trace: closed forms of depths, thin parts, starts inside; kernel against reference."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from nfields.ops.sphere_trace import BoundGrid, sphere_trace
from tests.compare import assert_matches

GAP, TOLERANCE = 0.01, 0.002
BACKENDS = pytest.mark.parametrize("backend", ["reference", "numba"])


def ball(x: Tensor) -> Tensor:
    return x.norm(dim=1) - 0.7


def torus(x: Tensor) -> Tensor:
    ring = torch.stack([x[:, :2].norm(dim=1) - 0.6, x[:, 2]], dim=1)
    return ring.norm(dim=1) - 0.2


def wavy(x: Tensor) -> Tensor:
    """Steep and rough, nowhere a distance: slopes up to 1.9."""
    return ball(x) + 0.04 * torch.sin(20 * x).prod(dim=1)


def bound_of(distance: Callable[[Tensor], Tensor], lipschitz: float = 1.0, cells: int = 32):
    axis = torch.linspace(-1, 1, cells + 1, dtype=torch.float64)
    corners = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1)
    values = distance(corners.view(-1, 3)).view(corners.shape[:3]) / lipschitz
    return BoundGrid(values.float(), torch.full((3,), -1.0), 2 / cells)


def trace(
    distance, origins, directions, lipschitz: float | None = 1.0, backend: str = "numba", **other
):
    options = {
        "gap": GAP,
        "tolerance": TOLERANCE,
        "slopes": lipschitz and (lipschitz,),
        "backend": backend,
    }
    options |= other
    if "bound" not in options:
        options["bound"] = bound_of(distance, lipschitz or 1.0)
    near = torch.zeros_like(origins[:, 0])
    return sphere_trace(distance, origins, directions, near, near + 2, **options)


def rays_inside_the_box(num: int) -> tuple[Tensor, Tensor]:
    """Rays of length 2 that stay near [-1, 1]^3: from its faces towards points within."""
    origins = 2 * torch.rand(num, 3, dtype=torch.float64) - 1
    axis = torch.randint(3, (num,))
    origins[torch.arange(num), axis] = origins[torch.arange(num), axis].sign()
    targets = 1.4 * torch.rand(num, 3, dtype=torch.float64) - 0.7
    return origins, normalize(targets - origins, dim=1)


def chord(origins: Tensor, directions: Tensor) -> Tensor:
    """Depths at which rays meet `ball`, infinite for misses."""
    b = (origins * directions).sum(1)
    discriminant = b.square() - origins.square().sum(1) + 0.49
    return torch.where(discriminant > 0, -b - discriminant.clamp(min=0).sqrt(), torch.inf)


@BACKENDS
def test_depths_of_a_ball_are_those_of_the_quadratic_formula(backend: str) -> None:
    origins, directions = rays_inside_the_box(2000)
    origins, directions = (part[origins.norm(dim=1) > 0.71] for part in (origins, directions))
    depth, starts_inside = trace(ball, origins, directions, backend=backend)
    expected = chord(origins, directions)
    b = (origins * directions).sum(1)
    across = 2 * (b.square() - origins.square().sum(1) + 0.49).clamp(min=0).sqrt()
    is_clear = across >= GAP  # of the others, the contract allows both answers
    assert is_clear.double().mean() > 0.5 and not starts_inside.any()
    assert_matches(depth[is_clear], expected[is_clear], atol=TOLERANCE, rtol=0)
    missed = expected.isinf()
    assert missed.any() and depth[missed].isinf().all()


@pytest.mark.parametrize(("distance", "lipschitz"), [(ball, 1.0), (torus, 1.0), (wavy, 1.9)])
@pytest.mark.slow
def test_kernel_finds_the_crossing_of_the_reference(distance, lipschitz: float) -> None:
    origins, directions = rays_inside_the_box(3000)
    found, inside = trace(distance, origins, directions, lipschitz, tolerance=1e-9)
    # A step a hundred times finer decides what there is to be found.
    expected, expected_inside = trace(
        distance, origins, directions, backend="reference", gap=GAP / 100, tolerance=1e-9
    )
    assert torch.equal(inside, expected_inside)
    differs = (found - expected).abs() > 1e-7
    differs |= found.isinf() != expected.isinf()
    # Where they differ, the finer step found a piece that is shorter than the gap.
    o, d, t = origins[differs], directions[differs], expected[differs]
    assert t.isfinite().all() and differs.double().mean() < 0.02
    for share in (1.0, 1.3):
        later = distance(o + (t + share * GAP)[:, None] * d)
        is_out_again = torch.where(inside[differs], later < 0, later > 0)
        assert share == 1.0 or is_out_again.all()


def test_depth_is_within_the_tolerance_whatever_the_curvature() -> None:
    origins, directions = rays_inside_the_box(3000)
    exact, _ = trace(wavy, origins, directions, 1.9, tolerance=1e-10)
    for tolerance in (1e-2, 1e-3, 1e-5):
        depth, _ = trace(wavy, origins, directions, 1.9, tolerance=tolerance)
        hit = exact.isfinite()
        assert (depth[hit] - exact[hit]).abs().max() <= tolerance


@BACKENDS
def test_slab_hardly_thicker_than_the_gap_is_found_at_every_place(backend: str) -> None:
    for place in torch.linspace(-0.5, 0.5, 41, dtype=torch.float64):

        def slab(x: Tensor, place: Tensor = place) -> Tensor:
            return (x[:, 2] - place).abs() - 0.505 * GAP

        tilt = normalize(torch.tensor([[0, 0, -1.0], [0.5, 0.2, -1], [1, 0, -0.3]]).double(), dim=1)
        origins = torch.tensor([[0.0, 0, 0.9], [-0.5, 0, 0.9], [-0.9, 0, 0.6]]).double()
        depth, _ = trace(slab, origins, tilt, backend=backend)
        expected = (place + 0.505 * GAP - origins[:, 2]) / tilt[:, 2]
        there = expected < 2
        assert_matches(depth[there], expected[there], atol=1.01 * GAP, rtol=0)


@BACKENDS
def test_a_start_inside_finds_the_way_out(backend: str) -> None:
    directions = normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    origins = 0.1 * torch.randn(50, 3, dtype=torch.float64)
    depth, starts_inside = trace(ball, origins, directions, backend=backend)
    assert starts_inside.all()
    ends = (origins + depth[:, None] * directions).norm(dim=1)
    assert_matches(ends, torch.full_like(ends, 0.7), atol=TOLERANCE, rtol=0)


@BACKENDS
def test_part_of_a_ray_that_is_empty_or_nan_is_not_searched(backend: str) -> None:
    origins = torch.tensor([[0.0, 0, 0.9]]).repeat(3, 1)
    directions = torch.tensor([[0.0, 0, -1]]).repeat(3, 1)
    near, far = torch.tensor([0.5, 0.0, math.nan]), torch.tensor([0.4, 0.1, 2.0])
    depth, inside = sphere_trace(
        ball, origins, directions, near, far, bound=bound_of(ball), slopes=(1.0,), gap=GAP,
        tolerance=TOLERANCE, backend=backend,
    )  # fmt: skip
    assert depth.isinf().all() and not inside.any()


@BACKENDS
def test_field_without_a_negative_value_is_never_hit(backend: str) -> None:
    origins, directions = rays_inside_the_box(20)
    for value in (1.0, 0.0, math.nan):

        def constant(x: Tensor, value: float = value) -> Tensor:
            return torch.full_like(x[:, 0], value)

        depth, inside = trace(constant, origins, directions, backend=backend)
        assert depth.isinf().all() and not inside.any()


def test_no_rays_give_no_depths() -> None:
    depth, inside = trace(ball, torch.zeros(0, 3), torch.zeros(0, 3))
    assert depth.shape == inside.shape == (0,)


def test_field_without_a_slope_to_trust_is_traced_by_the_gap() -> None:
    origins, directions = rays_inside_the_box(500)
    expected, _ = trace(ball, origins, directions)

    def scaled(x: Tensor) -> Tensor:
        return 1000 * ball(x).sinh()

    found, _ = trace(scaled, origins, directions, lipschitz=None, bound=bound_of(ball))
    hit = expected.isfinite() & found.isfinite()
    assert (expected.isfinite() == found.isfinite()).double().mean() > 0.98
    assert_matches(found[hit], expected[hit], atol=2 * TOLERANCE, rtol=0)


def test_slopes_of_bands_are_those_of_what_is_far() -> None:
    """A field that is steep from a cell on: as many evaluations as its near slope takes."""
    cell, asked = 2 / 32, []

    def kinked(x: Tensor) -> Tensor:
        distance = ball(x)
        asked.append(len(x))
        return distance + 3 * (distance - cell).clamp(min=0)

    origins, directions = rays_inside_the_box(2000)
    options = {"bound": bound_of(ball), "tolerance": 1e-6}
    expected, _ = trace(ball, origins, directions, **options)
    depths, evaluations = [], []
    for slopes in ((1.0, 4.0), (4.0,)):
        asked.clear()
        depths.append(trace(kinked, origins, directions, slopes=slopes, **options)[0])
        evaluations.append(sum(asked))
    assert evaluations[0] < 0.8 * evaluations[1]
    for depth in depths:
        both = depth.isfinite() & expected.isfinite()
        assert (depth.isfinite() == expected.isfinite()).double().mean() > 0.98
        assert_matches(depth[both], expected[both], atol=2e-6, rtol=0)


def test_ray_has_its_depth_in_any_company() -> None:
    """Few rays are asked at several places ahead at once, many are not."""
    origins, directions = rays_inside_the_box(4000)
    options = {"bound": bound_of(wavy, 1.9), "tolerance": 1e-9}
    expected, _ = trace(wavy, origins, directions, 1.9, **options)
    for part in torch.arange(400).split([1, 7, 92, 300]):
        depth, _ = trace(wavy, origins[part], directions[part], 1.9, **options)
        both = depth.isfinite() & expected[part].isfinite()
        differs = depth.isfinite() != expected[part].isfinite()  # pieces below the gap
        differs[both] = (depth[both] - expected[part][both]).abs() > 1e-7
        assert differs.sum() <= 1 + 0.01 * len(part)


def test_field_is_asked_near_the_surface_only() -> None:
    """A grid of 32^3 leaves an average hit with few evaluations; marching by the gap takes 90."""
    asked = 0

    def counted(x: Tensor) -> Tensor:
        nonlocal asked
        asked += len(x)
        return ball(x)

    origins, directions = rays_inside_the_box(2000)
    trace(counted, origins, directions, bound=bound_of(ball))
    assert asked < 8 * len(origins)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gap": 0.0}, "gap=0.0 and tolerance"),
        ({"slopes": (1.0, -1.0)}, "must be above 0, or None"),
        ({"bound": BoundGrid(torch.zeros(1, 2, 2), torch.zeros(3), 1.0)}, "has no cell"),
    ],
)
def test_impossible_options_are_refused(options, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        trace(ball, torch.zeros(1, 3), torch.tensor([[0.0, 0, 1]]), **options)


def test_distance_of_the_wrong_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="distance gave"):
        trace(
            lambda x: x, torch.tensor([[0.0, 0, 0.9]]), torch.tensor([[0.0, 0, -1]]),
            bound=bound_of(ball),
        )  # fmt: skip

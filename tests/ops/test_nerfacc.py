"""nerfacc: its compositing is what ours is compared with, its marching is one of ours.

Its CUDA kernels do not run here; the stand-in walks along each ray as its sources have it
(nerfacc 0.5.3, nerfacc/cuda/csrc/grid.cu): steps go on from near_planes, and one belongs to the
cell that its middle is in.
"""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

import nfields
from nfields.config import build
from nfields.errors import ConfigError
from nfields.ops import backend
from nfields.ops.composite import composite
from nfields.ops.march import march
from nfields.ops.march.by_nerfacc import march_by_nerfacc
from tests.compare import assert_matches
from tests.task.marble import SMALL, photographs

OPTIONS: dict[str, Any] = {"near": 0.05, "dt_min": 0.02, "dt_max": 1e10, "max_samples": 60}


@pytest.mark.parametrize("name", ["reference", "numba"])
def test_compositing_is_that_of_nerfacc(name: str) -> None:
    nerfacc: Any = pytest.importorskip("nerfacc", reason="pip install 'nfields[cuda]'")
    rays, samples = 20, 30
    edges = torch.rand(rays, samples + 1, dtype=torch.float64).cumsum(dim=1)
    starts, ends = edges[:, :-1], edges[:, 1:]
    density = 2 * torch.rand(rays, samples, dtype=torch.float64)
    color = torch.rand(rays, samples, 3, dtype=torch.float64)
    ours, theirs = ([t.clone().requires_grad_() for t in (density, color)] for _ in range(2))
    weights, _, _ = nerfacc.render_weight_from_density(starts, ends, theirs[0])
    middles = (starts + ends)[..., None] / 2
    expected = torch.cat(
        [
            nerfacc.accumulate_along_rays(weights, theirs[1]),
            nerfacc.accumulate_along_rays(weights, None),
            nerfacc.accumulate_along_rays(weights, middles),
        ],
        dim=1,
    )
    rgb, opacity, depth = composite(
        ours[0].reshape(-1), ours[1].reshape(-1, 3), starts.reshape(-1), ends.reshape(-1),
        torch.arange(rays + 1) * samples, min_transmittance=0.0, backend=name,
    )  # fmt: skip
    found = torch.cat([rgb, opacity[:, None], depth[:, None]], dim=1)
    # The reference subtracts optical depths summed over all samples.
    total = float((density * (ends - starts)).sum())
    work: dict[str, Any] = {"num_operations": rays * samples, "scale": total}
    assert_matches(found, expected, **work)
    direction = torch.randn(rays, 5, dtype=torch.float64)
    for values, inputs in ((found, ours), (expected, theirs)):
        values.backward(direction)
        assert all(tensor.grad is not None for tensor in inputs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.grad is not None and other.grad is not None
        assert_matches(mine.grad, other.grad, **work)


def traverse_grids(
    rays_o: Tensor,
    rays_d: Tensor,
    binaries: Tensor,
    aabbs: Tensor,
    near_planes: Tensor,
    far_planes: Tensor,
    step_size: float,
    cone_angle: float,
    traverse_steps_limit: int,
) -> tuple[Any, Any, None]:
    """The edges and the samples of every ray; neighbouring intervals share an edge."""
    assert rays_o.isfinite().all() and rays_d.isfinite().all()
    side = torch.tensor(binaries.shape[1:])
    edges, is_left, is_right, counts = [], [], [], []
    for o, d, near, far in zip(rays_o, rays_d, near_planes, far_planes, strict=True):
        t, count, last = near.clone(), 0, None
        while t < far and count < traverse_steps_limit:
            dt = (t * cone_angle).clamp(step_size, 1e10)
            place = o + (t + dt / 2) * d
            inside = ((place >= aabbs[:, :3]) & (place <= aabbs[:, 3:])).all(dim=1).nonzero()
            if len(inside) and t + dt / 2 < far:
                low, high = aabbs[inside[0, 0]].split(3)
                x, y, z = ((place - low) / (high - low) * side).long().clamp(max=side - 1)
                if binaries[inside[0, 0], x, y, z]:
                    if last is not None and last == t:
                        is_left[-1] = True
                    else:
                        edges.append(t)
                        is_left.append(True)
                        is_right.append(False)
                    last = t + dt
                    edges.append(last)
                    is_left.append(False)
                    is_right.append(True)
                    count += 1
            t = t + dt
        counts.append(count)
    total = torch.tensor(counts)
    packed_info = torch.stack([total.cumsum(0) - total, total], dim=1)
    intervals = SimpleNamespace(
        vals=torch.stack(edges) if edges else rays_o.new_zeros(0),
        is_left=torch.tensor(is_left, dtype=torch.bool),
        is_right=torch.tensor(is_right, dtype=torch.bool),
    )
    return intervals, SimpleNamespace(packed_info=packed_info), None


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stand-in is importable, and the CPU plays the GPU."""
    modules = {name: ModuleType(name) for name in ("nerfacc", "nerfacc.cuda")}
    kernels: Any = ModuleType("nerfacc.cuda._backend")
    kernels._C = object()
    package: Any = modules["nerfacc"]
    package.__spec__ = ModuleSpec("nerfacc", None)
    package.traverse_grids = traverse_grids
    for name, module in {**modules, "nerfacc.cuda._backend": kernels}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(backend, "_stand_in", "cpu")


def scene(cascades: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rays, some of which miss the grid or are not finite, half of its cells, and jitter."""
    origins = 2 * torch.randn(40, 3)
    directions = normalize(torch.randn(40, 3) - origins, dim=1)
    origins[0], directions[0] = torch.tensor([-5.0, 0.11, 0.23]), torch.tensor([1.0, 0, 0])
    origins[1], directions[1] = torch.tensor([9.0, 9.0, 9.0]), torch.tensor([1.0, 0, 0])
    origins[2] = torch.nan
    bits = torch.randint(0, 256, (cascades, 16, 16, 2), dtype=torch.uint8)
    return origins, directions, bits, torch.rand(40)


@pytest.mark.parametrize(("cascades", "cone"), [(1, 0.0), (3, 0.0), (3, 1 / 128)])
def test_samples_by_nerfacc_are_those_of_the_reference(
    stand_in: None, cascades: int, cone: float
) -> None:
    rays = scene(cascades)
    found = march_by_nerfacc(*rays, **OPTIONS, cone=cone, capacity=None, backend="auto")
    expected = march(*rays, **OPTIONS, cone=cone, backend="reference")
    assert int(expected.offsets[-1]) > 500 and (expected.offsets.diff() == 60).any()
    # A middle within rounding of a cell's face may fall to either side.
    different = found.offsets.diff() != expected.offsets.diff()
    assert different.sum() <= 1
    for ray in (~different).nonzero()[:, 0].tolist():
        mine, other = (slice(*s.offsets[ray : ray + 2].tolist()) for s in (found, expected))
        assert_matches(found.t_starts[mine], expected.t_starts[other], num_operations=600)
        assert_matches(found.t_ends[mine], expected.t_ends[other], num_operations=600)


def test_buffers_of_a_fixed_length_say_what_was_wanted(stand_in: None) -> None:
    rays = scene(1)
    found = march_by_nerfacc(*rays, **OPTIONS, cone=0.0, capacity=None, backend="auto")
    short = march_by_nerfacc(*rays, **OPTIONS, cone=0.0, capacity=100, backend="auto")
    assert short.num_wanted == found.offsets[-1] > 100
    assert torch.equal(short.t_starts, found.t_starts[:100]) and short.offsets.max() == 100


def test_no_rays_have_no_samples(stand_in: None) -> None:
    rays = [tensor if tensor.dtype == torch.uint8 else tensor[:0] for tensor in scene(1)]
    none = march_by_nerfacc(*rays, **OPTIONS, cone=0.0, capacity=None, backend="auto")
    assert none.t_starts.shape == (0,) and none.offsets.tolist() == [0]


def test_a_radiance_field_finds_the_same_points_by_nerfacc(stand_in: None) -> None:
    rays, jitter = scene(1)[:2], torch.rand(40)
    points = []
    for name in ("native", "nerfacc"):
        cfg = nfields.compose(
            ["task=nerf", *SMALL, "task.backend=reference", f"task.marcher={name}"]
        )
        task = build(cfg.task, data=photographs())
        task.grid.exclude(lambda centers, half: centers.norm(dim=1) < 0.7)
        points.append(task.march(*rays, jitter)[1])
    assert len(points[0]) > 100
    assert_matches(points[1], points[0], num_operations=600)


@pytest.mark.gpu
@pytest.mark.parametrize(("cascades", "cone"), [(1, 0.0), (3, 1 / 128)])
def test_the_package_itself_agrees_where_it_is(cascades: int, cone: float) -> None:
    pytest.importorskip("nerfacc", reason="pip install 'nfields[cuda]'")
    rays = [tensor.cuda() for tensor in scene(cascades)]
    found = march_by_nerfacc(*rays, **OPTIONS, cone=cone, capacity=None, backend="auto")
    expected = march(*rays, **OPTIONS, cone=cone)
    different = (found.offsets.diff() - expected.offsets.diff()).abs()
    assert different.max() <= 2 and (different > 0).float().mean() < 0.1  # middles on faces


# ---- refusals -------------------------------------------------------------------------------


def refused() -> None:
    march_by_nerfacc(*scene(1), **OPTIONS, cone=0.0, capacity=None, backend="auto")


def test_an_absent_package_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs nerfacc; .* pip install 'nerfacc>=0.5.3,<1'"):
        refused()


def test_on_the_cpu_the_package_is_not_enough(
    stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_stand_in", None)
    with pytest.raises(ConfigError, match=r"runs on CUDA alone .* on cpu; .*trainer.device=cuda"):
        refused()


def test_kernels_that_were_not_compiled_are_named(
    stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["nerfacc.cuda._backend"], "_C", None)
    with pytest.raises(ConfigError, match=r"no CUDA kernels here .*nvcc, CUDA_HOME"):
        refused()

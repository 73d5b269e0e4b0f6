"""A step in a graph makes the training that steps without one make."""

import json
import math
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import nfields.optimizer
import nfields.task.image
import nfields.task.nerf
import nfields.task.sdf
from nfields.config import build, compose
from nfields.errors import ConfigError
from nfields.ops.adam import adam
from nfields.ops.march import Samples, march, sample_points
from nfields.render.harmonics import spherical_harmonics
from nfields.run_folder import RunFolder
from nfields.step_graph import Results, Watch, record_on_cuda
from nfields.task import nerf_head
from nfields.task.nerf import NerfTask
from nfields.training_state import named_parameters
from tests.data.solids import ball, write
from tests.dummy import make_trainer
from tests.recorded_graph import recorded

MODEL = ["model=hashgrid", "model.num_levels=4", "model.log2_entries=10", "model.width=16"]
TASKS = {
    "image": ["task=image", "data.downscale=8", "task.pixels_per_step=128"],
    "sdf": ["task=sdf", "task.points_per_step=128", "data.path=BALL/ball.ply"],
    "points": ["task=sdf", "task.oriented_per_step=64", "data.path=BALL/ball.xyz"],
    "nerf": [
        "task=nerf", "data=toy_scene", "data.resolution=24", "data.num_train=4",
        "data.num_test=1", "task.samples_per_step=1024", "task.grid_cells=16",
        "task.steps_per_unit=16", "task.grid_every=4", "task.grid_warmup=8", "task.max_rays=64",
    ],
}  # fmt: skip
NUM_STEPS = 12
Training = tuple[dict[str, Tensor], dict[str, Tensor]]  # what was logged; the weights in the end


@torch.library.custom_op("nfields_tests::march", mutates_args=())
def march_within(
    origins: Tensor, directions: Tensor, bits: Tensor, jitter: Tensor, near: float, dt_min: float,
    dt_max: float, cone: float, max_samples: int, capacity: int,
) -> list[Tensor]:  # fmt: skip
    found = march(
        origins, directions, bits, jitter, near=near, dt_min=dt_min, dt_max=dt_max, cone=cone,
        max_samples=max_samples, capacity=capacity,
    )  # fmt: skip
    assert found.num_wanted is not None
    # On the CPU every sample has a ray: those that fill the buffers, of length 0, have the last.
    found.offsets[-1] = capacity
    return [t.clone() for t in (found.t_starts, found.t_ends, found.offsets, found.num_wanted)]


@torch.library.custom_op("nfields_tests::points", mutates_args=())
def points_of(
    origins: Tensor, directions: Tensor, starts: Tensor, ends: Tensor, offsets: Tensor
) -> Tensor:
    return sample_points(origins, directions, Samples(starts, ends, offsets))


@pytest.fixture
def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What writes behind PyTorch's back on the CPU is an operation, as it is on a GPU."""
    monkeypatch.setattr(nfields.optimizer, "adam", partial(adam, backend="reference"))
    for task in (nfields.task.image, nfields.task.sdf, nfields.task.nerf):
        monkeypatch.setattr(task, "measure", lambda value: value.detach())

    def marched(*rays: Tensor, backend: str, **options: Any) -> Samples:
        return Samples(*march_within(*rays, **options))

    def points(origins: Tensor, directions: Tensor, samples: Samples, *, backend: str) -> Tensor:
        return points_of(origins, directions, samples.t_starts, samples.t_ends, samples.offsets)

    def capacity(task: NerfTask, origins: Tensor) -> int:
        return math.ceil(1.25 * task.samples_per_step)

    def harmonics(directions: Tensor, degree: int) -> Tensor:
        return spherical_harmonics(directions.detach().requires_grad_(), degree).detach()

    monkeypatch.setattr(nerf_head, "spherical_harmonics", harmonics)
    monkeypatch.setattr(nfields.task.nerf, "march", marched)
    monkeypatch.setattr(nfields.task.nerf, "sample_points", points)
    # num_rays is the host's own on a GPU, and where it changes so do the shapes of a batch.
    monkeypatch.setattr(NerfTask, "_capacity", capacity)
    monkeypatch.setattr(NerfTask, "steps", property(lambda task: task.shortest))


def write_shapes(folder: Path) -> Path:
    """The folder, with a ball as a mesh and as points."""
    mesh = ball(subdivisions=2)
    write(mesh, folder / "ball.ply")
    np.savetxt(folder / "ball.xyz", np.concatenate([mesh[0], mesh[0]], axis=1))
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("ball"))


@cache
def configured(name: str, shapes: Path) -> tuple[Any, Any]:
    """The configuration of a task, and its data."""
    cfg = compose([word.replace("BALL", str(shapes)) for word in [*TASKS[name], *MODEL]])
    return cfg, build(cfg.data)


def trained(name: str, folder: Path, shapes: Path, record: Any, **options: Any) -> Training:
    """A few steps of a small model."""
    cfg, data = configured(name, shapes)
    task = build(cfg.task, data=data)
    model = build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim)
    trainer = make_trainer(max_steps=NUM_STEPS, log_every=1, warmup_steps=3, **options)
    trainer.record = record
    trainer.fit(task, model, RunFolder(folder), [], seed=1)
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [line for line in lines if "loss" in line]
    logged = {key: torch.tensor([line[key] for line in lines]) for key in lines[0]}
    return logged, named_parameters({"model": model, "task": task})


class Counted:
    """The stand-in, which counts what it is used for."""

    def __init__(self) -> None:
        self.captures = self.replays = 0

    def __call__(self, function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        results, replay = recorded(function)
        self.captures += 1

        def counted() -> None:
            self.replays += 1
            replay()

        return results, counted


def assert_same(found: Training, expected: Training) -> None:
    for named, others in zip(found, expected, strict=True):
        assert named.keys() == others.keys()
        for key in named.keys() - {"seconds"}:
            torch.testing.assert_close(named[key], others[key], rtol=1e-5, atol=1e-6, msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_a_training_in_a_graph_is_the_same(
    name: str, tmp_path: Path, shapes: Path, as_on_a_gpu: None
) -> None:
    record = Counted()
    plain = trained(name, tmp_path / "plain", shapes, None, ema=0.9)
    graph = trained(name, tmp_path / "graph", shapes, record, ema=0.9)
    # Two steps come before the capture.
    assert (record.captures, record.replays) == (1, NUM_STEPS - 2)
    assert len(plain[0]["lr"].unique()) > NUM_STEPS // 2
    assert_same(graph, plain)


@pytest.mark.gpu
@pytest.mark.parametrize("name", TASKS)
def test_a_training_on_a_gpu_is_about_the_same(
    name: str, tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, _ = trained(name, tmp_path / "plain", shapes, None, device="cuda")
    graph, _ = trained(name, tmp_path / "graph", shapes, record_on_cuda, device="cuda")
    assert "without a graph" not in capsys.readouterr().out
    # Atomics add gradients up in another order every time.
    torch.testing.assert_close(graph["loss"], plain["loss"], rtol=1e-2, atol=1e-3)


def test_a_number_of_the_capture_makes_another_training(
    tmp_path: Path, shapes: Path, as_on_a_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above can fail: here the optimiser reads its numbers on the host."""

    def baked(*args: Any, numbers: Tensor | None, **options: Any) -> None:
        known = None if numbers is None else torch.tensor(numbers.tolist())
        adam(*args, numbers=known, backend="reference", **options)

    plain = trained("image", tmp_path / "plain", shapes, None)
    monkeypatch.setattr(nfields.optimizer, "adam", baked)
    graph = trained("image", tmp_path / "graph", shapes, Counted())
    with pytest.raises(AssertionError):
        assert_same(graph, plain)


@pytest.mark.parametrize(("every", "captures", "replays"), [(5, 2, 3 + 3), (2, 0, 0)])
def test_weights_that_were_swapped_ask_for_two_steps_without_a_graph(
    every: int, captures: int, replays: int, tmp_path: Path, shapes: Path, as_on_a_gpu: None
) -> None:
    record, options = Counted(), {"ema": 0.9, "eval_every": every}
    plain = trained("image", tmp_path / "plain", shapes, None, **options)
    graph = trained("image", tmp_path / "graph", shapes, record, **options)
    assert (record.captures, record.replays) == (captures, replays)
    assert_same(graph, plain)


def test_a_step_that_no_graph_can_hold_is_taken_without_one(
    tmp_path: Path, shapes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = Counted()
    plain = trained("image", tmp_path / "plain", shapes, None)
    graph = trained("image", tmp_path / "graph", shapes, record)
    assert record.captures == 0
    assert capsys.readouterr().out.count("without a graph") == 1
    assert_same(graph, plain)


def test_a_capture_that_fails_costs_no_step(
    tmp_path: Path, shapes: Path, as_on_a_gpu: None, capsys: pytest.CaptureFixture[str]
) -> None:
    def record(function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        raise RuntimeError("operation not permitted when stream is capturing")

    plain = trained("image", tmp_path / "plain", shapes, None)
    graph = trained("image", tmp_path / "graph", shapes, record)
    assert capsys.readouterr().out.count("cannot hold operation not permitted") == 1
    assert_same(graph, plain)


@pytest.mark.parametrize(
    ("samples", "rays"), [(1000, 1000), (1050, 1000), (880, 1000), (1100, 896), (800, 1248)]
)
def test_rays_stay_while_their_samples_are_about_as_many_as_asked_for(
    samples: int, rays: int, shapes: Path
) -> None:
    cfg, data = configured("nerf", shapes)
    task = build(cfg.task, data=data)
    task.max_rays, task.samples_per_step, task.holds_shapes = 4096, 1000, True
    task.num_rays.fill_(1000)
    task._follow(samples, 1000)
    assert int(task.num_rays) == rays


@pytest.mark.parametrize(
    ("operation", "said"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool(x.sum() > 0), "_local_scalar_dense"),
        (lambda x: x[x > 0], "by a mask"),
        (lambda x: (x > 0).nonzero(), "nonzero"),
        (lambda x: x.masked_select(x > 0), "masked_select"),
        (lambda x: x.unique(), "_unique2"),
        (lambda x: torch.repeat_interleave(x.long()), "repeat_interleave"),
        (lambda x: torch.linalg.matrix_exp(x[:, None, None]), "linalg_matrix_exp"),
        (lambda x: x.to("meta"), "_to_copy on cpu and meta"),
        (lambda x: torch.zeros(3, device="meta").copy_(x), "copy_ on cpu and meta"),
    ],
)
def test_what_no_graph_can_hold_is_found(operation: Callable[[Tensor], Any], said: str) -> None:
    with Watch(torch.device("cpu")) as watch:
        operation(torch.ones(3))
    assert said in "".join(watch.found)


def test_what_a_graph_holds_is_not_found() -> None:
    x = torch.ones(3, requires_grad=True)
    with Watch(torch.device("cpu")) as watch:
        x.clamp(max=1.0).sum().add(x[torch.tensor([0, 2])].mean()).backward()
    assert watch.found == []


def test_a_graph_is_refused_on_the_cpu() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.cuda_graph=true is for CUDA"):
        make_trainer(cuda_graph=True)

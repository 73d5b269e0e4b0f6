"""What each kernel buys over its PyTorch reference, as ratios of medians measured in one run.

The two sides take turns, so that a machine whose speed drifts slows both alike; a pair's ratio is
quoted, never one side's time alone. Compilation and the first call of each side are not counted.
"""

# pyright: reportCallIssue=false
# (It takes a list of tensors for one argument.)

import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nfields.benchmark.cases import composite_case, grid_case, rbf_case
from nfields.config import build, compose
from nfields.config_check import raise_problems
from nfields.key_values import option_problems, read_words
from nfields.machine import environment
from nfields.ops.mlp import mlp
from nfields.optimizer import Adam
from nfields.run_folder import write_json

SAMPLES = 32_768  # of a step of task=nerf
TRAIN_SECONDS = 20.0  # before a view is rendered: of an untrained field all is fog


@dataclass(frozen=True)
class Row:
    """One comparison: seconds of ours and of the other, and the median of the pairs' ratios."""

    name: str
    ours: float
    other: float
    ratio: float
    versus: str


def interleave(
    name: str, versus: str, ours: Callable[[], Any], other: Callable[[], Any], repeats: int
) -> Row:
    """The median seconds of both, called in turn, and the median ratio other / ours."""
    ours()
    other()
    pairs = [(_seconds(ours), _seconds(other)) for _ in range(repeats)]
    ratio = statistics.median(b / a for a, b in pairs)
    return Row(
        name,
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        ratio,
        versus,
    )


def _seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def grid_rows(repeats: int) -> list[Row]:
    """grid_encode: 16 levels x 2 features, 2^19 entries, 262,144 points along rays."""
    case = grid_case(262_144)

    def forward(backend: str) -> None:
        with torch.no_grad():
            case.function(case.tensors, backend)

    size = "16 levels x 2, 2^19, 262,144 points"
    return [
        interleave(
            f"grid_encode forward, {size}", "PyTorch reference",
            lambda: forward("numba"), lambda: forward("reference"), repeats,
        ),
        interleave(
            f"grid_encode forward + backward, {size}", "PyTorch reference",
            lambda: case.both("numba"), lambda: case.both("reference"), repeats,
        ),
    ]  # fmt: skip


def mlp_rows(repeats: int) -> list[Row]:
    """mlp: 32-64-64-16 on 131,072 points, forward + backward, against torch.nn on all at once."""
    network = nn.Sequential(
        nn.Linear(32, 64, bias=False), nn.ReLU(), nn.Linear(64, 64, bias=False), nn.ReLU(),
        nn.Linear(64, 16, bias=False),
    )  # fmt: skip
    weights = [layer.weight for layer in network if isinstance(layer, nn.Linear)]
    x = torch.randn(131_072, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
    upstream = torch.ones(131_072, 16)

    def both(function: Callable[[Tensor], Tensor]) -> None:
        for tensor in (x, *weights):
            tensor.grad = None  # as in training: what is not there needs no adding to
        function(x).backward(upstream)

    return [
        interleave(
            "mlp 32-64-64-16 forward + backward, 131,072 points", "torch.nn",
            lambda: both(lambda x: mlp(x, weights)), lambda: both(network), repeats,
        )
    ]  # fmt: skip


def rbf_rows(repeats: int) -> list[Row]:
    """rbf_decode: 24 features, 32 neurons, a readout of 4 values for each of 1,024 rays."""
    case = rbf_case(SAMPLES)
    return [
        interleave(
            f"rbf_decode forward + backward, 24 -> 32 -> 4 a ray, {SAMPLES:,} points",
            "PyTorch reference", lambda: case.both("numba"), lambda: case.both("reference"),
            repeats,
        )
    ]  # fmt: skip


def compile_rows(repeats: int) -> list[Row]:
    """backend=compile against the reference: operations it compiles, and a step of task=nerf."""
    rows = [
        interleave(
            f"{case.name}, {SAMPLES:,} samples, backend=compile", "PyTorch reference",
            lambda case=case: case.both("compile"), lambda case=case: case.both("reference"),
            repeats,
        )
        for case in (rbf_case(SAMPLES), composite_case(SAMPLES))
    ]  # fmt: skip
    return [*rows, _training_row([], "compile", repeats)]


def training_rows(overrides: Sequence[str], repeats: int) -> list[Row]:
    """A whole training step of task=nerf model=rbfnet."""
    return [_training_row(overrides, "numba", repeats)]


def _training_row(overrides: Sequence[str], backend: str, repeats: int) -> Row:
    cfg = compose(["task=nerf", "model=rbfnet", *overrides])
    data = build(cfg.data)

    def stepper(backend: str) -> Callable[[], Any]:
        words = [f"model.backend={backend}", f"task.backend={backend}"]
        cfg = compose(["task=nerf", "model=rbfnet", *overrides, *words])
        task = build(cfg.task, data=data)
        return _stepper(task, build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim), cfg)

    ours, other = stepper(backend), stepper("reference")
    for _ in range(30):
        ours()  # ray count and learning rates settle; the reference gets the same rays below
    for _ in range(3):
        other()
    name = "training step, task=nerf" + (", backend=compile" if backend == "compile" else "")
    return interleave(name, "reference backends", ours, other, repeats)


def surface_rows(repeats: int) -> list[Row]:
    """Steps of task=sdf on its own solid."""
    return [_step_row("sdf", "rbfnet", repeats)]


def picture_rows(repeats: int) -> list[Row]:
    """Steps of task=image on its own picture: hashgrid by the reference, siren by torch.nn."""
    task, model, cfg = _made("image", "siren", "numba")
    pixels = task.batch(torch.Generator().manual_seed(0))
    ours = _stepper(task, model, cfg)
    plain = _Sines(model)
    optimizer = torch.optim.Adam(plain.parameters(), cfg.model.lr, tuple(cfg.trainer.betas))

    def step() -> None:
        optimizer.zero_grad()
        mse_loss(plain(pixels.coords), pixels.values).backward()
        optimizer.step()

    name = f"training step, task=image, siren, {len(pixels.coords):,} pixels"
    sines = interleave(name, "torch.nn and torch.optim", ours, step, repeats)
    return [_step_row("image", "hashgrid", repeats), sines]


def _step_row(task: str, model: str, repeats: int) -> Row:
    ours, other = (_stepper(*_made(task, model, backend)) for backend in ("numba", "reference"))
    for _ in range(3):
        ours()
    return interleave(
        f"training step, task={task}, {model}", "reference backends", ours, other, repeats
    )


def _made(task: str, model: str, backend: str) -> tuple[Any, Any, Any]:
    """Task, model and config of a run on the task's own data."""
    cfg = compose([f"task={task}", f"model={model}", f"model.backend={backend}"])
    made = build(cfg.task, data=build(cfg.data))
    return made, build(cfg.model, in_dim=made.in_dim, out_dim=made.out_dim), cfg


class _Sines(nn.Module):
    """SIREN (arXiv:2006.09661) with the layers of ours, as it is written in plain PyTorch."""

    def __init__(self, model: Any):
        super().__init__()
        self.layers, self.readout = deepcopy(model.layers), deepcopy(model.readout)
        self.frequencies = model.frequencies

    def forward(self, x: Tensor) -> Tensor:
        for k, layer in enumerate(self.layers):
            x = torch.sin(self.frequencies[min(k, 1)] * layer(x))
        return self.readout(x)


def _stepper(task: Any, model: Any, cfg: Any) -> Callable[[], Any]:
    """A function that trains for one step."""
    generator = torch.Generator().manual_seed(cfg.seed)
    task.prepare(model, generator)
    optimizer = Adam(model.parameter_groups(), tuple(cfg.trainer.betas), cfg.trainer.eps)
    count = 0

    def step() -> None:
        nonlocal count
        task.before_step(model, count, generator)
        result = task.losses(model, task.batch(generator))
        optimizer.zero_grad(set_to_none=True)
        torch.stack([*result.losses.values()]).sum().backward()
        optimizer.step()
        task.after_step(model, result, count)
        count += 1

    return step


def render_rows(overrides: Sequence[str], repeats: int) -> list[Row]:
    """A view of 256 x 256 pixels in one kernel, against the operations of training; trained 20 s.

    `overrides` with data.path=FOLDER take real images; model.* none, as both models are measured.
    """
    rows = []
    for name in ("rbfnet", "hashgrid"):
        cfg = compose(["task=nerf", f"model={name}", *overrides])
        task = build(cfg.task, data=build(cfg.data))
        model = build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim)
        step = _stepper(task, model, cfg)
        start = time.perf_counter()
        while time.perf_counter() - start < TRAIN_SECONDS:
            step()
        cameras = task.data.cameras["test"].resized(256, 256)

        def look(renderer: str, task: Any = task, model: Any = model, cameras: Any = cameras):
            task.renderer = renderer
            task.render_view(model, cameras, 0)

        rows.append(
            interleave(
                f"rendering a 256 x 256 view, {name}", "operations of training",
                lambda look=look: look("fused"), lambda look=look: look("plain"), repeats,
            )
        )  # fmt: skip
    return rows


PARTS = {
    "grid_encode": grid_rows,
    "mlp": mlp_rows,
    "rbf_decode": rbf_rows,
    "compile": compile_rows,
    "pictures": picture_rows,
    "surfaces": surface_rows,
}
OF_A_RUN = {"training": training_rows, "render": render_rows}


def run(
    overrides: Sequence[str],
    *,
    only: str | None = None,
    repeats: int = 5,
    out: str | None = None,
) -> list[Row]:
    """All rows as a table, or those of `only`: a key of PARTS or OF_A_RUN.

    `overrides` configure the parts with a run, such as data.path=FOLDER. `out` takes the json.
    """
    names = [*PARTS, *OF_A_RUN]
    if only is not None and only not in names:
        raise_problems([f"only={only}: choose one of {', '.join(names)}"])
    machine = environment()
    print(f"{machine['processor']}, {torch.get_num_threads()} threads, PyTorch {torch.__version__}")
    print("| what | ours, ms | other, ms | ratio | against |\n|---|---|---|---|---|")
    rows: list[Row] = []
    for name in names if only is None else [only]:
        made = PARTS[name](repeats) if name in PARTS else OF_A_RUN[name](overrides, repeats)
        for row in made:
            print(
                f"| {row.name} | {1e3 * row.ours:.1f} | {1e3 * row.other:.1f} | "
                f"{row.ratio:.1f} | {row.versus} |",
                flush=True,
            )
        rows += made
    if out is not None:
        write_json(Path(out), {"rows": [vars(row) for row in rows], "machine": machine})
    return rows


def main(words: Sequence[str]) -> None:
    """python scripts/benchmark.py [only=PART] [repeats=5] [out=FILE] [data.path=FOLDER ...]"""
    given = read_words(words)
    raise_problems(option_problems(given.options, [run], "benchmark"))
    run(given.overrides, **given.options)

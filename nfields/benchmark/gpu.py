"""What this project does on a GPU, in one report: right, how fast, and against what was estimated.

Kernels against the float64 reference; their times; short trainings on the generated scene; a view;
steps in a CUDA graph and without;
tinycudann and nerfacc where they are installed. `dry_run=true` goes the same way on the CPU with
tiny sizes, to show that it works: its times mean nothing.
"""

import importlib.util
import math
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from nfields.benchmark.cases import Case, cases
from nfields.benchmark.roofline import Step, find_card, nanoseconds
from nfields.config_check import raise_problems
from nfields.errors import ConfigError
from nfields.key_values import option_problems, read_words
from nfields.machine import environment
from nfields.ops.grid_encode import GridLayout
from nfields.run import train
from nfields.run_folder import write_json
from nfields.stored_run import load_run

# Of the norm. TensorFloat-32 products round to 5e-4; positions in the finest level of a grid to
# 2048 x 6e-8; a ray's count of samples may differ by one in about fifty.
TOLERANCE = {"march": 5e-3, "march_contracted": 5e-3, "render": 5e-3}
USUAL_TOLERANCE = 1e-3


def _check(case: Case, device: torch.device) -> dict[str, Any]:
    """Largest relative error of outputs and gradients, each in its norm, against float64."""

    def results(where: torch.device, dtype: torch.dtype, backend: str) -> list[Tensor]:
        tensors = case.on(where, dtype)
        outputs = case.function(tensors, backend)
        leaves = [t for t in tensors if t.requires_grad]
        if leaves:
            outputs += torch.autograd.grad([_total(outputs)], leaves)
        return [t.detach().cpu().double() for t in outputs]

    ours = results(device, torch.float32, "auto")
    exact = results(torch.device("cpu"), torch.float64, "reference")
    error = max(
        float((a - b).norm() / b.norm().clamp(min=1e-30)) for a, b in zip(ours, exact, strict=True)
    )
    tolerance = TOLERANCE.get(case.name, USUAL_TOLERANCE)
    return {"kernel": case.name, "error": error, "tolerance": tolerance, "right": error < tolerance}


def _total(outputs: list[Tensor]) -> Tensor:
    """A number that every output has a different gradient of."""
    return torch.stack(
        [
            (t * torch.linspace(0.5, 1.5, t.numel(), device=t.device).view_as(t)).sum()
            for t in outputs
        ]
    ).sum()


def median_ms(function: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Median milliseconds of a call: by CUDA events on a GPU; the first calls are not counted."""
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        if device.type == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            function()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        else:
            begin = time.perf_counter()
            function()
            times.append(1e3 * (time.perf_counter() - begin))
    return statistics.median(times)


def _time(case: Case, device: torch.device, repeats: int) -> dict[str, Any]:
    """Milliseconds forward, and backward as what forward + backward takes more."""
    tensors = case.on(device, torch.float32)
    leaves = [t for t in tensors if t.requires_grad]

    def forward() -> None:
        with torch.no_grad():
            case.function(tensors, "auto")

    def both() -> None:
        torch.autograd.grad([_total(case.function(tensors, "auto"))], leaves)

    row: dict[str, Any] = {"kernel": case.name, "forward_ms": median_ms(forward, device, repeats)}
    row["both_ms"] = median_ms(both, device, repeats) if leaves else None
    return row


def _train(name: str, folder: Path, device: torch.device, words: Sequence[str]) -> dict[str, Any]:
    """A short training, and a view of what it learned."""
    metrics = train(
        ["task=nerf", f"model={name}", "data=toy_scene", f"trainer.device={device.type}",
         "task.num_pictures=0", f"run_dir={folder}", *words]
    )  # fmt: skip
    run = load_run(folder, device=device.type)
    cameras = run.data.cameras["test"]
    task: Any = run.task
    pixels = task.render_view(run.model, cameras, 0)["depth"].numel()
    view = median_ms(lambda: task.render_view(run.model, cameras, 0), device, 5)
    row = {
        "model": name, "psnr": metrics["psnr"], "steps": metrics["steps"],
        "seconds": metrics["train_seconds"], "view_ms": view,
        "view_pixels": pixels,
    }  # fmt: skip
    samples = run.config.task.samples_per_step
    row["ns_a_sample"] = 1e9 * row["seconds"] / (row["steps"] * samples)
    card = find_card(torch.cuda.get_device_name()) if device.type == "cuda" else None
    row["estimate_ns"] = (
        nanoseconds(_step(run.config), card) if card and name == "hashgrid" else None
    )
    return row


def _graph(task: str, folder: Path, device: torch.device, words: Sequence[str]) -> dict[str, Any]:
    """Milliseconds of a step of a hash grid without a CUDA graph, and with one (None: no CUDA)."""
    row: dict[str, Any] = {"task": task, "graph_ms": None}
    for name, choice in {"eager_ms": "false", "graph_ms": "true"}.items():
        if choice == "true" and device.type != "cuda":
            continue
        metrics = train(
            [f"task={task}", "model=hashgrid", f"trainer.device={device.type}",
             f"trainer.cuda_graph={choice}", "task.num_pictures=0", "eval_limit=1",
             f"run_dir={folder / f'{task}_{name}'}", *words]
        )  # fmt: skip
        row[name] = 1e3 * metrics["train_seconds"] / metrics["steps"]
        row["steps"] = metrics["steps"]
    return row


def _step(cfg: Any) -> Step:
    """The roofline's step of a hash grid's configuration."""
    model = cfg.model
    layout = GridLayout.build(
        dim=3, num_levels=model.num_levels, base_resolution=model.base_resolution,
        max_resolution=model.max_resolution, log2_entries=model.log2_entries,
    )  # fmt: skip
    width, inputs = model.width, model.num_levels * model.features_per_level
    outputs = 1 + 3 * (cfg.task.sh_degree + 1) ** 2
    return Step(
        samples=cfg.task.samples_per_step, entries=layout.num_entries, levels=model.num_levels,
        hashed_levels=int((layout.levels[:, 2] >= int(2**model.log2_entries)).sum()),
        features=model.features_per_level,
        macs=inputs * width + (model.num_layers - 1) * width**2 + width * outputs,
        hidden=model.num_layers * width, value_bytes=4 if cfg.trainer.precision == "fp32" else 2,
    )  # fmt: skip


def _peers(device: torch.device, num_points: int, repeats: int) -> dict[str, Any]:
    """Forward milliseconds of the others' same operations, or why there are none."""
    found: dict[str, Any] = {}
    for package, measure in {"tinycudann": _tinycudann, "nerfacc": _nerfacc}.items():
        if importlib.util.find_spec(package) is None:
            found[package] = "not installed"
        elif device.type != "cuda":
            found[package] = "installed; needs CUDA"
        else:
            try:
                found[package] = measure(device, num_points, repeats)
            except Exception as error:  # another's package must not cost the report
                found[package] = f"failed: {type(error).__name__}: {error}"
    return found


def _tinycudann(device: torch.device, num_points: int, repeats: int) -> dict[str, float]:
    tinycudann: Any = importlib.import_module("tinycudann")
    encoding = tinycudann.Encoding(
        3,
        {"otype": "HashGrid", "n_levels": 16, "n_features_per_level": 2, "log2_hashmap_size": 19,
         "base_resolution": 16, "per_level_scale": 2 ** (7 / 15)},
    )  # fmt: skip
    x = torch.rand(num_points, 3, device=device, generator=torch.Generator(device).manual_seed(0))
    with torch.no_grad():
        return {"grid_encode forward, ms": median_ms(lambda: encoding(x), device, repeats)}


def _nerfacc(device: torch.device, num_points: int, repeats: int) -> dict[str, float]:
    nerfacc: Any = importlib.import_module("nerfacc")
    starts = torch.arange(num_points, device=device) % 32 / 16.0
    rays = torch.arange(num_points, device=device) // 32
    density = torch.ones(num_points, device=device)

    def weights() -> None:
        nerfacc.render_weight_from_density(
            starts,
            starts + 1 / 16,
            density,
            ray_indices=rays,
            n_rays=math.ceil(num_points / 32),
        )

    return {"weights of samples forward, ms": median_ms(weights, device, repeats)}


def _markdown(report: dict[str, Any]) -> str:
    machine = report["machine"]
    gpus = ", ".join(gpu["name"] for gpu in machine["gpus"]) or "no GPU"
    lines = [f"# nfields on {gpus if not report['dry_run'] else machine['processor']}", ""]
    if report["dry_run"]:
        lines += ["A dry run on the CPU with tiny sizes: its times mean nothing.", ""]
    versions = ", ".join(f"{key} {value}" for key, value in machine["versions"].items())
    lines += [
        f"CUDA {machine['cuda']}; {versions}; {report['num_points']:,} points.", "",
        "| kernel | error | allowed | right | forward, ms | forward + backward, ms |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for check, timed in zip(report["checks"], report["kernels"], strict=True):
        both = "" if timed["both_ms"] is None else f"{timed['both_ms']:.3f}"
        lines.append(
            f"| {check['kernel']} | {check['error']:.1e} | {check['tolerance']:.0e} | "
            f"{'yes' if check['right'] else '**NO**'} | {timed['forward_ms']:.3f} | {both} |"
        )
    lines += [
        "",
        "| model | psnr, dB | steps | seconds | ns a sample | estimate, ns | view, ms | pixels |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in report["trainings"]:
        known = row["estimate_ns"]
        estimate = f"{known[0]:.1f} to {known[1]:.1f}" if known else "none"
        lines.append(
            f"| {row['model']} | {row['psnr']:.2f} | {row['steps']} | {row['seconds']:.1f} | "
            f"{row['ns_a_sample']:.1f} | {estimate} | {row['view_ms']:.1f} | "
            f"{row['view_pixels']:,} |"
        )
    lines += [
        "",
        "| step of | steps | ms without a graph | ms in a CUDA graph |",
        "|---|---|---|---|",
    ]
    for row in report["graphs"]:
        graph = "not tried: no CUDA" if row["graph_ms"] is None else f"{row['graph_ms']:.3f}"
        lines.append(
            f"| {row['task']}, hashgrid | {row['steps']} | {row['eager_ms']:.3f} | {graph} |"
        )
    lines += ["", *(f"{name}: {value}" for name, value in report["peers"].items()), ""]
    lines += [
        "ns a sample counts the samples a step asks for; docs/roofline.md explains the estimate.",
        "",
        "![times](kernels.png)",
        "",
    ]
    return "\n".join(lines)


def _plot(report: dict[str, Any], file: Path) -> None:
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    rows = report["kernels"][::-1]
    places = range(len(rows))
    both = [row["both_ms"] or 0.0 for row in rows]
    axes.barh([p + 0.2 for p in places], [row["forward_ms"] for row in rows], 0.38, label="forward")
    axes.barh([p - 0.2 for p in places], both, 0.38, label="forward + backward")
    axes.set_yticks(list(places), [row["kernel"] for row in rows])
    axes.set_xlabel(f"ms, {report['num_points']:,} points" + " (dry run)" * report["dry_run"])
    axes.legend()
    figure.savefig(file, dpi=120)


def run(
    overrides: Sequence[str],
    *,
    dry_run: bool = False,
    seconds: float | int = 60,
    out: str | None = None,
) -> dict[str, Any]:
    """The report, written to `out`: report.json, report.md, kernels.png and the trainings' folders.

    `seconds` of training for each of two models. `overrides` configure the trainings.
    """
    if not dry_run and not torch.cuda.is_available():
        raise ConfigError(
            "bench_gpu needs a GPU: PyTorch finds no CUDA device here (see nvidia-smi); "
            "to try the command on the CPU: python scripts/bench_gpu.py dry_run=true"
        )
    if not 0 < seconds <= 200:
        raise ConfigError(f"seconds={seconds}: choose above 0, at most 200, for each training")
    folder = Path(out or f"outputs/bench_gpu/{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if (folder / "report.json").exists():
        raise ConfigError(f"out={folder} already holds a report; choose another folder")
    device = torch.device("cpu" if dry_run else "cuda")
    num_points, repeats = (1024, 3) if dry_run else (2**18, 20)
    graphs = {
        "image": ["trainer.max_time=null", "trainer.max_steps=2000"],
        "nerf": ["trainer.max_time=null", "trainer.max_steps=2000", "data=toy_scene"],
    }
    words = [f"trainer.max_time={seconds}"]
    if dry_run:
        graphs = {
            "image": [
                "trainer.max_time=null", "trainer.max_steps=3", "data.downscale=8",
                "task.pixels_per_step=256", "model.log2_entries=8",
            ]
        }  # fmt: skip
        words = [
            "trainer.max_time=null", "trainer.max_steps=3", "data.resolution=24",
            "data.num_train=4", "data.num_test=1", "task.grid_cells=16", "eval_limit=1",
            "task.grid_warmup=1", "task.samples_per_step=1024", "task.max_rays=256",
        ]  # fmt: skip
    made = cases(num_points)
    report: dict[str, Any] = {
        "dry_run": dry_run,
        "machine": environment(),
        "num_points": num_points,
        "checks": [_check(case, device) for case in made],
        "kernels": [_time(case, device, repeats) for case in made],
        "peers": _peers(device, num_points, repeats),
        "trainings": [
            _train(name, folder / name, device, [*words, *overrides])
            for name in ("hashgrid", "rbfnet")
        ],
        "graphs": [_graph(task, folder, device, words) for task, words in graphs.items()],
    }
    _plot(report, folder / "kernels.png")
    (folder / "report.md").write_text(_markdown(report), encoding="utf-8")
    write_json(folder / "report.json", report)
    return report


def main(words: Sequence[str]) -> None:
    """python scripts/bench_gpu.py [dry_run=true] [seconds=60] [out=FOLDER] [trainer.x=.. ...]"""
    given = read_words(words)
    raise_problems(option_problems(given.options, [run], "bench_gpu"))
    report = run(given.overrides, **given.options)
    print(_markdown(report))
    wrong = [check["kernel"] for check in report["checks"] if not check["right"]]
    if wrong:
        raise SystemExit(f"wrong against the float64 reference: {', '.join(wrong)}")

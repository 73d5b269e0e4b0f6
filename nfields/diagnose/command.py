"""The command diagnose: what a model is like before (or after) it has seen a signal."""

import inspect
import sys
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from nfields.chart import save
from nfields.config import build, compose
from nfields.config_check import did_you_mean, raise_problems
from nfields.diagnose.gradient import failures, gradient_check
from nfields.diagnose.picture import (
    gradient_picture,
    kernel_picture,
    spectrum_picture,
    throughput_picture,
)
from nfields.diagnose.slice import Slice, frequencies_until
from nfields.diagnose.spectrum import Signal, spectral_response
from nfields.diagnose.tangent_kernel import both_phases, tangent_kernel
from nfields.diagnose.throughput import throughput
from nfields.errors import ConfigError, DataError
from nfields.key_values import find_run, option_problems, sort_words
from nfields.machine import choose_device, environment, use_threads
from nfields.model.field import Field, Samples
from nfields.run_folder import write_json
from nfields.stored_run import load_run

PARTS = ("spectrum", "ntk", "throughput", "gradient")
KERNEL_SIDE = {1: 256, 2: 16}
CHECKED_POINTS = 256
USUAL_STEPS = {1: 500, 2: 150}
INITIAL_SAMPLES = 1 << 14
HELP = """\
usage: diagnose.py model=... task=... [key=value ...]
       diagnose.py run=FOLDER|latest [key=value ...]

How a model learns on a line or plane through its domain: one that train.py would start from, or the
trained one of a run. Words that are not below are those of train.py, such as model.lr=0.01.
  what=spectrum,ntk,throughput,gradient   all of them, or some:
      spectrum     sinusoids of equal amplitude: which are fitted after how many steps
      ntk          the empirical tangent kernel: eigenvalues, condition number, alignment
      throughput   points a second for the kernels and for the PyTorch reference
      gradient     kernels against float64, float64 against differences; exit code 1 if wrong
  dim=1            1: a line; 2: a plane
  domain=auto      auto, box or sphere; auto: sphere if the task gives unit vectors
  steps=500        of the spectrum; else 500 for a line, 150 for a plane
  device=auto      auto, cpu or cuda; ntk and the float64 side of gradient stay on the CPU
  out=FOLDER       pictures and diagnose.json; else the run's diagnosis/ or outputs/diagnose/..."""


def command_options(
    *,
    run: str | None = None,
    what: str | Sequence[str] = PARTS,
    dim: Literal[1, 2] = 1,
    domain: Literal["auto", "box", "sphere"] = "auto",
    steps: int | None = None,
    device: str = "auto",
    out: str | None = None,
) -> None:
    """The options of diagnose; other words are those of train.py."""


@dataclass(frozen=True)
class Subject:
    """What is diagnosed, where, and where the results go."""

    config: DictConfig
    name: str
    model: Field
    place: Slice
    device: torch.device
    out: Path

    def copy(self, backend: str | None = None, dtype: torch.dtype = torch.float32) -> Field:
        """The same weights with other kernels, or in another precision (then on the CPU)."""
        node = self.config.model.copy()
        if backend is not None and "backend" in node:
            node.backend = backend
        model = build(node, in_dim=self.model.in_dim, out_dim=self.model.out_dim)
        model.load_state_dict(self.model.state_dict())
        place = torch.device("cpu") if dtype == torch.float64 else self.device
        return model.to(place, dtype)


def main(words: Sequence[str]) -> None:
    """The command diagnose: prints what matters, writes pictures and diagnose.json."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not words or set(words) & {"-h", "--help", "help"}:
        console.print(HELP)
        return
    options, overrides = read(words)
    what = options.get("what", PARTS)
    what = what.split(",") if isinstance(what, str) else list(what)
    subject = open_subject(options, overrides)
    console.print(
        f"{subject.name}: {sum(p.numel() for p in subject.model.parameters()):,} parameters, "
        f"{subject.model.in_dim} coordinates, {subject.model.out_dim} values"
    )
    result: dict[str, Any] = {
        "name": subject.name,
        "dim": subject.place.dim,
        "domain": "sphere" if subject.place.is_sphere else "box",
        "model": OmegaConf.to_container(subject.config.model),
    }
    parts = {
        "spectrum": lambda: spectrum_part(subject, options.get("steps"), console),
        "ntk": lambda: kernel_part(subject, console),
        "throughput": lambda: throughput_part(subject, console),
        "gradient": lambda: gradient_part(subject, console),
    }
    for name in PARTS:
        if name in what:
            result[name] = parts[name]()
    result["machine"] = environment()
    try:
        subject.out.mkdir(parents=True, exist_ok=True)
        write_json(subject.out / "diagnose.json", result)
    except OSError as error:
        raise DataError(f"out={subject.out} cannot be written: {error.strerror}") from error
    console.print(f"written to {subject.out}")
    if not result.get("gradient", {}).get("is_good", True):
        sys.exit(1)


def read(words: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Options of diagnose and words for train.py; every mistake at once."""
    given, problems = sort_words(words, inspect.signature(command_options).parameters)
    options = given.options
    if isinstance(options.get("what"), list):
        options["what"] = ",".join(map(str, options["what"]))
    problems += option_problems(options, [command_options], "diagnose")
    for part in str(options.get("what", "spectrum")).replace(" ", "").split(","):
        if part not in PARTS:
            hint = did_you_mean(part, PARTS)
            problems.append(f"what={part}: no such part{hint}; there are {', '.join(PARTS)}")
    if isinstance(options.get("steps"), int) and options["steps"] < 1:
        problems.append(f"steps={options['steps']}: must be at least 1")
    raise_problems(problems)
    return options, given.overrides


def open_subject(options: Mapping[str, Any], overrides: Sequence[str]) -> Subject:
    """The model of a run, or a new one, started on points all over its domain."""
    device = choose_device(options.get("device", "auto"))
    if options.get("run") is not None:
        folder = find_run(options["run"])
        stored = load_run(folder.path, overrides=overrides, device=str(device))
        cfg, task, model = stored.config, stored.task, stored.model
        default_out = folder.path / "diagnosis"
    else:
        cfg = compose(overrides)
        use_threads(cfg.trainer.threads if device.type == "cpu" else None)
        task = build(cfg.task, data=build(cfg.data))
        model = build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim)
        default_out = Path("outputs", "diagnose", f"{cfg.choices.task}_{cfg.choices.model}")
    domain = options.get("domain", "auto")
    if domain == "auto":
        domain = "sphere" if cfg.task.get("coordinates") == "cartesian" else "box"
    if domain == "sphere" and task.in_dim != 3:
        raise ConfigError(f"domain=sphere: the field has {task.in_dim} coordinates, not 3")
    place = Slice(options.get("dim", 1), task.in_dim, domain == "sphere")
    if options.get("run") is None:
        generator = torch.Generator().manual_seed(cfg.seed)
        samples = Samples.uniform(place.anywhere(INITIAL_SAMPLES, generator))
        model.initialize(samples, generator)
    name = f"model={cfg.choices.model} task={cfg.choices.task}"
    out = Path(options["out"]) if options.get("out") is not None else default_out
    return Subject(cfg, name, model.to(device), place, device, out)


def spectrum_part(subject: Subject, steps: int | None, console: Console) -> dict[str, Any]:
    """Trains a copy on sinusoids; prints after how many steps each frequency was half fitted."""
    num_steps = USUAL_STEPS[subject.place.dim] if steps is None else steps
    generator = torch.Generator().manual_seed(subject.config.seed)
    signal = Signal.draw(subject.place, subject.model.out_dim, generator).to(subject.device)
    model = deepcopy(subject.model)
    trainer = {key: subject.config.trainer[key] for key in ("betas", "eps")}
    spectrum = spectral_response(model, signal, num_steps, trainer, console.print)
    save(spectrum_picture(spectrum, subject.name), subject.out / "spectrum.png")
    console.print(f"spectrum: {spectrum.steps[-1]} steps in {spectrum.seconds:.1f} s")
    for i, (frequency, half) in enumerate(
        zip(spectrum.frequencies, spectrum.steps_to_half(), strict=True)
    ):
        reached = f"half after {half} steps" if half is not None else "never half"
        console.print(f"  {frequency:>6g} cycles: {spectrum.responses[-1][i]:.3f}, {reached}")
    return {**asdict(spectrum), "steps_to_half": spectrum.steps_to_half()}


def kernel_part(subject: Subject, console: Console) -> dict[str, Any]:
    """The tangent kernel of the float64 reference on the slice."""
    num_side = KERNEL_SIDE[subject.place.dim]
    t = subject.place.coordinates(num_side)
    model = subject.copy("reference", torch.float64)
    kernel = tangent_kernel(model, subject.place.points(t))
    frequencies = frequencies_until(num_side // 2 - 1)
    pair = both_phases(subject.place, t, frequencies)
    alignment = 0.5 * (kernel.alignment(pair[0]) + kernel.alignment(pair[1]))
    rates = 0.5 * (kernel.learning_rates(pair[0]) + kernel.learning_rates(pair[1]))
    picture = kernel_picture(kernel, frequencies, alignment, subject.name)
    save(picture, subject.out / "ntk.png")
    condition = kernel.condition_number
    shown = f"{condition:.3g}" if condition is not None else "beyond rounding"
    console.print(
        f"ntk: {len(t)} points, {kernel.num_touched:,} parameters touched, condition number "
        f"{shown}, effective rank {kernel.effective_rank:.1f}, numerical rank "
        f"{kernel.numerical_rank}"
    )
    for frequency, rate in zip(frequencies, rates.tolist(), strict=True):
        console.print(f"  {frequency:>6g} cycles: learned at {rate:.2e} of the fastest rate")
    return {
        "num_points": len(t),
        "outputs": kernel.outputs,
        "num_touched_parameters": kernel.num_touched,
        "dtype": "float64",
        "eigenvalues": kernel.eigenvalues.tolist(),
        "rounding_floor": kernel.floor,
        "condition_number": condition,
        "effective_rank": kernel.effective_rank,
        "numerical_rank": kernel.numerical_rank,
        "frequencies": frequencies,
        "relative_rates": rates.tolist(),
        "alignment": alignment.tolist(),
    }


def throughput_part(subject: Subject, console: Console) -> dict[str, Any]:
    """The configured kernels and the reference, in turn."""
    models = {"kernels": subject.model}
    if subject.config.model.get("backend", "reference") != "reference":
        models["reference"] = subject.copy("reference")
    rates = throughput(models, subject.place, subject.device)
    save(throughput_picture(rates, subject.name), subject.out / "throughput.png")
    console.print("throughput, points a second:")
    for rate in rates:
        console.print(
            f"  {rate.backend:10} {rate.batch_size:>8,} points: forward {rate.forward:>13,.0f}, "
            f"forward + backward {rate.forward_backward:>13,.0f}"
        )
    return {"rates": [asdict(rate) for rate in rates], "num_threads": torch.get_num_threads()}


def gradient_part(subject: Subject, console: Console) -> dict[str, Any]:
    """Every gradient, against the reference and against differences."""
    generator = torch.Generator().manual_seed(subject.config.seed)
    x = subject.place.anywhere(CHECKED_POINTS, generator).to(subject.device)
    checks = gradient_check(subject.model, subject.copy("reference", torch.float64), x, generator)
    save(gradient_picture(checks, subject.name), subject.out / "gradient.png")
    wrong = failures(checks)
    console.print(f"gradient: {len(checks) - len(wrong)} of {len(checks)} comparisons agree")
    for check in checks:
        verdict = "" if check.is_good else f"   WRONG, above {check.tolerance:g}"
        console.print(f"  {check.comparison:12} {check.of:26} {check.error:.1e}{verdict}")
    return {
        "is_good": not wrong,
        "checks": [{**asdict(check), "is_good": check.is_good} for check in checks],
    }

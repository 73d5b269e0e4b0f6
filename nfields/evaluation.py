"""Evaluation of a run: what its task measures, with what training took, in evaluation/metrics.json.

psnr, ssim, ...     means over the held-out items, flat
per_image           the same for each of them, if the task measures images
protocol            what they were measured under; figures compare only where it is the same
steps, train_seconds, parameters, peak_memory_bytes, device   of the training
evaluate_seconds    of the evaluation, pictures included
"""

import inspect
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nfields.checkpoint import read_state
from nfields.config_check import join, locate, raise_problems, show
from nfields.distributed import processes
from nfields.errors import ConfigError, DataError
from nfields.key_values import find_run, option_problems, read_words
from nfields.model.field import Field
from nfields.run_folder import RunFolder, write_json
from nfields.stored_run import load_run
from nfields.task.task import Task

TRAINING_FACTS = ("steps", "train_seconds", "parameters", "peak_memory_bytes", "device")


def evaluate(
    task: Task,
    model: Field,
    run: RunFolder,
    limit: int | None = None,
    *,
    folder: Path | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The metrics of a trained run; also written, with pictures, to its folder evaluation/.

    At most `limit` held-out items count (None: all; 0: nothing is evaluated or written and only the
    facts of the training return). `options` go to the keyword-only arguments of `task.evaluate`,
    such as split or background. `folder` takes the results in place of evaluation/. Of several
    processes (nfields/distributed.py) the first returns and writes, the others help or do nothing.
    """
    if limit is not None and limit < 0:
        raise ConfigError(f"limit={limit} must be 0 or more, or null for all")
    is_first = processes().is_first
    if not is_first and (limit == 0 or not task.shares_evaluation):
        return {}
    facts = training_facts(run, task, model) if is_first else {}
    if limit == 0:
        return facts
    folder = run.evaluation if folder is None else folder
    modes = task.training, model.training
    task.eval()
    model.eval()
    start = time.perf_counter()
    try:
        measured = task.evaluate(model, folder, limit, **(options or {}))
    finally:
        task.train(modes[0])
        model.train(modes[1])
    if not is_first:
        return {}
    flat = {key: measured[key] for key in measured if key not in ("per_image", "protocol")}
    seconds = time.perf_counter() - start
    result = {**flat, **facts, "evaluate_seconds": seconds}
    result |= {key: measured[key] for key in ("protocol", "per_image") if key in measured}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "metrics.json", result)
    except OSError as error:
        raise DataError(
            f"{folder / 'metrics.json'} cannot be written: {error.strerror}; make room or give "
            "another folder with out=<folder>"
        ) from error
    return result


def training_facts(run: RunFolder, task: Task, model: Field) -> dict[str, Any]:
    """What the training took; of a run that was stopped, as far as its folder tells."""
    if run.summary_file.exists():
        summary = run.summary()
        return {key: summary.get(key) for key in TRAINING_FACTS}
    state = read_state(run.checkpoint)
    return {
        "steps": state.get("step"),
        "train_seconds": state.get("seconds"),
        "parameters": sum(p.numel() for part in (task, model) for p in part.parameters()),
        "peak_memory_bytes": state.get("peak_memory_bytes"),
        "device": None,
    }


def command_options(
    *, run: str, limit: int | None = None, out: str | None = None, device: str = "auto"
) -> None:
    """The options of evaluate, next to those of the task's own `evaluate`."""


HELP = """\
usage: evaluate.py run=FOLDER|latest [key=value ...]

  run=FOLDER      the run folder that train.py named; latest: the last one under outputs/
  limit=N         at most N held-out items (null: all)
  out=FOLDER      where results go; else evaluation/ in the run folder, or, where other options than
                  the usual are given, a folder of their name in it
  device=auto     auto, cpu or cuda
  data.path=...   where the data set is now, if it was moved since the training
and the options of the run's task, such as split=test background=black with task=nerf."""


def main(words: Sequence[str]) -> None:
    """The command evaluate: measures a stored run and prints the means."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not words or set(words) & {"-h", "--help", "help"}:
        console.print(HELP)
        return
    given = read_words(words)
    own = set(inspect.signature(command_options).parameters)
    options = {key: value for key, value in given.options.items() if key not in own}
    if not isinstance(given.options.get("run"), str):
        raise_problems(option_problems(given.options, [command_options], "evaluate"))
    run = find_run(given.options["run"])
    task_class = locate(run.config().get("task", {}).get("_target_"))
    raise_problems(
        option_problems(given.options, [command_options, task_class.evaluate], "evaluate")
    )
    read_state(run.checkpoint)  # before the data: says at once that there is none
    limit = given.options.get("limit")
    if limit == 0:
        raise ConfigError("limit=0 would evaluate nothing; give 1 or more, or leave it out")
    try:
        stored = load_run(
            run.path,
            needs_images=True,
            overrides=given.overrides,
            device=given.options.get("device", "auto"),
        )
    except DataError as error:
        if any(word.startswith("data.path=") for word in given.overrides):
            raise
        raise DataError(
            f"{error}\nEvaluating needs the data set; if it was moved, say where it is now: "
            "data.path=<folder>"
        ) from error
    out = given.options.get("out")
    folder = Path(out) if out is not None else run.evaluation / variant(options, limit)
    result = evaluate(stored.task, stored.model, run, limit, folder=folder, options=options)
    for name, value in result.items():
        if isinstance(value, int | float):
            console.print(
                f"{name:20} {value:.6g}" if isinstance(value, float) else f"{name:20} {value}"
            )
    for name, value in result.get("protocol", {}).items():
        console.print(f"{join('protocol', name):20} {value}")
    console.print(f"written to {folder}")


def variant(options: Mapping[str, Any], limit: int | None) -> str:
    """The folder, in evaluation/, of results measured otherwise than usual; '' for the usual.

    A quick look at three images must not replace the figures of the whole test set.
    """
    chosen = dict(options) | ({} if limit is None else {"limit": limit})
    words = (
        f"{key}={value if isinstance(value, str) else show(value)}" for key, value in chosen.items()
    )
    return ",".join(sorted(words)).replace("/", "_")

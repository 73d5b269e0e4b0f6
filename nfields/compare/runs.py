"""Runs read from their folders: what each was told, what it took, what it reached.

Two figures compare only where they were measured alike, so every run carries its protocol: that of
its evaluation, its task and its data.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf

from nfields.config_check import children, join, show
from nfields.errors import ConfigError, DataError
from nfields.evaluation import TRAINING_FACTS
from nfields.overrides import parse
from nfields.run_folder import RunFolder, read_json

# What does not change what is learned or how fast; runs that differ in nothing else are one row.
FREE_KEYS = (
    *("seed", "name", "run_dir", "resume", "logger", "choices", "eval_limit"),
    *("trainer.progress_every", "trainer.checkpoint_every", "trainer.snapshots"),
)
NOT_MEASURES = (*TRAINING_FACTS, "evaluate_seconds")
SWEEP_FILE = "multirun.yaml"


@dataclass(frozen=True)
class Run:
    """One finished run. `options` are dotted names and values, without the seed."""

    folder: Path
    seed: int
    choices: dict[str, str]
    options: dict[str, Any]
    measures: dict[str, float]
    facts: dict[str, float | int | None]  # steps, train_seconds, parameters, peak_memory_bytes
    protocol: dict[str, Any]
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class Collected:
    """Runs that can be compared, and why others were left out: {folder: reason}."""

    runs: list[Run]
    skipped: dict[str, str]


def collect(paths: Sequence[str | Path]) -> Collected:
    """All finished runs in and below `paths`, each once; a sweep folder stands for its runs."""
    folders: dict[Path, None] = {}
    for path in map(Path, paths):
        found = list(run_folders(path))
        if not found:
            raise DataError(
                f"runs={path}: {'no run folder in or below it' if path.is_dir() else 'no folder'}; "
                "give the folder of a run, or one that holds runs, such as outputs/image"
            )
        folders |= {folder.resolve(): None for folder in found}
    runs, skipped = [], {}
    for folder in folders:
        try:
            runs.append(read_run(folder))
        except DataError as error:
            skipped[str(folder)] = str(error)
    return Collected(_newest_of_each_seed(runs, skipped), skipped)


def run_folders(path: Path) -> Iterator[Path]:
    """`path` if it is a run; the runs of a sweep if it is one of a sweep; else all runs below."""
    if (path / "config.yaml").is_file():
        yield path
    elif (path / SWEEP_FILE).is_file():
        yield from sweep_folders(path)
    else:
        yield from sorted(file.parent for file in path.rglob("config.yaml"))


def sweep_folders(sweep: Path) -> list[Path]:
    """The runs that `train.py -m` started, found by their overrides among those beside the sweep.

    Hydra keeps the sweep's words in outputs/sweep/<time>; its runs are elsewhere under outputs, in
    folders named by a later time.
    """
    words = OmegaConf.load(sweep / SWEEP_FILE).hydra.overrides.task
    [jobs] = BasicSweeper.split_arguments(parse(list(words)), None)
    started, found = sweep.resolve().name, []
    for folder in sorted(sweep.resolve().parents[1].glob("*/*/*/"), key=lambda path: path.name):
        if folder.name < started or not (folder / "config.yaml").is_file():
            continue
        given = [word for word in RunFolder(folder).overrides() if not word.startswith("hydra.")]
        if given in jobs:
            jobs.remove(given)
            found.append(folder)
    return found


def read_run(path: Path) -> Run:
    """The run in a folder; a DataError says why it cannot be compared."""
    folder = RunFolder.load(path)
    if not folder.summary_file.exists():
        raise DataError(f"not finished; python train.py resume={path}")
    metrics_file = folder.evaluation / "metrics.json"
    if not metrics_file.exists():
        raise DataError(f"not evaluated; python scripts/evaluate.py run={path}")
    metrics, config = read_json(metrics_file), folder.config()
    if not config.get("choices"):
        raise DataError("its config.yaml does not say which task and model it is")
    options = flat(config)
    choices = {group: str(choice) for group, choice in config["choices"].items()}
    protocol = {"task": choices.get("task"), **flat(metrics.get("protocol", {}))}
    protocol |= {name: value for name, value in options.items() if name.startswith("data.")}
    protocol.pop("data._target_", None)
    return Run(
        folder=path,
        seed=config["seed"],
        choices=choices,
        options={name: value for name, value in options.items() if not is_free(name)},
        measures={
            name: float(value)
            for name, value in metrics.items()
            if name not in NOT_MEASURES and _is_finite(value)
        },
        facts={name: metrics.get(name) for name in TRAINING_FACTS if name != "device"},
        protocol=protocol,
        log=folder.metrics(),
    )


def flat(value: Mapping[str, Any], name: str = "") -> dict[str, Any]:
    """Dotted names and values; lists are values."""
    leaves: dict[str, Any] = {}
    for key, child in children(value):
        if isinstance(child, Mapping) and child:
            leaves |= flat(child, join(name, key))
        else:
            leaves[join(name, key)] = child
    return leaves


def is_free(name: str) -> bool:
    """Whether an option changes neither what is learned nor how fast."""
    return any(name == key or name.startswith(f"{key}.") for key in FREE_KEYS)


def check_protocols(runs: Sequence[Run]) -> None:
    """Raises a ConfigError that names what the runs were measured differently in, if anything."""
    differing = protocol_differences(runs)
    if not differing:
        return
    lines = []
    for key, values in differing.items():
        lines.append(f"  {key}:")
        for value, folders in values.items():
            others = f" and {len(folders) - 1} more" if len(folders) > 1 else ""
            lines.append(f"      {value}  in {folders[0]}{others}")
    raise ConfigError(
        "these runs were not measured alike, so their figures do not compare:\n"
        + "\n".join(lines)
        + "\nLeave some out (runs=[...]), evaluate them alike, or add mix_protocols=true: the "
        "table then says which is which."
    )


def protocol_differences(runs: Sequence[Run]) -> dict[str, dict[str, list[Path]]]:
    """Keys of the protocol that differ, their values as text, and the runs that have them."""
    keys = dict.fromkeys(key for run in runs for key in run.protocol)
    differing: dict[str, dict[str, list[Path]]] = {}
    for key in keys:
        values: dict[str, list[Path]] = {}
        for run in runs:
            word = as_text(run.protocol[key]) if key in run.protocol else "not said"
            values.setdefault(word, []).append(run.folder)
        if len(values) > 1:
            differing[key] = values
    return differing


def as_text(value: Any) -> str:
    """An option as a user writes it, whole: null, true, PATH, [1, 2]."""
    if isinstance(value, str):
        return value
    return show(value) if value is None or isinstance(value, bool) else repr(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _newest_of_each_seed(runs: Sequence[Run], skipped: dict[str, str]) -> list[Run]:
    """One run for each configuration and seed: a repetition is no further sample of the seeds."""
    newest: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        key = (show_all(run.options), show_all(run.protocol), run.seed)
        other = newest.get(key)
        if other is not None:
            files = [run.folder / "summary.json", other.folder / "summary.json"]
            times = [file.stat().st_mtime_ns for file in files]
            older, run = (other, run) if times[0] >= times[1] else (run, other)
            skipped[str(older.folder)] = f"the same configuration and seed as {run.folder}, older"
        newest[key] = run
    return list(newest.values())


def show_all(options: Mapping[str, Any]) -> str:
    """A text that is the same for the same names and values."""
    return "\n".join(f"{name}={options[name]!r}" for name in sorted(options))

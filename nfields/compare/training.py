"""Training what is to be compared: one process a run, one after another, resumable.

Every run has its folder below the comparison's, named by its words. A run that is finished there is
skipped, one that was stopped goes on, so that the same command finishes what it began.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import OmegaConf

from nfields.compare.budget import Matched, match_parameters
from nfields.compare.runs import as_text, flat, is_free
from nfields.config import build, compose, config_folder
from nfields.config_check import raise_problems
from nfields.errors import ConfigError
from nfields.interrupt import Interrupt
from nfields.overrides import parse
from nfields.run_folder import RunFolder

LONGEST_NAME = 160
PROGRAM = "import sys; from nfields.cli import train; train(sys.argv[1:])"


@dataclass(frozen=True)
class Budget:
    """What every run gets; None leaves it to the configuration."""

    parameters: int | None
    seconds: float | None
    steps: int | None
    tolerance: float


@dataclass(frozen=True)
class Job:
    """One run to be: its words for train.py, its folder, its configuration."""

    words: list[str]
    folder: Path
    config: dict[str, Any]
    matched: Matched | None


def plan(words: Sequence[str], budget: Budget, out: Path) -> list[Job]:
    """All combinations of the words, sized and checked; seeds outermost.

    With the seeds outermost a machine whose speed drifts slows all configurations alike.
    """
    trained = [*words, *trainer_words(words, budget)]
    parsed = parse(trained)
    [combinations] = BasicSweeper.split_arguments(parsed, None)
    varied = [o.key_or_group for o in parsed if o.is_sweep_override()]
    named = list(dict.fromkeys(["model", *varied, "seed"]))
    jobs, sizes, problems = [], Sizes(budget), []
    for combination in sorted(combinations, key=_seed_rank(combinations)):
        cfg = compose(combination)
        matched = None
        if budget.parameters is not None:
            try:
                matched = sizes.match(combination)
            except ConfigError as error:
                problems.append(str(error))
                continue
        fitted = [f"{matched.option}={matched.value}"] if matched is not None else []
        values: dict[str, Any] = {"model": cfg.choices.model, "seed": cfg.seed}
        values |= dict(word.split("=", 1) for word in combination)
        name = ",".join(f"{key}={as_text(values[key])}" for key in named)
        folder = out / "runs" / file_name(name)
        full = [*combination, *fitted, f"run_dir={quoted(folder)}"]
        config: Any = OmegaConf.to_container(compose(full))
        jobs.append(Job(full, folder, config, matched))
    raise_problems(list(dict.fromkeys(problems)))
    raise_problems([problem for job in jobs if (problem := conflict(job)) is not None])
    return jobs


def trainer_words(words: Sequence[str], budget: Budget) -> list[str]:
    """The overrides that set the time and steps of the budget."""
    if budget.seconds is None and budget.steps is None:
        return []
    taken = [word for word in words if word.startswith(("trainer.max_time=", "trainer.max_steps="))]
    if taken:
        raise ConfigError(f"{taken[0]} and budget.seconds or budget.steps say it twice; leave one")
    seconds = "null" if budget.seconds is None else f"{budget.seconds:g}"
    steps = "null" if budget.steps is None else str(budget.steps)
    return [f"trainer.max_time={seconds}", f"trainer.max_steps={steps}"]


class Sizes:
    """Sizes of models for a number of parameters; data and task are built once for all models."""

    def __init__(self, budget: Budget):
        self.budget = budget
        self._tasks: dict[str, Any] = {}
        self._matched: dict[str, Matched] = {}

    def match(self, words: Sequence[str]) -> Matched:
        """The size for the model that these words configure."""
        assert self.budget.parameters is not None
        cfg = compose(words)
        problem = str(OmegaConf.to_yaml(cfg.data)) + str(OmegaConf.to_yaml(cfg.task))
        key = problem + str(OmegaConf.to_yaml(cfg.model))
        if key not in self._matched:
            if problem not in self._tasks:
                self._tasks[problem] = build(cfg.task, data=build(cfg.data))
            task = self._tasks[problem]
            found = match_parameters(cfg, task, self.budget.parameters, self.budget.tolerance)
            if any(word.startswith(f"{found.option}=") for word in words):
                raise ConfigError(f"{found.option} is what budget.params sets; leave it out")
            self._matched[key] = found
        return self._matched[key]


def file_name(text: str) -> str:
    """`text` as the name of a folder; the end of a long one becomes a hash."""
    name = text.replace("/", "_")
    if len(name) <= LONGEST_NAME:
        return name
    return f"{name[:LONGEST_NAME]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def is_finished(job: Job) -> bool:
    """Whether the run is trained and evaluated."""
    run = RunFolder(job.folder)
    return run.summary_file.exists() and (run.evaluation / "metrics.json").exists()


def conflict(job: Job) -> str | None:
    """Why the folder of a job cannot be gone on with: it holds a run of another configuration."""
    run = RunFolder(job.folder)
    if not run.config_file.exists():
        return None
    stored, wanted = flat(run.config()), flat(job.config)
    names = [n for n in dict.fromkeys([*stored, *wanted]) if not is_free(n)]
    differ = [n for n in names if stored.get(n) != wanted.get(n)]
    if not differ:
        return None
    changes = ", ".join(f"{n}={stored.get(n)} there, {wanted.get(n)} now" for n in differ[:3])
    return f"{job.folder} holds a run with {changes}; give another folder: out=..."


def train_all(
    jobs: Sequence[Job],
    say: Callable[[str], None],
    run_one: Callable[[Sequence[str]], int] | None = None,
) -> list[Job]:
    """Trains what is not finished; returns the jobs that failed. Raises SystemExit when stopped."""
    failed = []
    for number, job in enumerate(jobs, start=1):
        name = f"run {number} of {len(jobs)}, {job.folder.name}"
        if is_finished(job):
            say(f"{name}: finished before, skipped")
            continue
        run = RunFolder(job.folder)
        if run.has_checkpoint():
            words = [f"resume={quoted(job.folder)}"]
        else:
            shutil.rmtree(job.folder, ignore_errors=True)  # begun, and killed before it saved
            words = job.words
        say(f"{name}: {'goes on' if run.has_checkpoint() else 'starts'}")
        code = (run_one or run_in_process)(words)
        if code in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            say("stopped; the same command goes on where this one stopped")
            sys.exit(code)
        if code != 0 or not is_finished(job):
            failed.append(job)
            say(f"{name}: failed (exit code {code})")
    return failed


def quoted(path: Path) -> str:
    """A path as Hydra reads it whatever is in it: 'model=siren,seed=0'."""
    return "'" + str(path).replace("'", "\\'") + "'"


def run_in_process(words: Sequence[str]) -> int:
    """The exit code of train.py in its own process: its peak memory is its own.

    It has its own process group, and signals are passed on: Ctrl-C reaches it once, not twice.
    """
    package = str(config_folder().parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        process_group=0,
    )
    with Interrupt(lambda _: None) as interrupt:
        passed_on = False
        while True:
            try:
                code = process.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                if interrupt.signal_number is not None and not passed_on:
                    process.send_signal(interrupt.signal_number)
                    passed_on = True
            except KeyboardInterrupt:  # the second one: at once, unsaved
                process.kill()
                process.wait()
                return 128 + signal.SIGINT
            else:
                stopped = interrupt.signal_number
                return 128 + stopped if stopped is not None else code


def _seed_rank(combinations: Sequence[Sequence[str]]) -> Callable[[Sequence[str]], int]:
    seeds = list(dict.fromkeys(_seed_word(words) for words in combinations))
    return lambda words: seeds.index(_seed_word(words))


def _seed_word(words: Sequence[str]) -> str:
    return next((word for word in reversed(words) if word.startswith("seed=")), "")

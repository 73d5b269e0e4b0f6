"""The command compare: runs that exist, or runs to be trained at equal budgets; table and plots."""

import hashlib
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console

from nfields.budget import parse_duration
from nfields.compare.budget import parse_count, parse_fraction
from nfields.compare.report import report
from nfields.compare.runs import Collected, collect
from nfields.compare.training import Budget, Job, plan, train_all
from nfields.config_check import did_you_mean, raise_problems
from nfields.errors import ConfigError
from nfields.key_values import option_problems

HELP = """\
usage: compare.py runs=FOLDER[,FOLDER...] [key=value ...]
       compare.py task=... model=A,B seed=0,1,2 [budget.*=...] [key=value ...]

Runs that exist: every finished run in and below the folders; a sweep folder stands for its runs.
  runs=outputs/image         also several: runs=[a,b]
Runs to be trained, one process each, one after another: the words of train.py, with commas for all
combinations. The same command again goes on where it stopped.
  budget.params=300k         sets each model's size: the largest with at most so many parameters
  budget.tolerance=5%        how far below that a model may stay
  budget.seconds=60          each run trains so long (60, 60s, 4m),
  budget.steps=2000          or so many steps
Both:
  out=FOLDER                 table.md, .csv, .tex, plots, compare.json; else below outputs/compare
  metric=psnr                the measure of the plots and Pareto fronts; else the first one measured
  better=auto                auto (by the measure's name), higher or lower
  mean_over=data.path        rows are means over the values of this option, such as several pictures
  mix_protocols=false        true: also runs that were not measured alike; the table says how"""


def command_options(
    *,
    runs: str | Sequence[str] | None = None,
    out: str | None = None,
    metric: str | None = None,
    better: Literal["auto", "higher", "lower"] = "auto",
    mean_over: str | None = None,
    mix_protocols: bool = False,
) -> None:
    """The options of compare; other words are those of train.py."""


def budget_options(
    *,
    params: str | float | int | None = None,
    seconds: str | float | int | None = None,
    steps: str | int | None = None,
    tolerance: str | float | int = "5%",
) -> Budget:
    """The budgets as numbers."""
    parameters = None if params is None else parse_count(params, "budget.params")
    if parameters is None and tolerance != "5%":
        raise ConfigError("budget.tolerance has no effect without budget.params")
    return Budget(
        parameters=parameters,
        seconds=parse_duration(seconds, "budget.seconds"),
        steps=None if steps is None else parse_count(steps, "budget.steps"),
        tolerance=parse_fraction(tolerance, "budget.tolerance"),
    )


def main(words: Sequence[str]) -> None:
    """The command compare: prints the table and names the files."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not words or set(words) & {"-h", "--help", "help"}:
        console.print(HELP)
        return
    options, budget_words, trained = read(words)
    budget = budget_options(**budget_words)
    jobs: list[Job] = []
    failed: list[Job] = []
    if "runs" in options:
        given = [*trained, *(f"budget.{key}=..." for key in budget_words)]
        if given:
            raise ConfigError(
                f"{given[0]}: runs=... compares runs that exist, and nothing is trained; leave "
                "out runs= to train, or leave out the words for training"
            )
        paths = options["runs"]
        paths = paths.split(",") if isinstance(paths, str) else list(paths)
        out = Path(options.get("out") or default_folder(sorted(paths), "runs"))
        collected = collect(paths)
    else:
        out = Path(options.get("out") or default_folder([*trained, *map(str, budget_words.items())],
                   task_of(trained)))  # fmt: skip
        jobs = plan(trained, budget, out)
        announce(console, jobs)
        failed = train_all(jobs, console.print)
        finished = [job.folder for job in jobs if job not in failed]
        collected = collect(finished) if finished else Collected([], {})
    report(console, collected, jobs, out, options)
    if failed:
        console.print(f"{len(failed)} runs failed:")
        for job in failed:
            console.print(f"  {job.folder}")
        sys.exit(2)


def read(words: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Options of compare, of the budget, and words for train.py; every mistake at once."""
    options: dict[str, Any] = {}
    budget: dict[str, Any] = {}
    trained, problems = [], []
    own = inspect.signature(command_options).parameters
    budgets = inspect.signature(budget_options).parameters
    for word in words:
        key, equals, value = word.partition("=")
        try:
            if not equals or not key:
                problems.append(f"{word}: not of the form key=value")
            elif key.startswith("budget."):
                budget[key.removeprefix("budget.")] = yaml.safe_load(value)
            elif key in own:
                options[key] = yaml.safe_load(value)
            else:
                trained.append(word)
        except yaml.YAMLError as error:
            problems.append(f"{word}: not a yaml value ({error.__class__.__name__})")
    problems += option_problems(options, [command_options], "compare")
    for problem in option_problems(budget, [budget_options], "compare"):
        name = problem.partition("=")[0].partition(" ")[0]
        if name in budgets:
            problems.append(f"budget.{problem}")
        else:
            names = [f"budget.{key}" for key in budgets]
            hint = did_you_mean(f"budget.{name}", names)
            problems.append(f"budget.{name}: no such budget{hint}; there are {', '.join(names)}")
    for word in trained:
        key = word.partition("=")[0]
        if key in ("run_dir", "resume", "name"):
            problems.append(f"{word}: compare names the folders itself; give out=FOLDER")
    raise_problems(problems)
    return options, budget, trained


def default_folder(words: Sequence[str], name: str) -> Path:
    """outputs/compare/<name>-<hash>; models and seeds do not count, so that one may add some."""
    counted = [word for word in words if not word.startswith(("model=", "seed="))]
    digest = hashlib.sha256("\n".join(sorted(counted)).encode()).hexdigest()[:8]
    return Path("outputs", "compare", f"{name}-{digest}")


def task_of(words: Sequence[str]) -> str:
    """The task in the words, for a folder's name."""
    given = [word.removeprefix("task=") for word in words if word.startswith("task=")]
    return given[-1].replace(",", "-") if given else "nerf"


def announce(console: Console, jobs: Sequence[Job]) -> None:
    """Says how many runs there are, and the sizes that were found."""
    console.print(f"{len(jobs)} runs")
    sizes = {}
    for job in jobs:
        if job.matched is not None:
            match = job.matched
            line = f"{match.option}={match.value}: {match.parameters:,} parameters"
            sizes[f"  {job.config['choices']['model']} with {line}"] = None
    for line in sizes:
        console.print(line)

"""The commands: `nfields train ...` where installed, `python train.py ...` in a checkout.

Every file in scripts/ is a command of the same name; a wheel carries them as nfields/scripts.
Errors that a user can cause print their message and exit with 2; NFIELDS_DEBUG=1 shows where.
"""

import ast
import os
import runpy
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from textwrap import wrap
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException

from nfields.config import compose, config_folder
from nfields.config_check import did_you_mean
from nfields.errors import ConfigError, DataError
from nfields.overrides import opened, parse


def main() -> None:
    """Runs the command that the first word names, on the words after it."""
    scripts = {file.stem: file for file in sorted(script_folder().glob("*.py"))}
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help", "help"):
        print("usage: nfields COMMAND ...\n")
        print("  train        fit a neural field; nfields train --help")
        for script, file in scripts.items():
            print(f"  {script:12} {summary(file)}")
    elif name == "train":
        train(sys.argv[2:])
    elif name in scripts:
        sys.argv = [f"nfields {name}", *sys.argv[2:]]
        with messages():
            runpy.run_path(str(scripts[name]), run_name="__main__")
    else:
        names = ["train", *scripts]
        hint = did_you_mean(name, names) or f"; there are: {', '.join(names)}"
        print(f"nfields {name}: no such command{hint}", file=sys.stderr)
        sys.exit(2)


def script_folder() -> Path:
    """The folder of scripts: inside the installed package, or beside it in a checkout."""
    return config_folder().parent / "scripts"


def summary(script: Path) -> str:
    """The first line of a script's docstring."""
    text = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


@contextmanager
def messages() -> Iterator[None]:
    """Turns what a user can cause into a message and an exit code, without a traceback."""
    try:
        yield
    except (ConfigError, DataError, HydraException) as error:
        if shows_tracebacks():
            raise
        print(f"error{of_process()}: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if shows_tracebacks():
            raise
        print("\nstopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # `nfields train --cfg job | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def of_process() -> str:
    """Which process speaks, where torchrun started several; else nothing."""
    size = os.environ.get("WORLD_SIZE", "1")
    return "" if size == "1" else f" in process {os.environ.get('RANK', '0')} of {size}"


def shows_tracebacks() -> bool:
    return "1" in (os.environ.get("NFIELDS_DEBUG"), os.environ.get("HYDRA_FULL_ERROR"))


def train(words: Sequence[str]) -> None:
    """train.py: one run, or with -m one run for every combination of the values given.

    A configuration is checked before Hydra sees it, all jobs of a sweep before the first starts.
    Hydra does what it is better at: --help, --cfg, --info, shell completion, sweeps.
    """
    arguments = get_args_parser().parse_args(list(words))
    overrides = list(arguments.overrides)
    if arguments.config_dir is not None:
        folder = Path(arguments.config_dir).resolve()
        overrides.append(f"hydra.searchpath=[file://{folder}]")
    with messages():
        if arguments.config_name is not None or arguments.config_path is not None:
            raise ConfigError("put your yaml files in a folder and add it with --config-dir=FOLDER")
        if arguments.experimental_rerun is not None:
            raise ConfigError("--experimental-rerun unpickles a file; use resume=RUN_FOLDER")
        only_shows = arguments.help or arguments.hydra_help or arguments.shell_completion
        if arguments.multirun:
            check_sweep(overrides)
        elif arguments.cfg is not None:
            compose(overrides)
        elif not only_shows and arguments.info is None:
            run_once(overrides)
            return
        if arguments.help:
            text = StringIO()
            try:
                with redirect_stdout(text):
                    with_hydra(words, overrides)
            finally:  # Hydra exits when it has printed its help
                # Files for pairs of a model and a task are taken without being chosen.
                lines = [line for line in text.getvalue().splitlines() if "model_task:" not in line]
                print("\n".join(part for line in lines for part in _wrapped(line)))
        else:
            with_hydra(words, overrides)


def _wrapped(line: str) -> list[str]:
    """A line of choices in lines of at most 120 characters, under one another."""
    if len(line) <= 120:
        return [line]
    return wrap(line, 120, subsequent_indent=" " * (line.index(":") + 2))


def run_once(overrides: Sequence[str]) -> None:
    from nfields.interrupt import TrainingInterrupted
    from nfields.run import train as train_one  # imports torch: not for --help

    try:
        train_one(overrides)
    except TrainingInterrupted as stop:
        if os.environ.get("RANK", "0") == "0":  # all the processes of torchrun stop alike
            print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)


def check_sweep(overrides: Sequence[str]) -> None:
    """Raises a ConfigError if a job of the sweep has a problem, or two have one run folder."""
    if any(text.startswith("hydra/sweeper=") for text in overrides):
        return  # another sweeper chooses values as it goes; each job is checked when it starts
    [jobs] = BasicSweeper.split_arguments(parse(overrides), None)
    folders: dict[str, list[str]] = {}
    for job in jobs:
        run_dir = compose(job).run_dir
        if run_dir in folders:
            raise ConfigError(
                f"run_dir={run_dir} is the folder of two runs of this sweep, {folders[run_dir]} "
                f"and {job}; leave run_dir out, or tell them apart: run_dir='{run_dir}/${{seed}}'"
            )
        if run_dir is not None:
            folders[run_dir] = job


def with_hydra(words: Sequence[str], overrides: Sequence[str]) -> None:
    """Hands over to Hydra; exits with 2 if a job of a sweep failed for a reason a user can mend."""
    search_path = [text for text in overrides if text.startswith("hydra.searchpath=")]
    failed: list[str] = []

    @hydra.main(config_path=str(config_folder()), config_name="train", version_base="1.3")
    def job(cfg: Any) -> None:
        overrides_of_job = list(HydraConfig.get().overrides.task)
        try:
            run_once([*overrides_of_job, *search_path])
        except (ConfigError, DataError) as error:
            if shows_tracebacks():
                raise
            print(f"error{of_process()}: {error}", file=sys.stderr)
            failed.append(" ".join(overrides_of_job))

    sys.argv = [sys.argv[0], *map(opened, words)]
    job()
    if failed:
        print(f"{len(failed)} runs of the sweep failed:", *failed, sep="\n  ", file=sys.stderr)
        sys.exit(2)

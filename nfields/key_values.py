"""The `key=value` words of evaluate and export: read, and checked against what takes them.

    run=FOLDER limit=10 background=black data.path=/where/it/is/now

Keys without a dot are options of the command; dotted ones change the stored configuration of the
run, in Hydra's grammar, as they do for train.py.
"""

import inspect
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nfields.config_check import describe, did_you_mean, fits, raise_problems, show, type_hints
from nfields.errors import ConfigError
from nfields.run_folder import RunFolder


@dataclass(frozen=True)
class Words:
    """The words of a command line: options with their yaml values, and overrides of the run."""

    options: dict[str, Any]
    overrides: list[str]


def read_words(words: Sequence[str]) -> Words:
    """The options and overrides; an error lists all words that are neither."""
    given, problems = sort_words(words)
    raise_problems(problems)
    return given


def sort_words(words: Sequence[str], own: Container[str] | None = None) -> tuple[Words, list[str]]:
    """The options and overrides, and what is wrong with words that are neither.

    Options are the keys in `own`, for a command that takes the words of train.py beside its own;
    else all keys without a dot.
    """
    options: dict[str, Any] = {}
    overrides, problems = [], []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            problems.append(f"{word}: not of the form key=value")
        elif "." in key if own is None else key not in own:
            overrides.append(word)
        else:
            try:
                options[key] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                problems.append(
                    f"{word}: {show(value)} is not a yaml value ({error.__class__.__name__})"
                )
    return Words(options, overrides), problems


def option_problems(
    given: Mapping[str, Any], takes: Sequence[Callable[..., Any]], command: str
) -> list[str]:
    """What is wrong with options that go to the keyword-only arguments of some functions."""
    hints: dict[str, Any] = {}
    needed = set()
    for function in takes:
        types = type_hints(function)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
                hints[name] = types.get(name, Any)
                if parameter.default is inspect.Parameter.empty:
                    needed.add(name)
    problems = [f"{name} is missing: {name}=..." for name in sorted(needed - set(given))]
    for key, value in given.items():
        if key not in hints:
            problems.append(
                f"{key}={value}: no such option{did_you_mean(key, list(hints))}\n"
                f"options of {command}: {', '.join(hints)}; dotted names change the run's own, "
                "such as data.path=..."
            )
        elif not fits(value, hints[key]):
            problems.append(f"{key} = {show(value)}: must be {describe(hints[key])}")
    return problems


def find_run(run: str) -> RunFolder:
    """The run folder that `run=` names; `latest` is the one under outputs/ that was saved last."""
    if run != "latest":
        return RunFolder.load(run)
    saved = [
        file
        for file in Path("outputs").rglob("checkpoint/state.json")
        if (file.parents[1] / "config.yaml").is_file()
    ]
    if not saved:
        raise ConfigError(
            f"run=latest: no run with a checkpoint is under {Path('outputs').resolve()}; "
            "give run=<run folder>"
        )
    return RunFolder.load(max(saved, key=lambda file: file.stat().st_mtime).parents[1])

"""Means over items: one picture says little about a representation, several say more.

`mean_over=data.path` makes one run out of those that differ in nothing else: each of its figures is
the mean over the items. Seeds stay apart, so that a spread is that of the mean, not of the items.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nfields.compare.runs import Run, as_text, check_protocols, show_all
from nfields.config_check import did_you_mean
from nfields.errors import ConfigError


def averaged(runs: Sequence[Run], key: str, mix_protocols: bool) -> list[Run]:
    """One run for all that differ in the option `key` alone.

    Items may be measured differently from one another (pictures have different sizes), but each
    alike in all rows. A ConfigError says where that is not so, or which item a row lacks.
    """
    by_item: dict[str, list[Run]] = {}
    for run in runs:
        if key not in run.options:
            known = list(dict.fromkeys(name for run in runs for name in run.options))
            raise ConfigError(
                f"mean_over={key}: {run.folder} has no such option{did_you_mean(key, known)}"
            )
        by_item.setdefault(as_text(run.options[key]), []).append(run)
    if not mix_protocols:
        for same_item in by_item.values():
            check_protocols(same_item)
    rows: dict[tuple[str, int], dict[str, Run]] = {}
    for run in runs:
        others = {name: value for name, value in run.options.items() if name != key}
        row = rows.setdefault((show_all(others), run.seed), {})
        row[as_text(run.options[key])] = run
    for row in rows.values():
        missing = by_item.keys() - row.keys()
        if missing:
            some = next(iter(row.values()))
            raise ConfigError(
                f"mean_over={key}: {some.folder} (seed {some.seed}) has no run with "
                f"{key}={', '.join(sorted(missing))} beside it; means over different items do not "
                "compare. Train what is missing or leave the others out"
            )
    return [_mean([row[item] for item in by_item], key) for row in rows.values()]


def _mean(runs: Sequence[Run], key: str) -> Run:
    first = runs[0]
    items = [run.options[key] for run in runs]
    names = ", ".join(Path(item).name if isinstance(item, str) else repr(item) for item in items)
    shared = {
        name: value
        for name, value in first.protocol.items()
        if name != key and all(run.protocol.get(name) == value for run in runs)
    }
    measured = [name for name in first.measures if all(name in run.measures for run in runs)]
    facts = {name: _mean_or_none([run.facts.get(name) for run in runs]) for name in first.facts}
    return replace(
        first,
        options={name: value for name, value in first.options.items() if name != key},
        measures={name: statistics.fmean(run.measures[name] for run in runs) for name in measured},
        facts=facts,
        protocol={**shared, "mean over": f"{len(runs)} of {key} ({names})"},
        log=_mean_log([run.log for run in runs]),
    )


def _mean_or_none(values: Sequence[float | int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _mean_log(logs: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Means of the lines at steps that all runs logged."""
    by_step = [{line["step"]: line for line in log if "step" in line} for log in logs]
    result = []
    for step in sorted(set.intersection(*(set(lines) for lines in by_step))):
        lines = [lines_of_run[step] for lines_of_run in by_step]
        numbers = [
            name
            for name, value in lines[0].items()
            if name != "step"
            and isinstance(value, int | float)
            and all(isinstance(line.get(name), int | float) for line in lines)
        ]
        mean = {name: statistics.fmean(line[name] for line in lines) for name in numbers}
        result.append({"step": step, **mean})
    return result

"""What compare says: the table with its notes, the plots, and all figures as json."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from nfields.compare.averages import averaged
from nfields.compare.pareto import is_lower_better
from nfields.compare.plot import COSTS, Measure, fronts, write_plots
from nfields.compare.runs import Collected, as_text, check_protocols, protocol_differences
from nfields.compare.table import (
    SPREAD_NOTE,
    Row,
    Statistic,
    comma_separated,
    latex,
    make_rows,
    markdown,
    measures,
    options_of_models,
)
from nfields.compare.training import Job
from nfields.config_check import did_you_mean
from nfields.errors import ConfigError, DataError
from nfields.run_folder import write_json


def report(
    console: Console,
    collected: Collected,
    jobs: Sequence[Job],
    out: Path,
    options: Mapping[str, Any],
) -> None:
    """Prints the table; writes it, the plots and compare.json."""
    for folder, reason in collected.skipped.items():
        console.print(f"skipped {folder}: {reason}")
    runs = collected.runs
    if not runs:
        raise DataError(f"no run to compare; {len(collected.skipped)} were skipped")
    mix_protocols, key = options.get("mix_protocols", False), options.get("mean_over")
    if key is not None:
        runs = averaged(runs, key, mix_protocols)
    if not mix_protocols:
        check_protocols(runs)
    rows = make_rows(runs)
    measure = chosen_measure(rows, options)
    notes = make_notes(rows, measure, len(collected.skipped))
    table = markdown(rows)
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = table + "\n" + "".join(f"{note}\n\n" for note in notes)
        (out / "table.md").write_text(text, encoding="utf-8")
        (out / "table.csv").write_text(comma_separated(rows), encoding="utf-8")
        (out / "table.tex").write_text(latex(rows), encoding="utf-8")
        write_json(out / "compare.json", record(rows, measure, collected, jobs))
    except OSError as error:
        raise DataError(f"out={out} cannot be written: {error.strerror}") from error
    files = write_plots(rows, measure, out) if measure is not None else []
    console.print(f"\n{table}")
    for note in notes:
        console.print(note)
    names = ["table.md", "table.csv", "table.tex", "compare.json", *(file.name for file in files)]
    console.print(f"written to {out}: {', '.join(names)}")


def chosen_measure(rows: Sequence[Row], options: Mapping[str, Any]) -> Measure | None:
    """The measure of the plots: metric=, or the first; None where nothing was measured."""
    names, metric = measures(rows), options.get("metric")
    if metric is not None and metric not in names:
        raise ConfigError(
            f"metric={metric}: not measured{did_you_mean(metric, names)}; there are "
            f"{', '.join(names) or 'none'}"
        )
    if not names:
        return None
    name = names[0] if metric is None else str(metric)
    better = options.get("better", "auto")
    return Measure(name, is_lower_better(name) if better == "auto" else better == "lower")


def make_notes(rows: Sequence[Row], measure: Measure | None, num_skipped: int) -> list[str]:
    """What belongs under a table: spread, protocol, Pareto fronts, what was left out."""
    runs = [run for row in rows for run in row.runs]
    differing = protocol_differences(runs)
    common = [f"{k}={as_text(v)}" for k, v in runs[0].protocol.items() if k not in differing]
    notes = [SPREAD_NOTE, f"Protocol: {'; '.join(common)}."]
    if differing:
        notes.append(f"NOT measured alike: {', '.join(differing)} differ.")
    for key, values in options_of_models(rows).items():
        each = ", ".join(f"{model} {value}" for model, value in values.items())
        notes.append(f"{key} goes with the model: {each}.")
    if measure is not None:
        for cost in COSTS:
            for front in fronts(rows, cost.fact, measure):
                if cost.fact != "steps" and len(rows) > 1:
                    labels = "; ".join(row.label for row in front)
                    notes.append(f"Pareto front, {measure.label} against {cost.label}: {labels}.")
    if num_skipped:
        notes.append(f"{num_skipped} runs were skipped (unfinished, not evaluated or repeated).")
    return notes


def record(
    rows: Sequence[Row], measure: Measure | None, collected: Collected, jobs: Sequence[Job]
) -> dict[str, Any]:
    """compare.json: every figure of the table and of each run, and where it came from."""

    def numbers(statistic: Statistic | None) -> dict[str, Any] | None:
        if statistic is None:
            return None
        return {"mean": statistic.mean, "std": statistic.std, "count": statistic.count}

    matched = {str(job.folder): vars(job.matched) for job in jobs if job.matched is not None}
    return {
        "rows": [
            {
                "names": row.names,
                "label": row.label,
                "measures": {name: numbers(row.measure(name)) for name in measures(rows)},
                "facts": {name: numbers(row.fact(name)) for name in row.runs[0].facts},
                "steps_per_second": numbers(row.steps_per_second),
                "protocol": row.runs[0].protocol,
                "runs": [
                    {"folder": str(run.folder), "seed": run.seed, **run.measures}
                    for run in row.runs
                ],
            }
            for row in rows
        ],
        "measure": None if measure is None else vars(measure),
        "pareto_fronts": {}
        if measure is None
        else {
            cost.fact: [[row.label for row in front] for front in fronts(rows, cost.fact, measure)]
            for cost in COSTS
        },
        "skipped": collected.skipped,
        "matched": matched,
    }

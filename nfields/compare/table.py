"""The table of a comparison: one row a configuration, means over its seeds.

A row is named by what tells it from the others: its model (and task, data, trainer, where they
differ), and the options that differ among the rows of the same choice. Options of one model say
nothing about another, so they are never compared across.
"""

import csv
import io
import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfields.compare.runs import Run, as_text, protocol_differences, show_all

CHOSEN_GROUPS = ("model", "task", "data", "trainer")
SPREAD_NOTE = "Mean ± sample standard deviation over the seeds; without ±: one seed."


@dataclass(frozen=True)
class Statistic:
    """Mean and sample standard deviation (n - 1 in the denominator; None for one value)."""

    mean: float | int
    std: float | None
    count: int
    places: int | None = None  # digits behind the point; None: as many as show four in all

    @staticmethod
    def of(values: Sequence[float | int]) -> "Statistic":
        """The statistic of at least one value."""
        std = statistics.stdev(values) if len(values) > 1 else None
        return Statistic(statistics.fmean(values), std, len(values))

    def __str__(self) -> str:
        """'30.53 ± 0.96': four digits of the mean, the spread to the same place."""
        places = decimals(self.mean) if self.places is None else self.places
        mean = f"{self.mean:,.{places}f}"
        return mean if self.std is None else f"{mean} ± {self.std:,.{places}f}"


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed alone; `names` tells them from the other rows."""

    names: dict[str, str]
    runs: list[Run]
    protocol: dict[str, str]  # what differs from other rows' protocols

    @property
    def label(self) -> str:
        """'rbfnet, num_neurons 16': the names in short, for a plot."""
        words = []
        for key, value in self.names.items():
            short = key.rpartition(".")[2]
            if value:
                words.append(Path(value).name if key in CHOSEN_GROUPS else f"{short} {value}")
        words += [value for key, value in self.protocol.items() if key not in self.names]
        return ", ".join(words)

    def measure(self, name: str) -> Statistic | None:
        """A measure over the seeds; None if a run lacks it."""
        return _statistic(run.measures.get(name) for run in self.runs)

    def fact(self, name: str) -> Statistic | None:
        """What training took, over the seeds; None if a run does not know."""
        return _statistic(run.facts.get(name) for run in self.runs)

    @property
    def steps_per_second(self) -> Statistic | None:
        """Training steps a second of training."""
        rates = []
        for run in self.runs:
            steps, seconds = run.facts.get("steps"), run.facts.get("train_seconds")
            rates.append(steps / seconds if steps is not None and seconds else None)
        return _statistic(rates)


@dataclass(frozen=True)
class Column:
    """A name and what stands under it in a row: a text, a statistic, or nothing."""

    name: str
    value: Callable[[Row], str | Statistic | None]


def make_rows(runs: Sequence[Run]) -> list[Row]:
    """The rows of the table: models in the order of the runs, their variants in natural order."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((show_all(run.options), show_all(run.protocol)), []).append(run)
    firsts = [group[0] for group in groups.values()]
    shown = _choices_shown(firsts)
    options = _options_shown(firsts)
    protocol = protocol_differences(firsts)
    rows = []
    for group in groups.values():
        run = group[0]
        names = {choice: run.choices.get(choice, "") for choice in shown}
        names |= {key: as_text(run.options[key]) if key in run.options else "" for key in options}
        differing = {
            key: as_text(run.protocol[key]) if key in run.protocol else "not said"
            for key in protocol
            if key not in names
        }
        rows.append(Row(names, sorted(group, key=lambda run: run.seed), differing))
    models = [row.names["model"] for row in rows]
    return sorted(rows, key=lambda row: (models.index(row.names["model"]), _order(row)))


def options_of_models(rows: Sequence[Row]) -> dict[str, dict[str, str]]:
    """Options outside the model that go with it: {task.pixels_per_step: {siren: 4096, ...}}.

    They do not tell rows apart that their model tells apart, but a reader has to know them.
    """
    runs = [row.runs[0] for row in rows]
    shown, found = set(_options_shown(runs)), {}
    for key in dict.fromkeys(key for run in runs for key in run.options):
        if key in shown or key.startswith("model."):
            continue
        by_group: dict[str, dict[str, str]] = {}
        for (choice, model), values in _values(runs, key).items():
            by_group.setdefault(choice, {})[model] = values[0]
        for values in by_group.values():
            if len(set(values.values())) > 1:
                found[key] = values
    return found


def measures(rows: Sequence[Row]) -> list[str]:
    """The names of everything that was measured, in the order of the evaluation."""
    return list(dict.fromkeys(name for row in rows for run in row.runs for name in run.measures))


def make_columns(rows: Sequence[Row]) -> list[Column]:
    """What differs, the measures, what training took."""
    columns = [Column(name, lambda row, name=name: row.names[name]) for name in rows[0].names]
    columns += [Column(key, lambda row, key=key: row.protocol[key]) for key in rows[0].protocol]
    columns += [Column(name, lambda row, name=name: row.measure(name)) for name in measures(rows)]
    return [
        *columns,
        Column("seeds", lambda row: str(len(row.runs))),
        Column("parameters", lambda row: _mean(row.fact("parameters"))),
        Column("steps", lambda row: _mean(row.fact("steps"))),
        Column("train seconds", lambda row: _mean(row.fact("train_seconds"), places=1)),
        Column("steps/s", lambda row: _mean(row.steps_per_second, places=1)),
        Column("peak memory, MB", lambda row: _mean(row.fact("peak_memory_bytes"), 1e-6)),
    ]


def markdown(rows: Sequence[Row]) -> str:
    """The table for a README or an issue."""
    columns = make_columns(rows)
    head = [column.name for column in columns]
    lines = [head, ["---"] * len(head), *_cells(rows, columns)]
    escaped = [[re.sub(r"([|\\*`<])", r"\\\1", cell) for cell in line] for line in lines]
    return "".join("| " + " | ".join(line) + " |\n" for line in escaped)


def latex(rows: Sequence[Row]) -> str:
    """The table for a paper; needs the package booktabs."""
    columns = make_columns(rows)
    kinds = "".join("l" if _is_text(column, rows) else "r" for column in columns)
    head = [_latex_text(column.name) for column in columns]
    body = [[_latex_cell(cell) for cell in line] for line in _cells(rows, columns)]
    lines = [f"\\begin{{tabular}}{{{kinds}}}", "\\toprule", " & ".join(head) + r" \\", "\\midrule"]
    lines += [" & ".join(line) + r" \\" for line in body]
    return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"]) + "\n"


def comma_separated(rows: Sequence[Row]) -> str:
    """The table for a program: all digits; a measure has its mean and its std in two columns."""
    columns = make_columns(rows)
    measured = set(measures(rows))
    head: list[str] = []
    for column in columns:
        head += [column.name, f"{column.name} std"] if column.name in measured else [column.name]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        line: list[Any] = []
        for column in columns:
            value = column.value(row)
            if column.name in measured:
                pair = (value.mean, value.std) if isinstance(value, Statistic) else (None, None)
                line += ["" if number is None else number for number in pair]
            else:
                line.append(value.mean if isinstance(value, Statistic) else value or "")
        writer.writerow(line)
    return out.getvalue()


def decimals(value: float) -> int:
    """Digits behind the point so that four digits of a number show; 0.957 has four, too."""
    places, size = 3, abs(value)
    while size >= 10 and places > 0:
        size, places = size / 10, places - 1
    while 0 < size < 0.1 and places < 9:
        size, places = size * 10, places + 1
    return places if abs(value) >= 1 else places + 1


def _order(row: Row) -> list[list[tuple[float, str]]]:
    """Sorts 9 before 10, and 'a9' before 'a10'."""
    texts = [*row.names.values(), *row.protocol.values()]
    parts = [re.split(r"(\d+(?:\.\d+)?)", text) for text in texts]
    return [[(float(p), "") if i % 2 else (-1.0, p) for i, p in enumerate(ps)] for ps in parts]


def _cells(rows: Sequence[Row], columns: Sequence[Column]) -> list[list[str]]:
    return [["-" if (v := c.value(row)) is None else str(v) for c in columns] for row in rows]


def _is_text(column: Column, rows: Sequence[Row]) -> bool:
    return column.name in rows[0].names or column.name in rows[0].protocol


def _latex_cell(cell: str) -> str:
    return "$" + cell.replace("±", r"\pm") + "$" if "±" in cell else _latex_text(cell)


def _latex_text(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {character: f"\\{character}" for character in "&%$#_{}"}
    return "".join(special.get(character, character) for character in text)


def _statistic(values: Iterable[float | int | None]) -> Statistic | None:
    known = list(values)
    if not known or any(value is None for value in known):
        return None
    return Statistic.of([float(value) for value in known if value is not None])


def _mean(statistic: Statistic | None, factor: float = 1.0, places: int = 0) -> Statistic | None:
    if statistic is None:
        return None
    return Statistic(factor * statistic.mean, None, statistic.count, places)


def _choices_shown(runs: Sequence[Run]) -> list[str]:
    """The model always; of task, data and trainer those that differ."""
    differ = [len({run.choices.get(group) for run in runs}) > 1 for group in CHOSEN_GROUPS]
    return [g for g, differs in zip(CHOSEN_GROUPS, differ, strict=True) if differs or g == "model"]


def _options_shown(runs: Sequence[Run]) -> list[str]:
    """Options that differ among runs with the same model and the same choice of their group."""
    return [
        key
        for key in dict.fromkeys(key for run in runs for key in run.options)
        if any(len(set(values)) > 1 for values in _values(runs, key).values())
    ]


def _values(runs: Sequence[Run], key: str) -> dict[tuple[str, str], list[str]]:
    """The values of an option, by the choices of its group and of the model."""
    group, values = key.partition(".")[0], {}
    for run in runs:
        choices = run.choices.get(group, ""), run.choices.get("model", "")
        value = as_text(run.options[key]) if key in run.options else ""
        values.setdefault(choices, []).append(value)
    return values

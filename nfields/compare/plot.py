"""The plots of a comparison: quality against seconds, steps and parameters, with Pareto fronts.

Points are the final evaluation, with the standard deviation over seeds; curves are what was logged
during training: validations if most runs have them, else the measure of the training batches.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from nfields.chart import COLORS, Style, label_points, new_figure, save, set_scale, tidy
from nfields.compare.pareto import pareto_front
from nfields.compare.runs import Run, show_all
from nfields.compare.table import Row, Statistic

WIDE_RANGE = 20  # an axis that spans more than this factor is logarithmic
MOST_LABELS_OF_CURVES = 8  # beside their ends, which lie near each other; more go into a column
MOST_LABELS_OF_POINTS = 24


@dataclass(frozen=True)
class Measure:
    """The measure on the vertical axes."""

    name: str
    lower_is_better: bool

    @property
    def label(self) -> str:
        """'psnr', or 'flip (lower is better)'."""
        return f"{self.name} (lower is better)" if self.lower_is_better else self.name


@dataclass(frozen=True)
class Cost:
    """A horizontal axis: the fact of a run at its end, and the same during training, if logged."""

    fact: str
    label: str
    logged: str | None


COSTS = (
    Cost("train_seconds", "seconds of training", "seconds"),
    Cost("steps", "steps", "step"),
    Cost("parameters", "parameters", None),
)


def write_plots(rows: Sequence[Row], measure: Measure, folder: Path) -> list[Path]:
    """quality_train_seconds.png, quality_steps.png, quality_parameters.png; those with data."""
    files = []
    for cost in COSTS:
        known = [row for row in rows if row.fact(cost.fact) and row.measure(measure.name)]
        if known:
            figure = draw(known, cost, measure)
            files.append(save(figure, folder / f"quality_{cost.fact}.png"))
    return files


def draw(rows: Sequence[Row], cost: Cost, measure: Measure) -> Figure:
    """One plot; every row has the cost and the measure."""
    figure = new_figure()
    axes = figure.subplots()
    key = curve_key(rows, measure.name) if cost.logged is not None else None
    looks = styles(rows)
    notes = []
    if key is not None and cost.logged is not None:
        is_validation = key.startswith("validation_")
        source = "validation" if is_validation else "training batches, mean between two log lines"
        notes.append(f"curves: {source}")
        for row, style in zip(rows, looks, strict=True):
            if not has_curve(row, key):
                continue  # over before its second line: a point alone
            draw_curve(axes, row.runs, cost.logged, key, style)
    notes.append("points: final evaluation")
    ends = [(_of(row.fact(cost.fact)), _of(row.measure(measure.name))) for row in rows]
    for front in fronts(rows, cost.fact, measure):
        if cost.fact != "steps" and len(front) > 1:
            draw_front(axes, [ends[rows.index(row)] for row in front])
            notes.append("grey: Pareto front")
    labels, points = [row.label for row in rows], [(x.mean, y.mean) for x, y in ends]
    for (x, y), style in zip(ends, looks, strict=True):
        axes.errorbar(
            x.mean, y.mean, xerr=x.std or None, yerr=y.std or None, capsize=2.5, elinewidth=1,
            markersize=6, color=style.color, marker=style.marker, linestyle="none", zorder=3,
        )  # fmt: skip
    spans = [x for x, _ in points] + logged_costs(rows, cost.logged, key)
    set_scale(axes, "x", spans, WIDE_RANGE if key else 3)
    tidy(axes, cost.label, measure.label, "; ".join(dict.fromkeys(notes)))
    if len(rows) <= (MOST_LABELS_OF_CURVES if key else MOST_LABELS_OF_POINTS):
        label_points(figure, axes, points, labels, [style.color for style in looks])
    else:
        list_labels(figure, rows, measure, has_curves=key is not None)
    return figure


def styles(rows: Sequence[Row]) -> list[Style]:
    """A colour for each model, other dashes for its variants; one model: a colour for each row."""
    models = [row.runs[0].choices.get("model", "") for row in rows]
    kinds = list(dict.fromkeys(models))
    if len(kinds) == 1:
        return [Style.of(index, index // len(COLORS)) for index in range(len(rows))]
    return [
        Style.of(kinds.index(model), models[:index].count(model))
        for index, model in enumerate(models)
    ]


def list_labels(figure: Figure, rows: Sequence[Row], measure: Measure, has_curves: bool) -> None:
    """All labels in a column beside the plot, the best on top."""
    looks = dict(zip([row.label for row in rows], styles(rows), strict=True))
    sign = 1 if measure.lower_is_better else -1
    order = sorted(rows, key=lambda row: sign * _of(row.measure(measure.name)).mean)
    handles = [
        Line2D([], [], color=look.color, marker=look.marker, markersize=5,
               linestyle=look.dash if has_curves else "none")
        for look in (looks[row.label] for row in order)
    ]  # fmt: skip
    labels = [row.label for row in order]
    figure.set_size_inches(9.0, max(4.2, 0.19 * len(rows) + 0.6))
    figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)


def curve_key(rows: Sequence[Row], measure: str) -> str | None:
    """The key of the log under which most rows have a curve; of equals, the validation's."""
    keys = (f"validation_{measure}", measure)
    counts = [sum(has_curve(row, key) for row in rows) for key in keys]
    return keys[counts.index(max(counts))] if any(counts) else None


def has_curve(row: Row, key: str) -> bool:
    """Whether every run of the row logged the key at two steps or more."""
    return all(sum(line.get(key) is not None for line in run.log) > 1 for run in row.runs)


def draw_curve(axes: Axes, runs: Sequence[Run], x_key: str, key: str, style: Style) -> None:
    """The mean over the seeds, and one standard deviation around it."""
    curves = [curve(run, x_key, key) for run in runs]
    x = curves[0][0]
    x = x[(x >= max(c[0][0] for c in curves)) & (x <= min(c[0][-1] for c in curves))]
    values = np.stack([np.interp(x, *c) for c in curves])
    mean = values.mean(axis=0)
    axes.plot(x, mean, linewidth=1.4, color=style.color, linestyle=style.dash)
    if len(runs) > 1:
        std = values.std(axis=0, ddof=1)
        axes.fill_between(x, mean - std, mean + std, color=style.color, alpha=0.15, linewidth=0)


def curve(run: Run, x_key: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """What a run logged under `key`, against `x_key`."""
    lines = [line for line in run.log if line.get(key) is not None and line.get(x_key) is not None]
    pairs = np.array([(line[x_key], line[key]) for line in lines], dtype=float).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


def logged_costs(rows: Sequence[Row], logged: str | None, key: str | None) -> list[float]:
    """All places on the horizontal axis where a curve has a value."""
    if logged is None or key is None:
        return []
    return [float(x) for row in rows for run in row.runs for x in curve(run, logged, key)[0]]


def fronts(rows: Sequence[Row], fact: str, measure: Measure) -> list[list[Row]]:
    """The Pareto front of each protocol among the rows; one front where all are measured alike."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if row.fact(fact) and row.measure(measure.name):
            groups.setdefault(show_all(row.runs[0].protocol), []).append(row)
    found = []
    for group in groups.values():
        costs = [_of(row.fact(fact)).mean for row in group]
        quality = [_of(row.measure(measure.name)).mean for row in group]
        front = pareto_front(costs, quality, measure.lower_is_better)
        found.append([group[i] for i in front])
    return found


def draw_front(axes: Axes, points: Sequence[tuple[Statistic, Statistic]]) -> None:
    """A staircase: the best quality that can be had for at most this cost."""
    x, y = [x.mean for x, _ in points], [y.mean for _, y in points]
    axes.step(x, y, where="post", color="0.6", linewidth=4, alpha=0.5, zorder=1)


def _of(statistic: Statistic | None) -> Statistic:
    assert statistic is not None
    return statistic

"""What the plots of compare and diagnose share: sizes, colours, labels beside what they name.

Figures are made without pyplot: nothing global, no window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from nfields.errors import DataError

# Okabe and Ito's colours, told apart by colour-blind eyes too; without the yellow, pale on paper.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINE_HEIGHT = 13  # points between two labels
LETTER_WIDTH = 5  # points, of an average letter of a label


def new_figure(width: float = 7.0, height: float = 4.2) -> Figure:
    """An empty figure, in inches."""
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def tidy(axes: Axes, x_label: str, y_label: str, caption: str = "") -> None:
    """Names both axes, takes away what carries no data; the caption says how to read it."""
    axes.set_title(caption, loc="left", fontsize=8, color="0.35")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9", linewidth=0.6)
    axes.set_axisbelow(True)


@dataclass(frozen=True)
class Style:
    """How one thing looks in every plot it is in."""

    color: str
    dash: Any
    marker: str

    @staticmethod
    def of(color: int, variant: int = 0) -> "Style":
        """The style of a kind of thing, and of its variants: one colour, other dashes."""
        marker = MARKERS[(color + variant) % len(MARKERS)]
        return Style(COLORS[color % len(COLORS)], DASHES[variant % len(DASHES)], marker)


def set_scale(
    axes: Axes, name: Literal["x", "y"], values: Sequence[float | int], wide_range: float | int
) -> None:
    """A logarithmic x or y axis if the values span more than `wide_range`, else one of some width.

    Values within a percent must not look far apart.
    """
    positive = [value for value in values if value > 0]
    if not positive:
        return
    low, high = min(positive), max(positive)
    axis = axes.xaxis if name == "x" else axes.yaxis
    if high > wide_range * low:
        axes.set(**{f"{name}scale": "log"})
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=12))
        axis.set_minor_formatter(NullFormatter())
    elif high < 1.2 * low:
        axes.set(**{f"{name}lim": (0.85 * low, 1.2 * high)})
    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def short_number(value: float | int) -> str:
    """'0.2', '50', '2k', '1.5M'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def label_points(
    figure: Figure,
    axes: Axes,
    points: Sequence[tuple[float | int, float | int]],
    labels: Sequence[str],
    colors: Sequence[str],
) -> None:
    """Writes a label right of each point, in its colour; moved up where another is in its way."""
    figure.draw_without_rendering()
    to_points = 72 / figure.dpi
    taken: list[tuple[float, float, float]] = []  # left, right, height of the labels so far
    for index in sorted(range(len(points)), key=lambda i: points[i][1]):
        x, y = axes.transData.transform(points[index]) * to_points
        width, moved = LETTER_WIDTH * len(labels[index]), y
        for left, right, height in taken:
            if x < right and x + width > left and moved < height + LINE_HEIGHT:
                moved = height + LINE_HEIGHT
        taken.append((x, x + width, moved))
        axes.annotate(
            labels[index],
            xy=points[index],
            xytext=(9, moved - y),
            textcoords="offset points",
            color=colors[index],
            va="center",
            fontsize=9,
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )


def save(figure: Figure, file: Path) -> Path:
    """Writes the picture; its folder is made."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
    except OSError as error:
        raise DataError(f"{file} cannot be written: {error.strerror}; give another out=") from error
    return file

"""Cross-sections of a surface: the distance on three planes, with iso-lines; what=section."""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from nfields.chart import new_figure, save
from nfields.errors import ConfigError
from nfields.export.export import Export, surface_of
from nfields.render.surface import Surface
from nfields.stored_run import StoredRun

_LINES = 24  # iso-lines at most, where their spacing is chosen here
_TRUE_COLOR = "#D55E00"


class SectionExport(Export):
    """what=section; every option is explained in section.yaml."""

    def __init__(self, *, size: int, spacing: float | int | None, out: str | None):
        if size < 8:
            raise ConfigError(f"size={size} must be 8 or more")
        if spacing is not None and spacing <= 0:
            raise ConfigError(f"spacing={spacing} must be more than 0")
        if out is not None and Path(out).suffix.lower() != ".png":
            raise ConfigError(f"out={out} must end in .png")
        self.size, self.spacing, self.out = size, spacing, out

    def export(self, run: StoredRun) -> list[Path]:
        """Draws the three sections and returns their file."""
        surface = surface_of(run, "section")
        file = run.folder.path / "section" / "sections.png" if self.out is None else Path(self.out)
        return [save_sections(surface, None, file, spacing=self.spacing, size=self.size)]


def save_sections(
    surface: Surface,
    truth: Surface | None,
    file: Path,
    *,
    spacing: float | int | None,
    size: int,
) -> Path:
    """Draws the values on the planes through the middle of the box, across each axis.

    Everything is in the user's units, if the function is a distance; lines are `spacing` apart
    (None: a round number that gives up to 24), the zero line is bold, that of the truth dashed.
    """
    low, high = surface.bounds.double().cpu()
    middle = (low + high) / 2
    matrix = surface.to_user.double().cpu()
    scale = float(matrix[:3, 0].norm())
    axes_of = [(2, 1, 0), (0, 2, 1), (0, 1, 2)]  # right, up, across
    planes, true_planes = [], []
    for right, up, _ in axes_of:
        points = _plane(low, high, middle, right, up, size)
        unit = scale if surface.is_distance else 1.0
        planes.append(unit * surface.values(points.view(-1, 3)).view(size, size).numpy())
        if truth is not None:
            # Slow to ask, and only its outline is drawn: every other sample will do.
            coarse = points[::2, ::2]
            values = truth.values(coarse.reshape(-1, 3)).view(coarse.shape[:2]).numpy()
            true_planes.append(scale * values)
    largest = max(float(np.nanmax(np.abs(plane))) for plane in planes) or 1.0
    step = round_spacing(2 * largest / _LINES) if spacing is None else float(spacing)
    if 2 * largest / step > 400:
        raise ConfigError(f"spacing={step:g} gives more than 400 lines up to {largest:.3g}")
    top = step * math.ceil(largest / step)
    levels = step * np.arange(-round(top / step), round(top / step) + 1)
    figure = new_figure(12.6, 4.6)
    for axes, plane, (right, up, across), index in zip(
        figure.subplots(1, 3), planes, axes_of, range(3), strict=True
    ):
        ends = torch.stack([low, high, middle]) @ matrix[:3, :3].T + matrix[:3, 3]
        x = np.linspace(float(ends[0, right]), float(ends[1, right]), size)
        y = np.linspace(float(ends[0, up]), float(ends[1, up]), size)
        filled = axes.contourf(x, y, plane, levels=levels, cmap="RdBu_r", vmin=-top, vmax=top)
        axes.contour(
            x, y, plane, levels=levels, colors="black", linewidths=0.4, alpha=0.45,
            linestyles="solid",
        )  # fmt: skip
        if plane.min() < 0 <= plane.max():
            axes.contour(x, y, plane, levels=[0], colors="black", linewidths=2.0)
        if truth is not None and true_planes[index].min() < 0 <= true_planes[index].max():
            axes.contour(
                x[::2], y[::2], true_planes[index], levels=[0], colors=_TRUE_COLOR,
                linewidths=1.1, linestyles="dashed",
            )  # fmt: skip
        axes.set_aspect("equal")
        axes.set_title(f"{'xyz'[across]} = {float(ends[2, across]):.3g}", fontsize=10)
        axes.set_xlabel("xyz"[right])
        axes.set_ylabel("xyz"[up], rotation=0)
        axes.tick_params(labelsize=8)
        if index == 2:
            name = "distance" if surface.is_distance else "value"
            bar = figure.colorbar(filled, ax=axes, shrink=0.85)
            bar.set_label(f"{name}, lines every {step:g}", fontsize=9)
            bar.ax.tick_params(labelsize=8)
    if truth is not None:
        figure.supxlabel("bold: the field's surface; dashed: the true one", fontsize=9)
    return save(figure, file)


def round_spacing(wanted: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten that is not below the wanted one."""
    power = 10.0 ** math.floor(math.log10(wanted))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= 0.999999 * wanted)


def _plane(
    low: torch.Tensor, high: torch.Tensor, middle: torch.Tensor, right: int, up: int, size: int
) -> Float[torch.Tensor, "size size 3"]:
    points = middle.expand(size, size, 3).clone()
    points[:, :, right] = torch.linspace(0, 1, size) * (high - low)[right] + low[right]
    points[:, :, up] = (torch.linspace(0, 1, size) * (high - low)[up] + low[up])[:, None]
    return points.float()

"""The pictures of diagnose."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from nfields.chart import COLORS, label_points, new_figure, short_number, tidy
from nfields.diagnose.gradient import Check
from nfields.diagnose.spectrum import Spectrum
from nfields.diagnose.tangent_kernel import TangentKernel
from nfields.diagnose.throughput import Rate


def spectrum_picture(spectrum: Spectrum, title: str) -> Figure:
    """Steps to the right, frequencies upwards, the response as colour."""
    figure = new_figure()
    axes = figure.subplots()
    responses = np.array(spectrum.responses).T
    image = axes.pcolormesh(responses, cmap="viridis", vmin=0, vmax=1, edgecolors="face")
    for i, step in enumerate(spectrum.steps_to_half()):
        if step is not None:
            axes.plot(spectrum.steps.index(step) + 0.5, i + 0.5, "o", color="white", markersize=3)
    every = -(-len(spectrum.steps) // 12)
    shown = range(0, len(spectrum.steps), every)
    axes.set_xticks([i + 0.5 for i in shown], [short_number(spectrum.steps[i]) for i in shown])
    numbers = [f"{frequency:.3g}" for frequency in spectrum.frequencies]
    axes.set_yticks(np.arange(len(numbers)) + 0.5, numbers)
    caption = f"{title}; white dots: at least 1/2 from here on"
    tidy(axes, "training steps", "frequency, cycles over the slice", caption)
    axes.grid(False)
    figure.colorbar(image, ax=axes, label="response: 0 absent, 1 fitted", extend="both")
    return figure


def kernel_picture(
    kernel: TangentKernel, frequencies: Sequence[float], alignment: Tensor, title: str
) -> Figure:
    """Eigenvalues, and along which eigenvectors each frequency lies."""
    figure = new_figure(9.0, 4.0)
    left, right = figure.subplots(1, 2)
    values = kernel.eigenvalues.clamp(min=kernel.floor * 1e-3).numpy()
    index = np.arange(1, len(values) + 1)
    left.loglog(index, values, color=COLORS[0], linewidth=1.6)
    left.axhline(kernel.floor, color="0.5", linewidth=1, linestyle=(0, (4, 2)))
    left.annotate("rounding", (1, kernel.floor), xytext=(2, 3), textcoords="offset points",
                  color="0.4", fontsize=8)  # fmt: skip
    left.set_ylim(bottom=kernel.floor / 10)
    condition = kernel.condition_number
    text = f"{condition:.3g}" if condition is not None else "beyond rounding"
    tidy(left, "index j", "eigenvalue of the tangent kernel", f"{title}; condition number {text}")
    edges = np.arange(1, len(values) + 2)
    share = np.log10(alignment.clamp(min=1e-4).numpy())
    image = right.pcolormesh(
        edges, np.arange(len(frequencies) + 1), share, cmap="viridis", vmin=-4, vmax=0
    )
    right.set_xscale("log")
    right.set_yticks(np.arange(len(frequencies)) + 0.5, [f"{f:g}" for f in frequencies])
    tidy(right, "eigenvector j (fast to slow)", "frequency, cycles over the slice",
         "where the energy of a sinusoid lies")  # fmt: skip
    right.grid(False)
    bar = figure.colorbar(image, ax=right, label="part of the energy")
    bar.set_ticks([-4, -3, -2, -1, 0], labels=["<0.0001", "0.001", "0.01", "0.1", "1"])
    return figure


def throughput_picture(rates: Sequence[Rate], title: str) -> Figure:
    """Points a second against the batch size."""
    figure = new_figure()
    axes = figure.subplots()
    ends: list[tuple[float | int, float | int]] = []
    labels, colors = [], []
    for i, backend in enumerate(dict.fromkeys(rate.backend for rate in rates)):
        mine = [rate for rate in rates if rate.backend == backend]
        sizes = [rate.batch_size for rate in mine]
        for name, values, dash in (
            ("forward", [rate.forward for rate in mine], "--"),
            ("forward + backward", [rate.forward_backward for rate in mine], "-"),
        ):
            axes.loglog(sizes, values, color=COLORS[i], linestyle=dash, marker="o", markersize=4)
            ends.append((sizes[-1], values[-1]))
            labels.append(f"{backend}, {name}")
            colors.append(COLORS[i])
    sizes = sorted({rate.batch_size for rate in rates})
    axes.set_xticks(sizes, [f"$2^{{{size.bit_length() - 1}}}$" for size in sizes])
    axes.minorticks_off()
    _plain_decades(axes)
    tidy(axes, "points a batch", "points a second", f"{title}; medians, backends in turn")
    label_points(figure, axes, ends, labels, colors)
    return figure


def gradient_picture(checks: Sequence[Check], title: str) -> Figure:
    """Errors of all comparisons, against what is allowed."""
    figure = new_figure(7.0, 0.6 + 0.22 * len(checks))
    axes = figure.subplots()
    for i, check in enumerate(checks):
        color = COLORS[0] if check.is_good else COLORS[1]
        axes.plot(max(check.error, 1e-17), -i, "o" if check.is_good else "X", color=color)
        axes.plot(check.tolerance, -i, "|", color="0.4", markersize=10)
    axes.set_xscale("log")
    axes.set_yticks([-i for i in range(len(checks))], [f"{c.comparison}: {c.of}" for c in checks])
    axes.tick_params(axis="y", labelsize=8)
    num_wrong = sum(not check.is_good for check in checks)
    caption = f"{title}; {num_wrong} of {len(checks)} wrong; bars: tolerance"
    tidy(axes, "relative error", "", caption)
    return figure


def _plain_decades(axes: Axes) -> None:
    low, high = axes.get_ylim()
    decades = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    ticks = [m * 10.0**d for d in decades for m in (1, 2, 5) if low <= m * 10.0**d <= high]
    axes.set_yticks(ticks, [short_number(tick) for tick in ticks])

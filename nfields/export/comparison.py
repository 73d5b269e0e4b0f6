"""Predictions against true images: metrics per image and their means, with pictures.

Every task with images ends its `evaluate` with `compare_images`, so that all are measured alike.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Num
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from nfields import metrics
from nfields.distributed import processes
from nfields.export.picture import (
    ErrorScale,
    comparison,
    contact_sheet,
    save_depth,
    save_png,
    to_array,
)

# FLIP above one half is rare; without FLIP, 0.25 is a quarter of the range of a channel.
FLIP_SCALE = ErrorScale("FLIP", 0.5)
ABSOLUTE_SCALE = ErrorScale("mean |error|", 0.25)
SHEET_COLUMNS, SHEET_WIDTH = 2, 960


@dataclass(frozen=True)
class ComparedImage:
    """A prediction, the truth, and what else is known of one view; row 0 on top.

    Colours are sRGB over the background that the protocol names. The truth is in [0, 1]; a
    prediction beyond it is clamped, as a screen does. Depth is the distance along the ray.
    """

    name: str
    prediction: Float[Tensor, "h w 3"]
    truth: Float[Tensor, "h w 3"]
    seconds: float | None = None  # that rendering took
    depth: Float[Tensor, "h w"] | None = None
    opacity: Float[Tensor, "h w"] | None = None
    mask: Bool[Tensor, "h w"] | None = None  # False where nothing is measured
    index: int = 0  # its place among all, where several processes share them


def compare_images(
    images: Iterable[ComparedImage],
    *,
    folder: Path | None,
    protocol: Mapping[str, Any],
    total: int | None = None,
    num_pictures: int | None = 4,
    with_flip: bool = True,
) -> dict[str, Any]:
    """The means, "per_image" and "protocol" of a set of images, as evaluation/metrics.json has
    them.

    Means are those of the per-image values: psnr (dB; an infinite one counts as 100), ssim, flip,
    and render_seconds where seconds are given. `protocol` must name `split`, `background` and
    `color_space`; num_images, resolution and the settings of the metrics are added to it.

    Of the first num_pictures images (None: of all) NAME_comparison.png, NAME.png (the prediction)
    and, with a depth, its files go to `folder` (None: no pictures), and of those the sheet
    comparison.png. Images are taken one by one and not kept. `total` is only for the progress bar.

    Several processes give the images that `is_ours` names, and all get the result of all.
    """
    missing = [key for key in ("split", "background", "color_space") if key not in protocol]
    assert not missing, f"the protocol does not say {missing}"
    folder = folder if processes().is_first else None
    rows: list[dict[str, Any]] = []
    indices: list[int] = []
    resolutions: set[tuple[int, int]] = set()
    sheet: list[np.ndarray] = []
    with progress_bar() as bar:
        job = bar.add_task("evaluating", total=total)
        for image in images:
            prediction = np.clip(to_array(image.prediction), 0.0, 1.0)
            mask = None if image.mask is None else image.mask.cpu().numpy()
            if mask is not None and not mask.any():
                bar.update(job, advance=1)
                continue
            row, error = measure(prediction, to_array(image.truth), with_flip, mask)
            row = {"name": image.name, **row}
            if mask is not None:
                row["measured"] = float(mask.mean())
            if image.seconds is not None:
                row["render_seconds"] = image.seconds
            if folder is not None and (num_pictures is None or len(rows) < num_pictures):
                sheet.append(write_pictures(image, prediction, error, row, folder))
            rows.append(row)
            indices.append(image.index)
            resolutions.add((prediction.shape[1], prediction.shape[0]))
            bar.update(job, advance=1, description=f"evaluating  psnr {mean(rows, 'psnr'):.2f}")
    if processes().size > 1:
        rows, resolutions = _of_all_processes(rows, indices, resolutions)
    if not rows:
        raise ValueError(
            "there is no image to evaluate; is the split empty, masked out, or limit=0?"
        )
    if folder is not None and len(sheet) > 1:
        shown = sheet[: 4 * SHEET_COLUMNS]
        labels = [f"{row['name']}  {row['psnr']:.2f} dB" for row in rows[: len(shown)]]
        save_png(
            folder / "comparison.png", contact_sheet(shown, labels, SHEET_COLUMNS, SHEET_WIDTH)
        )
    return summary(rows, protocol, resolutions, with_flip)


def is_ours(index: int, num_pictures: int | None) -> bool:
    """Whether this process measures an image; the first has all of which pictures are written."""
    ours = processes()
    if num_pictures is None or index < num_pictures:
        return ours.is_first
    return index % ours.size == ours.rank


def _of_all_processes(
    rows: list[dict[str, Any]], indices: list[int], resolutions: set[tuple[int, int]]
) -> tuple[list[dict[str, Any]], set[tuple[int, int]]]:
    """What all processes measured, in the order of the images."""
    parts = processes().gather([list(zip(indices, rows, strict=True)), sorted(resolutions)])
    measured = sorted((pair for part, _ in parts for pair in part), key=lambda pair: pair[0])
    sizes = {(width, height) for _, part in parts for width, height in part}
    return [row for _, row in measured], sizes


def summary(
    rows: list[dict[str, Any]],
    protocol: Mapping[str, Any],
    resolutions: set[tuple[int, int]],
    with_flip: bool,
) -> dict[str, Any]:
    """What is stored of measured images: the means of their rows, the rows, and the protocol."""
    return {
        **{key: mean(rows, key) for key in rows[0] if key not in ("name", "measured")},
        "per_image": rows,
        "protocol": {
            **protocol,
            "num_images": len(rows),
            "resolution": describe_resolutions(resolutions),
            "metrics": metrics.definitions(with_flip),
        },
    }


def measure(
    prediction: Float[np.ndarray, "h w 3"],
    truth: Float[np.ndarray, "h w 3"],
    with_flip: bool,
    mask: Bool[np.ndarray, "h w"] | None = None,
) -> tuple[dict[str, float | None], Float[np.ndarray, "h w"]]:
    """The metrics of one image, and the error map to draw: FLIP's, or the mean absolute error.

    Both are of the pixels of the mask, if there is one. SSIM is None for images smaller than its
    window.
    """
    row: dict[str, float | None] = {
        "psnr": metrics.finite_psnr(metrics.psnr(prediction, truth, mask)),
        "ssim": None,
    }
    if min(truth.shape[:2]) >= metrics.SSIM_WINDOW:
        row["ssim"] = metrics.ssim(prediction, truth, mask)
    if not with_flip:
        error = np.abs(prediction - truth).mean(axis=2)
        return row, error if mask is None else np.where(mask, error, 0.0)
    row["flip"], error = metrics.flip(prediction, truth, mask)
    return row, error


def write_pictures(
    image: ComparedImage,
    prediction: Float[np.ndarray, "h w 3"],
    error: Float[np.ndarray, "h w"],
    row: Mapping[str, Any],
    folder: Path,
) -> Num[np.ndarray, "height width 3"]:
    """Writes the pictures of one image into the folder and returns the comparison strip."""
    name = image.name.replace("/", "_").replace("\\", "_")
    scale = FLIP_SCALE if "flip" in row else ABSOLUTE_SCALE
    strip = comparison(image.truth, prediction, error, scale, f"{row['psnr']:.2f} dB")
    save_png(folder / f"{name}_comparison.png", strip)
    save_png(folder / f"{name}.png", prediction)
    if image.depth is not None:
        save_depth(folder, name, image.depth, image.opacity)
    return strip


def mean(rows: list[dict[str, Any]], key: str) -> float | None:
    """The mean of a value over the images, None if some image has none."""
    values = [row.get(key) for row in rows]
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if len(known) == len(values) else None


def describe_resolutions(resolutions: set[tuple[int, int]]) -> list[int] | list[list[int]]:
    """[width, height] of all images, or the list of those that occur."""
    every = [list(size) for size in sorted(resolutions)]
    return every[0] if len(every) == 1 else every


def progress_bar() -> Progress:
    """A live line on a terminal; silence elsewhere, as the result follows soon."""
    console = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    )

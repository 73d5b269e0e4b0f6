"""A picture of any size against the truth: its metrics, and pictures of where they differ.

Both come in bands of rows. What is kept while they pass is the prediction with 8 bits a channel
and the error (of a range of 1) with 8 bits: 4 bytes a pixel.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from nfields.banded_metrics import BandedMetrics
from nfields.export.color_map import colorize
from nfields.export.comparison import ABSOLUTE_SCALE, FLIP_SCALE, progress_bar, summary
from nfields.export.picture import (
    INK,
    ErrorScale,
    comparison,
    labelled,
    save_palette_png,
    save_png,
    side_by_side,
    to_uint8,
)

Rows = Callable[[int, int], Float[np.ndarray, "rows width 3"]]
"""The rows first .. last - 1, what a screen shows: sRGB in [0, 1]."""

_BAND = 1 << 19  # pixels measured at once; FLIP takes some 200 bytes each
_PANEL_WIDTH = 960  # of the overview, at most
_NUM_CROPS, _CROP, _CROP_WIDTH = 3, 96, 384  # how many, pixels a side, and their width when shown


def compare_picture(
    predicted_rows: Rows,
    true_rows: Rows,
    width: int,
    height: int,
    *,
    folder: Path | None,
    protocol: Mapping[str, Any],
    with_flip: bool = True,
) -> dict[str, Any]:
    """The metrics of one picture, as `compare_images` gives them; pictures go to `folder`.

    image.png (the prediction), image_error.png (its error, same size), image_comparison.png (both
    beside the truth, reduced) and image_crops.png (the places of largest error, enlarged); none if
    folder is None.
    """
    factor = -(-width // _PANEL_WIDTH)
    band = max(1, _BAND // width // factor) * factor
    measured = BandedMetrics(height, width, with_flip=with_flip)
    scale = FLIP_SCALE if with_flip else ABSOLUTE_SCALE
    shown = np.zeros((height, width, 3) if folder is not None else (0, 0, 3), np.uint8)
    errors = np.zeros(shown.shape[:2], np.uint8)
    small: list[UInt8[np.ndarray, "_ _ 3"]] = []
    seconds = 0.0
    with progress_bar() as bar:
        job = bar.add_task("evaluating", total=-(-height // band))
        for first in range(0, height, band):
            last = min(height, first + band)
            started = time.perf_counter()
            prediction = predicted_rows(first, last)
            seconds += time.perf_counter() - started
            truth = true_rows(first, last)
            start, error = measured.add(prediction, truth)
            if folder is not None:
                shown[first:last] = to_uint8(prediction)
                errors[start : start + len(error)] = to_uint8(error)
                small.append(_reduced(to_uint8(truth), factor))
            bar.update(job, advance=1)
    row: dict[str, Any] = {"name": "image", **measured.result(), "render_seconds": seconds}
    if folder is not None:
        save_png(folder / "image.png", shown)
        save_palette_png(folder / "image_error.png", errors, _palette(scale))
        corners = worst_places(errors)
        overview = _overview(np.concatenate(small), shown, errors, scale, factor, row, corners)
        save_png(folder / "image_comparison.png", overview)
        if len(corners):
            crops = _crops(true_rows, shown, errors, scale, corners)
            save_png(folder / "image_crops.png", crops)
    return summary([row], protocol, {(width, height)}, with_flip)


def worst_places(
    errors: UInt8[np.ndarray, "height width"], num: int = _NUM_CROPS, size: int = _CROP
) -> Int[np.ndarray, "places 2"]:
    """Corners (column, row) of squares of size x size pixels that have the largest mean error.

    The largest first, no two within a square of each other, on a raster of a quarter of the size.
    None if the picture is not larger than a square, fewer if there is no room or no error.
    """
    step = size // 4
    rows, columns = errors.shape[0] // step, errors.shape[1] // step
    if min(rows, columns) < 4 or max(errors.shape) <= size:
        return np.zeros((0, 2), np.int64)
    tiles = errors[: rows * step, : columns * step].reshape(rows, step, columns, step)
    means = tiles.mean(axis=(1, 3), dtype=np.float32)
    scores = np.lib.stride_tricks.sliding_window_view(means, (4, 4)).mean(axis=(2, 3))
    places = []
    while len(places) < num and scores.max() > 0:
        row, column = np.unravel_index(int(scores.argmax()), scores.shape)
        places.append((int(column) * step, int(row) * step))
        scores[max(0, row - 7) : row + 8, max(0, column - 7) : column + 8] = 0
    return np.array(places, np.int64).reshape(-1, 2)


def _overview(
    truth: UInt8[np.ndarray, "h w 3"],
    shown: UInt8[np.ndarray, "height width 3"],
    errors: UInt8[np.ndarray, "height width"],
    scale: ErrorScale,
    factor: int,
    row: Mapping[str, Any],
    corners: Int[np.ndarray, "places 2"],
) -> UInt8[np.ndarray, "h2 w2 3"]:
    marked = Image.fromarray(truth)
    draw, font = ImageDraw.Draw(marked), ImageFont.load_default(16)
    for number, corner in enumerate(corners, start=1):
        left, top = corner / factor
        side = _CROP / factor
        draw.rectangle((left, top, left + side, top + side), outline=(255, 255, 255))
        draw.text((left + 4, top + 1), str(number), (255, 255, 255), font, stroke_width=1,
                  stroke_fill=INK)  # fmt: skip
    error = _reduced(errors, factor).astype(np.float32) / 255
    text = f"{row['psnr']:.2f} dB"
    return comparison(np.asarray(marked), _reduced(shown, factor), error, scale, text)


def _crops(
    true_rows: Rows,
    shown: UInt8[np.ndarray, "height width 3"],
    errors: UInt8[np.ndarray, "height width"],
    scale: ErrorScale,
    corners: Int[np.ndarray, "places 2"],
) -> UInt8[np.ndarray, "h w 3"]:
    """One line a place: truth, prediction and error, enlarged without smoothing."""
    lines = []
    zoom = _CROP_WIDTH // _CROP
    for number, (left, top) in enumerate(corners.tolist(), start=1):
        rows, columns = slice(top, top + _CROP), slice(left, left + _CROP)
        truth = to_uint8(true_rows(top, top + _CROP)[:, columns])
        error = errors[rows, columns]
        panels = [truth, shown[rows, columns], _palette(scale)[error]]
        mean = error.mean(dtype=np.float64) / 255
        labels = [
            f"{number}: truth, column {left}, row {top}",
            "prediction",
            f"{scale.name} {mean:.3f}; 0 to {scale.top:g}",
        ]
        lines.append(
            side_by_side(
                [
                    labelled(panel.repeat(zoom, axis=0).repeat(zoom, axis=1), label)
                    for panel, label in zip(panels, labels, strict=True)
                ]
            )
        )
    return np.concatenate(lines)


def _reduced(picture: UInt8[np.ndarray, "h w *c"], factor: int) -> UInt8[np.ndarray, "h2 w2 *c"]:
    """The means of factor x factor pixels."""
    return np.asarray(Image.fromarray(picture).reduce(factor)) if factor > 1 else picture


def _palette(scale: ErrorScale) -> UInt8[np.ndarray, "256 3"]:
    return colorize(np.arange(256) / (255 * scale.top), "magma")

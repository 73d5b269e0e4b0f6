"""Pictures of a representation's radial basis functions over the image it learned.

kernels.png: kernels with centres and shapes in coordinate space, as the ellipses of one standard
deviation (about half of the height) with a dot in the middle, over the dimmed picture; the whole
and, enlarged, where they are densest. Colours go with the area: dark red the smallest, yellow the
largest. Kernels in feature space have no place of their own: shown is what each answers over the
image, and in colours which one answers most.
"""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from nfields.export.color_map import colorize
from nfields.export.picture import contact_sheet, labelled, save_png, side_by_side
from nfields.model.field import Field, Kernels

Shown = Callable[[int, int], UInt8[np.ndarray, "h w 3"]]
"""The picture at a width and height."""

_SIDE = 960  # pixels of the whole's longer side, and of the detail's
_DETAIL = 8  # the detail is this much enlarged
_OVERSAMPLING = 3  # a side: lines are drawn this much larger and averaged, so that they are smooth
_CORNERS = 48  # of the polygon that stands for an ellipse
_RESPONSE_SIDE, _CELL_WIDTH, _COLUMNS = 192, 150, 8  # of the maps of responses,
_PICTURE_SIDE = 600  # and of the two pictures above them
_CHUNK = 1 << 14  # points at which responses are asked at once


@torch.no_grad()
def write_kernels(model: Field, shown: Shown, width: int, height: int, folder: Path) -> list[Path]:
    """Writes kernels.png for a model on [-1, 1]^2 and a picture of this shape; nothing if the
    model has no kernels.
    """
    device = model.readout.weight.device
    kernels = model.kernels(torch.zeros(1, 2, device=device))
    if kernels is None:
        return []
    file = folder / "kernels.png"
    if kernels.centers is not None and kernels.covariances is not None:
        save_png(file, draw_ellipses(kernels, shown, width, height))
    elif kernels.responses is not None:
        columns, rows = _fitted(width, height, _RESPONSE_SIDE)
        x = _grid(columns, rows).to(device)
        parts = []
        for part in x.split(_CHUNK):
            answer = model.kernels(part)
            assert answer is not None and answer.responses is not None
            parts.append(answer.responses.cpu())
        responses = torch.cat(parts).view(rows, columns, -1).numpy()
        save_png(file, draw_responses(responses, shown(*_fitted(width, height, _PICTURE_SIDE))))
    else:
        return []
    return [file]


def draw_ellipses(
    kernels: Kernels, shown: Shown, width: int, height: int
) -> UInt8[np.ndarray, "h w 3"]:
    """The ellipses of all kernels over the whole picture, and a detail beside it."""
    assert kernels.centers is not None and kernels.covariances is not None
    centers = kernels.centers.detach().double().cpu().numpy()
    covariances = kernels.covariances.detach().double().cpu().numpy()
    axes = _half_axes(covariances)
    colors = _area_colors(axes)
    columns, rows = _fitted(width, height, _SIDE)
    picture = shown(columns, rows)
    whole = _drawn(centers, axes, colors, picture, (0.0, 0.0), 1.0)
    label = f"{len(centers):,} kernels, ellipses of one standard deviation"
    # The detail has the shape of the whole, around the cell of a raster with most centres.
    cells = np.clip(((centers + 1) * _DETAIL).astype(int), 0, 2 * _DETAIL - 1)
    counts = np.bincount(cells[:, 1] * 2 * _DETAIL + cells[:, 0], minlength=(2 * _DETAIL) ** 2)
    best = np.array(divmod(int(counts.argmax()), 2 * _DETAIL))[::-1]
    middle = (best + 0.5) / (2 * _DETAIL)
    corner = np.clip(middle - 0.5 / _DETAIL, 0, 1 - 1 / _DETAIL)
    offset = (float(corner[0]) * columns, float(corner[1]) * rows)
    box = (*offset, offset[0] + columns / _DETAIL, offset[1] + rows / _DETAIL)
    enlarged = Image.fromarray(picture).resize((columns, rows), Image.Resampling.BICUBIC, box)
    background = np.asarray(enlarged)
    detail = _drawn(centers, axes, colors, background, offset, float(_DETAIL))
    text = f"{_DETAIL} times larger, where kernels are densest"
    return side_by_side([labelled(whole, label), labelled(detail, text)])


def draw_responses(
    responses: Float[np.ndarray, "h w kernels"], picture: UInt8[np.ndarray, "_ _ 3"]
) -> UInt8[np.ndarray, "height width 3"]:
    """The picture, which kernel answers most at each pixel, and the answers of each kernel.

    Responses are between 0 and 1; drawn is their square root, so that weak ones are seen. Kernels
    are sorted by their mean response: those that answer hardly anywhere come last.
    """
    means = responses.mean(axis=(0, 1))
    order = np.argsort(-means, kind="stable")
    roots = np.sqrt(np.clip(responses[..., order], 0, 1))
    colors = _distinct_colors(len(order))[roots.argmax(axis=2)] * roots.max(axis=2, keepdims=True)
    winners = Image.fromarray(np.rint(colors).astype(np.uint8))
    size = picture.shape[1], picture.shape[0]
    enlarged = np.asarray(winners.resize(size, Image.Resampling.NEAREST))
    top = side_by_side(
        [
            labelled(picture, "prediction"),
            labelled(enlarged, "the kernel that answers most; dark: none does"),
        ]
    )
    maps = [colorize(roots[..., k], "magma") for k in range(len(order))]
    labels = [f"{order[k]}: mean {means[order[k]]:.2f}" for k in range(len(order))]
    sheet = contact_sheet(maps, labels, _COLUMNS, _CELL_WIDTH)
    width = max(top.shape[1], sheet.shape[1])
    parts = [
        np.pad(part, ((0, 8), (0, width - part.shape[1]), (0, 0)), constant_values=255)
        for part in (top, sheet)
    ]
    return np.concatenate(parts)


def _drawn(
    centers: Float[np.ndarray, "k 2"],
    axes: Float[np.ndarray, "k 2 2"],
    colors: UInt8[np.ndarray, "k 3"],
    background: UInt8[np.ndarray, "h w 3"],
    offset: tuple[float, float],
    scale: float,
) -> UInt8[np.ndarray, "h w 3"]:
    """The ellipses over the dimmed background, whose corner is `offset` pixels into the whole and
    which shows it `scale` times enlarged.
    """
    height, width, _ = background.shape
    factor = np.array([width, height]) / 2 * _OVERSAMPLING * scale
    start = np.array(offset) * scale * _OVERSAMPLING
    places = (centers + 1) * factor - start
    angle = np.linspace(0, 2 * math.pi, _CORNERS, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)])
    size = (width * _OVERSAMPLING, height * _OVERSAMPLING)
    canvas = Image.fromarray(_dimmed(background)).resize(size, Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(canvas)
    reach = np.abs(axes).sum(axis=2) * factor
    inside = ((places + reach > 0) & (places - reach < np.array(size))).all(axis=1)
    inks = [tuple(color) for color in colors.tolist()]
    for k in np.flatnonzero(inside):
        corners = places[k] + (axes[k] @ circle).T * factor
        points = [tuple(corner) for corner in corners.tolist()]
        draw.polygon(points, outline=inks[k], width=_OVERSAMPLING)
    radius = 1.2 * _OVERSAMPLING
    for k in np.flatnonzero(inside):
        x, y = places[k].tolist()
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=inks[k])
    return np.asarray(canvas.reduce(_OVERSAMPLING))


def _half_axes(covariances: Float[np.ndarray, "k 2 2"]) -> Float[np.ndarray, "k 2 2"]:
    """Half axes as columns: A with A A^T = covariance; A times the unit circle is the ellipse."""
    values, vectors = np.linalg.eigh(covariances)
    return vectors * np.sqrt(np.maximum(values, 0))[:, None, :]


def _area_colors(axes: Float[np.ndarray, "k 2 2"]) -> UInt8[np.ndarray, "k 3"]:
    areas = np.log(np.maximum(np.abs(np.linalg.det(axes)), 1e-12))
    low, high = np.percentile(areas, [2, 98]) if len(areas) else (0.0, 1.0)
    rank = (areas - low) / max(high - low, 1e-9) if high - low > 1e-9 else np.full(len(areas), 0.5)
    return colorize(0.45 + 0.5 * np.clip(rank, 0, 1), "magma")


def _dimmed(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 3"]:
    grey = picture.astype(np.float32) @ np.array([0.2126, 0.7152, 0.0722], np.float32)
    mixed = 0.5 * picture + 0.5 * grey[..., None]
    return np.rint(0.4 * mixed).astype(np.uint8)


def _distinct_colors(num: int) -> UInt8[np.ndarray, "num 3"]:
    """Colours whose neighbours differ: hues a golden ratio of the circle apart."""
    hue = np.arange(num) * 0.618034 % 1.0
    hsv = np.stack([hue * 255, 150 + 70 * (np.arange(num) % 2), np.full(num, 235)], axis=1)
    picture = Image.fromarray(hsv.astype(np.uint8)[None], mode="HSV")
    return np.asarray(picture.convert("RGB"))[0]


def _fitted(width: int, height: int, side: int) -> tuple[int, int]:
    """The size with this longer side, enlarged or reduced."""
    factor = side / max(width, height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _grid(columns: int, rows: int) -> Float[torch.Tensor, "n 2"]:
    x = (2 * torch.arange(columns) + 1).float() / columns - 1
    y = (2 * torch.arange(rows) + 1).float() / rows - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=2).flip(2)
    return grid.reshape(-1, 2)

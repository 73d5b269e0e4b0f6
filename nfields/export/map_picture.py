"""Maps of a function on the sphere as pictures: an equal-area map and both poles, with a legend.

Values are drawn at the centres of a map's pixels. Grey is where nothing is known; coastlines are
drawn where a file of them is given (nfields/data/coastlines.py says why none come along).
"""

import colorsys
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from nfields.export.color_map import ColorMap, colorize
from nfields.export.map_projection import Mollweide, Orthographic, Projection, pixels
from nfields.export.picture import INK, PAPER, labelled, side_by_side, to_uint8

Picture = UInt8[np.ndarray, "height width 3"]
Values = Float[np.ndarray, "n c"] | Int[np.ndarray, " n"]
AtPlaces = Callable[[np.ndarray, np.ndarray], Values]
"""Values (n, c) or labels (n) at latitudes and longitudes; NaN or -1 where nothing is known."""

_UNKNOWN = (190, 190, 190)
_COAST, _COAST_ON_DARK = (20, 20, 20), (150, 150, 150)
_GAP = 10  # pixels between the parts of a sheet
# Matplotlib's tab20, dark ones first: colours that differ, for classes without an order.
_PALETTE = (
    "1f77b4ff7f0e2ca02cd627289467bd8c564be377c27f7f7fbcbd2217becf"
    "aec7e8ffbb7898df8aff9896c5b0d5c49c94f7b6d2c7c7c7dbdb8d9edae5"
)


@dataclass(frozen=True)
class NumberScale:
    """Numbers to colours, from `low` to `high`; what is beyond takes the end colours."""

    low: float | int
    high: float | int
    label: str
    colors: ColorMap = "turbo"

    def paint(self, values: Values) -> UInt8[np.ndarray, "n 3"]:
        first = values[:, 0].astype(np.float64)
        painted = colorize((first - self.low) / (self.high - self.low), self.colors)
        painted[~np.isfinite(first)] = _UNKNOWN
        return painted

    def legend(self, width: int) -> Picture:
        """A bar with round numbers under it and the label at its right."""
        size = _font_size(width)
        font, line = ImageFont.load_default(size), round(size * 1.3)
        left, right = round(width * 0.12), round(width * 0.88)
        picture = Image.new("RGB", (width, 12 + 2 * line + 8), PAPER)
        bar = colorize(np.linspace(0, 1, right - left)[None].repeat(12, axis=0), self.colors)
        picture.paste(Image.fromarray(bar), (left, 2))
        draw = ImageDraw.Draw(picture)
        draw.rectangle((left - 1, 1, right, 14), outline=INK)
        for number in round_numbers(self.low, self.high):
            x = left + (number - self.low) / (self.high - self.low) * (right - left - 1)
            draw.line((x, 14, x, 18), fill=INK)
            draw.text((x, 19), f"{number:g}", fill=INK, font=font, anchor="mt")
        draw.text((width / 2, 20 + line), self.label, fill=INK, font=font, anchor="mt")
        return np.asarray(picture)


@dataclass(frozen=True)
class ClassScale:
    """Labels to colours; a legend of at most 20 classes."""

    names: Sequence[str]
    label: str
    palette: Sequence[tuple[int, int, int]] = field(default=())

    def paint(self, values: Values) -> UInt8[np.ndarray, "n 3"]:
        palette = self.palette or class_colors(len(self.names))
        # The last one, which the label -1 finds, is that of the unknown.
        table = np.array([*palette, _UNKNOWN], np.uint8)
        return table[values.astype(np.int64)]

    def legend(self, width: int) -> Picture:
        """Swatches with names, as many a line as there is room for."""
        size = _font_size(width)
        font, line = ImageFont.load_default(size), round(size * 1.5)
        shown = [*self.names[:20]]
        palette = self.palette or class_colors(len(self.names))
        places, x, y = [], 8.0, 4.0
        for name in shown:
            step = font.getlength(name) + 2.2 * line
            if x + step > width and x > 8:
                x, y = 8.0, y + line
            places.append((x, y))
            x += step
        label = self.label + (f" ({len(self.names)} classes)" if len(self.names) > 20 else "")
        picture = Image.new("RGB", (width, round(y + 2 * line + 8)), PAPER)
        draw = ImageDraw.Draw(picture)
        for name, color, (x, y) in zip(shown, palette, places, strict=False):
            draw.rectangle((x, y, x + line - 4, y + line - 4), fill=color, outline=INK)
            draw.text((x + line, y + line / 2 - 2), name, fill=INK, font=font, anchor="lm")
        draw.text((width / 2, y + line + 2), label, fill=INK, font=font, anchor="mt")
        return np.asarray(picture)


@dataclass(frozen=True)
class ColorScale:
    """Values that are colours themselves: grey or RGB in [0, 1]."""

    label: str

    def paint(self, values: Values) -> UInt8[np.ndarray, "n 3"]:
        painted = to_uint8(np.broadcast_to(values[:, :3], (len(values), 3))).copy()
        painted[~np.isfinite(values).all(axis=1)] = _UNKNOWN
        return painted

    def legend(self, width: int) -> Picture:
        return np.full((1, width, 3), 255, np.uint8)


Scale = NumberScale | ClassScale | ColorScale


def map_of(
    at: AtPlaces,
    scale: Scale,
    projection: Projection,
    width: int,
    coastlines: Sequence[Float[np.ndarray, "n 2"]] = (),
) -> Picture:
    """A map of the function, white around it."""
    latitudes, longitudes = pixels(projection, width)
    is_inside = np.isfinite(latitudes)
    picture = np.full((*latitudes.shape, 3), 255, np.uint8)
    picture[is_inside] = scale.paint(at(latitudes[is_inside], longitudes[is_inside]))
    is_dark = isinstance(scale, NumberScale) and scale.colors == "magma"
    color = _COAST_ON_DARK if is_dark else _COAST
    return _with_lines(picture, projection, coastlines, color)


@dataclass(frozen=True)
class Panel:
    """One sheet: what is drawn, in which colours, under which caption."""

    at: AtPlaces
    scale: Scale
    caption: str


def sheets(
    panels: Sequence[Panel],
    width: int,
    coastlines: Sequence[Float[np.ndarray, "n 2"]] = (),
    center: float | int = 0.0,
) -> list[Picture]:
    """Of each panel the Mollweide map, its legend and both poles; all of one size.

    `center` is the longitude in the middle of the map; it points down at the north pole and up at
    the south pole, so that east is to its right in all three.
    """
    legends = [panel.scale.legend(width) for panel in panels]
    height = max(len(legend) for legend in legends)
    result = []
    size = (width - 3 * _GAP) // 2
    space = np.full((_GAP, width, 3), 255, np.uint8)
    for panel, legend in zip(panels, legends, strict=True):
        whole = map_of(panel.at, panel.scale, Mollweide(center), width, coastlines)
        views = (
            (Orthographic(90, center), "north pole"),
            (Orthographic(-90, center), "south pole"),
        )
        poles = [
            labelled(map_of(panel.at, panel.scale, projection, size, coastlines), name)
            for projection, name in views
        ]
        pair = side_by_side(poles)
        start = (width - pair.shape[1]) // 2
        sides = ((0, 0), (start, width - pair.shape[1] - start), (0, 0))
        below = ((0, height - len(legend)), (0, 0), (0, 0))
        parts = [
            labelled(whole, panel.caption),
            space,
            np.pad(legend, below, constant_values=255),
            space,
            np.pad(pair, sides, constant_values=255),
        ]
        result.append(np.concatenate(parts, axis=0))
    return result


def class_colors(num: int) -> list[tuple[int, int, int]]:
    """Colours of classes; beyond twenty, hues a golden angle apart, in three strengths."""
    if num <= 20:
        table = np.frombuffer(bytes.fromhex(_PALETTE), np.uint8).reshape(-1, 3)[:num]
        return [(int(r), int(g), int(b)) for r, g, b in table]
    hues = [colorsys.hsv_to_rgb(k * 0.381966 % 1, 0.5 + k % 3 / 5, 0.95) for k in range(num)]
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]


def round_numbers(low: float | int, high: float | int) -> list[float]:
    """Three to seven multiples of 1, 2 or 5 times a power of ten from low to high."""
    step = 10.0 ** math.floor(math.log10((high - low) / 3))
    step *= next(f for f in (5, 2, 1) if (high - low) / (f * step) >= 3 or f == 1)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def round_up(value: float) -> float:
    """The least of 1, 2 or 5 times a power of ten that is not below a positive value."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{next(f for f in (1, 2, 5, 10) if f * power >= value * (1 - 1e-9)) * power:.3g}")


def _font_size(width: int) -> float:
    return float(np.clip(width / 45, 11, 20))


def _with_lines(
    picture: Picture,
    projection: Projection,
    coastlines: Sequence[Float[np.ndarray, "n 2"]],
    color: tuple[int, int, int],
) -> Picture:
    """The picture with coastlines; lines are cut where they leave the map or cross its seam."""
    if not coastlines:
        return picture
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    height, width = picture.shape[:2]
    half_x, half_y = projection.extent
    for line in coastlines:
        x, y = projection.forward(line[:, 0], line[:, 1])
        column = (x / half_x + 1) / 2 * width - 0.5
        row = (1 - y / half_y) / 2 * height - 0.5
        is_seen = np.isfinite(column)
        with np.errstate(invalid="ignore"):
            jump = np.hypot(np.diff(column), np.diff(row)) > width / 6
        breaks = np.flatnonzero(jump | ~is_seen[1:] | ~is_seen[:-1]) + 1
        for part in np.split(np.stack([column, row], axis=1), breaks):
            if len(part) > 1 and np.isfinite(part).all():
                draw.line([(float(c), float(r)) for c, r in part], fill=color, width=1)
    return np.asarray(image)

"""Points on the sphere: spread evenly, drawn at random, and the checkerboard made of them.

Latitudes are degrees north, longitudes degrees east in [-180, 180).

The Fibonacci lattice of n points, i = 0 .. n - 1, puts one into each of n bands of equal area:

    z_i = 1 - (2 i + 1) / n,    lon_i = i 180 (3 - sqrt 5)  degrees (the golden angle)
"""

import math

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial import KDTree

GOLDEN_ANGLE_DEG = 180 * (3 - math.sqrt(5))

Degrees = Float[np.ndarray, " n"]


def wrapped(longitudes: Degrees) -> Degrees:
    """Longitudes in [-180, 180); what is there already keeps its bits."""
    is_inside = (longitudes >= -180) & (longitudes < 180)
    moved = np.mod(longitudes + 180, 360) - 180
    # np.mod of a tiny negative number rounds up to 360.
    return np.where(is_inside, longitudes, np.where(moved >= 180, -180.0, moved))


def unit_vectors(latitudes: Degrees, longitudes: Degrees) -> Float[np.ndarray, "n 3"]:
    """x = cos(lat) cos(lon), y = cos(lat) sin(lon), z = sin(lat)."""
    lat, lon = np.radians(latitudes), np.radians(longitudes)
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def fibonacci_lattice(num: int) -> tuple[Degrees, Degrees]:
    """Latitudes and longitudes of `num` points of equal area, north to south."""
    i = np.arange(num)
    latitudes = np.degrees(np.arcsin(1 - (2 * i + 1) / num))
    return latitudes, wrapped(np.mod(i * GOLDEN_ANGLE_DEG, 360.0))


def uniform_points(num: int, random: np.random.Generator) -> tuple[Degrees, Degrees]:
    """Latitudes and longitudes of points at random, every area equally likely."""
    latitudes = np.degrees(np.arcsin(random.uniform(-1, 1, num)))
    return latitudes, random.uniform(-180, 180, num)


def tile_order(
    latitudes: Degrees, longitudes: Degrees, num: int, random: np.random.Generator
) -> Int[np.ndarray, " n"]:
    """All places, tile after tile of about `num` tiles of equal area; at random within a column.

    Bands of equal area are as high as their tiles are wide at the equator: 2 / B in z and 2 pi B /
    num in longitude agree for B = sqrt(num / pi). Bands are walked from the west and from the east
    in turn, so that tiles which end one band and begin the next are neighbours.
    """
    num_bands = max(1, round(math.sqrt(num / math.pi)))
    height = (1 - np.sin(np.radians(latitudes))) / 2 * num_bands
    band = np.minimum(height.astype(np.int64), num_bands - 1)
    along = np.where(band % 2 == 0, longitudes, -longitudes)
    return np.lexsort([random.random(len(latitudes)), along, band])


def draw_by_area(
    areas: Float[np.ndarray, " n"],
    num: int,
    random: np.random.Generator,
    order: Int[np.ndarray, " n"] | None = None,
) -> tuple[Int[np.ndarray, " num"], Float[np.ndarray, " num"]]:
    """`num` different places, each as likely as its area, and their weights, of mean 1.

    Systematic sampling: place i is drawn with probability p_i = min(1, c area_i), where c makes the
    sum `num`; its weight area_i / p_i makes weighted means those over the area. As long as places
    abound, all weights are equal; when all are drawn, they are the areas.

    Draws are evenly spaced along `order`, a permutation: with `tile_order` every tile gets one;
    None is at random.
    """
    assert 1 <= num <= len(areas)
    if num == len(areas):
        return np.arange(num), areas / areas.mean()
    chance = num * areas / areas.sum()
    is_sure = chance >= 1
    while is_sure.any():
        rest = num - is_sure.sum()
        chance = np.where(is_sure, 1.0, rest * areas / areas[~is_sure].sum())
        is_over = ~is_sure & (chance >= 1)
        if not is_over.any():
            break
        is_sure |= is_over
    order = random.permutation(len(areas)) if order is None else order
    # The last sum is `num` up to rounding, and so must not be passed.
    sums = np.cumsum(chance[order])
    places = np.searchsorted(sums, (random.uniform() + np.arange(num)) * sums[-1] / num, "right")
    index = np.sort(order[np.minimum(places, len(areas) - 1)])
    weights = areas[index] / chance[index]
    return index, weights / weights.mean()


class Checkerboard:
    """Classes by the nearest of 200 points of the Fibonacci lattice: its number modulo 16.

    The test function of arXiv:2310.06743. Neighbours on the lattice differ by Fibonacci numbers,
    none of which below 144 is a multiple of 16: cells that touch have different classes.
    """

    NUM_SUPPORT, NUM_CLASSES = 200, 16

    def __init__(self) -> None:
        self._tree = KDTree(unit_vectors(*fibonacci_lattice(self.NUM_SUPPORT)))

    def labels(self, latitudes: Degrees, longitudes: Degrees) -> Int[np.ndarray, " n"]:
        """The class at each position, 0 to 15."""
        _, nearest = self._tree.query(unit_vectors(latitudes, longitudes))
        return np.asarray(nearest, np.int64) % self.NUM_CLASSES

"""Places on the sphere: the nodes of a grid, the pixels of a HEALPix map, the rows of a table.

Latitudes are degrees north in [-90, 90], longitudes degrees east in [-180, 180). Unit vectors are
x = cos(lat) cos(lon), y = cos(lat) sin(lon), z = sin(lat). Areas are steradians; all are 4 pi.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from scipy.spatial import KDTree

from nfields.data.sphere_lattice import unit_vectors, wrapped

Degrees = Float[np.ndarray, " n"]
Numbers = Int[np.ndarray, " n"]


class Places(ABC):
    """A contract without behaviour: numbered places, and who is nearest."""

    num: int
    areas: Float[np.ndarray, " num"]  # of each place; equal ones where nothing better is known
    covers: bool  # the places tile what they cover, so that `areas` are areas
    description: str

    @abstractmethod
    def positions(self, index: Numbers) -> tuple[Degrees, Degrees]:
        """Latitudes and longitudes of places given by their number."""

    @abstractmethod
    def nearest(self, latitudes: Degrees, longitudes: Degrees) -> Numbers:
        """The number of the place that stands for each position, -1 where none does."""


@dataclass
class StoredValues:
    """What a file says: values at places, as stored, and which of them are missing."""

    places: Places
    values: Shaped[np.ndarray, "n c"]
    is_missing: Bool[np.ndarray, " n"]
    name: str  # of the variable
    unit: str = ""
    notes: list[str] = field(default_factory=list)
    is_picture: bool = False  # colours in [0, 1]


class GridPlaces(Places):
    """Nodes of a latitude/longitude grid, row by row; each stands for the cell around it.

    Latitudes and longitudes increase; the latter span less than 360 degrees, of any origin. Cells
    end half-way between nodes, at the poles, and half a spacing beyond the outermost nodes. The
    area of a row is the difference of the sines of its bounds, which is cos(lat) times a constant
    but for rows at the poles, where it is the cap's.
    """

    covers = True

    def __init__(self, latitudes: Float[np.ndarray, " h"], longitudes: Float[np.ndarray, " w"]):
        self.latitudes, self.longitudes = latitudes, longitudes
        self.num = len(latitudes) * len(longitudes)
        bounds = _bounds(latitudes, 180.0)
        # What ends next to a pole ends there: files keep latitudes in float32, or with few digits.
        self.row_bounds = np.where(np.abs(bounds) > 90 - 1e-3, 90 * np.sign(bounds), bounds)
        self.column_bounds = _bounds(longitudes, 360.0)
        if self.column_bounds[-1] - self.column_bounds[0] > 360 - 1e-4:
            # Around the globe: the gap between the last and the first column is shared.
            middle = (longitudes[0] + longitudes[-1] - 360) / 2
            self.column_bounds[[0, -1]] = middle, middle + 360
        # A row hard by a pole may have no area in float64; it must have some.
        heights = np.maximum(np.diff(np.sin(np.radians(self.row_bounds))), 1e-15)
        widths = np.diff(np.radians(self.column_bounds))
        self.areas = np.outer(heights, widths).ravel()
        self.description = f"{len(latitudes)} x {len(longitudes)} latitude/longitude grid"

    def positions(self, index: Numbers) -> tuple[Degrees, Degrees]:
        row, column = np.divmod(index, len(self.longitudes))
        return self.latitudes[row], wrapped(self.longitudes[column])

    def nearest(self, latitudes: Degrees, longitudes: Degrees) -> Numbers:
        first = self.column_bounds[0]
        around = first + np.mod(longitudes - first, 360.0)
        row = np.searchsorted(self.row_bounds, latitudes, side="right") - 1
        column = np.searchsorted(self.column_bounds, around, side="right") - 1
        # The upper bound of the last row and column belongs to them.
        row[latitudes == self.row_bounds[-1]] = len(self.latitudes) - 1
        column[around == self.column_bounds[-1]] = len(self.longitudes) - 1
        is_inside = (row >= 0) & (row < len(self.latitudes)) & (column < len(self.longitudes))
        return np.where(is_inside, row * len(self.longitudes) + column, -1)


class PointPlaces(Places):
    """Places in any order: the rows of a table, or pixels of equal area (`covers`).

    A place stands for what is nearer to it than to others, but no farther than twice the mean
    spacing of as many points spread evenly over the sphere.
    """

    def __init__(
        self, latitudes: Degrees, longitudes: Degrees, *, covers: bool, description: str
    ) -> None:
        self.latitudes, self.longitudes = latitudes, wrapped(longitudes)
        self.num, self.covers, self.description = len(latitudes), covers, description
        self.areas = np.full(self.num, 4 * np.pi / self.num)

    def positions(self, index: Numbers) -> tuple[Degrees, Degrees]:
        return self.latitudes[index], self.longitudes[index]

    def nearest(self, latitudes: Degrees, longitudes: Degrees) -> Numbers:
        reach = 2 * np.sqrt(4 * np.pi / self.num)
        _, index = self._tree.query(
            unit_vectors(latitudes, longitudes), distance_upper_bound=max(reach, 1e-9)
        )
        return np.where(index < self.num, index, -1).astype(np.int64)

    @cached_property
    def _tree(self) -> KDTree:
        return KDTree(unit_vectors(self.latitudes, self.longitudes))


def _bounds(nodes: Float[np.ndarray, " n"], whole: float) -> Float[np.ndarray, " n_plus_1"]:
    """Where cells around increasing nodes end; a single node stands for the whole circle."""
    if len(nodes) == 1:
        return np.array([nodes[0] - whole / 2, nodes[0] + whole / 2])
    middles = (nodes[1:] + nodes[:-1]) / 2
    first, last = nodes[0] - (middles[0] - nodes[0]), nodes[-1] + (nodes[-1] - middles[-1])
    return np.concatenate([[first], middles, [last]])

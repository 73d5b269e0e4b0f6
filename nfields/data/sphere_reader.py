"""Which reader takes which file, and what all of them share: checks of axes, positions and values.

.npz                                 sphere_npz.py      grids, points, HEALPix maps
.nc .nc4 .cdf .netcdf                sphere_netcdf.py   grids; needs the extra `sphere`
.fits .fit (.gz)                     sphere_healpix.py  HEALPix maps; needs the extra `sphere`
.csv .tsv .txt .parquet .pq          sphere_table.py    tables of points
.bin .raw .gz                        sphere_raw.py      bytes, or text with files of its axes
.tif .tiff .png .jpg .exr ...        sphere_image.py    GeoTIFF, and pictures of the whole globe
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import numpy as np
from jaxtyping import Bool, Float, Shaped

from nfields.data.sphere_places import GridPlaces, PointPlaces, StoredValues
from nfields.errors import DataError

_READERS = {
    "sphere_npz": (".npz",),
    "sphere_netcdf": (".nc", ".nc4", ".cdf", ".netcdf"),
    "sphere_healpix": (".fits", ".fit", ".fits.gz"),
    "sphere_table": (".csv", ".tsv", ".txt", ".parquet", ".pq"),
    "sphere_raw": (".bin", ".raw", ".gz"),
    "sphere_image": (".tif", ".tiff", ".png", ".jpg", ".jpeg", ".exr", ".hdr", ".webp", ".bmp"),
}
_WHOLE = 1e-3  # degrees that axes may miss a full turn by: files keep them in float32


@dataclass(frozen=True)
class Choice:
    """Which of the things in a file are meant, by name; None: the only one, or the usual name."""

    variable: str | None = None
    latitude: str | None = None
    longitude: str | None = None
    select: Mapping[str, int] = field(default_factory=dict)


def read(path: Path, choice: Choice) -> StoredValues:
    """The values in a file; a DataError that names the file for everything that is none."""
    if not path.is_file():
        raise DataError(f"data.path={path} is no file; give a grid, HEALPix map, table or picture.")
    name = path.name.lower()
    # .fits.gz before .gz: the longest ending that fits.
    endings = {ending: module for module, all_ in _READERS.items() for ending in all_}
    found = max((ending for ending in endings if name.endswith(ending)), key=len, default=None)
    if found is None:
        raise DataError(
            f"{path}: files ending in {path.suffix or 'nothing'} are not known; allowed are "
            f"{' '.join(endings)}. Convert it, for example to a .npz with lat, lon and values."
        )
    reader = importlib.import_module(f"nfields.data.{endings[found]}")
    stored = reader.read(path, choice)
    assert isinstance(stored, StoredValues)
    return stored


def need(module: str, path: Path) -> ModuleType:
    """A package of the extra `sphere`; an error with the command that installs it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise DataError(
            f"{path} needs {package}, which is not installed ({error}): "
            "pip install 'nfields[sphere]'"
        ) from error


def grid(
    latitudes: Shaped[np.ndarray, " h"],
    longitudes: Shaped[np.ndarray, " w"],
    values: Shaped[np.ndarray, "..."],
    is_missing: Bool[np.ndarray, "h w"] | None,
    *,
    path: Path,
    name: str,
    unit: str = "",
    is_picture: bool = False,
) -> StoredValues:
    """The values of a grid (h, w) or (h, w, c), with its axes turned the way GridPlaces wants.

    Latitudes may rise or fall. Longitudes may have any origin, jump once by a turn (0 .. 180,
    -179 .. -1) and end with a copy of the first column, which is dropped.
    """
    lat, lon = _axis(latitudes, "latitude", path), _axis(longitudes, "longitude", path)
    shape = (len(lat), len(lon))
    if values.ndim not in (2, 3) or values.shape[:2] != shape:
        hint = (
            " They look transposed: rows must be latitudes."
            if values.shape[:2] == shape[::-1]
            else ""
        )
        raise DataError(
            f"{path}: {name} has the shape {values.shape}, the axes have {shape[0]} latitudes and "
            f"{shape[1]} longitudes; allowed is (latitude, longitude) or (latitude, longitude, "
            f"channels).{hint}"
        )
    values = values.reshape(*shape, -1)
    missing = np.zeros(shape, bool) if is_missing is None else is_missing
    check_latitudes(lat, path)
    step = np.diff(lat)
    if not ((step > 0).all() or (step < 0).all()):
        where = int(np.flatnonzero(step * (step[0] if step[0] != 0 else 1) <= 0)[0])
        raise DataError(
            f"{path}: latitudes must rise or fall all along; they go from {lat[where]:g} to "
            f"{lat[where + 1]:g} at row {where}. Sort the rows, or save a table of points."
        )
    if len(lat) > 1 and step[0] < 0:
        lat, values, missing = lat[::-1], values[::-1], missing[::-1]
    lon = np.unwrap(lon, period=360)
    step = np.diff(lon)
    if not ((step > 0).all() or (step < 0).all()):
        where = int(np.flatnonzero(step * (step[0] if step[0] != 0 else 1) <= 0)[0])
        raise DataError(
            f"{path}: longitudes must rise or fall all along, but for one jump of 360; they go "
            f"from {longitudes[where]:g} to {longitudes[where + 1]:g} at column {where}. Sort the "
            "columns, or save a table of points."
        )
    if len(lon) > 1 and step[0] < 0:
        lon, values, missing = lon[::-1], values[:, ::-1], missing[:, ::-1]
    notes = []
    if len(lon) > 1 and abs(lon[-1] - lon[0] - 360) < _WHOLE:
        lon, values, missing = lon[:-1], values[:, :-1], missing[:, :-1]
        notes.append(f"{path.name}: the last column repeats the first and is left out")
    if lon[-1] - lon[0] >= 360:
        raise DataError(
            f"{path}: longitudes span {lon[-1] - lon[0]:g} degrees, from {lon[0]:g} to "
            f"{lon[-1]:g}; at most 360 are allowed. Leave out the columns that come twice."
        )
    return StoredValues(
        places=GridPlaces(lat, lon),
        values=np.ascontiguousarray(values).reshape(len(lat) * len(lon), -1),
        is_missing=np.ascontiguousarray(missing).ravel(),
        name=name,
        unit=unit,
        notes=notes,
        is_picture=is_picture,
    )


def points(
    latitudes: Shaped[np.ndarray, " n"],
    longitudes: Shaped[np.ndarray, " n"],
    values: Shaped[np.ndarray, "n ..."],
    is_missing: Bool[np.ndarray, " n"] | None,
    *,
    path: Path,
    name: str,
    unit: str = "",
) -> StoredValues:
    """The values of a table of points; rows without a position count as missing."""
    lat, lon = _numbers(latitudes, "latitude", path), _numbers(longitudes, "longitude", path)
    missing = np.zeros(len(lat), bool) if is_missing is None else is_missing
    is_nowhere = ~(np.isfinite(lat) & np.isfinite(lon))
    notes = []
    if is_nowhere.any():
        notes.append(f"{path.name}: {is_nowhere.sum():,} of {len(lat):,} rows have no position")
    lat, lon = lat[~is_nowhere], lon[~is_nowhere]
    if len(lat) == 0:
        raise DataError(f"{path} has no row with a position; at least one is needed.")
    check_latitudes(lat, path)
    if np.abs(lon).max() > 1e6:
        raise DataError(f"{path}: longitudes go up to {np.abs(lon).max():g}; they must be degrees.")
    return StoredValues(
        places=PointPlaces(lat, lon, covers=False, description=f"table of {len(lat):,} points"),
        values=values[~is_nowhere].reshape(len(lat), -1),
        is_missing=missing[~is_nowhere],
        name=name,
        unit=unit,
        notes=notes,
    )


def check_latitudes(latitudes: Float[np.ndarray, " n"], path: Path) -> None:
    """Nothing; an error if one is outside [-90, 90] (float32 rounding of 90 is not)."""
    bad = np.flatnonzero(np.abs(latitudes) > 90 + 1e-4)
    if len(bad) > 0:
        raise DataError(
            f"{path}: {len(bad):,} of {len(latitudes):,} latitudes are outside [-90, 90], the "
            f"first is {latitudes[bad[0]]:g} (number {bad[0]}). Are latitudes and longitudes "
            "exchanged? They must be degrees; set data.latitude and data.longitude."
        )
    np.clip(latitudes, -90, 90, out=latitudes)


def _numbers(values: Shaped[np.ndarray, " n"], what: str, path: Path) -> Float[np.ndarray, " n"]:
    if values.ndim != 1 or values.dtype.kind not in "iuf":
        raise DataError(
            f"{path}: the {what}s are {values.dtype} of shape {values.shape}; they must be one "
            "row of numbers, in degrees."
        )
    return values.astype(np.float64)


def _axis(values: Shaped[np.ndarray, " n"], what: str, path: Path) -> Float[np.ndarray, " n"]:
    axis = _numbers(values, what, path)
    if len(axis) == 0:
        raise DataError(f"{path} has no {what}s; at least one is needed.")
    if not np.isfinite(axis).all() or np.abs(axis).max() > 1e6:
        bad = int(np.flatnonzero(~np.isfinite(axis) | (np.abs(axis) > 1e6))[0])
        raise DataError(f"{path}: {what} number {bad} is {axis[bad]:g}; all must be degrees.")
    return axis


def only_one(names: list[str], chosen: str | None, option: str, what: str, path: Path) -> str:
    """The name chosen by `option`, or the only one there is."""
    if chosen is not None:
        if chosen in names:
            return chosen
        raise DataError(
            f"{option}={chosen}: {path} has no such {what}; there are: "
            f"{', '.join(names) or 'none'}."
        )
    if len(names) == 1:
        return names[0]
    raise DataError(
        f"{path} has {'several' if names else 'no'} {what}s{': ' if names else ''}"
        f"{', '.join(names)}; choose one with {option}=<name>."
    )

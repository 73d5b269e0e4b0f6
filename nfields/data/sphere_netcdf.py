"""netCDF grids, through xarray: netCDF-3 by scipy, netCDF-4 by h5netcdf.

Axes are found by their units (degrees_north, degrees_east), their standard_name, or their name.
Fill values, scale factors and offsets are applied by xarray.
"""

from pathlib import Path
from typing import Any

import numpy as np

from nfields.data.sphere_places import StoredValues
from nfields.data.sphere_reader import Choice, grid, need, only_one, points
from nfields.errors import DataError

_LATITUDE = ("latitude", ("lat", "latitude", "nav_lat", "y"), ("degrees_north", "degree_north"))
_LONGITUDE = ("longitude", ("lon", "longitude", "nav_lon", "x"), ("degrees_east", "degree_east"))


def read(path: Path, choice: Choice) -> StoredValues:
    """One variable of a file on its grid, or along points with latitudes and longitudes."""
    xarray = need("xarray", path)
    with path.open("rb") as file:
        is_hdf = file.read(8) == b"\x89HDF\r\n\x1a\n"
    if is_hdf:
        need("h5netcdf", path)
    try:
        if is_hdf:  # h5netcdf complains once more, when it is cleared away, about damaged files
            need("h5py", path).File(path, "r").close()
        opened = xarray.open_dataset(
            path, engine="h5netcdf" if is_hdf else "scipy", decode_times=False
        )
        with opened:
            return _variable(opened.load(), path, choice)
    except DataError:
        raise
    except Exception as error:  # engines and decoders raise anything on damaged files
        raise DataError(
            f"{path} cannot be read as netCDF ({type(error).__name__}: {error}). Copy it again."
        ) from error


def _variable(dataset: Any, path: Path, choice: Choice) -> StoredValues:
    latitude = _find_axis(dataset, choice.latitude, _LATITUDE, path)
    longitude = _find_axis(dataset, choice.longitude, _LONGITUDE, path)
    lat, lon = dataset[latitude], dataset[longitude]
    if lat.ndim > 1 or lon.ndim > 1:
        raise DataError(
            f"{path}: {latitude} and {longitude} have the dimensions {lat.dims} and {lon.dims}; "
            "curvilinear grids are not read. Save the points as a table (csv or parquet)."
        )
    axes = {*lat.dims, *lon.dims}
    names = [str(name) for name, data in dataset.data_vars.items() if axes <= {*data.dims}]
    names = [name for name in names if name not in (latitude, longitude)]
    name = only_one(names, choice.variable, "data.variable", "variable on this grid", path)
    data = dataset[name]
    for dim in [str(dim) for dim in data.dims if dim not in axes]:
        size = data.sizes[dim]
        index = choice.select.get(dim, 0 if size == 1 else None)
        if index is None or not 0 <= index < size:
            said = "" if index is None else f" data.select says {index}."
            raise DataError(
                f"{path}: {name} has the dimension {dim} of {size} entries.{said} Choose one, "
                f"data.select='{{{dim}: 0}}' to '{{{dim}: {size - 1}}}'."
            )
        data = data.isel({dim: index})
    unknown = [dim for dim in choice.select if dim not in dataset[name].dims or dim in axes]
    if unknown:
        dims = ", ".join(str(dim) for dim in dataset[name].dims if dim not in axes)
        raise DataError(
            f"data.select names {', '.join(unknown)}; {name} of {path} can be selected along "
            f"{dims or 'nothing'}."
        )
    unit = str(data.attrs.get("units", ""))
    if lat.dims == lon.dims:
        values = np.asarray(data.values)
        return points(lat.values, lon.values, values, None, path=path, name=name, unit=unit)
    # A single row or column may be a scalar without a dimension.
    values = np.asarray(data.transpose(*lat.dims, *lon.dims).values).reshape(lat.size, lon.size)
    lats, lons = np.atleast_1d(lat.values), np.atleast_1d(lon.values)
    return grid(lats, lons, values, None, path=path, name=name, unit=unit)


def _find_axis(
    dataset: Any, chosen: str | None, kind: tuple[str, tuple[str, ...], tuple[str, ...]], path: Path
) -> str:
    what, usual, units = kind
    everything = [str(name) for name in dataset.variables]
    if chosen is not None:
        return only_one(everything, chosen, f"data.{what}", "variable", path)
    for name in everything:
        attributes = dataset[name].attrs
        if attributes.get("standard_name") == what or attributes.get("units") in units:
            return name
    for name in everything:
        if name.lower() in usual:
            return name
    raise DataError(
        f"{path} has no {what}s; there are: {', '.join(everything) or 'no variables'}. Name them "
        f"with data.{what}=<variable>."
    )

"""Arrays in a .npz file: a grid, points, or a HEALPix map.

    grid      lat (h), lon (w), values (h, w) or (h, w, c)
    points    lat (n), lon (n), values (n)
    HEALPix   values (12 nside^2), and `ordering`, the text RING or NESTED; no lat, no lon

Other names: data.latitude, data.longitude, data.variable. `mask`, of the shape of the places, is
true where a value is to be left out.
"""

import math
from pathlib import Path

import numpy as np

from nfields.data.sphere_healpix import healpix_map
from nfields.data.sphere_places import StoredValues
from nfields.data.sphere_reader import Choice, grid, only_one, points
from nfields.errors import DataError


def read(path: Path, choice: Choice) -> StoredValues:
    """The arrays of a file; see the top of this module for their names."""
    try:
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            arrays = {str(name): file[name] for name in file.files}
    except Exception as error:  # zip, header and decompression each raise their own
        raise DataError(f"{path} cannot be read as .npz ({error}). Save it again.") from error
    latitude, longitude = choice.latitude or "lat", choice.longitude or "lon"
    data = [name for name in arrays if name not in (latitude, longitude, "mask", "ordering")]
    usual = "values" if choice.variable is None and "values" in data else choice.variable
    name = only_one(data, usual, "data.variable", "array", path)
    values, mask = arrays[name], arrays.get("mask")
    if "ordering" in arrays and latitude not in arrays:
        if values.ndim != 1:
            raise DataError(
                f"{path}: {name} has the shape {values.shape}; a HEALPix map has one axis."
            )
        missing = _mask(mask, values.shape, path)
        ordering = str(arrays["ordering"])  # of an array of one text: that text
        return healpix_map(values, missing, ordering, path=path, name=name)
    for axis, option in ((latitude, "data.latitude"), (longitude, "data.longitude")):
        if axis not in arrays:
            raise DataError(
                f"{path} has no array {axis}; there are: {', '.join(arrays) or 'none'}. Name it "
                f"with {option}=<name>, or save `ordering` (RING or NESTED) with a HEALPix map."
            )
    lat, lon = arrays[latitude], arrays[longitude]
    if lat.ndim != 1 or lon.ndim != 1:
        raise DataError(
            f"{path}: {latitude} and {longitude} have the shapes {lat.shape} and {lon.shape}; "
            "each must have one axis. Flatten a curvilinear grid to points."
        )
    if values.ndim == 1:
        if not len(lat) == len(lon) == len(values):
            raise DataError(
                f"{path}: {latitude} has {len(lat)}, {longitude} {len(lon)} and {name} "
                f"{len(values)} entries; points need as many of each."
            )
        return points(lat, lon, values, _mask(mask, lat.shape, path), path=path, name=name)
    missing = _mask(mask, (len(lat), len(lon)), path)
    return grid(lat, lon, values, missing, path=path, name=name)


def _mask(mask: np.ndarray | None, shape: tuple[int, ...], path: Path) -> np.ndarray | None:
    if mask is None:
        return None
    if mask.shape != shape or mask.dtype.kind not in "bui" or math.prod(shape) == 0:
        raise DataError(
            f"{path}: mask is {mask.dtype} of shape {mask.shape}; it must be bool (true: leave "
            f"out) of shape {shape}."
        )
    return mask.astype(bool)

"""Grids without a header: bytes of a mask, or text with its axes in two more files.

mask   h x 2 h bytes, possibly gzipped: row 0 ends at -90 degrees, column 0 starts at -180
       (the land/sea masks of basemap: 0 sea, 1 land, 2 lake)
text   NAMEdata.gz with NAMElats.gz and NAMElons.gz beside it: numbers, row by row
       (basemap's etopo20)
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nfields.data.sphere_places import StoredValues
from nfields.data.sphere_reader import Choice, grid
from nfields.errors import DataError


def read(path: Path, choice: Choice) -> StoredValues:
    """The grid of a file, which is told by its name and size."""
    for option in ("variable", "latitude", "longitude"):
        if getattr(choice, option) is not None:
            raise DataError(
                f"data.{option} has no effect on {path}, which has no names; leave it null."
            )
    if path.name.endswith("data.gz"):
        return _read_text(path)
    content = _content(path)
    height = round((len(content) / 2) ** 0.5)
    if height == 0 or 2 * height * height != len(content):
        raise DataError(
            f"{path} holds {len(content):,} bytes; a mask has h rows of 2 h bytes, one a degree "
            "or a part of it. Save other grids as .npz with lat, lon and values."
        )
    values = np.frombuffer(content, np.uint8).reshape(height, 2 * height)
    step = 180 / height
    latitudes = -90 + step * (np.arange(height) + 0.5)
    longitudes = -180 + step * (np.arange(2 * height) + 0.5)
    return grid(latitudes, longitudes, values, None, path=path, name=path.name.partition(".")[0])


def _read_text(path: Path) -> StoredValues:
    name = path.name.removesuffix("data.gz")
    axes = []
    for ending in ("lats.gz", "lons.gz"):
        file = path.with_name(name + ending)
        if not file.is_file():
            raise DataError(f"{path} needs {file.name} beside it, with its axis; it is missing.")
        axes.append(_numbers(file))
    latitudes, longitudes = axes
    values = _numbers(path)
    if len(values) != len(latitudes) * len(longitudes):
        raise DataError(
            f"{path} holds {len(values):,} numbers; its axes have {len(latitudes)} x "
            f"{len(longitudes)} entries. Copy all three files again."
        )
    values = values.reshape(len(latitudes), len(longitudes))
    return grid(latitudes, longitudes, values, None, path=path, name=name or "values")


def _numbers(path: Path) -> Float[np.ndarray, " n"]:
    try:
        return np.array(_content(path).split(), dtype=np.float64)
    except ValueError as error:
        raise DataError(f"{path} is not text with numbers ({error}).") from error


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}). Copy it again.") from error

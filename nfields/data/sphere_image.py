"""GeoTIFF grids of latitudes and longitudes, and pictures of the whole globe.

A picture without a position is taken as equirectangular: the left edge at -180 degrees, the top at
90. Its colours, or its grey, are values in [0, 1]. Of GeoTIFF, geographic coordinates in degrees
with an axis-aligned raster are read, which is what global data sets have.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from nfields.data.picture_file import read_picture
from nfields.data.sphere_places import StoredValues
from nfields.data.sphere_reader import Choice, grid
from nfields.errors import DataError

_GEOGRAPHIC, _POINT = 2, 2  # values of GTModelTypeGeoKey and GTRasterTypeGeoKey


def read(path: Path, choice: Choice) -> StoredValues:
    """The grid of a picture; of a GeoTIFF where it lies, of another the whole globe."""
    for option in ("latitude", "longitude"):
        if getattr(choice, option) is not None:
            raise DataError(
                f"data.{option} has no effect on {path}, which has no names; leave it null."
            )
    if path.suffix.lower() in (".tif", ".tiff"):
        stored = _geotiff(path, choice)
        if stored is not None:
            return stored
    if choice.variable is not None:
        raise DataError(f"data.variable has no effect on the picture {path}; leave it null.")
    picture = read_picture(path)
    codes = picture.codes
    if codes.dtype.kind != "f":
        codes = codes.astype(np.float32) / np.float32(np.iinfo(codes.dtype).max)
    is_missing = None
    if codes.shape[2] == 4:
        codes, is_missing = codes[..., :3], codes[..., 3] < 0.5
    height, width = codes.shape[:2]
    latitudes = 90 - 180 / height * (np.arange(height) + 0.5)
    longitudes = -180 + 360 / width * (np.arange(width) + 0.5)
    stored = grid(
        latitudes,
        longitudes,
        codes,
        is_missing,
        path=path,
        name="grey" if codes.shape[2] == 1 else "colour",
        is_picture=True,
    )
    stored.notes += [*picture.notes, f"{path.name} is taken as a picture of the whole globe"]
    return stored


def _geotiff(path: Path, choice: Choice) -> StoredValues | None:
    """The grid of a GeoTIFF; None for a TIFF without a position on the earth."""
    try:
        with tifffile.TiffFile(path) as file:
            page: Any = file.pages[0]
            tags: dict[str, Any] = page.geotiff_tags or {}
            if "ModelPixelScale" not in tags or "ModelTiepoint" not in tags:
                return None
            bands = page.asarray()
            nodata = page.tags.valueof("GDAL_NODATA")
            is_planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE
    except Exception as error:  # tifffile raises anything on damaged files
        raise DataError(f"{path} cannot be read as TIFF ({error}). Copy it again.") from error
    if int(tags.get("GTModelTypeGeoKey", _GEOGRAPHIC)) != _GEOGRAPHIC:
        raise DataError(
            f"{path} is in a projection; only latitude/longitude is read. Convert it: "
            f"gdalwarp -t_srs EPSG:4326 {path.name} degrees.tif"
        )
    if bands.ndim == 3 and is_planar:
        bands = np.moveaxis(bands, 0, -1)
    if bands.ndim not in (2, 3):
        raise DataError(
            f"{path} holds an array {bands.shape}; allowed is (height, width[, bands])."
        )
    bands = bands.reshape(*bands.shape[:2], -1)
    names = [str(k + 1) for k in range(bands.shape[2])]
    band = choice.variable or "1"
    if band not in names:
        raise DataError(f"data.variable={band}: {path} has the bands 1 to {len(names)}.")
    values = bands[..., int(band) - 1]
    scale, tie = (
        np.asarray(tags[key], np.float64).ravel() for key in ("ModelPixelScale", "ModelTiepoint")
    )
    if len(scale) < 2 or len(tie) < 6 or not (scale[:2] > 0).all():
        raise DataError(f"{path}: its position is damaged (scale {scale[:2]}). Write it again.")
    center = 0.0 if int(tags.get("GTRasterTypeGeoKey", 1)) == _POINT else 0.5
    height, width = values.shape
    latitudes = tie[4] - (np.arange(height) + center - tie[1]) * scale[1]
    longitudes = tie[3] + (np.arange(width) + center - tie[0]) * scale[0]
    is_missing = None
    if nodata is not None:
        try:
            code = float(str(nodata).strip("\0 "))
        except ValueError as error:
            raise DataError(f"{path}: GDAL_NODATA={nodata!r:.20} is no number.") from error
        is_missing = values == code
    stored = grid(latitudes, longitudes, values, is_missing, path=path, name=f"band {band}")
    if len(names) > 1 and choice.variable is None:
        stored.notes.append(f"{path.name}: band 1 of {len(names)} (data.variable)")
    return stored

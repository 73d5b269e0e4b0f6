"""HEALPix maps: centres of the pixels, and maps in FITS files.

Notation (Gorski et al. 2005, astro-ph/0409513; doi:10.1086/427976): N pixels a side of each of the
12 base pixels (nside), 12 N^2 pixels of equal area 4 pi / (12 N^2). Ring i = 1 .. 4 N - 1 from the
north, pixel j = 1 .. in it:

    north cap  i < N          z = 1 - i^2 / (3 N^2)      phi = pi / (2 i) (j - 1/2)
    belt       N <= i <= 3 N  z = 4/3 - 2 i / (3 N)      phi = pi / (2 N) (j - (1 + s) / 2)
    south cap  i > 3 N        the mirror image of ring 4 N - i

with s = (i - N) mod 2 (so the HEALPix library; the paper's s makes j start at 0 where s = 1).
"""

from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from nfields.data.sphere_lattice import wrapped
from nfields.data.sphere_places import PointPlaces, StoredValues
from nfields.data.sphere_reader import Choice, need, only_one
from nfields.errors import DataError

# The base pixels' southernmost corners: ring over N, and longitude over pi / 4.
_RING = np.repeat([2, 3, 4], 4)
_LONGITUDE = np.array([1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7])
_UNSEEN = -1.6375e30  # what HEALPix writes where nothing was seen


def ring_centers(
    nside: int, ring: Int[np.ndarray, " n"], j: Int[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Latitudes and longitudes (degrees, from 0) of pixel j = 1 .. of rings 1 .. 4 nside - 1."""
    n = float(nside)
    is_south = ring > 2 * nside
    i = np.where(is_south, 4 * nside - ring, ring).astype(np.float64)
    is_cap = i < nside
    z = np.where(is_cap, 1 - i * i / (3 * n * n), 4 / 3 - 2 * i / (3 * n))
    s = np.where(is_cap, 0, np.mod(ring - nside, 2))
    phi = 90 / np.where(is_cap, i, n) * (j - (1 + s) / 2)
    return np.degrees(np.arcsin(np.where(is_south, -z, z))), phi


def centers(nside: int, is_nested: bool) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Latitudes and longitudes of all 12 nside^2 pixels, in RING or NESTED order."""
    rings = np.arange(1, 4 * nside)
    lengths = 4 * np.minimum(np.minimum(rings, 4 * nside - rings), nside)
    if not is_nested:
        ring = np.repeat(rings, lengths)
        first = np.repeat(np.cumsum(lengths) - lengths, lengths)
        latitudes, longitudes = ring_centers(nside, ring, np.arange(len(ring)) - first + 1)
        return latitudes, wrapped(longitudes)
    base, inside = np.divmod(np.arange(12 * nside * nside), nside * nside)
    x, y = _even_bits(inside), _even_bits(inside >> 1)
    ring = _RING[base] * nside - x - y - 1
    quarter = lengths[ring - 1] // 4
    is_belt = (ring >= nside) & (ring <= 3 * nside)
    s = np.where(is_belt, np.mod(ring - nside, 2), 0)
    j = (_LONGITUDE[base] * quarter + x - y + 1 + s) // 2
    latitudes, longitudes = ring_centers(nside, ring, j)
    return latitudes, wrapped(longitudes)


def _even_bits(number: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Bits 0, 2, 4, ... of each number, pushed together."""
    result = np.zeros_like(number)
    for bit in range(31):
        result |= ((number >> (2 * bit)) & 1) << bit
    return result


def healpix_map(
    values: Shaped[np.ndarray, " n"],
    is_missing: Bool[np.ndarray, " n"] | None,
    ordering: str,
    *,
    path: Path,
    name: str,
    unit: str = "",
) -> StoredValues:
    """The values of a whole map; unseen pixels (-1.6375e30) are missing."""
    nside = round((len(values) / 12) ** 0.5)
    if nside < 1 or 12 * nside * nside != len(values):
        raise DataError(
            f"{path}: {name} has {len(values):,} values; a HEALPix map has 12 nside^2 (12, 48, "
            "192, ...). Maps of a part of the sky must be filled up with NaN."
        )
    is_nested = _is_nested(ordering, nside, path)
    missing = np.zeros(len(values), bool) if is_missing is None else is_missing.copy()
    if values.dtype.kind == "f":
        missing |= np.abs(values.astype(np.float64) / _UNSEEN - 1) < 1e-5
    latitudes, longitudes = centers(nside, is_nested)
    description = f"HEALPix map, nside {nside}, {'NESTED' if is_nested else 'RING'}"
    return StoredValues(
        places=PointPlaces(latitudes, longitudes, covers=True, description=description),
        values=values[:, None],
        is_missing=missing,
        name=name,
        unit=unit,
    )


def _is_nested(ordering: str, nside: int, path: Path) -> bool:
    word = ordering.strip().upper()
    if word not in ("RING", "NEST", "NESTED"):
        raise DataError(f"{path}: the ordering is {ordering!r:.40}; allowed are RING and NESTED.")
    if word != "RING" and nside & (nside - 1) != 0:
        raise DataError(f"{path}: nside={nside} with NESTED ordering; it must be a power of 2.")
    return word != "RING"


def read(path: Path, choice: Choice) -> StoredValues:
    """A column of the first HEALPix table in a FITS file (its first column by default)."""
    fits = need("astropy.io.fits", path)
    try:
        with path.open("rb") as content, fits.open(content, memmap=False) as file:
            tables = [part for part in file if part.header.get("XTENSION") == "BINTABLE"]
            table = next((t for t in tables if "NSIDE" in t.header), None)
            if table is None:
                raise DataError(
                    f"{path} has no table with a HEALPix map (NSIDE in its header); pictures in "
                    "FITS files are not read."
                )
            names = [str(name) for name in table.columns.names]
            is_partial = str(table.header.get("INDXSCHM", "IMPLICIT")).strip() == "EXPLICIT"
            ordering = str(table.header.get("ORDERING", "RING"))
            nside = int(table.header["NSIDE"])
            numbers = [n for n in names if n.upper() in ("PIXEL", "PIX", "INDEX")]
            data = [n for n in names if not (is_partial and n in numbers)]
            usual = data[0] if choice.variable is None and data else choice.variable
            name = only_one(data, usual, "data.variable", "column", path)
            column = table.columns[name]
            unit = str(column.unit or "")
            values = np.asarray(table.data[name]).reshape(-1)
            pixels = (
                np.asarray(table.data[numbers[0]]).reshape(-1) if is_partial and numbers else None
            )
    except DataError:
        raise
    except Exception as error:  # astropy raises anything on damaged files
        raise DataError(f"{path} cannot be read as FITS ({error}). Copy it again.") from error
    if values.dtype.kind not in "iufb":
        raise DataError(f"{path}: {name} holds {values.dtype}; it must hold numbers.")
    values = values.astype(values.dtype.newbyteorder("="))
    if pixels is not None:
        values = _filled(values, pixels, nside, path)
    stored = healpix_map(values, None, ordering, path=path, name=name, unit=unit)
    if len(data) > 1 and choice.variable is None:
        stored.notes.append(f"{path.name}: column {name} of {', '.join(data)} (data.variable)")
    return stored


def _filled(
    values: Shaped[np.ndarray, " n"], pixels: Shaped[np.ndarray, " n"], nside: int, path: Path
) -> Float[np.ndarray, " all_pixels"]:
    """A map of the whole sky from one of a part of it: NaN elsewhere."""
    if not 1 <= nside <= 8192 or len(pixels) != len(values) or pixels.dtype.kind not in "iu":
        raise DataError(f"{path}: the list of pixels does not fit (nside={nside}); copy it again.")
    if len(pixels) > 0 and not 0 <= pixels.min() <= pixels.max() < 12 * nside * nside:
        raise DataError(f"{path}: pixel numbers are outside 0 .. {12 * nside * nside - 1}.")
    result = np.full(12 * nside * nside, np.nan)
    result[pixels] = values
    return result

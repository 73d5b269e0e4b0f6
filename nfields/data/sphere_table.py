"""Tables of points: text (csv, tsv, txt) with a line of column names, or parquet.

Columns: lat or latitude, lon, lng, long or longitude, and value or label (or the only other one);
others by data.latitude, data.longitude and data.variable. Empty cells, NA and NaN are missing.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Shaped

from nfields.data.sphere_places import StoredValues
from nfields.data.sphere_reader import Choice, need, only_one, points
from nfields.errors import DataError

_LATITUDE = ("lat", "latitude", "decimallatitude", "lat_deg")
_LONGITUDE = ("lon", "longitude", "lng", "long", "decimallongitude", "lon_deg")
_VALUE = ("value", "values", "label", "labels")
_MISSING = ("", "na", "nan", "n/a", "null", "none")


def read(path: Path, choice: Choice) -> StoredValues:
    """A column of a table at the positions of its rows."""
    is_parquet = path.suffix.lower() in (".parquet", ".pq")
    columns = _read_parquet(path) if is_parquet else _read_text(path)
    names = [*columns]
    latitude = _find(names, choice.latitude, _LATITUDE, "latitude", path)
    longitude = _find(names, choice.longitude, _LONGITUDE, "longitude", path)
    others = [name for name in names if name not in (latitude, longitude)]
    usual = choice.variable or next((n for n in others if n.lower() in _VALUE), None)
    name = only_one(others, usual, "data.variable", "column", path)
    lat, lon = (_numbers(columns[axis], axis, path) for axis in (latitude, longitude))
    values, is_missing = _values(columns[name], name, path)
    return points(lat, lon, values, is_missing, path=path, name=name)


def _find(names: list[str], chosen: str | None, usual: Sequence[str], what: str, path: Path) -> str:
    if chosen is not None:
        return only_one(names, chosen, f"data.{what}", "column", path)
    found = next((name for name in names if name.strip().lower() in usual), None)
    if found is None:
        raise DataError(
            f"{path} has no column of {what}s; there are: {', '.join(names) or 'none'}. Name it "
            f"with data.{what}=<column>."
        )
    return found


def _read_text(path: Path) -> dict[str, Shaped[np.ndarray, " n"]]:
    """The columns of a text as texts; separated by commas, semicolons or tabs."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            head = file.readline()
            separator = max(",;\t", key=head.count)
            file.seek(0)
            rows = [row for row in csv.reader(file, delimiter=separator) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as text with columns ({error}).") from error
    if not rows:
        raise DataError(f"{path} is empty; it needs a line of column names, and a line a point.")
    names = [name.strip() for name in rows[0]]
    if len(set(names)) < len(names):
        raise DataError(f"{path} has two columns of one name: {', '.join(names)}. Rename one.")
    bad = next((k for k, row in enumerate(rows) if len(row) != len(names)), None)
    if bad is not None:
        raise DataError(
            f"{path}: row {bad} has {len(rows[bad])} cells, the names are {len(names)}; each row "
            "needs one cell a column."
        )
    columns = zip(*rows[1:], strict=True) if len(rows) > 1 else ([] for _ in names)
    return {n: np.array([*column], dtype=str) for n, column in zip(names, columns, strict=True)}


def _read_parquet(path: Path) -> dict[str, Shaped[np.ndarray, " n"]]:
    """The columns of a parquet file; missing numbers are NaN, missing texts empty."""
    parquet = need("pyarrow.parquet", path)
    try:
        table = parquet.read_table(path)
        columns = {}
        for name in table.column_names:
            column = table.column(name)
            array = column.to_numpy()
            if array.dtype == object:
                texts = ["" if value is None else str(value) for value in column.to_pylist()]
                array = np.array(texts, dtype=str)
            columns[str(name)] = array
    except Exception as error:  # pyarrow has its own errors for damaged files
        raise DataError(f"{path} cannot be read as parquet ({error}). Copy it again.") from error
    return columns


def _is_empty(texts: Shaped[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    return np.isin(np.char.lower(np.char.strip(texts)), _MISSING)


def _numbers(column: Shaped[np.ndarray, " n"], name: str, path: Path) -> Shaped[np.ndarray, " n"]:
    """A column of positions; empty cells are NaN."""
    if column.dtype.kind != "U":
        return column
    numbers = np.where(_is_empty(column), "nan", column)
    try:
        return numbers.astype(np.float64)
    except ValueError as error:
        bad = next(k for k, text in enumerate(numbers) if not _is_number(text))
        raise DataError(
            f"{path}: {name} of row {bad + 1} is {str(column[bad])!r:.40}; it must be degrees, "
            "as a number."
        ) from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _values(
    column: Shaped[np.ndarray, " n"], name: str, path: Path
) -> tuple[Shaped[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """A column of values and which are missing; texts that are all numbers become numbers."""
    if column.dtype.kind in "iufb":
        return column, np.zeros(len(column), bool)
    if column.dtype.kind != "U":
        raise DataError(f"{path}: {name} holds {column.dtype}; allowed are numbers and texts.")
    is_missing, texts = _is_empty(column), np.char.strip(column)
    for kind in (np.int64, np.float64):
        try:
            return np.where(is_missing, "0", texts).astype(kind), is_missing
        except (ValueError, OverflowError):
            continue
    return texts, is_missing

"""Every reader gives back what was written, and says DataError about whatever else it is given."""

import gzip
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nfields.data.sphere_places import StoredValues
from nfields.data.sphere_reader import Choice, need, read
from nfields.errors import DataError

USUAL = Choice()
finite = st.floats(-1e6, 1e6, width=32)


@dataclass(frozen=True)
class Small:
    """A small grid: rising axes and values."""

    lat: np.ndarray
    lon: np.ndarray
    values: np.ndarray


@st.composite
def grids(draw: st.DrawFn) -> Small:
    """Regular grids, whole or of a region, of at most 6 x 8 nodes."""
    rows, columns = draw(st.integers(2, 6)), draw(st.integers(2, 8))
    south = draw(st.integers(-90, 60))
    west = draw(st.integers(-180, 180))
    step = draw(st.integers(1, (90 - south) // (rows - 1)))
    lat = south + step * np.arange(rows, dtype=np.float64)
    lon = west + draw(st.integers(1, 359 // columns)) * np.arange(columns, dtype=np.float64)
    flat = draw(st.lists(finite, min_size=rows * columns, max_size=rows * columns))
    return Small(lat, lon, np.array(flat, np.float32).reshape(rows, columns))


def at(stored: StoredValues, lat: float, lon: float) -> np.ndarray:
    (index,) = stored.places.nearest(np.array([lat * 1.0]), np.array([lon * 1.0]))
    assert index >= 0
    return stored.values[index]


def assert_same(stored: StoredValues, grid: Small) -> None:
    """Every node is found at its place with its value."""
    assert stored.places.num == grid.values.size
    lat, lon = np.meshgrid(grid.lat, grid.lon, indexing="ij")
    index = stored.places.nearest(lat.ravel(), lon.ravel())
    assert sorted(index) == [*range(grid.values.size)]
    assert np.array_equal(stored.values[index, 0], grid.values.ravel(), equal_nan=True)
    found_lat, found_lon = stored.places.positions(index)
    assert np.allclose(found_lat, lat.ravel(), atol=1e-9)
    assert np.allclose(np.mod(found_lon - lon.ravel() + 180, 360), 180, atol=1e-9)


def write_npz(path: Path, grid: Small) -> None:
    np.savez(path, lat=grid.lat, lon=grid.lon, values=grid.values)


def write_netcdf(path: Path, grid: Small) -> None:
    import xarray

    data = xarray.Dataset(
        {"t": (("lat", "lon"), grid.values, {"units": "K"})}, {"lat": grid.lat, "lon": grid.lon}
    )
    is_hdf = path.suffix == ".nc4"
    data.to_netcdf(path, engine="h5netcdf" if is_hdf else "scipy")


def write_geotiff(path: Path, grid: Small) -> None:
    """As GDAL writes it: row 0 in the north, the tie point at the upper left corner."""
    height, width = grid.lat[1] - grid.lat[0], grid.lon[1] - grid.lon[0]
    corner = [0.0, 0, 0, grid.lon[0] - width / 2, grid.lat[-1] + height / 2, 0]
    keys = (1, 1, 0, 2, 1024, 0, 1, 2, 1025, 0, 1, 1)
    tifffile.imwrite(
        path,
        grid.values[::-1],
        extratags=[
            (33550, "d", 3, (width, height, 0.0), True),
            (33922, "d", 6, tuple(float(value) for value in corner), True),
            (34735, "H", len(keys), keys, True),
        ],
    )


def write_csv(path: Path, grid: Small) -> None:
    lat, lon = np.meshgrid(grid.lat, grid.lon, indexing="ij")
    rows = zip(lat.ravel(), lon.ravel(), grid.values.ravel(), strict=True)
    lines = [
        f"{a!r},{b!r},{float(c)!r}" for a, b, c in [(float(r[0]), float(r[1]), r[2]) for r in rows]
    ]
    path.write_text("\n".join(["Latitude,lon,value", *lines]))


def write_parquet(path: Path, grid: Small) -> None:
    import pyarrow
    import pyarrow.parquet

    lat, lon = np.meshgrid(grid.lat, grid.lon, indexing="ij")
    columns = {"lat": lat.ravel(), "lon": lon.ravel(), "value": grid.values.ravel()}
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def write_text(path: Path, grid: Small) -> None:
    for name, array in (("data", grid.values), ("lats", grid.lat), ("lons", grid.lon)):
        text = " ".join(repr(float(value)) for value in array.ravel())
        path.with_name(path.name.replace("data", name)).write_bytes(gzip.compress(text.encode()))


WRITERS: dict[str, Callable[[Path, Small], None]] = {
    "a.npz": write_npz, "a.nc": write_netcdf, "a.nc4": write_netcdf, "a.tif": write_geotiff,
    "a.csv": write_csv, "a.parquet": write_parquet, "adata.gz": write_text,
}  # fmt: skip
NEEDS = {"a.nc": "xarray", "a.nc4": "h5netcdf", "a.parquet": "pyarrow"}


def skip_without(package: str | None) -> None:
    if package is not None and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed (extra sphere)")


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_written_is_read_back(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    skip_without(NEEDS.get(name))
    folder = tmp_path_factory.mktemp("grid")

    @settings(max_examples=15, deadline=None)
    @given(grids())
    def check(grid: Small) -> None:
        WRITERS[name](folder / name, grid)
        assert_same(read(folder / name, USUAL), grid)

    check()


# h5netcdf 1.8 raises in its destructor, to no effect, where its constructor failed.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function File.close")
@pytest.mark.parametrize("name", [*WRITERS, "a.fits", "a.bin"])
def test_damaged_files_give_data_errors(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    skip_without({**NEEDS, "a.fits": "astropy"}.get(name))
    folder = tmp_path_factory.mktemp("damaged")
    path = folder / name
    if name == "a.fits":
        write_fits(path, np.arange(48.0), "RING")
    elif name == "a.bin":
        path.write_bytes(gzip.compress(bytes(range(32))))
    else:
        write = WRITERS[name]
        write(path, Small(np.arange(3.0), np.arange(4.0), np.ones((3, 4), np.float32)))
    whole = path.read_bytes()

    @settings(max_examples=40, deadline=None)
    @given(st.integers(0, len(whole) - 1), st.binary(min_size=0, max_size=8), st.booleans())
    def check(where: int, other: bytes, is_cut: bool) -> None:
        path.write_bytes(whole[:where] + other + (b"" if is_cut else whole[where + len(other) :]))
        try:
            read(path, USUAL)
        except DataError as error:
            assert name in str(error)

    check()


@given(st.integers(0, 3), st.booleans(), st.booleans(), st.integers(0, 7))
def test_any_turn_of_the_axes_is_the_same_grid(
    copies: int, is_south_first: bool, is_reversed: bool, turn: int
) -> None:
    """Rows from either end, columns from any origin, the last column repeated or not."""
    from nfields.data.sphere_reader import grid as checked_grid

    lat, lon = np.arange(-80.0, 90, 40), np.arange(0.0, 360, 45)
    values = np.arange(40, dtype=np.float64).reshape(5, 8)
    lat, values = np.linspace(-80, 80, 5), values
    expected = Small(lat, lon, values)
    lon, values = np.roll(lon, turn), np.roll(values, turn, axis=1)
    if copies == 1:
        lon, values = np.append(lon, lon[0] + 360), np.concatenate([values, values[:, :1]], axis=1)
    if copies == 2:
        lon = np.where(lon >= 180, lon - 360, lon)
    if is_reversed:
        lon, values = lon[::-1], values[:, ::-1]
    if not is_south_first:
        lat, values = lat[::-1], values[::-1]
    stored = checked_grid(lat, lon, values, None, path=Path("a.npz"), name="values")
    assert_same(stored, expected)
    assert len(stored.notes) == (copies == 1)


def npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # pyright: ignore[reportArgumentType]
    return path


LAT, LON, OK = np.arange(3.0), np.arange(4.0), np.ones((3, 4))


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"lat": np.array([0.0, 50, 95]), "lon": LON, "values": OK}, r"outside \[-90, 90\].*95"),
        ({"lat": LAT[[0, 2, 1]], "lon": LON, "values": OK}, "must rise or fall.*2 to 1"),
        ({"lat": LAT, "lon": LON[[0, 2, 1, 3]], "values": OK}, "longitudes must rise or fall"),
        ({"lat": LAT, "lon": np.arange(4) * 130.0, "values": OK}, "span 390 degrees"),
        ({"lat": LAT, "lon": LON, "values": np.ones((4, 3))}, "look transposed"),
        ({"lat": LAT, "lon": LON, "values": np.ones((3, 5))}, r"shape \(3, 5\)"),
        ({"lat": LAT, "lon": LON, "values": np.ones(3)}, "points need as many of each"),
        ({"lat": OK, "lon": LON, "values": OK}, "one axis"),
        ({"lon": LON, "values": OK}, r"no array lat.*data\.latitude"),
        ({"lat": LAT, "lon": LON}, "has no arrays"),
        ({"lat": LAT, "lon": LON, "a": LAT, "b": LAT}, r"several arrays: a, b.*data\.variable"),
        ({"lat": np.array(["a"] * 3), "lon": LON, "values": OK}, "must be one row of numbers"),
        ({"lat": np.array([0, np.nan, 1]), "lon": LON, "values": OK}, "latitude number 1 is nan"),
        ({"values": np.ones(13), "ordering": "RING"}, "12 nside"),
        ({"values": np.ones(108), "ordering": "NESTED"}, "power of 2"),
        ({"values": np.ones(12), "ordering": "SPIRAL"}, "allowed are RING and NESTED"),
        ({"lat": LAT, "lon": LON, "values": OK, "mask": np.ones(3, bool)}, "mask is bool"),
        ({"lat": LAT[:0], "lon": LON, "values": np.ones((0, 4))}, "has no latitudes"),
    ],
)  # fmt: skip
def test_bad_arrays_are_named(tmp_path: Path, arrays: dict[str, object], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        read(npz(tmp_path / "a.npz", **arrays), USUAL)
    assert "a.npz" in str(caught.value)


def test_masked_entries_are_missing(tmp_path: Path) -> None:
    mask = np.zeros((3, 4), bool)
    mask[1, 2] = True
    path = npz(tmp_path / "a.npz", lat=LAT, lon=LON, values=OK, mask=mask)
    assert np.array_equal(read(path, USUAL).is_missing, mask.ravel())


def test_names_can_be_chosen(tmp_path: Path) -> None:
    path = npz(tmp_path / "a.npz", y=LAT, x=LON, a=np.zeros((3, 4)), b=OK)
    choice = Choice(variable="b", latitude="y", longitude="x")
    assert read(path, choice).values.min() == 1
    with pytest.raises(DataError, match=r"data\.variable=c: .*no such array; there are: a, b"):
        read(path, Choice(variable="c", latitude="y", longitude="x"))


def test_mask_of_bytes_starts_in_the_south_west(tmp_path: Path) -> None:
    values = np.zeros((4, 8), np.uint8)
    values[0, 0] = 7
    for content in (values.tobytes(), gzip.compress(values.tobytes())):
        (tmp_path / "a.bin").write_bytes(content)
        stored = read(tmp_path / "a.bin", USUAL)
        assert at(stored, -80, -170).tolist() == [7]
        assert stored.values.sum() == 7


def test_pictures_are_of_the_whole_globe(tmp_path: Path) -> None:
    pixels = np.zeros((4, 8, 4), np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0] = (255, 0, 0, 255)
    pixels[3, 7, 3] = 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    stored = read(tmp_path / "a.png", USUAL)
    assert stored.is_picture
    assert at(stored, 80, -170).tolist() == [1, 0, 0]
    assert stored.is_missing.sum() == 1
    missing_lat, missing_lon = stored.places.positions(np.flatnonzero(stored.is_missing))
    assert (missing_lat[0], missing_lon[0]) == (-67.5, 157.5)


def write_fits(path: Path, values: np.ndarray, ordering: str, **header: object) -> None:
    from astropy.io import fits

    column = fits.Column(name="TEMPERATURE", format="D", unit="mK", array=values)
    table = fits.BinTableHDU.from_columns([column])
    nside = round((len(values) / 12) ** 0.5)
    table.header.update({"PIXTYPE": "HEALPIX", "ORDERING": ordering, "NSIDE": nside} | header)
    table.writeto(path, overwrite=True)


@pytest.mark.parametrize("ordering", ["RING", "NESTED"])
def test_healpix_maps_lie_where_their_ordering_says(tmp_path: Path, ordering: str) -> None:
    skip_without("astropy")
    skip_without("astropy_healpix")
    from astropy_healpix import healpix_to_lonlat

    _, latitudes = healpix_to_lonlat(np.arange(192), 4, order=ordering.lower())
    z = np.sin(latitudes.value)
    z[5] = -1.6375e30
    write_fits(tmp_path / "a.fits", z, ordering)
    npz(tmp_path / "a.npz", values=z, ordering=ordering)
    for name in ("a.fits", "a.npz"):
        stored = read(tmp_path / name, USUAL)
        lat, _ = stored.places.positions(np.arange(192))
        assert np.flatnonzero(stored.is_missing).tolist() == [5]
        is_seen = ~stored.is_missing
        assert np.allclose(np.sin(np.radians(lat[is_seen])), stored.values[is_seen, 0])
    assert read(tmp_path / "a.fits", USUAL).unit == "mK"


def test_other_dimensions_of_netcdf_are_selected(tmp_path: Path) -> None:
    skip_without("xarray")
    import xarray

    values = np.arange(24.0).reshape(2, 4, 3)
    data = xarray.Dataset({"t": (("time", "lon", "lat"), values)}, {"lat": LAT, "lon": LON})
    data.to_netcdf(tmp_path / "a.nc", engine="scipy")
    with pytest.raises(DataError, match=r"dimension time of 2 entries.*data\.select"):
        read(tmp_path / "a.nc", USUAL)
    for time in (0, 1):
        stored = read(tmp_path / "a.nc", Choice(select={"time": time}))
        assert_same(stored, Small(LAT, LON, values[time].T))
    with pytest.raises(DataError, match=r"data\.select says 2"):
        read(tmp_path / "a.nc", Choice(select={"time": 2}))
    with pytest.raises(DataError, match=r"names level; t of .* along time"):
        read(tmp_path / "a.nc", Choice(select={"time": 0, "level": 0}))


def test_texts_and_empty_cells_of_tables(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("lat;lng;label\n1;2;oak\n3;4;\n;5;ash\n-6;190;ash\n")
    stored = read(path, USUAL)
    assert stored.values[:, 0].tolist() == ["oak", "", "ash"]
    assert stored.is_missing.tolist() == [False, True, False]
    assert any("1 of 4 rows have no position" in note for note in stored.notes)
    assert stored.places.positions(np.array([2]))[1].tolist() == [-170]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("lat,lon,value\n1,2\n", "row 1 has 2 cells"),
        ("lat,lon,value\n1,north,2\n", "lon of row 1 is 'north'"),
        ("lat,lon,lat\n1,2,3\n", "two columns of one name"),
        ("a,b,c\n1,2,3\n", r"no column of latitudes.*a, b, c"),
        ("lat,lon,a,b\n1,2,3,4\n", r"several columns: a, b"),
        ("lat,lon,value\n100,2,3\n", r"outside \[-90, 90\]"),
        ("lat,lon,value\n", "no row with a position"),
        ("lat,lon,value\nnan,2,3\n", "no row with a position"),
        ("lat,lon,value\n1,inf,3\n", "no row with a position"),
    ],
)
def test_bad_tables_are_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "a.csv", USUAL)


@settings(max_examples=50, deadline=None)
@given(st.text(alphabet='latonvue,;\t\n\r\0"19.-é', max_size=60))
def test_any_text_is_a_table_or_a_data_error(text: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        path.write_bytes(("lat,lon,value\n" + text).encode())
        try:
            read(path, USUAL)
        except DataError:
            pass


def test_unknown_and_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path=.* is no file"):
        read(tmp_path, USUAL)
    (tmp_path / "a.grib").write_text("")
    with pytest.raises(DataError, match=r"ending in \.grib are not known"):
        read(tmp_path / "a.grib", USUAL)
    (tmp_path / "xdata.gz").write_bytes(gzip.compress(b"1 2"))
    with pytest.raises(DataError, match=r"needs xlats\.gz beside it"):
        read(tmp_path / "xdata.gz", USUAL)
    with pytest.raises(DataError, match=r"needs nothing_like_it.*pip install 'nfields\[sphere\]'"):
        need("nothing_like_it.deeper", tmp_path / "a.nc")

"""Maps: projections invert each other and keep areas, coastlines lie where they belong."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfields.data.coastlines import read_coastlines
from nfields.errors import DataError
from nfields.export.map_picture import (
    ClassScale,
    ColorScale,
    NumberScale,
    Panel,
    class_colors,
    map_of,
    round_numbers,
    round_up,
    sheets,
)
from nfields.export.map_projection import Mollweide, Orthographic, pixels


@given(st.floats(-90, 90), st.floats(-179.99, 179.99), st.floats(-180, 180))
def test_mollweide_comes_back(latitude: float, longitude: float, center: float) -> None:
    projection = Mollweide(center)
    x, y = projection.forward(np.array([latitude]), np.array([longitude]))
    assert (x[0] / projection.extent[0]) ** 2 + (y[0] / projection.extent[1]) ** 2 <= 1 + 1e-9
    lat, lon = projection.inverse(x, y)
    assert lat[0] == pytest.approx(latitude, abs=1e-6)
    # Meridians meet at the poles: what counts is the distance on the sphere.
    around = np.sin(np.radians(lon[0] - longitude) / 2) * np.cos(np.radians(latitude))
    assert abs(around) < 1e-7


@given(st.floats(-90, 90), st.floats(-180, 180), st.floats(-0.7, 0.7), st.floats(-0.7, 0.7))
def test_orthographic_comes_back(latitude: float, longitude: float, x: float, y: float) -> None:
    projection = Orthographic(latitude, longitude)
    found = projection.forward(*projection.inverse(np.array([x]), np.array([y])))
    assert np.allclose(found, [[x], [y]], atol=1e-9)


def test_mollweide_keeps_areas() -> None:
    """The part of the ellipse north of a latitude is that of the sphere, (1 - sin lat) / 2."""
    latitudes, _ = pixels(Mollweide(), 1200)
    inside = latitudes[np.isfinite(latitudes)]
    for bound in (-60, 0, 30, 75):
        assert (inside > bound).mean() == pytest.approx(
            (1 - np.sin(np.radians(bound))) / 2, abs=2e-3
        )
    # The ellipse fills pi / 4 of its box.
    assert np.isfinite(latitudes).mean() == pytest.approx(np.pi / 4, abs=1e-3)


def test_poles_have_east_to_the_right_of_their_meridian() -> None:
    def at(projection: Orthographic, latitude: float, longitude: float) -> list[float]:
        found = projection.forward(np.array([latitude * 1.0]), np.array([longitude * 1.0]))
        return [round(float(value[0]), 9) for value in found]

    assert at(Orthographic(90), 60, 0) == [0, -0.5]
    assert at(Orthographic(90), 60, 90) == [0.5, 0]
    assert at(Orthographic(-90), -60, 0) == [0, 0.5]
    assert at(Orthographic(-90), -60, 90) == [0.5, 0]
    assert np.isnan(at(Orthographic(90), -1, 0)).all()


def latitude_of(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
    return latitudes[:, None].copy()


def test_north_is_up_and_outside_is_white() -> None:
    picture = map_of(latitude_of, NumberScale(-90, 90, "", "magma"), Mollweide(), 200)
    assert picture.shape == (100, 200, 3)
    assert (picture[0, 0] == 255).all()
    brightness = picture[[10, 50, 90], 100].astype(int).sum(axis=1)
    assert brightness[0] > brightness[1] > brightness[2]


def test_center_is_in_the_middle() -> None:
    latitudes, longitudes = pixels(Mollweide(150), 201)
    assert longitudes[50, 100] == pytest.approx(150)
    assert abs(latitudes[50, 100]) < 1


def test_unknown_is_grey_in_every_scale() -> None:
    unknown = [190, 190, 190]
    nan = np.full((1, 3), np.nan)
    assert NumberScale(0, 1, "").paint(nan[:, :1]).tolist() == [unknown]
    assert ColorScale("").paint(nan).tolist() == [unknown]
    assert ClassScale(["a", "b"], "").paint(np.array([-1])).tolist() == [unknown]


@pytest.mark.parametrize("num", [2, 20, 100])
def test_classes_have_different_colors(num: int) -> None:
    colors = class_colors(num)
    assert len(set(colors)) == len(colors) == num


def test_sheets_are_of_one_size() -> None:
    def label(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
        return (latitudes > 0).astype(np.int64)

    names = [f"a class with a long name {k}" for k in range(30)]
    panels = [
        Panel(latitude_of, NumberScale(-90, 90, "latitude [degrees]"), "numbers"),
        Panel(label, ClassScale(names, "class"), "classes"),
    ]
    shapes = {picture.shape for picture in sheets(panels, 120)}
    assert len(shapes) == 1
    assert shapes.pop()[1] == 120


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_a_scale_has_a_few_round_numbers(low: float, size: float) -> None:
    numbers = round_numbers(low, low + size)
    assert 3 <= len(numbers) <= 8
    # Each is kept with 12 digits.
    slack = 1e-6 * size + 1e-11 * abs(low)
    assert all(low - slack <= number <= low + size + slack for number in numbers)


@given(st.floats(1e-9, 1e9))
def test_rounding_up_gives_one_two_or_five(value: float) -> None:
    top = round_up(value)
    assert value <= top * (1 + 1e-8) <= 2.51 * value * (1 + 1e-8)
    assert f"{top:e}"[0] in "125"


def write_topology(path: Path, **changes: object) -> Path:
    topology = {
        "type": "Topology",
        "transform": {"scale": [0.1, 0.1], "translate": [-180, -90]},
        "arcs": [[[1800, 900], [100, 0], [0, 100]]],
    } | changes
    path.write_text(json.dumps(topology))
    return path


def test_arcs_are_sums_of_their_steps(tmp_path: Path) -> None:
    (line,) = read_coastlines(write_topology(tmp_path / "land.json"))
    assert np.allclose(line, [[0, 0], [0, 10], [10, 10]])


def test_coastlines_are_drawn_and_cut_at_the_seam(tmp_path: Path) -> None:
    def nothing(latitudes: np.ndarray, longitudes: np.ndarray) -> np.ndarray:
        return np.zeros((len(latitudes), 1))

    scale = NumberScale(0, 1, "")
    line = np.stack([np.zeros(21), np.linspace(170, 190, 21)], axis=1)
    plain = map_of(nothing, scale, Mollweide(), 200)
    drawn = map_of(nothing, scale, Mollweide(), 200, [line])
    columns = np.flatnonzero((plain != drawn).any(axis=(0, 2)))
    assert len(columns) > 4
    assert ((columns < 8) | (columns > 191)).all()


@pytest.mark.parametrize(
    "changes", [{"arcs": 3}, {"arcs": [[1, 2]]}, {"arcs": [[[0, 5e4], [1, 1]]]}]
)
def test_files_without_lines_are_refused(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(DataError, match="is not TopoJSON"):
        read_coastlines(write_topology(tmp_path / "land.json", **changes))
    (tmp_path / "land.json").write_text("no json")
    with pytest.raises(DataError, match=r"land\.json cannot be read"):
        read_coastlines(tmp_path / "land.json")


def test_coastlines_of_the_world(shared_data: Path) -> None:
    lines = read_coastlines(shared_data / "sphere" / "world-atlas" / "land-110m.json")
    assert len(lines) > 100
    latitudes = np.concatenate(lines)[:, 0]
    assert -90 <= latitudes.min() < -80
    assert 80 < latitudes.max() < 85

"""A function on the sphere as data: what trains, what tests, what values mean, the card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import nfields.data
from nfields.config import config_folder
from nfields.data.sphere_file import SphereData
from nfields.data.sphere_lattice import unit_vectors
from nfields.errors import ConfigError, DataError

LAT, LON = np.arange(-87.0, 90, 6), np.arange(-177.0, 180, 6)
ALL: dict[str, Any] = {"num_train": None, "num_test": None}


def make(path: Path | None = None, **options: Any) -> SphereData:
    file = config_folder() / "data" / "sphere_file.yaml"
    usual = yaml.safe_load(file.read_text(encoding="utf-8"))
    del usual["_target_"]
    return SphereData(**usual | {"path": None if path is None else str(path)} | options)


def save(path: Path, values: np.ndarray, **arrays: np.ndarray) -> Path:
    np.savez(path, allow_pickle=False, lat=LAT, lon=LON, values=values, **arrays)
    return path


@pytest.fixture
def heights(tmp_path: Path) -> Path:
    """z = sin(lat), which is linear in space."""
    z = np.repeat(np.sin(np.radians(LAT))[:, None], len(LON), axis=1)
    return save(tmp_path / "z.npz", z)


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    """0 in the south, 1 in the north up to 60 degrees, 2 beyond."""
    rows = np.where(LAT > 60, 2, np.where(LAT > 0, 1, 0))
    return save(tmp_path / "zones.npz", np.repeat(rows[:, None], len(LON), axis=1))


def test_a_linear_function_is_read_exactly_at_its_nodes(heights: Path) -> None:
    data = make(heights, **ALL)
    for points in data.require():
        z = unit_vectors(points.latitudes, points.longitudes)[:, 2]
        assert len(points) == len(LAT) * len(LON)
        assert np.abs(points.values[:, 0] - z).max() < 1e-15
    near = data.truth_near(np.array([3.4, 90.0]), np.array([-177.0, 180]))
    assert near.latitudes.tolist() == [3.0, 87.0]
    assert np.array_equal(near.values[:, 0], np.sin(np.radians([3.0, 87.0])))


def test_values_are_standardised_over_the_area_and_come_back(heights: Path) -> None:
    data = make(heights, **ALL)
    # Over the sphere z has the mean 0 and the variance 1/3; over the rows of a grid 1/2.
    assert data.mean[0] == pytest.approx(0, abs=1e-12)
    assert data.std[0] == pytest.approx((1 / 3) ** 0.5, rel=2e-3)
    train, _ = data.require()
    back = data.to_user(data.standardised(train.values).double()).numpy()
    assert np.abs(back - train.values).max() < 1e-6


def test_the_mean_is_that_over_the_area(tmp_path: Path) -> None:
    square = np.repeat(np.sin(np.radians(LAT))[:, None] ** 2, len(LON), axis=1)
    data = make(save(tmp_path / "a.npz", square), **ALL)
    assert data.mean[0] == pytest.approx(1 / 3, rel=3e-3)  # the mean of all nodes is 1/2


def test_training_points_are_drawn_by_area(heights: Path) -> None:
    train, test = make(heights, num_train=600, num_test=100).require()
    assert np.allclose(train.weights, 1)
    # A standard deviation of 0.3 / sqrt(600) for z^2; rows alike would give 1/2.
    assert np.mean(train.values**2) == pytest.approx(1 / 3, abs=0.04)
    assert np.average(test.values[:, 0] ** 2, weights=test.weights) == pytest.approx(
        1 / 3, abs=0.03
    )


def test_test_points_do_not_train(heights: Path) -> None:
    train, test = make(heights, num_train=None, num_test=300).require()
    pairs = [{*zip(p.latitudes, p.longitudes, strict=True)} for p in (train, test)]
    assert not pairs[0] & pairs[1]
    assert len(pairs[0]) + len(pairs[1]) == len(LAT) * len(LON)


def test_seed_decides_which_points_train(heights: Path) -> None:
    first, again, other = (
        make(heights, num_train=50, seed=seed).require()[0].values for seed in (0, 0, 1)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_checkerboard_has_points_of_its_own() -> None:
    data = make(num_train=500, num_test=700)
    train, test = data.require()
    assert (len(train), len(test), data.out_dim, data.kind) == (500, 700, 16, "classification")
    assert (np.bincount(test.values, minlength=16) > 20).all()
    with pytest.raises(ConfigError, match=r"data\.variable has no effect"):
        make(variable="t")
    with pytest.raises(ConfigError, match=r"data\.kind=regression has no effect"):
        make(kind="regression")
    with pytest.raises(ConfigError, match=r"must be numbers for the checkerboard"):
        make(num_train=None)


def test_missing_values_are_left_out_and_counted(tmp_path: Path) -> None:
    values = np.ones((len(LAT), len(LON)))
    values[:3] = np.nan
    values[4, 5] = np.inf
    mask = np.zeros(values.shape, bool)
    mask[10, :4] = True
    data = make(save(tmp_path / "a.npz", values, mask=mask), **ALL)
    missing = 3 * len(LON) + 1 + 4
    assert len(data.require()[0]) == values.size - missing
    assert any(f"{missing} of {values.size:,} values" in note for note in data.notes)
    assert np.isnan(data.truth_near(np.array([-87.0]), np.array([0.0])).values).all()
    mask[...] = True
    with pytest.raises(DataError, match=r"all 1,800 values of values are missing"):
        make(save(tmp_path / "a.npz", values, mask=mask))


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([0, 1, 2] * 600, np.uint8), "classification"),
        (np.array([True, False] * 900), "classification"),
        (np.array(["sea", "land"] * 900), "classification"),
        (np.arange(1800, dtype=np.int16), "regression"),
        (np.array([0.0, 1.0] * 900), "regression"),
    ],
)
def test_kind_follows_from_the_values(tmp_path: Path, values: np.ndarray, kind: str) -> None:
    assert make(save(tmp_path / "a.npz", values.reshape(30, 60))).kind == kind


def test_classes_merge_values_and_leave_others_out(zones: Path) -> None:
    data = make(zones, **ALL, classes={"north": [1, 2], "south": 0})
    _, test = data.require()
    assert data.class_names == ["north", "south"]
    assert np.array_equal(test.values, (test.latitudes < 0).astype(int))
    data = make(zones, **ALL, classes={"cap": [2], "south": [0]})
    assert any("600 values (1) are in none of data.classes" in note for note in data.notes)
    assert data.truth_near(np.array([30.0]), np.array([0.0])).values.tolist() == [-1]


def test_area_of_a_class_is_what_its_weights_sum_to(zones: Path) -> None:
    """The cap beyond 60 degrees covers (1 - sin 60) / 2 of the sphere, 1/6 of the rows."""
    expected = (1 - np.sin(np.radians(60))) / 2
    _, test = make(zones, **ALL).require()
    assert np.average(test.values == 2, weights=test.weights) == pytest.approx(expected, rel=1e-9)
    train, test = make(zones, num_train=900, num_test=300).require()
    # 900 draws: a standard deviation of 0.008; 300 lattice points: of less than that.
    assert np.average(train.values == 2, weights=train.weights) == pytest.approx(expected, abs=0.03)
    assert np.average(test.values == 2, weights=test.weights) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"classes": {"a": [0], "b": [7]}}, DataError, r"no point of values is in the class b"),
        ({"classes": {"a": [0, 1], "b": [1]}}, ConfigError, r"1 is in a and b"),
        ({"classes": {"a": [0]}, "kind": "regression"}, ConfigError, r"classes has no effect"),
        ({"classes": {"a": [0, 1, 2]}}, DataError, r"of one class"),
        ({"num_train": 0}, ConfigError, r"data\.num_train=0 must be at least 1"),
        ({"num_test": -1}, ConfigError, r"data\.num_test=-1 must be at least 1"),
        ({"variable": "t"}, DataError, r"data\.variable=t: .* no such array; there are: values"),
    ],
)  # fmt: skip
def test_bad_options_are_refused(
    zones: Path, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        make(zones, **options)


def test_texts_cannot_be_fitted_as_numbers(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", np.array(["a", "b"] * 900).reshape(30, 60))
    with pytest.raises(DataError, match="holds texts"):
        make(path, kind="regression")


@pytest.mark.parametrize("num", [1, 2, 6])
def test_tables_of_a_few_points_train(tmp_path: Path, num: int) -> None:
    rows = [f"{10 * k},{-20 * k},{k}.5" for k in range(num)]
    (tmp_path / "a.csv").write_text("\n".join(["lat,lon,value", *rows]))
    data = make(tmp_path / "a.csv")
    train, test = data.require()
    assert (len(train), len(test)) == ((5, 1) if num == 6 else (num, num))
    assert data.standardised(train.values).isfinite().all()


def test_a_class_without_training_points_is_noted(tmp_path: Path) -> None:
    values = np.zeros((len(LAT), len(LON)), np.uint8)
    values[0, 0] = 1
    data = make(save(tmp_path / "a.npz", values), num_train=5)
    assert any("no training point is in 1 (1 of 2 classes)" in note for note in data.notes)


def test_a_small_region_of_a_fine_grid_has_test_points(tmp_path: Path) -> None:
    lat, lon = np.linspace(10, 10.1, 20), np.linspace(40, 40.1, 20)
    np.savez(tmp_path / "a.npz", lat=lat, lon=lon, values=np.random.default_rng(0).random((20, 20)))
    train, test = make(tmp_path / "a.npz").require()
    assert len(test) > 30
    assert len(train) + len(test) == 400


def test_card_restores_what_the_field_means(zones: Path, heights: Path) -> None:
    for path in (zones, heights, None):
        data = make(path)
        restored = nfields.data.restore(json.loads(json.dumps(data.card())))
        assert isinstance(restored, SphereData)
        assert restored.card() == data.card()
        assert restored.out_dim == data.out_dim
        for use in (restored.require, lambda r=restored: r.truth_near(LAT, LAT)):
            with pytest.raises(DataError, match=r"not at hand.*data\.path="):
                use()
    with pytest.raises(DataError, match="card is incomplete"):
        nfields.data.restore({"class": "nfields.data.sphere_file.SphereData"})


@pytest.mark.slow
def test_land_covers_29_percent_of_the_earth(shared_data: Path) -> None:
    path = shared_data / "sphere" / "lsmask" / "lsmask_10min_l.bin"
    train, test = make(path, classes={"sea": [0], "land": [1, 2]}, num_train=5000).require()
    # A standard deviation of 0.0064 for the draws; 34 % of the rows' cells are land.
    assert np.mean(train.values) == pytest.approx(0.292, abs=0.026)
    assert np.average(test.values, weights=test.weights) == pytest.approx(0.292, abs=0.005)


@pytest.mark.parametrize(
    ("file", "place", "expected", "tolerance"),
    [
        ("etopo20/etopo20data.gz", (27.8, 86.8), 5000, 1500),  # Everest, over 20'
        ("etopo20/etopo20data.gz", (0, -30), -4000, 1500),  # the Atlantic
        ("t2m_1x1/T2m_1x1.nc", (0, -30), 300, 3),  # January, kelvin
        ("t2m_1x1/T2m_1x1.nc", (62, 129), 234, 8),  # Yakutsk, east of 0
        ("wmap_W_n32/wmap_band_iqumap_r9_7yr_W_v4_udgraded32.fits", (0, 0), 1.76, 0.1),
    ],
)  # fmt: skip
def test_real_files_say_what_is_known(
    shared_data: Path, file: str, place: tuple[float, float], expected: float, tolerance: float
) -> None:
    for package in ("xarray", "astropy") if file.endswith(("nc", "fits")) else ():
        pytest.importorskip(package, reason=f"{package} is not installed (extra sphere)")
    data = make(shared_data / "sphere" / file)
    near = data.truth_near(np.array([place[0] * 1.0]), np.array([place[1] * 1.0]))
    assert near.values[0, 0] == pytest.approx(expected, abs=tolerance)
    train, test = data.require()
    assert data.kind == "regression"
    assert len(train) + len(test) > 12_000

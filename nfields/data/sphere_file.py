"""A function on the sphere from a file, or a checkerboard made here: the data of task=sphere."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.data.sphere_lattice import (
    Checkerboard,
    draw_by_area,
    tile_order,
    fibonacci_lattice,
    uniform_points,
)
from nfields.data.sphere_places import StoredValues
from nfields.data.sphere_reader import Choice, read
from nfields.data.sphere_values import Code, Kind, meaning
from nfields.errors import ConfigError, DataError

_CANDIDATES = 16  # points at random from which one a tile is drawn, a tile

Degrees = Float[np.ndarray, " n"]
Truth = Float[np.ndarray, "n c"] | Int[np.ndarray, " n"]


@dataclass(frozen=True)
class SpherePoints:
    """Points, their values and the area each stands for.

    Values are (n, c) in the user's units, or labels (n) from 0. Weights have the mean 1.
    """

    latitudes: Degrees
    longitudes: Degrees
    values: Truth
    weights: Degrees

    def __len__(self) -> int:
        return len(self.latitudes)


class SphereData:
    """Training and test points on the sphere, and the truth anywhere, where the file knows it.

    Grids, HEALPix maps, tables and pictures of the globe (nfields/data/sphere_reader.py says which
    files); path=null is the checkerboard of arXiv:2310.06743. Restored from a card it has only what
    a trained field means: kind, classes, scale and unit.
    """

    def __init__(
        self,
        *,
        path: str | None,
        variable: str | None,
        latitude: str | None,
        longitude: str | None,
        select: Mapping[str, int],
        kind: Literal["auto", "regression", "classification"],
        classes: Mapping[str, list[Code] | Code],
        num_train: int | None,
        num_test: int | None,
        train_draw: Literal["even", "random"],
        seed: int,
    ) -> None:
        for option, number in (("num_train", num_train), ("num_test", num_test)):
            if number is not None and number < 1:
                raise ConfigError(f"data.{option}={number} must be at least 1, or null for all")
        random = np.random.default_rng(seed)
        self.notes: list[str] = []
        self.is_picture = False
        self.unit, self.split = "", ""
        self._stored: StoredValues | None = None
        self._values: Truth | None = None
        self._is_valid: np.ndarray | None = None
        self._board: Checkerboard | None = None
        if path is None:
            given = {
                "variable": variable, "latitude": latitude, "longitude": longitude,
                "select": select, "classes": classes,
            }  # fmt: skip
            useless = [f"data.{key}" for key, value in given.items() if value]
            if useless or kind == "regression":
                raise ConfigError(
                    f"{', '.join(useless) or 'data.kind=regression'} has no effect on the "
                    "checkerboard (data.path=null); name a file with data.path=<file>"
                )
            if num_train is None or num_test is None:
                raise ConfigError(
                    "data.num_train and data.num_test must be numbers for the checkerboard "
                    "(data.path=null), which has no points of its own"
                )
            self._make_checkerboard(num_train, num_test, train_draw, random)
        else:
            stored = read(Path(path), Choice(variable, latitude, longitude, select))
            self._take(stored, kind, classes)
            self.source = f"{Path(path).name}, {stored.name}: {stored.places.description}"
            self._split(stored, num_train, num_test, train_draw, random)
        self._measure_scale()

    def _make_checkerboard(
        self,
        num_train: int,
        num_test: int,
        train_draw: Literal["even", "random"],
        random: np.random.Generator,
    ) -> None:
        board = self._board = Checkerboard()
        self.kind: Kind = "classification"
        self.name = "class"
        self.source = "checkerboard of 200 cells and 16 classes, made here"
        self.class_names = [str(label) for label in range(board.NUM_CLASSES)]
        self.split = "equal-area lattice"

        def labelled(latitudes: Degrees, longitudes: Degrees) -> SpherePoints:
            labels = board.labels(latitudes, longitudes)
            return SpherePoints(latitudes, longitudes, labels, np.ones(len(latitudes)))

        num_drawn = num_train if train_draw == "random" else _CANDIDATES * num_train
        latitudes, longitudes = uniform_points(num_drawn, random)
        if train_draw == "even":
            order = tile_order(latitudes, longitudes, num_train, random)
            index, _ = draw_by_area(np.ones(len(order)), num_train, random, order)
            latitudes, longitudes = latitudes[index], longitudes[index]
        self.train: SpherePoints | None = labelled(latitudes, longitudes)
        self.test: SpherePoints | None = labelled(*fibonacci_lattice(num_test))

    def _take(
        self, stored: StoredValues, kind: Literal["auto", "regression", "classification"],
        classes: Mapping[str, list[Code] | Code],
    ) -> None:  # fmt: skip
        meant = meaning(stored, kind, classes)
        self.kind, self.class_names = meant.kind, meant.class_names
        self.name, self.unit, self.is_picture = stored.name, stored.unit, stored.is_picture
        self.notes += [*stored.notes, *meant.notes]
        if meant.kind == "classification":
            if len(meant.class_names) < 2:
                raise DataError(
                    f"all values of {stored.name} are of one class ({meant.class_names[0]}); "
                    "there must be two at least. Set data.kind=regression for numbers."
                )
            named = ", ".join(meant.class_names[:8]) + (
                ", ..." if len(meant.class_names) > 8 else ""
            )
            self.notes.append(f"{len(meant.class_names)} classes: {named}")
        self._stored, self._values, self._is_valid = stored, meant.values, meant.is_valid

    def _split(
        self,
        stored: StoredValues,
        num_train: int | None,
        num_test: int | None,
        train_draw: Literal["even", "random"],
        random: np.random.Generator,
    ) -> None:
        """Test points first: of tilings nearest to an equal-area lattice, of tables at random."""
        assert self._is_valid is not None
        places = stored.places
        valid = np.flatnonzero(self._is_valid)
        rest = valid
        # A fifth at most is held out, so that something is left to learn from.
        held_out = min(num_test or 0, len(valid) // 5)
        if num_test is None or held_out == 0:
            test, weights = valid, places.areas[valid]
            self.split = "all points, training points among them"
            if num_test is not None:
                self.notes.append(f"{len(valid)} points are too few to hold any out of training")
        elif places.covers:
            test, weights = self._even(stored, valid, held_out, random)
            self.split = "points nearest to an equal-area lattice, held out of training"
        else:
            test, weights = random.choice(valid, held_out, replace=False), np.ones(held_out)
            self.split = "points at random, held out of training"
        if num_test is not None and held_out > 0:
            is_free = self._is_valid.copy()
            is_free[test] = False
            rest = np.flatnonzero(is_free)
        count = len(rest) if num_train is None else min(num_train, len(rest))
        if num_train is not None and count < num_train:
            self.notes.append(
                f"data.num_train={num_train:,}: there are {count:,} points "
                f"({len(valid) - len(rest):,} of {len(valid):,} are held out)"
            )
        order = None
        if train_draw == "even":
            order = tile_order(*places.positions(rest), count, random)
        drawn, train_weights = draw_by_area(places.areas[rest], count, random, order)
        self.train = self._at(stored, rest[drawn], train_weights)
        self.test = self._at(stored, test, weights / weights.mean())
        self._check_classes()

    def _even(
        self, stored: StoredValues, valid: Int[np.ndarray, " n"], num: int,
        random: np.random.Generator,
    ) -> tuple[Int[np.ndarray, " m"], Float[np.ndarray, " m"]]:  # fmt: skip
        """Places nearest to about `num` lattice points; weighted by how many they stand for."""
        assert self._is_valid is not None
        share = float(stored.places.areas[valid].sum()) / (4 * math.pi)
        size = min(max(num, round(num / max(share, 1e-9))), 100 * num)
        nearest = stored.places.nearest(*fibonacci_lattice(size))
        nearest = nearest[nearest >= 0]
        nearest = nearest[self._is_valid[nearest]]
        if len(nearest) == 0:  # a small region between the points of the lattice
            return random.choice(valid, num, replace=False), np.ones(num)
        test, counts = np.unique(nearest, return_counts=True)
        return test, counts.astype(np.float64)

    def _at(
        self, stored: StoredValues, index: Int[np.ndarray, " n"], weights: Degrees
    ) -> SpherePoints:
        assert self._values is not None
        values = self._values[index]
        if self.kind == "regression":
            values = values.astype(np.float32 if self.is_picture else np.float64, copy=False)
        return SpherePoints(*stored.places.positions(index), values, weights)

    def _check_classes(self) -> None:
        if self.kind == "regression":
            return
        assert self.train is not None
        count = np.bincount(self.train.values, minlength=len(self.class_names))
        absent = [name for name, c in zip(self.class_names, count, strict=True) if c == 0]
        if absent:
            self.notes.append(
                f"no training point is in {', '.join(absent[:8])} ({len(absent)} of "
                f"{len(self.class_names)} classes); raise data.num_train"
            )

    def _measure_scale(self) -> None:
        """Mean and standard deviation of each channel over the area, of the training points."""
        assert self.train is not None
        self.mean, self.std, self.range = [0.0], [1.0], [0.0, 1.0]
        if self.kind == "regression":
            values, weights = self.train.values, self.train.weights[:, None]
            mean = (values * weights).mean(axis=0)
            std = np.sqrt((np.square(values - mean) * weights).mean(axis=0))
            self.mean = mean.tolist()
            # A constant has no spread; anything but 0 does.
            self.std = np.where(std > 1e-12 * np.maximum(np.abs(mean), 1e-300), std, 1.0).tolist()
            some = values[:: max(1, len(values) // 100_000)]
            low, high = (float(value) for value in np.percentile(some, [1, 99]))
            self.range = [low, high if high > low else low + 1.0]

    @property
    def out_dim(self) -> int:
        """Outputs of a field: channels, or classes."""
        return len(self.mean) if self.kind == "regression" else len(self.class_names)

    def require(self) -> tuple[SpherePoints, SpherePoints]:
        """Training and test points; an error if this was restored from a card."""
        if self.train is None or self.test is None:
            raise DataError(
                f"the points of {self.source} are not at hand: a run folder keeps their scale and "
                "classes only; say where the file is with data.path=<file>."
            )
        return self.train, self.test

    def truth_near(self, latitudes: Degrees, longitudes: Degrees) -> SpherePoints:
        """What the file says anywhere: the places that stand for the positions, and their values.

        NaN, or the label -1, where the file knows nothing; there the positions stay as they are.
        """
        ones = np.ones(len(latitudes))
        if self._board is not None:
            labels = self._board.labels(latitudes, longitudes)
            return SpherePoints(latitudes, longitudes, labels, ones)
        self.require()
        assert self._stored is not None and self._values is not None
        assert self._is_valid is not None
        places = self._stored.places
        index = places.nearest(latitudes, longitudes)
        is_known = (index >= 0) & self._is_valid[index]
        near_latitudes, near_longitudes = places.positions(index)
        near_latitudes = np.where(is_known, near_latitudes, latitudes)
        near_longitudes = np.where(is_known, near_longitudes, longitudes)
        if self.kind == "classification":
            values = np.where(is_known, self._values[index], -1)
        else:
            values = np.where(is_known[:, None], self._values[index].astype(np.float64), np.nan)
        return SpherePoints(near_latitudes, near_longitudes, values, ones)

    def to_user(self, values: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """Standardised values in the user's units."""
        return values * values.new_tensor(self.std) + values.new_tensor(self.mean)

    def standardised(self, values: Float[np.ndarray, "n c"]) -> Float[Tensor, "n c"]:
        """The user's values with mean 0 and standard deviation 1, in float32."""
        scaled = (values - np.array(self.mean)) / np.array(self.std)
        return torch.from_numpy(scaled.astype(np.float32))

    def card(self) -> dict[str, Any]:
        """All but the points, for json."""
        return {
            "class": "nfields.data.sphere_file.SphereData",
            "kind": self.kind,
            "class_names": self.class_names,
            "mean": self.mean,
            "std": self.std,
            "range": self.range,
            "name": self.name,
            "unit": self.unit,
            "is_picture": self.is_picture,
            "split": self.split,
            "source": self.source,
            "notes": self.notes,
        }

    @staticmethod
    def from_card(card: dict[str, Any]) -> "SphereData":
        """The data set a card describes, without points."""
        data = object.__new__(SphereData)
        try:
            data.kind, data.class_names = card["kind"], [str(name) for name in card["class_names"]]
            data.mean, data.std = [float(v) for v in card["mean"]], [float(v) for v in card["std"]]
            data.range = [float(value) for value in card["range"]]
            data.name, data.unit, data.split = (str(card[k]) for k in ("name", "unit", "split"))
            data.is_picture, data.source = bool(card["is_picture"]), str(card["source"])
            data.notes = [str(note) for note in card["notes"]]
            is_sound = data.kind == "regression" or (
                data.kind == "classification" and len(data.class_names) > 1
            )
            if not is_sound or len(data.mean) != len(data.std) or len(data.range) != 2:
                raise ValueError("kind, classes and scale do not fit together")
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the data card is incomplete or damaged ({type(error).__name__}: {error}); it "
                "must be the data.json that SphereData.card() wrote."
            ) from error
        data.train, data.test = None, None
        data._stored, data._values, data._is_valid, data._board = None, None, None, None
        return data

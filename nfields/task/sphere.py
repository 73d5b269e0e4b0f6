"""sphere: values or classes as a function of the place on a sphere.

`coordinates=cartesian` gives the model unit vectors: no poles and no seam. `lonlat` gives it
(longitude / 180, latitude / 90), the plain way, to compare with. Numbers are standardised for
training, and measured in the user's units; classes are told apart by a softmax, two as well, so
that one loss and one readout do for any number (a logit of its own for two would be the difference
of these).

Means over the sphere weigh every point by the area it stands for.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import KDTree
from torch import Tensor
from torch.nn.functional import cross_entropy, huber_loss

from nfields.data.coastlines import read_coastlines
from nfields.data.sphere_file import SphereData, SpherePoints
from nfields.data.sphere_lattice import unit_vectors
from nfields.errors import ConfigError
from nfields.export.map_picture import (
    ClassScale,
    ColorScale,
    NumberScale,
    Panel,
    Scale,
    round_up,
    sheets,
)
from nfields.export.picture import save_png, side_by_side
from nfields.metrics import finite_psnr
from nfields.model.field import Field, Samples
from nfields.optimizer import ParameterGroup
from nfields.task.task import StepResult, Task, measure
from nfields.transfer import send

# Points evaluated at once: a map of any size takes bounded memory.
_CHUNK = 1 << 16
_MAX_SAMPLES = 1 << 15  # points a model is initialised from
_NEIGHBORS = 6  # of each, to tell how fast the signal varies
POLAR_DEG = 75.0  # latitudes above, north and south, are measured on their own as well
_RIGHT, _WRONG = (225, 225, 225), (200, 30, 30)


class SphereBatch(NamedTuple):
    """Coordinates, standardised values or labels there, and weights of mean about 1."""

    coords: Float[Tensor, "n d"]
    values: Float[Tensor, "n c"] | Int[Tensor, " n"]
    weights: Float[Tensor, " n"]


class SphereTask(Task):
    """Function on the sphere; options are explained in configs/task/sphere.yaml."""

    data: SphereData

    def __init__(
        self,
        *,
        data: SphereData,
        coordinates: Literal["cartesian", "lonlat"],
        loss: Literal["l2", "l1", "huber"],
        points_per_step: int,
        map_width: int,
        coastlines: str | None,
    ):
        super().__init__()
        if points_per_step < 1:
            raise ConfigError(f"task.points_per_step={points_per_step} must be at least 1")
        if map_width != 0 and map_width < 100:
            raise ConfigError(
                f"task.map_width={map_width} must be at least 100 pixels, or 0 for no maps"
            )
        if data.kind == "classification" and loss != "l2":
            raise ConfigError(
                f"task.loss={loss} has no effect on classes, which take the cross entropy; "
                "leave task.loss at l2"
            )
        self.data, self.coordinates, self.loss = data, coordinates, loss
        self.in_dim = 3 if coordinates == "cartesian" else 2
        self.out_dim = data.out_dim
        self.map_width = map_width
        self.coastlines = coastlines
        if coastlines is not None and data.train is not None:
            read_coastlines(Path(coastlines))  # an error now, not after the training
        self.points_per_step = points_per_step
        self.coords: Tensor  # of the training points; empty if the data has none
        self.values: Tensor
        self.weights: Tensor
        if data.train is None:
            parts = (torch.zeros(0, self.in_dim), torch.zeros(0), torch.zeros(0))
        else:
            parts = self._tensors(data.train)
            self.points_per_step = min(points_per_step, len(data.train))
        self.variances: Tensor  # of the values, in the user's units
        self.register_buffer(
            "variances", torch.tensor(data.std, dtype=torch.float32).square(), persistent=False
        )
        for name, tensor in zip(("coords", "values", "weights"), parts, strict=True):
            self.register_buffer(name, tensor, persistent=False)

    def _tensors(self, points: SpherePoints) -> tuple[Tensor, Tensor, Tensor]:
        coords = self.coords_at(points.latitudes, points.longitudes)
        if self.data.kind == "regression":
            values = self.data.standardised(points.values)
        else:
            values = torch.from_numpy(points.values)
        return coords, values, torch.from_numpy(points.weights.astype(np.float32))

    def coords_at(
        self, latitudes: Float[np.ndarray, " n"], longitudes: Float[np.ndarray, " n"]
    ) -> Float[Tensor, "n d"]:
        """What the model is given for places in degrees."""
        if self.coordinates == "cartesian":
            coords = unit_vectors(latitudes, longitudes)
        else:
            coords = np.stack([longitudes / 180, latitudes / 90], axis=1)
        return torch.from_numpy(coords.astype(np.float32))

    def prepare(self, model: Field, generator: torch.Generator) -> None:
        train, _ = self.data.require()
        index = torch.randperm(len(train), generator=generator)[:_MAX_SAMPLES]
        weights = _variation(self.coords[index].cpu(), self.values[index].cpu())
        model.initialize(Samples(self.coords[index], weights.to(self.coords.device)), generator)

    def before_step(self, model: Field, step: int, generator: torch.Generator) -> None:
        pass  # nothing to prepare

    def batch(self, generator: torch.Generator) -> SphereBatch:
        """All points where they are few; else as many as asked for, drawn with replacement."""
        if self.points_per_step == len(self.coords):
            return SphereBatch(self.coords, self.values, self.weights)
        index = torch.randint(len(self.coords), (self.points_per_step,), generator=generator)
        index = send(index, self.coords.device)
        return SphereBatch(self.coords[index], self.values[index], self.weights[index])

    def losses(self, model: Field, batch: SphereBatch) -> StepResult:
        predicted = model(batch.coords)
        num = len(batch.coords)
        if self.data.kind == "classification":
            each = cross_entropy(predicted, batch.values, reduction="none")
            with torch.no_grad():
                is_right = predicted.argmax(dim=1) == batch.values
                measures = {"accuracy": measure(is_right.float().dot(batch.weights) / num)}
            return StepResult({"class": each.dot(batch.weights) / num}, measures, num, num)
        error = predicted - batch.values
        square = error.detach().square()
        if self.loss == "l2":
            each = error.square()
        elif self.loss == "l1":
            each = error.abs()
        else:
            each = huber_loss(predicted, batch.values, reduction="none", delta=0.1)
        square = (square * self.variances).mean(dim=1)
        rmse = (square.dot(batch.weights) / num).clamp(min=0).sqrt()
        loss = each.mean(dim=1).dot(batch.weights) / num
        return StepResult({"value": loss}, {"rmse": measure(rmse)}, num, num)

    def after_step(self, model: Field, result: StepResult, step: int) -> None:
        pass  # nothing adapts

    def halve_step(self) -> str | None:
        if self.points_per_step < 2:
            return None
        self.points_per_step //= 2
        return f"task.points_per_step={self.points_per_step}"

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    @torch.no_grad()
    def values_at(
        self, model: Field, latitudes: Float[np.ndarray, " n"], longitudes: Float[np.ndarray, " n"]
    ) -> Float[np.ndarray, "n c"] | Int[np.ndarray, " n"]:
        """The field at places in degrees: values in the user's units, or labels."""
        parts = []
        for first in range(0, len(latitudes), _CHUNK):
            part = slice(first, first + _CHUNK)
            coords = self.coords_at(latitudes[part], longitudes[part]).to(self.coords.device)
            predicted = model(coords).cpu()
            if self.data.kind == "classification":
                parts.append(predicted.argmax(dim=1).numpy())
            else:
                parts.append(self.data.to_user(predicted.double()).numpy())
        if not parts:
            return np.zeros((0, self.out_dim) if self.data.kind == "regression" else 0)
        return np.concatenate(parts)

    def validate(self, model: Field, generator: torch.Generator | None) -> dict[str, float]:
        """The metrics on at most 16,384 of the test points."""
        _, test = self.data.require()
        step = -(-len(test) // (1 << 14))
        return self._metrics(model, _every(test, step))

    def evaluate(self, model: Field, folder: Path, limit: int | None) -> dict[str, Any]:
        """Metrics on the test points (every k-th, so that at most `limit` are left), and maps."""
        _, test = self.data.require()
        step = 1 if limit is None else max(1, -(-len(test) // limit))
        chosen = _every(test, step)
        result: dict[str, Any] = dict(self._metrics(model, chosen))
        if self.data.kind == "classification":
            result["per_class"] = self._per_class(model, chosen)
        weights_are_equal = bool(np.ptp(chosen.weights) < 1e-9)
        result["protocol"] = {
            "split": self.data.split,
            "grid": self.data.source,
            "weights": "equal" if weights_are_equal else "area each point stands for",
            "num_points": len(chosen),
            "num_train": len(self.coords),
            "coordinates": self.coordinates,
            "polar": f"within {90 - POLAR_DEG:g} degrees of a pole",
            "unit": self.data.unit or "as in the file",
        }
        if self.map_width > 0:
            self._write_maps(model, folder)
        return result

    def _metrics(self, model: Field, test: SpherePoints) -> dict[str, float]:
        predicted = self.values_at(model, test.latitudes, test.longitudes)
        is_polar = np.abs(test.latitudes) >= POLAR_DEG
        measure = _accuracy if self.data.kind == "classification" else self._errors
        result = measure(predicted, test.values, test.weights)
        if is_polar.any():
            polar = measure(predicted[is_polar], test.values[is_polar], test.weights[is_polar])
            name = "accuracy" if self.data.kind == "classification" else "rmse"
            result[f"{name}_polar"] = polar[name]
        return result

    def _errors(
        self, predicted: np.ndarray, truth: np.ndarray, weights: np.ndarray
    ) -> dict[str, float]:
        """rmse and mae in the user's units; r2 against the mean of the test points; psnr of
        pictures.
        """
        error = predicted - truth
        square = float(np.average(np.square(error).mean(axis=1), weights=weights))
        result = {
            "rmse": square**0.5,
            "mae": float(np.average(np.abs(error).mean(axis=1), weights=weights)),
        }
        spread = truth - np.average(truth, axis=0, weights=weights)
        variance = float(np.average(np.square(spread).mean(axis=1), weights=weights))
        if variance > 0:
            result["r2"] = 1 - square / variance
        if self.data.is_picture:
            clamped = np.square(np.clip(predicted, 0, 1) - truth).mean(axis=1)
            mse = float(np.average(clamped, weights=weights))
            result["psnr"] = finite_psnr(float(-10 * np.log10(max(mse, 1e-30))))
        return result

    def _per_class(self, model: Field, test: SpherePoints) -> dict[str, dict[str, float]]:
        """For each class that occurs: its share of the area, and how much of it is recognised."""
        predicted = self.values_at(model, test.latitudes, test.longitudes)
        result = {}
        for label, name in enumerate(self.data.class_names):
            of_class = test.values == label
            if of_class.any():
                weights = test.weights[of_class]
                right = _accuracy(predicted[of_class], test.values[of_class], weights)
                share = float(weights.sum() / test.weights.sum())
                result[name] = {"accuracy": right["accuracy"], "share": share}
        return result

    def scale(self) -> Scale:
        """How values of this task become colours."""
        data = self.data
        unit = f" [{data.unit}]" if data.unit else ""
        if data.kind == "classification":
            return ClassScale(data.class_names, data.name)
        if data.is_picture:
            return ColorScale(data.name)
        of = f", channel 1 of {self.out_dim}" if self.out_dim > 1 else ""
        return NumberScale(data.range[0], data.range[1], f"{data.name}{of}{unit}")

    def map_panel(self, model: Field) -> Panel:
        """The field at places in degrees, and its colours."""

        def at(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
            return self.values_at(model, lat, lon)

        return Panel(at, self.scale(), "field")

    def _write_maps(self, model: Field, folder: Path) -> None:
        """map.png: the field; comparison.png: truth, field and error side by side."""
        lines = [] if self.coastlines is None else read_coastlines(Path(self.coastlines))

        panel = self.map_panel(model)

        def truth(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
            return self.data.truth_near(lat, lon).values

        def error(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
            # Where the data has its values: else its steps from place to place would show.
            near = self.data.truth_near(lat, lon)
            seen = panel.at(near.latitudes, near.longitudes)
            if self.data.kind == "classification":
                return np.where(near.values < 0, -1, near.values != seen)
            if self.data.is_picture:
                return np.abs(np.clip(seen, 0, 1) - near.values).mean(axis=1, keepdims=True)
            return np.abs(seen - near.values)

        panels = [
            Panel(truth, panel.scale, "truth"),
            panel,
            Panel(error, self._error_scale(model), "error"),
        ]
        drawn = sheets(panels, self.map_width, lines)
        save_png(folder / "map.png", drawn[1])
        save_png(folder / "comparison.png", side_by_side(drawn))

    def _error_scale(self, model: Field) -> Scale:
        if self.data.kind == "classification":
            return ClassScale(["right", "wrong"], "class", (_RIGHT, _WRONG))
        unit = f" [{self.data.unit}]" if self.data.unit else ""
        if self.data.is_picture:
            return NumberScale(0.0, 0.25, "mean |error|", "magma")
        _, test = self.data.require()
        some = _every(test, -(-len(test) // (1 << 14)))
        seen = self.values_at(model, some.latitudes, some.longitudes)
        top = float(np.percentile(np.abs(seen - some.values)[:, 0], 99))
        name = f"|error| of {self.data.name}{unit}"
        return NumberScale(0.0, round_up(max(top, 1e-12)), name, "magma")


def _every(points: SpherePoints, step: int) -> SpherePoints:
    part = slice(None, None, step)
    return SpherePoints(
        points.latitudes[part], points.longitudes[part], points.values[part], points.weights[part]
    )


def _accuracy(predicted: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> dict[str, float]:
    return {"accuracy": float(np.average(predicted == truth, weights=weights))}


def _variation(
    coords: Float[Tensor, "n d"], values: Float[Tensor, "n c"] | Int[Tensor, " n"]
) -> Float[Tensor, " n"]:
    """How much the signal varies around each point, of mean 1.

    Numbers: the mean of |difference| / distance to the nearest six; classes: half of it, plus the
    part of them in another class, so that no region is without weight.
    """
    if len(coords) < 2:
        return torch.ones(len(coords))
    num = min(_NEIGHBORS, len(coords) - 1)
    found, index = KDTree(coords.numpy()).query(coords.numpy(), k=num + 1)
    distance = torch.from_numpy(np.asarray(found)[:, 1:]).float()
    near = values[torch.from_numpy(np.asarray(index)[:, 1:])]
    if values.dtype == torch.int64:
        slope = 0.5 + (near != values[:, None]).float().mean(dim=1)
    else:
        size = (near - values[:, None]).norm(dim=2)
        slope = (size / distance.clamp(min=1e-6)).mean(dim=1)
        slope = slope.clamp(max=10 * float(slope.mean()))  # two values at one place
    return torch.ones(len(coords)) if slope.sum() <= 0 else slope / slope.mean()

"""sdf: the signed distance to a surface, negative inside.

Notation
    g(x)   the model's value
    f(x)   g(x) + sqrt(|x|^2 + 0.1^2) - R: the model adds to the distance to a ball, of the
           surface's mean radius R. From zero, the loss of distances would first flatten the field
           to 0 and then grow the inside from noise (a knot, 300 steps: IoU 0.63 for a sine
           network, 0.17 for harmonics; with the ball 0.92 and 0.86)

The losses are in nfields/task/sdf_loss.py. Batches of known distances are 4/8 on the surface, 3/8
near it and 1/8 anywhere (arXiv:2309.15426).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.data.surface_file import SurfaceData
from nfields.errors import ConfigError, DataError
from nfields.export.surface_studio import write_surface_pictures
from nfields.model.field import Field, Samples
from nfields.optimizer import ParameterGroup
from nfields.render.surface import Surface
from nfields.surface_metrics import iou
from nfields.task.sdf_evaluation import measure_mesh
from nfields.task.sdf_loss import (
    alignment,
    curvature,
    eikonal,
    off_surface,
    relative_error,
    with_gradient,
)
from nfields.task.task import StepResult, Task, measure
from nfields.transfer import send

_CHUNK = 1 << 16  # points evaluated at once
_NUM_SAMPLES = 1 << 17  # points that the model is initialised from
_SMOOTH = 0.1  # the ball's distance has no tip in the middle
_NUM_SLOPES = 1 << 13  # points where the gradient's length is measured


class DistanceBatch(NamedTuple):
    """Points of our frame, first those on the surface, and the distances there."""

    x: Float[Tensor, "n 3"]
    distances: Float[Tensor, " n"]
    normals: Float[Tensor, "m 3"]  # of the points on the surface


class PointBatch(NamedTuple):
    """Points of the surface with their normals, points anywhere, and random directions."""

    points: Float[Tensor, "n 3"]
    normals: Float[Tensor, "n 3"]
    anywhere: Float[Tensor, "m 3"]
    distances: Float[Tensor, " m"]  # of these, as the surface's points let one guess; NaN: unknown
    directions: Float[Tensor, "n 3"]


class SdfTask(Task):
    """Signed distance; options are explained in configs/task/sdf.yaml."""

    in_dim, out_dim = 3, 1
    data: SurfaceData

    def __init__(
        self,
        *,
        data: SurfaceData,
        points_per_step: int,
        relative_floor: float | int,
        distance_weights: Mapping[str, float | int],
        oriented_per_step: int,
        point_weights: Mapping[str, float | int],
        sharpness: float | int,
        mesh_resolution: int,
        num_surface_points: int,
        picture_size: int,
    ):
        super().__init__()
        if points_per_step < 8 or oriented_per_step < 1:
            raise ConfigError(
                f"task.points_per_step={points_per_step} must be at least 8, "
                f"task.oriented_per_step={oriented_per_step} at least 1"
            )
        if relative_floor <= 0 or sharpness <= 0:
            raise ConfigError(
                f"task.relative_floor={relative_floor} and task.sharpness={sharpness} must be "
                "above 0"
            )
        if mesh_resolution != 0 and not 16 <= mesh_resolution <= 1024:
            raise ConfigError(
                f"task.mesh_resolution={mesh_resolution} must be from 16 to 1024 cells, or 0 for "
                "no mesh"
            )
        if num_surface_points < 100:
            raise ConfigError(f"task.num_surface_points={num_surface_points} must be at least 100")
        if picture_size != 0 and picture_size < 32:
            raise ConfigError(
                f"task.picture_size={picture_size} must be at least 32 pixels, or 0 for no pictures"
            )
        check_weights("distance_weights", distance_weights, ("distance", "eikonal", "normal"))
        names = ("surface", "off_surface", "distance", "normal", "eikonal", "curvature")
        check_weights("point_weights", point_weights, names)
        self.data = data
        self.picture_size = picture_size
        self.points_per_step, self.relative_floor = points_per_step, relative_floor
        self.distance_weights, self.point_weights = dict(distance_weights), dict(point_weights)
        self.oriented_per_step, self.sharpness = oriented_per_step, sharpness
        self.mesh_resolution, self.num_surface_points = mesh_resolution, num_surface_points
        self.ball_radius: Tensor
        self.register_buffer("ball_radius", torch.zeros(()))

    def distance(self, model: Field, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """f(x): the model's value and the distance to the ball that it is counted from."""
        to_ball = torch.sqrt(x.square().sum(dim=1) + _SMOOTH**2) - self.ball_radius
        return model(x)[:, 0] + to_ball

    def prepare(self, model: Field, generator: torch.Generator) -> None:
        """Initialises the model from points that count by 1 / (|t| + floor), of mean 1.

        From oriented points alone t is what they let one guess, and 0 where they do not.
        """
        oriented = self.data.oriented
        if oriented is None:
            surface = self.data.require_samples().points
            x, distances = self._draw(_NUM_SAMPLES, generator)[:2]
        else:
            surface = oriented.points
            on = oriented.draw(_NUM_SAMPLES // 2, generator)[0]
            anywhere, guessed = oriented.draw_anywhere(_NUM_SAMPLES // 2, generator)
            x = torch.cat([on, anywhere]).to(self.ball_radius.device)
            distances = torch.cat([torch.zeros(len(on)), guessed.nan_to_num(0)]).to(x.device)
        weights = 1 / (distances.abs() + self.relative_floor)
        self.ball_radius.copy_(surface.norm(dim=1).mean())
        model.initialize(Samples(x, weights / weights.mean()), generator)

    def before_step(self, model: Field, step: int, generator: torch.Generator) -> None:
        pass  # nothing to prepare

    def batch(self, generator: torch.Generator) -> DistanceBatch | PointBatch:
        if self.data.oriented is None:
            return self._draw(self.points_per_step, generator)
        num = self.oriented_per_step
        points, normals = self.data.oriented.draw(num, generator)
        directions = torch.randn(num, 3, generator=generator)
        anywhere, distances = self.data.oriented.draw_anywhere(num, generator)
        drawn = (points, normals, anywhere, distances, directions)
        return PointBatch(*(send(tensor, self.ball_radius.device) for tensor in drawn))

    def _draw(self, num: int, generator: torch.Generator) -> DistanceBatch:
        uniform, near = num // 8, num * 3 // 8
        drawn = self.data.require_samples().draw(num - near - uniform, near, uniform, generator)
        return DistanceBatch(*(send(tensor, self.ball_radius.device) for tensor in drawn))

    def losses(self, model: Field, batch: DistanceBatch | PointBatch) -> StepResult:
        if isinstance(batch, PointBatch):
            return self._losses_of_points(model, batch)
        weights, num_on = self.distance_weights, len(batch.normals)
        x, count = batch.x, len(batch.x)
        parts, losses = [], {}
        for name, part in (("normal", x[:num_on]), ("eikonal", x[num_on:])):
            if weights[name] > 0:
                values, slopes = with_gradient(self._distance_of(model), part, True)
                error = alignment(slopes, batch.normals) if name == "normal" else eikonal(slopes)
                losses[name] = weights[name] * error
                parts.append(values)
            else:
                parts.append(None)
        if all(part is None for part in parts):
            values = self.distance(model, x)
        else:
            plain = [x[:num_on], x[num_on:]]
            values = torch.cat(
                [
                    self.distance(model, plain[k]) if part is None else part
                    for k, part in enumerate(parts)
                ]
            )
        losses["distance"] = weights["distance"] * relative_error(
            values, batch.distances, self.relative_floor
        )
        error = (values.detach() - batch.distances).abs().mean()
        return StepResult(losses, {"distance_error": measure(error)}, count, count)

    def _losses_of_points(self, model: Field, batch: PointBatch) -> StepResult:
        weights, num = self.point_weights, len(batch.points)
        distance = self._distance_of(model)
        x = torch.cat([batch.points, batch.anywhere])
        values, slopes = with_gradient(distance, x, True)
        losses = {
            "surface": weights["surface"] * values[:num].abs().mean(),
            "off_surface": weights["off_surface"] * off_surface(values[num:], self.sharpness),
            "normal": weights["normal"] * alignment(slopes[:num], batch.normals),
            "eikonal": weights["eikonal"] * eikonal(slopes),
        }
        if weights["distance"] > 0:
            error = relative_error(values[num:], batch.distances, self.relative_floor)
            losses["distance"] = weights["distance"] * error
        if weights["curvature"] > 0:
            bent = curvature(distance, batch.points, slopes[:num], batch.directions)
            losses["curvature"] = weights["curvature"] * bent
        measures = {"surface_error": measure(values[:num].detach().abs().mean())}
        return StepResult(losses, measures, len(x), len(x))

    def _distance_of(self, model: Field):
        return lambda x: self.distance(model, x)

    def after_step(self, model: Field, result: StepResult, step: int) -> None:
        pass  # nothing adapts

    def halve_step(self) -> str | None:
        if self.data.oriented is not None and self.oriented_per_step >= 2:
            self.oriented_per_step //= 2
            return f"task.oriented_per_step={self.oriented_per_step}"
        if self.data.oriented is None and self.points_per_step >= 16:
            self.points_per_step //= 2
            return f"task.points_per_step={self.points_per_step}"
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def surface(self, model: Field) -> Surface:
        """The zero set of the field, as mesh export and sphere tracing take it."""
        return Surface(
            distance=self._distance_of(model),
            bounds=torch.tensor([[-1.0] * 3, [1.0] * 3], device=self.ball_radius.device),
            to_user=self.data.to_user,
            is_distance=True,
            color=None,
            small_bodies=self.data.small_bodies,
        )

    def true_surface(self) -> Surface | None:
        """The surface that is fitted, in the same form; None where it is not at hand."""
        truth = self.data.truth
        if truth is None:
            return None

        def distance(x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
            return torch.from_numpy(truth.closest(x.double().numpy())[1]).to(x.dtype)

        return Surface(
            distance=distance,
            bounds=torch.tensor([[-1.0] * 3, [1.0] * 3]),
            to_user=self.data.to_user,
            is_distance=True,
            color=None,
        )

    @torch.no_grad()
    def _values(self, model: Field, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        device = self.ball_radius.device
        return torch.cat([self.distance(model, part.to(device)).cpu() for part in x.split(_CHUNK)])

    def _eikonal_error(self, model: Field, x: Float[Tensor, "n 3"]) -> float:
        x = x[:_NUM_SLOPES].to(self.ball_radius.device)
        return float(eikonal(with_gradient(self._distance_of(model), x, False)[1]))

    def validate(self, model: Field, generator: torch.Generator | None) -> dict[str, float]:
        """IoU, sign accuracy and mean absolute errors at held-out points, in our units.

        Of points without a known surface: the mean |f| at them, which were trained on.
        """
        if self.data.samples is None and self.data.oriented is not None:
            points = self.data.oriented.points[:_CHUNK]
            return {
                "surface_error": float(self._values(model, points).abs().double().mean()),
                "eikonal_error": self._eikonal_error(model, points),
            }
        samples = self.data.require_samples()
        uniform, truth = samples.test_uniform, samples.test_uniform_distances
        values = self._values(model, uniform)
        near_values = self._values(model, samples.test_near)
        near_truth = samples.test_near_distances
        inside, is_inside = (values < 0).numpy(), (truth < 0).numpy()
        return {
            "iou": iou(inside, is_inside),
            "sign_accuracy": float((inside == is_inside).mean()),
            "sign_accuracy_near": float(((near_values < 0) == (near_truth < 0)).double().mean()),
            "distance_error": float((values - truth).abs().double().mean()),
            "distance_error_near": float((near_values - near_truth).abs().double().mean()),
            "eikonal_error": self._eikonal_error(model, samples.test_near),
        }

    def evaluate(self, model: Field, folder: Path, limit: int | None) -> dict[str, Any]:
        """Distances at held-out points; the mesh of the field, written and compared; pictures."""
        measured: dict[str, Any] = self.validate(model, None)
        protocol: dict[str, Any] = {
            "distances": "of our frame, where the longest side of the surface is 1.8",
            "distance_points": "held out: uniform in [-1, 1]^3",
            "near_points": "held out: surface + N(0, 0.02), a quarter of them N(0, 0.1)",
            "surface": self.data.source,
        }
        if self.mesh_resolution > 0:
            try:
                figures, of_mesh = measure_mesh(
                    self.surface(model),
                    self.data.truth,
                    self.mesh_resolution,
                    self.num_surface_points if limit is None else min(limit, 100_000),
                    folder,
                )
                measured |= figures
                protocol |= of_mesh
            except DataError as error:
                protocol["mesh"] = f"none: {error}"
        if self.picture_size > 0:
            surface, truth = self.surface(model), self.true_surface()
            try:
                notes = write_surface_pictures(surface, truth, folder, size=self.picture_size)[1]
                if notes:
                    protocol["pictures"] = "; ".join(notes)
            except DataError as error:  # of a field that is NaN; what was measured says so too
                protocol["pictures"] = f"none: {error}"
        return {**measured, "protocol": protocol}


def check_weights(option: str, given: Mapping[str, float | int], names: tuple[str, ...]) -> None:
    """Nothing; a ConfigError unless exactly these weights are given, each at least 0."""
    if set(given) != set(names) or any(value < 0 for value in given.values()):
        raise ConfigError(
            f"task.{option}={dict(given)} must have {', '.join(names)}, each 0 or more"
        )
    if not any(given.values()):
        raise ConfigError(f"task.{option}: all weights are 0; nothing would be learned")

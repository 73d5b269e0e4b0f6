"""sdf: the signed distance to a surface, negative inside.

Notation
    g(x)         the model's value
    f(x)         g(x) + sqrt(|x|^2 + 0.1^2) - R: the model adds to the distance to a ball, of the
                 surface's mean radius R. From zero, the loss below would first flatten the field to
                 0 and then grow the inside from noise (a knot, 300 steps: IoU 0.63 for a sine
                 network, 0.17 for harmonics; with the ball 0.92 and 0.86)
    t(x)         the true distance, in our frame

The loss of distances is mean |f - t| / (|t| + floor), that of instant-ngp (arXiv:2201.05989): the
same error counts a hundred times more on the surface than a unit from it. Batches are 4/8 on the
surface, 3/8 near it and 1/8 anywhere (arXiv:2309.15426).
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.data.surface_file import SurfaceData
from nfields.errors import ConfigError
from nfields.model.field import Field, Samples
from nfields.optimizer import ParameterGroup
from nfields.render.surface import Surface
from nfields.task.task import StepResult, Task

_CHUNK = 1 << 16  # points evaluated at once
_NUM_SAMPLES = 1 << 17  # points that the model is initialised from
_SMOOTH = 0.1  # the ball's distance has no tip in the middle


class DistanceBatch(NamedTuple):
    """Points of our frame and the distances there."""

    x: Float[Tensor, "n 3"]
    distances: Float[Tensor, " n"]


class SdfTask(Task):
    """Signed distance; options are explained in configs/task/sdf.yaml."""

    in_dim, out_dim = 3, 1
    data: SurfaceData

    def __init__(self, *, data: SurfaceData, points_per_step: int, relative_floor: float | int):
        super().__init__()
        if points_per_step < 8:
            raise ConfigError(f"task.points_per_step={points_per_step} must be at least 8")
        if relative_floor <= 0:
            raise ConfigError(f"task.relative_floor={relative_floor} must be above 0")
        self.data = data
        self.points_per_step, self.relative_floor = points_per_step, relative_floor
        self.ball_radius: Tensor
        self.register_buffer("ball_radius", torch.zeros(()))

    def distance(self, model: Field, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """f(x): the field's value, and the distance to a ball that it is counted from."""
        to_ball = torch.sqrt(x.square().sum(dim=1) + _SMOOTH**2) - self.ball_radius
        return model(x)[:, 0] + to_ball

    def prepare(self, model: Field, generator: torch.Generator) -> None:
        """Initialises the model from points that count by 1 / (|t| + floor), of mean 1."""
        surface = self.data.require_samples().points
        self.ball_radius.copy_(surface.norm(dim=1).mean())
        x, distances = self._draw(_NUM_SAMPLES, generator)
        weights = 1 / (distances.abs() + self.relative_floor)
        model.initialize(Samples(x, weights / weights.mean()), generator)

    def before_step(self, model: Field, step: int, generator: torch.Generator) -> None:
        pass  # nothing to prepare

    def batch(self, generator: torch.Generator) -> DistanceBatch:
        return self._draw(self.points_per_step, generator)

    def _draw(self, num: int, generator: torch.Generator) -> DistanceBatch:
        uniform, near = num // 8, num * 3 // 8
        drawn = self.data.require_samples().draw(num - near - uniform, near, uniform, generator)
        return DistanceBatch(*(tensor.to(self.ball_radius.device) for tensor in drawn))

    def losses(self, model: Field, batch: DistanceBatch) -> StepResult:
        errors = (self.distance(model, batch.x) - batch.distances).abs()
        loss = (errors / (batch.distances.abs() + self.relative_floor)).mean()
        measures = {"distance_error": errors.detach().mean().item()}
        return StepResult({"distance": loss}, measures, len(batch.x), len(batch.x))

    def after_step(self, model: Field, result: StepResult, step: int) -> None:
        pass  # nothing adapts

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    def surface(self, model: Field) -> Surface:
        """The zero set of the field, as mesh export and sphere tracing take it."""

        def distance(x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
            return self.distance(model, x)

        return Surface(
            distance=distance,
            bounds=torch.tensor([[-1.0] * 3, [1.0] * 3]),
            to_user=self.data.to_user,
            is_distance=True,
            color=None,
        )

    @torch.no_grad()
    def _values(self, model: Field, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        parts = [
            self.distance(model, part.to(self.ball_radius.device)).cpu() for part in x.split(_CHUNK)
        ]
        return torch.cat(parts)

    def validate(self, model: Field, generator: torch.Generator | None) -> dict[str, float]:
        """IoU, sign accuracy and mean absolute errors at held-out points, in our units."""
        samples = self.data.require_samples()
        uniform, truth = samples.test_uniform, samples.test_uniform_distances
        values = self._values(model, uniform)
        inside, is_inside = values < 0, truth < 0
        union = int((inside | is_inside).sum())
        near_values = self._values(model, samples.test_near)
        near_truth = samples.test_near_distances
        return {
            "iou": int((inside & is_inside).sum()) / union if union else 1.0,
            "sign_accuracy": float((inside == is_inside).double().mean()),
            "sign_accuracy_near": float(((near_values < 0) == (near_truth < 0)).double().mean()),
            "distance_error": float((values - truth).abs().double().mean()),
            "distance_error_near": float((near_values - near_truth).abs().double().mean()),
        }

    def evaluate(self, model: Field, folder: Path, limit: int | None) -> dict[str, Any]:
        """Distance metrics at held-out points."""
        return {**self.validate(model, None), "protocol": {"points": "held out"}}

"""nerf: a radiance field from posed images.

What a field's values mean here
    density   exp(v_0 + density_bias) per scene unit (nerf_head.py)
    colour    head=sh: sigmoid(sum_k Y_k(d) v_ck), 3 (degree + 1)^2 values, no view network
    image     sum_i w_i c_i + (1 - opacity) background (ops/composite), in the colour space of the
              files (sRGB), as the papers this is compared with do

Scene frame: the region of interest is [-1, 1]^3, the scene [-aabb_scale, aabb_scale]^3 with one
occupancy cascade a doubling. The field's [-1, 1]^3 is the scene, or with alpha the smallest cube
around the visual hull; or all of space, contracted (nerf_space.py).

What photographs need beyond that are parts of their own, each off or on by its node of the yaml:
what lies behind the scene (nerf_background.py), the brightness of each picture (nerf_exposure.py),
cameras that are learned too (nerf_poses.py), weights kept together and given depths (nerf_loss.py).
This file is longer than others because it declares and composes all of them.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import huber_loss

from nfields.data.posed_images import PosedImages
from nfields.errors import ConfigError
from nfields.late_numbers import LateNumbers
from nfields.model.field import Field, GroupReadout
from nfields.model.field import Samples as FieldSamples
from nfields.ops.backend import REFERENCES, uses_triton
from nfields.ops.composite import composite
from nfields.ops.march import Samples, march, num_cascades, sample_points
from nfields.ops.march.by_nerfacc import march_by_nerfacc
from nfields.ops.march_contracted import march_contracted
from nfields.optimizer import ParameterGroup
from nfields.render.cameras import Cameras
from nfields.render.harmonics import spherical_harmonics
from nfields.render.occupancy import OccupancyGrid
from nfields.render.surface import Surface
from nfields.task.nerf_background import BACKGROUNDS, Sky
from nfields.task.nerf_batch import RayBatch, Rendering, draw_batch, no_samples
from nfields.task.nerf_cells import carve, cube_around, draw_points, require_cells
from nfields.task.nerf_evaluation import Appearance, evaluate_views, quick_psnr
from nfields.task.nerf_exposure import Exposure
from nfields.task.nerf_head import ray_readout, truncated_exp
from nfields.task.nerf_loss import (
    check_weights,
    depth_loss,
    depth_weight_of,
    spread,
    within_box,
)
from nfields.task.nerf_poses import PoseRefinement
from nfields.task.nerf_space import (
    ContractedSpace,
    SpaceName,
    check_marcher,
    check_space,
    is_within_ball,
)
from nfields.task.nerf_steps import Steps, factor_of, samples_at_rest
from nfields.task.nerf_surface import density_surface, seen_level
from nfields.task.nerf_view import Renderer, check_renderer, render_rays, render_view
from nfields.task.task import StepResult, Task, measure

# On a GPU the number of rays follows the number of samples of this many steps ago.
_STEPS_BEHIND = 4
# Room for samples, relative to those wanted: their number varies from batch to batch.
_ROOM = 1.25
# Where shapes are to be held, the number of rays stays while the one wanted is within these factors
# of it: from 5 % more samples than asked for, which _ROOM has room for, to 13 % fewer.
_HELD = (0.95, 1.15)


class NerfTask(Task):
    """Radiance field; options are explained in configs/task/nerf.yaml."""

    in_dim = 3
    shares_evaluation = True
    data: PosedImages

    def __init__(
        self,
        *,
        data: PosedImages,
        head: Literal["sh"],
        sh_degree: int,
        density_bias: float | int,
        background: Literal["white", "black"],
        train_background: Literal["random", "white", "black"],
        sky: Sky,
        exposure: Exposure,
        poses: PoseRefinement,
        space: SpaceName,
        contraction_radius: float | int | None,
        visual_hull: bool,
        grid_cells: int,
        grid_decay: float | int,
        grid_threshold: float | int,
        grid_every: int,
        grid_warmup: int,
        steps_per_unit: float | int,
        cone: float | int | None,
        max_samples_per_ray: int,
        samples_per_step: int,
        samples_per_ray: float | int | None,
        max_rays: int,
        min_transmittance: float | int,
        huber_delta: float | int,
        distortion_weight: float | int,
        depth_weight: float | int | None,
        num_pictures: int,
        renderer: Renderer,
        marcher: Literal["native", "nerfacc"],
        backend: Literal["auto", "reference", "compile", "numba", "triton"],
    ):
        super().__init__()
        if background not in BACKGROUNDS:
            raise ConfigError(f"task.background={background!r}: choose white or black")
        if min(samples_per_step, max_rays, grid_every, max_samples_per_ray) < 1:
            raise ConfigError(
                "task.samples_per_step, max_rays, grid_every and max_samples_per_ray must be >= 1"
            )
        if steps_per_unit <= 0 or huber_delta <= 0:
            raise ConfigError("task.steps_per_unit and task.huber_delta must be above 0")
        if samples_per_ray is not None and samples_per_ray <= 0:
            raise ConfigError(f"task.samples_per_ray={samples_per_ray} must be above 0, or null")
        check_renderer(renderer)
        check_marcher(marcher, space)
        check_space(space, cone, renderer, data)
        self.contracted = (
            ContractedSpace.around(data, contraction_radius) if space == "contracted" else None
        )
        self.renderer: Renderer = "plain" if self.is_contracted else renderer
        self.data, self.sh_degree = data, sh_degree
        self.out_dim = 1 + 3 * spherical_harmonics(torch.zeros(0, 3), sh_degree).shape[1]
        self.density_bias, self.backend = density_bias, backend
        self.march_in_box = march if marcher == "native" else march_by_nerfacc
        self.background: Literal["white", "black"] = background
        self.train_background: Literal["random", "white", "black"] = train_background
        self.carve = visual_hull
        self.grid_every, self.grid_warmup = grid_every, grid_warmup
        if cone is None:
            cone = 0.0 if data.aabb_scale <= 1 else 1 / 256
        dt_min = 1 / steps_per_unit
        self.shortest = Steps(dt_min, max(dt_min, 8 * data.aabb_scale / grid_cells), cone)
        self.samples_per_ray = samples_per_ray
        self.max_samples_per_ray, self.samples_per_step = max_samples_per_ray, samples_per_step
        self.max_rays, self.min_transmittance = max_rays, min_transmittance
        self.huber_delta, self.num_pictures = huber_delta, num_pictures
        self.grid = OccupancyGrid(
            cascades=1 if self.is_contracted else num_cascades(data.aabb_scale),
            cells=grid_cells,
            decay=grid_decay,
            threshold=grid_threshold,
        )
        self.distortion_weight = distortion_weight
        self.depth_weight = depth_weight_of(data, depth_weight)
        check_weights(data, distortion_weight, self.depth_weight)
        num_views = len(data.cameras["train"])
        self.sky, self.exposure, self.poses = sky, exposure, poses
        exposure.start(num_views)
        poses.start(data.cameras["train"])
        if data.has_alpha and sky.mode != "black":
            raise ConfigError(
                f"task.sky.mode={sky.mode} is for photographs, and the pictures of {data.source} "
                "have alpha; set task.train_background instead"
            )
        self.num_rays: Tensor
        self.field_center: Tensor
        self.field_scale: Tensor
        self._late_samples: LateNumbers[int] = LateNumbers()  # and the rays they are of
        self.register_buffer("num_rays", torch.tensor(min(1024, max_rays)))
        self.register_buffer("field_center", torch.zeros(3))
        scale = 1.0 if self.is_contracted else float(data.aabb_scale)
        self.register_buffer("field_scale", torch.tensor(scale))

    # ---- training ---------------------------------------------------------------------------

    def prepare(self, model: Field, generator: torch.Generator) -> None:
        images = self.data.require_images("train")
        if self.is_contracted:
            self.grid.exclude(is_within_ball)
        is_carved = self.carve and carve(self.grid, self.data, images)
        cells = require_cells(self.grid, self.data)
        if is_carved:
            center, scale = cube_around(self.grid, cells)
            self.field_center.copy_(center)
            self.field_scale.copy_(scale)
        points = draw_points(self.grid, cells, 1 << 14, generator)
        device = self.field_center.device
        points = self._grid_to_field(points.to(device))
        model.initialize(FieldSamples.uniform(points), generator)

    def before_step(self, model: Field, step: int, generator: torch.Generator) -> None:
        self.poses.before_step(step)
        if step % self.grid_every != 0 or step == 0:
            return
        self.grid.update(
            lambda points: (
                self.shortest.dt_min
                * truncated_exp(self._log_value(model, self._grid_to_field(points)))
            ),
            generator,
            everywhere=step < self.grid_warmup,
        )

    def batch(self, generator: torch.Generator) -> RayBatch:
        num = int(self.num_rays)
        batch = draw_batch(self.data, self.poses, self.sky, self.train_background, num, generator)
        return batch.to(self.field_center.device)

    def losses(self, model: Field, batch: RayBatch) -> StepResult:
        origins, directions = batch.origins, batch.directions
        if batch.camera is not None:
            origins, directions = self.poses(batch.camera, self._homography())
        behind = self.sky.color(directions, otherwise=batch.background)
        seen = self.render_plain(
            model,
            origins,
            directions,
            batch.jitter,
            behind,
            wants_spread=self.distortion_weight > 0,
            capacity=self._capacity(origins),
        )
        rgb = seen.rgb
        if self.exposure.values is not None:
            own = self.exposure.corrections()[batch.view_index]
            is_ours = self.data.has_alpha  # what lies behind the scene, not the camera's
            backdrop = (1 - seen.opacity)[:, None] * behind if is_ours else 0.0
            rgb = self.exposure.apply_to(rgb, own, backdrop)
        if seen.is_whole is None:
            loss = huber_loss(rgb, batch.target, delta=self.huber_delta)
        else:
            each = huber_loss(rgb, batch.target, reduction="none", delta=self.huber_delta)
            loss = _mean_of(each, seen.is_whole)
        loss = loss / self.huber_delta
        with torch.no_grad():
            error = (rgb - batch.target).square()
            error = error.mean() if seen.is_whole is None else _mean_of(error, seen.is_whole)
            psnr = -10 * torch.log10(error.clamp(min=1e-10))
        num_rays = len(batch.origins)
        if isinstance(seen.num_samples, int):
            self._check_samples(seen.num_samples, num_rays)
        measures = {"psnr": measure(psnr), "rays": float(num_rays)}
        losses = {"rgb": loss}
        if seen.distortion is not None:
            losses["distortion"] = self.distortion_weight * seen.distortion
        if self.depth_weight > 0 and batch.depth is not None:
            known = batch.depth
            if not self.is_contracted:
                known = within_box(known, origins, directions, self.data.aabb_scale)
            if seen.is_whole is not None:  # a ray that was cut off is no deeper than its samples
                known = torch.where(seen.is_whole, known, torch.nan)
            losses["depth"] = self.depth_weight * depth_loss(seen.depth, seen.opacity, known)
        return StepResult(losses, measures, seen.num_samples, num_rays)

    def after_step(self, model: Field, result: StepResult, step: int) -> None:
        # Samples a step are fixed, rays follow: a batch costs the same whatever the scene holds.
        if isinstance(result.num_samples, int):
            self._follow(result.num_samples, result.num_items)
            return
        self._late_samples.put(result.num_samples, result.num_items)
        for num_samples, num_rays in self._late_samples.all_but_last(_STEPS_BEHIND):
            self._check_samples(int(num_samples), num_rays)
            self._follow(int(num_samples), num_rays)

    def _follow(self, num_samples: int, num_rays: int) -> None:
        factor = factor_of(self.samples_per_step / num_rays, self.samples_per_ray)
        have = max(num_samples, 1) / num_rays
        wanted = self.samples_per_step / samples_at_rest(have, factor, self.samples_per_ray)
        rays = int(min(max(wanted, 64), 2 * num_rays, self.max_rays))
        if self.holds_shapes and _HELD[0] <= rays / int(self.num_rays) <= _HELD[1]:
            return
        # A number that 2, 4, 8 and 16 processes can share.
        self.num_rays.fill_(rays if rays < 16 else rays - rays % 16)

    @property
    def is_contracted(self) -> bool:
        """Whether the field has all of space, in the cube of its grid."""
        return self.contracted is not None

    @property
    def steps(self) -> Steps:
        """The steps along rays now, of training and of what is rendered."""
        num_samples = self.samples_per_step / int(self.num_rays)
        return self.shortest.longer(num_samples, self.samples_per_ray)

    def _check_samples(self, num_samples: int, num_rays: int) -> None:
        if num_samples == 0 and num_rays >= self.max_rays:
            raise no_samples(self.data, num_rays)

    def _capacity(self, origins: Float[Tensor, "n 3"]) -> int | None:
        """Room for the samples of a batch, or of this process's part of it; only for kernels."""
        if self.backend in REFERENCES or not uses_triton(origins):
            return None
        return math.ceil(_ROOM * self.samples_per_step * len(origins) / int(self.num_rays))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "NerfTask":
        num_rays = self.num_rays  # stays where the host reads it, in every step
        super()._apply(fn, recurse)
        self.num_rays = num_rays
        return self

    def halve_step(self) -> str | None:
        if self.samples_per_step < 128:
            return None
        self.samples_per_step //= 2
        self.num_rays.copy_((self.num_rays // 2).clamp(min=1))
        return f"task.samples_per_step={self.samples_per_step}"

    def parameter_groups(self) -> list[ParameterGroup]:
        parts = (self.sky, self.exposure, self.poses)
        groups = [group for part in parts for group in part.parameter_groups()]
        return [group for group in groups if group.params]

    # ---- rendering --------------------------------------------------------------------------

    def render_plain(
        self,
        model: Field,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        jitter: Float[Tensor, " n"],
        background: Float[Tensor, "n 3"],
        wants_spread: bool = False,
        capacity: int | None = None,
    ) -> Rendering:
        """Rays over a background, with gradients.

        With a capacity nothing waits for a GPU, and rays may find no room for all samples.
        """
        samples, points = self.march(origins, directions, jitter, capacity)
        hit = None
        if capacity is None:
            # Most rays of a masked scene hit nothing: the rest of the work is for those that do.
            hit = (samples.offsets.diff() > 0).nonzero()[:, 0]
            offsets = torch.cat([samples.offsets[:1], samples.offsets[1:][hit]])
            samples = Samples(samples.t_starts, samples.t_ends, offsets)
            directions = directions[hit]
        readout = ray_readout(model.readout, directions, samples.offsets, self.sh_degree)
        values = model(self._to_field(points), readout)
        density = self._density(values[:, 0], points)
        rgb, opacity, depth = composite(
            density, torch.sigmoid(values[:, 1:]), samples.t_starts,
            samples.t_ends, samples.offsets, min_transmittance=self.min_transmittance,
            backend=self.backend,
        )  # fmt: skip
        distortion = None
        if wants_spread:
            distortion = spread(
                density, samples, radius=self._equal_steps_radius(),
                min_transmittance=self.min_transmittance, backend=self.backend,
            )  # fmt: skip
        if hit is None:
            assert samples.num_wanted is not None, "march() was given no capacity"
            rgb = rgb + (1 - opacity)[:, None] * background
            # The first ray without room for all of its samples ends where the buffers do.
            has_room = samples.num_wanted <= len(points)
            is_whole = has_room | (samples.offsets[1:] < len(points))
            return Rendering(rgb, opacity, depth, samples.num_wanted, distortion, is_whole=is_whole)
        rgb = rgb + (1 - opacity)[:, None] * background[hit]
        nothing = background.new_zeros(len(background))
        return Rendering(
            background.index_copy(0, hit, rgb),
            nothing.index_copy(0, hit, opacity),
            nothing.index_copy(0, hit, depth),
            len(points),
            distortion,
        )

    def march(
        self,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        jitter: Float[Tensor, " n"],
        capacity: int | None = None,
    ) -> tuple[Samples, Float[Tensor, "samples 3"]]:
        """Samples of rays of our frame in occupied cells, and where they are."""
        # Where samples lie is a constant: gradients of learned cameras go through their points.
        steps = self.steps
        rays_and_grid = (origins.detach(), directions.detach(), self.grid.bits, jitter)
        common: Any = {
            "near": self.data.near,
            "dt_min": steps.dt_min,
            "max_samples": self.max_samples_per_ray,
            "backend": self.backend,
        }
        if self.contracted is not None:
            samples = march_contracted(
                *rays_and_grid, radius=self.contracted.radius, capacity=capacity, **common
            )
        else:
            samples = self.march_in_box(
                *rays_and_grid, dt_max=steps.dt_max, cone=steps.cone, capacity=capacity, **common
            )
        return samples, sample_points(origins, directions, samples, backend=self.backend)

    def _equal_steps_radius(self) -> float | None:
        """Up to where steps are of one length; None: everywhere."""
        if self.contracted is not None:
            return self.contracted.radius
        return 1.0 if self.shortest.cone > 0 else None

    def _density(
        self, value: Float[Tensor, " n"], points: Float[Tensor, "n 3"]
    ) -> Float[Tensor, " n"]:
        return truncated_exp(self._stretched(value + self.density_bias, points))

    def _stretched(
        self, log_value: Float[Tensor, " n"], points: Float[Tensor, "n 3"]
    ) -> Float[Tensor, " n"]:
        """The log density per scene unit at points of our frame, of what the model says there."""
        if self.contracted is None:
            return log_value
        return log_value - self.contracted.log_stretch(points)

    def _homography(self) -> Float[Tensor, "4 4"] | None:
        homography = self.data.cameras["train"].homography
        return None if homography is None else homography.to(self.field_center.device)

    def _to_grid(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        """The grid's coordinates: the scene's, or those of contracted space."""
        return points if self.contracted is None else self.contracted.to_grid(points)

    def _grid_to_field(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return (points - self.field_center) / self.field_scale

    def _to_field(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return self._grid_to_field(self._to_grid(points))

    @torch.no_grad()
    def render_rays(
        self,
        model: Field,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        background: str | None = None,
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"], Float[Tensor, " n"]]:
        """rgb, opacity and weighted depth of any number of rays, on the CPU."""
        return render_rays(self, model, origins, directions, background)

    @torch.no_grad()
    def render_view(
        self, model: Field, cameras: Cameras, view: int, background: str | None = None
    ) -> dict[str, Tensor]:
        """rgb (h, w, 3) in [0, 1], depth (h, w) along the unit ray and opacity (h, w) of a view.

        Depth is the mean over what the ray hits, infinite where opacity is below one half.
        """
        return render_view(self, model, cameras, view, background)

    def refined_cameras(self) -> Cameras:
        """The training cameras as they were found to be; as given where none is learned."""
        return self.poses.refined(self.data.cameras["train"])

    # ---- the surface ------------------------------------------------------------------------

    def surface(self, model: Field) -> Surface:
        """Where the density has the level at which the training cameras see a surface."""
        density, note = seen_level(self, model)
        return density_surface(self, model, density, (note,))

    def surface_at(self, model: Field, density: float) -> Surface:
        """Where the density per scene unit has a given value."""
        return density_surface(self, model, density, ())

    def log_density(self, model: Field, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """The logarithm of the density at points of our frame, not truncated."""
        return self._stretched(self._log_value(model, self._to_field(points)), points)

    def _log_value(self, model: Field, x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        readout = GroupReadout(model.readout.weight[None, :1], model.readout.bias[None, :1], None)
        return model(x, readout)[:, 0] + self.density_bias

    def is_occupied(self, points: Float[Tensor, "n 3"]) -> Bool[Tensor, " n"]:
        """Whether points of our frame lie in occupied cells."""
        return self.grid.is_occupied(self._to_grid(points))

    def surface_box(self) -> Float[Tensor, "2 3"]:
        """Where a surface is looked for: around all occupied cells, or the region of interest."""
        if self.is_contracted:
            return self.field_center.new_tensor([[-1.0] * 3, [1.0] * 3])
        low, high = self.grid.occupied_bounds()
        low = low.maximum(self.field_center - self.field_scale)
        return torch.stack([low, high.minimum(self.field_center + self.field_scale)])

    def rgb(
        self, model: Field, points: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n 3"]:
        """The colour of points of our frame, sRGB, seen along unit directions."""
        coefficients = model(self._to_field(points))[:, 1:].view(len(points), 3, -1)
        harmonics = spherical_harmonics(directions, self.sh_degree)
        return torch.sigmoid((coefficients * harmonics[:, None]).sum(dim=2))

    # ---- measuring --------------------------------------------------------------------------

    def validate(self, model: Field, generator: torch.Generator | None) -> dict[str, float]:
        """PSNR over 16,384 random pixels of the test views (not a mean over images)."""
        generator = generator or torch.Generator().manual_seed(0)
        return {"psnr": quick_psnr(self, model, generator)}

    def evaluate(
        self,
        model: Field,
        folder: Path,
        limit: int | None,
        *,
        split: str | None = None,
        background: Literal["white", "black"] | None = None,
        appearance: Appearance = "neighbors",
        num_pictures: int | None = None,
        flip: bool = True,
    ) -> dict[str, Any]:
        """Metrics of every held-out view, rendered at full size; pictures of the first few."""
        return evaluate_views(
            self,
            model,
            folder,
            limit,
            split=split,
            background=background,
            appearance=appearance,
            num_pictures=self.num_pictures if num_pictures is None else num_pictures,
            flip=flip,
        )


def _mean_of(values: Float[Tensor, "n 3"], chosen: Bool[Tensor, " n"]) -> Float[Tensor, ""]:
    """The mean over the rows that are chosen, without a look at how many they are."""
    count = chosen.sum().clamp(min=1) * values.shape[1]
    return torch.where(chosen[:, None], values, 0.0).sum() / count

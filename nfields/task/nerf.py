"""nerf: a radiance field from posed images.

What a field's values mean here
    density   exp(v_0 + density_bias) per scene unit (truncated gradient, instant-ngp)
    colour    head=sh: sigmoid(sum_k Y_k(d) v_ck), 3 (degree + 1)^2 values, no view network; the
              harmonics are folded into the model's linear readout once a ray (model/field.py)
    image     sum_i w_i c_i + (1 - opacity) background (ops/composite), in the colour space of the
              files (sRGB), as the papers this is compared with do

Scene frame: the region of interest is [-1, 1]^3, the scene [-aabb_scale, aabb_scale]^3 with one
occupancy cascade a doubling. The field's [-1, 1]^3 is the scene, or with alpha the smallest cube
around the visual hull.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import huber_loss

from nfields.data.posed_images import PosedImages
from nfields.errors import ConfigError, DataError
from nfields.export.comparison import ComparedImage, compare_images
from nfields.model.field import Field, GroupReadout
from nfields.model.field import Samples as FieldSamples
from nfields.ops.composite import composite
from nfields.ops.march import Samples, march, num_cascades, sample_points
from nfields.optimizer import ParameterGroup
from nfields.render.cameras import Cameras, project, rays, view_rays
from nfields.render.harmonics import spherical_harmonics
from nfields.render.occupancy import OccupancyGrid
from nfields.render.surface import Surface
from nfields.render.visual_hull import visual_hull
from nfields.task.nerf_surface import density_surface, seen_level
from nfields.task.task import StepResult, Task

BACKGROUNDS = {"white": 1.0, "black": 0.0}
# Rays rendered at once: their samples (about 100 a ray at worst) and hidden values fit the cache.
_RENDER_CHUNK = 8192


class RayBatch(NamedTuple):
    """Rays with the colour they should have; background is what lies behind the scene."""

    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    jitter: Float[Tensor, " n"]
    background: Float[Tensor, "n 3"]
    target: Float[Tensor, "n 3"]


class Rendering(NamedTuple):
    """Colour over the background, opacity in [0, 1], weighted depth, and the samples' number."""

    rgb: Float[Tensor, "n 3"]
    opacity: Float[Tensor, " n"]
    depth: Float[Tensor, " n"]
    num_samples: int


class NerfTask(Task):
    """Radiance field; options are explained in configs/task/nerf.yaml."""

    in_dim = 3
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
        max_rays: int,
        min_transmittance: float | int,
        huber_delta: float | int,
        num_pictures: int,
        backend: Literal["auto", "reference", "numba", "triton"],
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
        self.data, self.sh_degree = data, sh_degree
        self.num_harmonics = spherical_harmonics(torch.zeros(0, 3), sh_degree).shape[1]
        self.out_dim = 1 + 3 * self.num_harmonics
        self.density_bias, self.backend = density_bias, backend
        self.background, self.train_background = background, train_background
        self.carve = visual_hull
        self.grid_every, self.grid_warmup = grid_every, grid_warmup
        self.dt_min = 1 / steps_per_unit
        self.cone = cone if cone is not None else (0.0 if data.aabb_scale <= 1 else 1 / 256)
        self.dt_max = 2 * data.aabb_scale / grid_cells * 4
        self.dt_max = max(self.dt_max, self.dt_min)
        self.max_samples_per_ray, self.samples_per_step = max_samples_per_ray, samples_per_step
        self.max_rays, self.min_transmittance = max_rays, min_transmittance
        self.huber_delta, self.num_pictures = huber_delta, num_pictures
        self.grid = OccupancyGrid(
            cascades=num_cascades(data.aabb_scale),
            cells=grid_cells,
            decay=grid_decay,
            threshold=grid_threshold,
        )
        self.num_rays: Tensor
        self.field_center: Tensor
        self.field_scale: Tensor
        self.register_buffer("num_rays", torch.tensor(min(1024, max_rays)))
        self.register_buffer("field_center", torch.zeros(3))
        self.register_buffer("field_scale", torch.tensor(float(data.aabb_scale)))

    # ---- training ---------------------------------------------------------------------------

    def prepare(self, model: Field, generator: torch.Generator) -> None:
        images = self.data.require_images("train")
        cameras = self.data.cameras["train"]
        # The hull is carved with straight rays of perspective cameras.
        is_plain = cameras.is_perspective and cameras.homography is None
        if self.carve and self.data.has_alpha and is_plain:
            alphas = [image[..., 3] for image in images]
            self.grid.exclude(lambda centers, half: visual_hull(centers, half, cameras, alphas))
            self._fit_field_to(self.grid.candidates())
        cells = self.grid.candidates()
        if len(cells) == 0:
            raise DataError(
                f"no cell of the scene is seen by the cameras of {self.data.source} (or all alpha "
                "is 0): the cameras look elsewhere or the scene box is in the wrong place; check "
                "the poses and data.scale"
            )
        chosen = cells[torch.randint(len(cells), (1 << 14,), generator=generator)]
        points = self.grid.positions(chosen, torch.rand(len(chosen), 3, generator=generator))
        device = self.field_center.device
        model.initialize(FieldSamples.uniform(self._to_field(points.to(device))), generator)

    def before_step(self, model: Field, step: int, generator: torch.Generator) -> None:
        if step % self.grid_every != 0 or step == 0:
            return
        self.grid.update(
            lambda points: _TruncatedExp.apply(self.log_density(model, points)) * self.dt_min,
            generator,
            everywhere=step < self.grid_warmup,
        )

    def batch(self, generator: torch.Generator) -> RayBatch:
        num = int(self.num_rays)
        pixels = self.data.sample_pixels(num, generator)
        origins, directions = rays(self.data.cameras["train"], pixels.view_index, pixels.pixels)
        jitter = torch.rand(num, generator=generator)
        values = pixels.values.float() / 255
        if not self.data.has_alpha:
            background = torch.zeros(num, 3)
            target = values
        else:
            if self.train_background == "random":
                background = torch.rand(num, 3, generator=generator)
            else:
                background = torch.full((num, 3), BACKGROUNDS[self.train_background])
            alpha = values[:, 3:]
            target = values[:, :3] * alpha + background * (1 - alpha)
        batch = RayBatch(origins, directions, jitter, background, target)
        return RayBatch(*(tensor.to(self.field_center.device) for tensor in batch))

    def losses(self, model: Field, batch: RayBatch) -> StepResult:
        seen = self._render(model, batch.origins, batch.directions, batch.jitter, batch.background)
        loss = huber_loss(seen.rgb, batch.target, delta=self.huber_delta) / self.huber_delta
        with torch.no_grad():
            error = (seen.rgb - batch.target).square().mean().item()
        num_rays = len(batch.origins)
        if seen.num_samples == 0 and num_rays >= self.max_rays:
            raise DataError(
                f"none of {num_rays:,} rays of a batch met an occupied cell: the cameras of "
                f"{self.data.source} do not look at the scene box, or the field became empty; "
                "check the poses and data.scene_scale, or lower model.lr"
            )
        measures = {
            "psnr": -10 * math.log10(max(error, 1e-10)),
            "rays": float(num_rays),
            "samples": float(seen.num_samples),
        }
        return StepResult({"rgb": loss}, measures, seen.num_samples, num_rays)

    def after_step(self, model: Field, result: StepResult, step: int) -> None:
        # Samples a step are fixed, rays follow: a batch costs the same whatever the scene holds.
        wanted = result.num_items * self.samples_per_step / max(result.num_samples, 1)
        self.num_rays.fill_(int(min(max(wanted, 64), 2 * result.num_items, self.max_rays)))

    def parameter_groups(self) -> list[ParameterGroup]:
        return []

    # ---- rendering --------------------------------------------------------------------------

    def _render(
        self,
        model: Field,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        jitter: Float[Tensor, " n"],
        background: Float[Tensor, "n 3"],
    ) -> Rendering:
        samples, points = self.march(origins, directions, jitter)
        # Most rays of a masked scene hit nothing: the rest of the work is for those that do.
        hit = (samples.offsets.diff() > 0).nonzero()[:, 0]
        offsets = torch.cat([samples.offsets[:1], samples.offsets[1:][hit]])
        values = model(self._to_field(points), self._ray_readout(model, directions[hit], offsets))
        hit_rgb, hit_opacity, hit_depth = composite(
            self._density(values[:, 0]), torch.sigmoid(values[:, 1:]), samples.t_starts,
            samples.t_ends, offsets, min_transmittance=self.min_transmittance,
            backend=self.backend,
        )  # fmt: skip
        hit_rgb = hit_rgb + (1 - hit_opacity)[:, None] * background[hit]
        nothing = background.new_zeros(len(background))
        return Rendering(
            background.index_copy(0, hit, hit_rgb),
            nothing.index_copy(0, hit, hit_opacity),
            nothing.index_copy(0, hit, hit_depth),
            len(points),
        )

    def march(
        self,
        origins: Float[Tensor, "n 3"],
        directions: Float[Tensor, "n 3"],
        jitter: Float[Tensor, " n"],
    ) -> tuple[Samples, Float[Tensor, "samples 3"]]:
        """Samples of rays of our frame in occupied cells, and where they are."""
        samples = march(
            origins, directions, self.grid.bits, jitter, near=self.data.near, dt_min=self.dt_min,
            dt_max=self.dt_max, cone=self.cone, max_samples=self.max_samples_per_ray,
            backend=self.backend,
        )  # fmt: skip
        return samples, sample_points(origins, directions, samples, backend=self.backend)

    def _ray_readout(
        self,
        model: Field,
        directions: Float[Tensor, "n 3"],
        offsets: Int[Tensor, " n_plus_1"],
    ) -> GroupReadout:
        """Readout of (log density, r, g, b) for every ray: harmonics times coefficients."""
        harmonics = spherical_harmonics(directions, self.sh_degree)
        weight, bias = model.readout.weight, model.readout.bias
        hidden, num_rays = weight.shape[1], len(directions)
        # Coefficients are ordered colour first: value 1 + c (degree + 1)^2 + k.
        by_harmonic = weight[1:].view(3, self.num_harmonics, hidden).transpose(0, 1)
        color = (harmonics @ by_harmonic.reshape(self.num_harmonics, -1)).view(num_rays, 3, hidden)
        density = weight[:1].expand(num_rays, 1, hidden)
        color_bias = harmonics @ bias[1:].view(3, self.num_harmonics).T
        return GroupReadout(
            torch.cat([density, color], dim=1),
            torch.cat([bias[:1].expand(num_rays, 1), color_bias], dim=1),
            offsets,
        )

    def _density(self, value: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        return _TruncatedExp.apply(value + self.density_bias)

    def _to_field(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
        return (points - self.field_center) / self.field_scale

    def _fit_field_to(self, index: Int[Tensor, " cells"]) -> None:
        """Sets the field's cube to the smallest one around the given cells."""
        if len(index) == 0:
            return
        low = self.grid.positions(index, 0.0).amin(dim=0)
        high = self.grid.positions(index, 1.0).amax(dim=0)
        self.field_center.copy_((low + high) / 2)
        self.field_scale.copy_((high - low).max() / 2)

    @torch.no_grad()
    def render_view(
        self, model: Field, cameras: Cameras, view: int, background: str | None = None
    ) -> dict[str, Tensor]:
        """rgb (h, w, 3) in [0, 1], depth (h, w) along the unit ray and opacity (h, w) of a view.

        Depth is the mean over what the ray hits, infinite where opacity is below one half.
        """
        color = BACKGROUNDS[background or self.background] if self.data.has_alpha else 0.0
        device = self.field_center.device
        origins, directions = view_rays(cameras, view)
        parts = []
        for o, d in zip(origins.split(_RENDER_CHUNK), directions.split(_RENDER_CHUNK), strict=True):
            half = torch.full((len(o),), 0.5, device=device)
            behind = torch.full((len(o), 3), color, device=device)
            parts.append(self._render(model, o.to(device), d.to(device), half, behind)[:3])
        rgb, opacity, depth = (torch.cat(part).cpu() for part in zip(*parts, strict=True))
        width, height = cameras.size(view)
        mean_depth = torch.where(opacity >= 0.5, depth / opacity, torch.inf)
        if cameras.homography is not None:
            points = origins + mean_depth[:, None] * directions
            _, distance = project(cameras, view, points)
            mean_depth = torch.where(mean_depth.isfinite(), distance, torch.inf)
        return {
            "rgb": rgb.clamp(0, 1).view(height, width, 3),
            "depth": mean_depth.view(height, width),
            "opacity": opacity.view(height, width),
        }

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
        readout = GroupReadout(model.readout.weight[None, :1], model.readout.bias[None, :1], None)
        return model(self._to_field(points), readout)[:, 0] + self.density_bias

    def rgb(
        self, model: Field, points: Float[Tensor, "n 3"], directions: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n 3"]:
        """The colour of points of our frame, sRGB, seen along unit directions."""
        coefficients = model(self._to_field(points))[:, 1:].view(len(points), 3, -1)
        harmonics = spherical_harmonics(directions, self.sh_degree)
        return torch.sigmoid((coefficients * harmonics[:, None]).sum(dim=2))

    # ---- measuring --------------------------------------------------------------------------

    @torch.no_grad()
    def validate(self, model: Field, generator: torch.Generator | None) -> dict[str, float]:
        """PSNR over 16,384 random pixels of the test views (not a mean over images)."""
        generator = generator or torch.Generator().manual_seed(0)
        pixels = self.data.sample_pixels(1 << 14, generator, self._test_split())
        cameras = self.data.cameras[self._test_split()]
        origins, directions = rays(cameras, pixels.view_index, pixels.pixels)
        color = BACKGROUNDS[self.background] if self.data.has_alpha else 0.0
        truth = _over(pixels.values.float() / 255, color)
        device = self.field_center.device
        total = 0.0
        for o, d, t in zip(
            *(x.split(_RENDER_CHUNK) for x in (origins, directions, truth)), strict=True
        ):
            half = torch.full((len(o),), 0.5, device=device)
            behind = torch.full((len(o), 3), color, device=device)
            seen = self._render(model, o.to(device), d.to(device), half, behind)
            total += (seen.rgb.cpu().clamp(0, 1) - t).square().sum().item()
        return {"psnr": -10 * math.log10(max(total / truth.numel(), 1e-10))}

    def evaluate(
        self,
        model: Field,
        folder: Path,
        limit: int | None,
        *,
        split: str | None = None,
        background: Literal["white", "black"] | None = None,
        num_pictures: int | None = None,
        flip: bool = True,
    ) -> dict[str, Any]:
        """Metrics of every held-out view, rendered at full size; pictures of the first few."""
        split = split or self._test_split()
        images = self.data.require_images(split)[:limit]
        cameras, names = self.data.cameras[split], self.data.names[split]
        shown = background or self.background
        color = BACKGROUNDS[shown] if self.data.has_alpha else 0.0

        def compared() -> Iterator[ComparedImage]:
            for view, image in enumerate(images):
                started = perf_counter()
                seen = self.render_view(model, cameras, view, shown)
                yield ComparedImage(
                    name=names[view],
                    prediction=seen["rgb"],
                    truth=_over(image.float() / 255, color),
                    seconds=perf_counter() - started,
                    depth=seen["depth"],
                    opacity=seen["opacity"],
                    mask=self.data.mask(split, view),
                )

        return compare_images(
            compared(),
            folder=folder,
            protocol={
                "split": split,
                "background": shown if self.data.has_alpha else "photograph",
                **({"masked": True} if self.data.has_masks(split) else {}),
                "color_space": "sRGB",
            },
            total=len(images),
            num_pictures=self.num_pictures if num_pictures is None else num_pictures,
            with_flip=flip,
        )

    def _test_split(self) -> str:
        return "test" if "test" in self.data.cameras else "train"


def _over(values: Float[Tensor, "*size c"], color: float) -> Float[Tensor, "*size 3"]:
    """RGBA over a grey level; RGB as it is."""
    if values.shape[-1] == 3:
        return values
    alpha = values[..., 3:]
    return values[..., :3] * alpha + color * (1 - alpha)


class _TruncatedExp(torch.autograd.Function):
    """exp, with its argument held below 15 in value and gradient (instant-ngp)."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:
        out = torch.exp(value.clamp(max=15.0))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # pyright: ignore
        (out,) = ctx.saved_tensors
        return gradient * out

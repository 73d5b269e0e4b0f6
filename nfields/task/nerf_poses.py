"""Cameras that are learned along with the field: poses a picture, and the lens.

    pose of picture i    R_i' = exp([w_i]) R_i,  o_i' = o_i + t_i: a turn about the camera's own
                         centre in the axes of the scene, and a shift (radians, our units)
    lens                 f' = f exp(a), c' = c + p f: shared by all pictures, or one each

A ray of a pixel p' through the changed lens is the ray through p = c + (p' - c') f / f' of the
lens as it was, distorted or not. So the kernel of render/cameras stays in use; the slope of its
directions with respect to the pixel is measured by central differences, half a pixel to each side.

Field and cameras can turn, move and grow together without any picture changing: that part of the
corrections, all that is one similarity of space, is taken away (`similarities`), so that the scene
stays where the data put it. Test cameras stay as given. Corrections begin at `start_step`: before
the field shows something, its gradients say nothing about cameras. The idea is BARF's
(arXiv:2104.06405).

Most cameras that come with photographs are better known than a short training can tell, and its
gradients are noise to them, by which a scene bends slowly. So the rate falls during the whole
training, and every step takes a part of the corrections away (ParameterGroup.pull): Adam's steps
are as large as a gradient is clear, and what is less clear than that goes back to zero.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.optimizer import ParameterGroup
from nfields.render.cameras import Cameras, rays, through

Intrinsics = Literal["given", "shared", "each"]
_HALF_PIXEL = 0.5


class CameraRays(NamedTuple):
    """Rays as given, before corrections and before a homography; slopes are per pixel."""

    view_index: Int[Tensor, " n"]
    origins: Float[Tensor, "n 3"]
    directions: Float[Tensor, "n 3"]
    sources: Float[Tensor, "n 2"]  # p, where they were cast
    pixels: Float[Tensor, "n 2"]  # p'
    center: Float[Tensor, "n 2"]
    focal: Float[Tensor, "n 2"]
    slope: Float[Tensor, "n 3 2"]  # d direction / d p


class PoseRefinement(nn.Module):
    """Corrections of the training cameras; options are explained in configs/task/nerf.yaml."""

    turns: nn.Parameter | None
    shifts: nn.Parameter | None
    lenses: nn.Parameter | None
    is_started: Tensor
    common: Tensor

    def __init__(
        self,
        *,
        refine: bool,
        intrinsics: Intrinsics,
        lr: float | int,
        final_lr_part: float | int,
        betas: Sequence[float],
        pull: float | int,
        start_step: int,
    ):
        super().__init__()
        if intrinsics not in get_args(Intrinsics):
            raise ConfigError(f"task.poses.intrinsics={intrinsics!r}: choose given, shared or each")
        if lr <= 0 or not 0 < final_lr_part <= 1 or pull < 0 or start_step < 0:
            raise ConfigError(
                f"task.poses: lr={lr} must be above 0, final_lr_part={final_lr_part} in (0, 1], "
                f"pull={pull} and start_step={start_step} at least 0"
            )
        self.refine, self.intrinsics, self.start_step = refine, intrinsics, start_step
        self.lr, self.final_lr_part, self.pull = float(lr), float(final_lr_part), float(pull)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"task.poses.betas={list(betas)} must be two numbers in [0, 1)")
        self.betas = (float(betas[0]), float(betas[1]))
        self.turns = self.shifts = self.lenses = None

    @property
    def is_on(self) -> bool:
        """True if anything is corrected at all."""
        return self.refine or self.intrinsics != "given"

    def start(self, cameras: Cameras) -> None:
        """Makes the corrections of these cameras, none of which changes anything."""
        num_views = len(cameras)
        if self.is_on:  # else it has no state, and checkpoints none of it
            self.register_buffer("is_started", torch.tensor(False))
        if self.refine:
            self.turns = nn.Parameter(torch.zeros(num_views, 3))
            self.shifts = nn.Parameter(torch.zeros(num_views, 3))
            basis = similarities(cameras.camera_to_world[:, :, 3])
            self.register_buffer("common", basis, persistent=False)
        if self.intrinsics != "given":
            num = num_views if self.intrinsics == "each" else 1
            self.lenses = nn.Parameter(torch.zeros(num, 3))  # a, p_x, p_y

    def before_step(self, step: int) -> None:
        """Begins the corrections when their time has come."""
        if self.is_on and step >= self.start_step:
            self.is_started.fill_(True)

    def rays(
        self, cameras: Cameras, view_index: Int[Tensor, " n"], pixels: Float[Tensor, "n 2"]
    ) -> CameraRays:
        """The rays of pixels through the lenses as they are now; no gradients yet."""
        bare = replace(cameras, homography=None)
        center, focal = cameras.center[view_index], cameras.focal[view_index]
        lenses = None if self.lenses is None else self.lenses.detach().cpu()
        sources = _sources(lenses, pixels, center, focal, view_index)
        origins, directions = rays(bare, view_index, sources)
        slope = torch.zeros(len(pixels), 3, 2)
        if lenses is not None:
            for axis in range(2):
                step = torch.zeros(2)
                step[axis] = _HALF_PIXEL
                _, above = rays(bare, view_index, sources + step)
                _, below = rays(bare, view_index, sources - step)
                slope[:, :, axis] = (above - below) / (2 * _HALF_PIXEL)
        return CameraRays(
            view_index, origins, directions, sources, pixels, center, focal, slope.nan_to_num()
        )

    def corrections(self) -> tuple[Float[Tensor, "views 3"], Float[Tensor, "views 3"]]:
        """The turns and shifts in effect: of no common similarity."""
        assert self.turns is not None and self.shifts is not None
        both = torch.cat([self.turns, self.shifts], dim=1).view(-1)
        both = both - self.common @ (self.common.T @ both)
        turns, shifts = both.view(-1, 2, 3).unbind(dim=1)
        return turns, shifts

    def forward(
        self, given: CameraRays, homography: Float[Tensor, "4 4"] | None
    ) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
        """Origins and unit directions of corrected rays, with gradients to the corrections."""
        origins, index = given.origins, given.view_index
        # A pixel without a ray must not put its NaN into the sums of gradients.
        is_ray = given.directions.isfinite().all(dim=1, keepdim=True)
        directions = given.directions.nan_to_num()
        if self.lenses is not None:
            sources = _sources(self.lenses, given.pixels, given.center, given.focal, index)
            step = (sources - given.sources)[:, None]  # zero, but for its gradient
            directions = directions + (given.slope * step).sum(dim=2)
        if self.turns is not None and self.shifts is not None:
            turns, shifts = self.corrections()
            directions = (rotations(turns)[index] @ directions[:, :, None])[:, :, 0]
            origins = origins + shifts[index]
        directions = torch.where(is_ray, directions, torch.nan)
        if homography is not None:
            return through(homography, origins, directions)
        return origins, directions

    @torch.no_grad()
    def refined(self, cameras: Cameras) -> Cameras:
        """The training cameras as they were found to be."""
        if self.lenses is not None:
            lens = self.lenses.detach().cpu()
            cameras = replace(
                cameras,
                focal=cameras.focal * lens[:, :1].exp(),
                center=cameras.center + lens[:, 1:] * cameras.focal,
            )
        if self.turns is None or self.shifts is None:
            return cameras
        turns, shifts = self.corrections()
        pose = cameras.camera_to_world.clone()
        pose[:, :, :3] = rotations(turns).cpu() @ pose[:, :, :3]
        pose[:, :, 3] += shifts.cpu()
        return replace(cameras, camera_to_world=pose)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The corrections, if there are any."""
        return [
            ParameterGroup(
                "poses",
                list(self.parameters()),
                self.lr,
                betas=self.betas,
                final_lr_part=self.final_lr_part,
                pull=self.pull,
            )
        ]


def _sources(
    lenses: Float[Tensor, "lenses 3"] | None,
    pixels: Float[Tensor, "n 2"],
    center: Float[Tensor, "n 2"],
    focal: Float[Tensor, "n 2"],
    view_index: Int[Tensor, " n"],
) -> Float[Tensor, "n 2"]:
    """p = c + (p' - c') f / f': the pixel of the given lens that sees along the same ray."""
    if lenses is None:
        return pixels
    own = lenses[view_index] if len(lenses) > 1 else lenses
    return center + (pixels - center - own[:, 1:] * focal) * torch.exp(-own[:, :1])


def similarities(origins: Float[Tensor, "views 3"]) -> Float[Tensor, "values rank"]:
    """An orthonormal basis of the corrections (turn and shift of view 0, of view 1, ...) that are
    one small similarity of space: w and w x (o_i - o), a shift s, a growth a (o_i - o), o the mean.

    Seven columns; fewer where the cameras are in one place or on a line.
    """
    away = (origins - origins.mean(dim=0)).double()
    columns = []
    for axis in torch.eye(3, dtype=torch.float64):
        turned = torch.linalg.cross(axis.expand_as(away), away)
        columns.append(torch.stack([axis.expand_as(away), turned], dim=1))
        columns.append(torch.stack([torch.zeros_like(away), axis.expand_as(away)], dim=1))
    columns.append(torch.stack([torch.zeros_like(away), away], dim=1))
    left, strength, _ = torch.linalg.svd(
        torch.stack(columns, dim=-1).view(-1, 7), full_matrices=False
    )
    return left[:, strength > 1e-6 * strength[0]].to(origins.dtype)


def rotations(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """exp of skew-symmetric matrices: turns by |w| about w. Smooth at zero."""
    x, y, z = vectors.unbind(dim=1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    return torch.linalg.matrix_exp(skew)

"""Cameras that are learned along with the field: poses a picture, and the lens.

    pose of picture i    R_i' = exp([w_i]) R_i,  o_i' = o_i + t_i: a turn about the camera's own
                         centre in the axes of the scene, and a shift (radians, our units)
    lens                 f' = f exp(a), c' = c + p f: shared by all pictures, or one each

A ray of a pixel p' through the changed lens is the ray through p = c + (p' - c') f / f' of the
lens as it was, distorted or not. So the kernel of render/cameras stays in use; the slope of its
directions with respect to the pixel is measured by central differences, half a pixel to each side.

Field and cameras could move together without any picture changing: the mean turn and shift over the
pictures are subtracted, so that the scene stays where the data put it (up to a common scale, which
the weight holds). Test cameras stay as given. Corrections begin at `start_step`: before the field
shows something, its gradients say nothing about cameras. The idea is BARF's (arXiv:2104.06405).
"""

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

    def __init__(
        self,
        *,
        refine: bool,
        intrinsics: Intrinsics,
        lr: float | int,
        weight: float | int,
        start_step: int,
    ):
        super().__init__()
        if intrinsics not in get_args(Intrinsics):
            raise ConfigError(f"task.poses.intrinsics={intrinsics!r}: choose given, shared or each")
        if lr <= 0 or weight < 0 or start_step < 0:
            raise ConfigError(
                f"task.poses: lr={lr} must be above 0, weight={weight} and "
                f"start_step={start_step} at least 0"
            )
        self.refine, self.intrinsics = refine, intrinsics
        self.lr, self.weight, self.start_step = lr, weight, start_step
        self.turns = self.shifts = self.lenses = None

    @property
    def is_on(self) -> bool:
        """True if anything is corrected at all."""
        return self.refine or self.intrinsics != "given"

    def start(self, num_views: int) -> None:
        """Makes the corrections of so many cameras, none of which changes anything."""
        if self.is_on:  # else it has no state, and checkpoints none of it
            self.register_buffer("is_started", torch.tensor(False))
        if self.refine:
            self.turns = nn.Parameter(torch.zeros(num_views, 3))
            self.shifts = nn.Parameter(torch.zeros(num_views, 3))
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
            turn = rotations(self.turns - self.turns.mean(dim=0))
            directions = (turn[index] @ directions[:, :, None])[:, :, 0]
            origins = origins + (self.shifts - self.shifts.mean(dim=0))[index]
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
        pose = cameras.camera_to_world.clone()
        pose[:, :, :3] = rotations(self.turns - self.turns.mean(dim=0)).cpu() @ pose[:, :, :3]
        pose[:, :, 3] += (self.shifts - self.shifts.mean(dim=0)).cpu()
        return replace(cameras, camera_to_world=pose)

    def losses(self) -> dict[str, Tensor]:
        """What holds the corrections near nothing, by name."""
        found = [p.square().mean() for p in self.parameters()]
        if not found or self.weight == 0:
            return {}
        return {"poses": self.weight * torch.stack(found).sum()}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The corrections, if there are any."""
        return [ParameterGroup("poses", list(self.parameters()), self.lr)]


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


def rotations(vectors: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3 3"]:
    """exp of skew-symmetric matrices: turns by |w| about w. Smooth at zero."""
    x, y, z = vectors.unbind(dim=1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=1).view(-1, 3, 3)
    return torch.linalg.matrix_exp(skew)

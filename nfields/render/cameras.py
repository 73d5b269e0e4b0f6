"""Cameras: the ray of a pixel, the pixel of a point. The project's conventions live here.

World      right-handed; positions and distances in our units, the region of interest is [-1, 1]^3.
Camera     OpenGL and Blender axes: x right, y up, looking along -z. `camera_to_world` = [R | o].
Pixel      (0, 0) is the top-left corner of the picture, x to the right, y down; the centre of the
           first pixel is (0.5, 0.5), that of the last one (width - 0.5, height - 0.5).
Ray        o + t d with |d| = 1, so t and "depth" are distances from the camera centre.
Lens       perspective, fisheye or equirectangular: nfields/render/lenses.py;
           pixel = focal * (position on the lens's plane) + center

Forward-facing scenes may be seen through a homography (`Cameras.homography`): poses stay in the
space before it, rays and the points of `project` are behind it, where the field is trained.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.render.cameras_cpu import write_rays
from nfields.render.lenses import (
    EQUIRECTANGULAR,
    FISHEYE,
    LENSES,
    PERSPECTIVE,
    from_plane,
    max_angle,
    to_plane,
)


@dataclass(frozen=True, eq=False)
class Cameras:
    """Poses, intrinsics and sizes of n views; see the head of this file for frames and units."""

    camera_to_world: Float[Tensor, "n 3 4"]
    focal: Float[Tensor, "n 2"]  # fx, fy in pixels
    center: Float[Tensor, "n 2"]  # principal point in pixels
    distortion: Float[Tensor, "n 4"]  # k1, k2, p1, p2; of a fisheye k1, k2, k3, k4
    sizes: Int[Tensor, "n 2"]  # width, height
    lens: Int[Tensor, " n"] | Any = None  # numbers of lenses.LENSES; None: all perspective
    # Projective map behind the poses; rays start where they enter its plane z = -1 (`through`).
    homography: Float[Tensor, "4 4"] | None = None

    def __post_init__(self) -> None:
        if self.lens is None:
            lens = torch.full_like(self.sizes[:, 0], PERSPECTIVE)
            object.__setattr__(self, "lens", lens)

    def __len__(self) -> int:
        return len(self.camera_to_world)

    def __getitem__(self, index: slice | Tensor) -> "Cameras":
        """The chosen views; a slice or a tensor of indices or flags."""
        return replace(
            self,
            camera_to_world=self.camera_to_world[index],
            focal=self.focal[index],
            center=self.center[index],
            distortion=self.distortion[index],
            sizes=self.sizes[index],
            lens=self.lens[index],
        )

    @cached_property
    def is_distorted(self) -> bool:
        """True if any lens bends rays; computed once, as it decides the path of every batch."""
        return bool(self.distortion.count_nonzero())

    @cached_property
    def is_perspective(self) -> bool:
        """True if no lens is a fisheye or a panorama; computed once."""
        return not bool(self.lens.count_nonzero())

    @cached_property
    def max_angle(self) -> Float[Tensor, " n"]:
        """Angle to the axis (radians, float64) up to which a fisheye sees; pi for other lenses."""
        lens = torch.where(self.lens[:, None] == FISHEYE, self.distortion.double(), 0.0)
        return torch.from_numpy(max_angle(lens.cpu().numpy())).to(self.focal.device)

    @cached_property
    def has_one_size(self) -> bool:
        """True if all pictures have the same width and height."""
        return len(self) == 0 or bool((self.sizes == self.sizes[0]).all())

    def size(self, view: int) -> tuple[int, int]:
        """Width and height of a view in pixels."""
        width, height = self.sizes[view].tolist()
        return width, height

    def downscaled(self, factor: int) -> "Cameras":
        """The cameras of pictures averaged over factor x factor pixels.

        Rows and columns that do not fill a block are cut from the right and the bottom, so the
        principal point and the focal length are divided by the factor exactly.
        """
        return replace(
            self,
            focal=self.focal / factor,
            center=self.center / factor,
            sizes=self.sizes // factor,
        )

    def resized(self, width: int, height: int) -> "Cameras":
        """The cameras of the same fields of view in pictures of width x height pixels."""
        size = torch.tensor([width, height], device=self.sizes.device).expand_as(self.sizes)
        factor = size / self.sizes
        return replace(
            self,
            focal=self.focal * factor,
            center=self.center * factor,
            sizes=size.clone(),
        )

    def to(self, device: torch.device | str) -> "Cameras":
        """The same cameras on a device."""
        return replace(
            self,
            camera_to_world=self.camera_to_world.to(device),
            focal=self.focal.to(device),
            center=self.center.to(device),
            distortion=self.distortion.to(device),
            sizes=self.sizes.to(device),
            lens=self.lens.to(device),
            homography=None if self.homography is None else self.homography.to(device),
        )

    def to_dict(self) -> dict[str, Any]:
        """Lists of numbers, for json; float32 survives the way there and back exactly."""
        values = {
            "camera_to_world": self.camera_to_world.tolist(),
            "focal": self.focal.tolist(),
            "center": self.center.tolist(),
            "distortion": self.distortion.tolist(),
            "sizes": self.sizes.tolist(),
        }
        if not self.is_perspective:
            values["lens"] = [LENSES[number] for number in self.lens.tolist()]
        if self.homography is not None:
            values["homography"] = self.homography.tolist()
        return values

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Cameras":
        """The cameras that `to_dict` wrote."""
        float32 = torch.float32
        sizes = torch.tensor(values["sizes"], dtype=torch.int64).view(-1, 2)
        lens = [LENSES.index(name) for name in values.get("lens", [])]
        homography = values.get("homography")
        return Cameras(
            camera_to_world=torch.tensor(values["camera_to_world"], dtype=float32).view(-1, 3, 4),
            focal=torch.tensor(values["focal"], dtype=float32).view(-1, 2),
            center=torch.tensor(values["center"], dtype=float32).view(-1, 2),
            distortion=torch.tensor(values["distortion"], dtype=float32).view(-1, 4),
            sizes=sizes,
            lens=torch.tensor(lens, dtype=torch.int64) if lens else None,
            homography=None if homography is None else torch.tensor(homography, dtype=float32),
        )


def rays(
    cameras: Cameras, view_index: Int[Tensor, " n"], pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Origins and unit directions of the rays through pixel positions of views.

    `pixels` are positions, not indices: the centre of the first pixel is (0.5, 0.5). Directions are
    NaN where there is no ray: outside the circle of a fisheye, or never in front of the near plane
    of a homography. Not differentiable on the CPU.
    """
    if pixels.device.type != "cpu":
        return rays_in_torch(cameras, view_index, pixels)
    origins = torch.zeros(len(pixels), 3)
    directions = torch.zeros(len(pixels), 3)
    bad = write_rays(
        cameras.camera_to_world.contiguous().numpy(),
        cameras.focal.contiguous().numpy(),
        cameras.center.contiguous().numpy(),
        cameras.distortion.contiguous().numpy(),
        cameras.is_distorted,
        cameras.lens.numpy(),
        cameras.is_perspective,
        cameras.max_angle.numpy(),
        view_index.contiguous().numpy(),
        pixels.contiguous().numpy(),
        origins.numpy(),
        directions.numpy(),
    )
    if bad >= 0:
        raise IndexError(f"view_index={int(view_index[bad])} of {len(cameras)} cameras")
    if cameras.homography is None:
        return origins, directions
    return through(cameras.homography, origins, directions)


def rays_in_torch(
    cameras: Cameras, view_index: Int[Tensor, " n"], pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """What `rays` returns, in plain PyTorch: on other devices, and as the kernel's reference."""
    plane = (pixels - cameras.center[view_index]) / cameras.focal[view_index]
    local = from_plane(
        plane,
        cameras.lens[view_index],
        cameras.distortion[view_index],
        cameras.max_angle[view_index].to(plane.dtype),
    )
    matrix = cameras.camera_to_world[view_index]
    x, y, z = local[:, :1], local[:, 1:2], local[:, 2:]
    directions = matrix[:, :, 0] * x - matrix[:, :, 1] * y - matrix[:, :, 2] * z
    directions = torch.nn.functional.normalize(directions, dim=1)
    if cameras.homography is None:
        return matrix[:, :, 3], directions
    return through(cameras.homography, matrix[:, :, 3], directions)


def through(
    homography: Float[Tensor, "4 4"],
    origins: Float[Tensor, "n 3"],
    directions: Float[Tensor, "n 3"],
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """The images of rays under a projective map, from its plane z = -1 on (or from the origin,
    where that lies behind the plane); directions are NaN if a ray never gets there.

    Straight lines stay straight: with (A x + b) / w(x), w(x) = c.x + e, the image of o + t d moves
    along A d w(o) - (A o + b) c.d. Where w <= 0 lies behind the map's own eye.
    """
    matrix, c = homography[:3], homography[3]
    shift, weight = matrix[2] + c, c[:3]  # z' = -1 where shift . (o + t d, 1) = 0
    there = origins @ shift[:3] + shift[3]
    t = (-there / (directions @ shift[:3])).clamp_min(0.0)
    start = origins + t[:, None] * directions
    w = (start @ weight + c[3])[:, None]
    image = start @ matrix[:, :3].T + matrix[:, 3]
    along = directions @ matrix[:, :3].T * w - image * (directions @ weight)[:, None]
    along = torch.nn.functional.normalize(along, dim=1)
    return (image / w).nan_to_num(), torch.where((w > 0) & t[:, None].isfinite(), along, torch.nan)


def pixel_centers(width: int, height: int, device: torch.device | None = None) -> Tensor:
    """Positions (height * width, 2) of the centres of all pixels, row by row."""
    x = torch.arange(width, dtype=torch.float32, device=device) + 0.5
    y = torch.arange(height, dtype=torch.float32, device=device) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).view(-1, 2)


def view_rays(
    cameras: Cameras, view: int
) -> tuple[Float[Tensor, "pixels 3"], Float[Tensor, "pixels 3"]]:
    """Origins and unit directions of the rays of a whole view, row by row."""
    pixels = pixel_centers(*cameras.size(view), device=cameras.focal.device)
    return rays(cameras, torch.full((len(pixels),), view, device=pixels.device), pixels)


def project(
    cameras: Cameras, view: int, points: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """Pixel positions and depths of points in a view: the inverse of `rays`.

    Depth is the distance from the camera centre (before a homography), negative for points that the
    lens cannot see, such as those behind a perspective camera; their pixels mean nothing.
    """
    if cameras.homography is not None:
        points = apply_homography(torch.linalg.inv(cameras.homography), points)
    matrix = cameras.camera_to_world[view]
    local = (points - matrix[:, 3]) @ matrix[:, :3]
    forward = -local[:, 2]
    local = torch.stack([local[:, 0], -local[:, 1], forward], dim=1)
    lens = int(cameras.lens[view])
    plane = to_plane(local, lens, cameras.distortion[view])
    depth = local.norm(dim=1)
    if lens == FISHEYE:
        angle = torch.atan2(local[:, :2].norm(dim=1), forward)
        forward = torch.where(angle <= cameras.max_angle[view], 1.0, -1.0)
    pixels = plane * cameras.focal[view] + cameras.center[view]
    return pixels, depth if lens == EQUIRECTANGULAR else depth.copysign(forward)


def apply_homography(
    matrix: Float[Tensor, "4 4"], points: Float[Tensor, "*batch 3"]
) -> Float[Tensor, "*batch 3"]:
    """Points under a projective map."""
    image = points @ matrix[:, :3].T + matrix[:, 3]
    return image[..., :3] / image[..., 3:]

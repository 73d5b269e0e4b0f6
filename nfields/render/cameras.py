"""Cameras: the ray of a pixel, the pixel of a point. The project's conventions live here.

World      right-handed; positions and distances in our units, the region of interest is [-1, 1]^3.
Camera     OpenGL and Blender axes: x right, y up, looking along -z. `camera_to_world` = [R | o].
Pixel      (0, 0) is the top-left corner of the picture, x to the right, y down; the centre of the
           first pixel is (0.5, 0.5), that of the last one (width - 0.5, height - 0.5).
Ray        o + t d with |d| = 1, so t and "depth" are distances from the camera centre.
Lens       OpenCV's Brown-Conrady model on the plane z = -1, in OpenCV's axes (x right, y down):
           r2 = x^2 + y^2,  g = 1 + k1 r2 + k2 r2^2
           x_d = x g + 2 p1 x y + p2 (r2 + 2 x^2)
           y_d = y g + p1 (r2 + 2 y^2) + 2 p2 x y
           pixel = focal * (x_d, y_d) + center
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.render.cameras_cpu import write_rays

# Newton's method doubles its correct digits a step; from a start within a few per cent, four steps
# end at the rounding of float32 (tests/render/test_cameras.py checks it for strong lenses).
_UNDISTORT_STEPS = 8


@dataclass(frozen=True, eq=False)
class Cameras:
    """Poses, intrinsics and sizes of n views; see the head of this file for frames and units."""

    camera_to_world: Float[Tensor, "n 3 4"]
    focal: Float[Tensor, "n 2"]  # fx, fy in pixels
    center: Float[Tensor, "n 2"]  # principal point in pixels
    distortion: Float[Tensor, "n 4"]  # k1, k2, p1, p2
    sizes: Int[Tensor, "n 2"]  # width, height

    def __len__(self) -> int:
        return len(self.camera_to_world)

    def __getitem__(self, index: slice | Tensor) -> "Cameras":
        """The chosen views; a slice or a tensor of indices or flags."""
        return Cameras(
            camera_to_world=self.camera_to_world[index],
            focal=self.focal[index],
            center=self.center[index],
            distortion=self.distortion[index],
            sizes=self.sizes[index],
        )

    @cached_property
    def is_distorted(self) -> bool:
        """True if any lens bends rays; computed once, as it decides the path of every batch."""
        return bool(self.distortion.count_nonzero())

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
        return Cameras(
            camera_to_world=self.camera_to_world,
            focal=self.focal / factor,
            center=self.center / factor,
            distortion=self.distortion,
            sizes=self.sizes // factor,
        )

    def resized(self, width: int, height: int) -> "Cameras":
        """The cameras of the same fields of view in pictures of width x height pixels."""
        size = torch.tensor([width, height], device=self.sizes.device).expand_as(self.sizes)
        factor = size / self.sizes
        return Cameras(
            camera_to_world=self.camera_to_world,
            focal=self.focal * factor,
            center=self.center * factor,
            distortion=self.distortion,
            sizes=size.clone(),
        )

    def to(self, device: torch.device | str) -> "Cameras":
        """The same cameras on a device."""
        return Cameras(
            camera_to_world=self.camera_to_world.to(device),
            focal=self.focal.to(device),
            center=self.center.to(device),
            distortion=self.distortion.to(device),
            sizes=self.sizes.to(device),
        )

    def to_dict(self) -> dict[str, Any]:
        """Lists of numbers, for json; float32 survives the way there and back exactly."""
        return {
            "camera_to_world": self.camera_to_world.tolist(),
            "focal": self.focal.tolist(),
            "center": self.center.tolist(),
            "distortion": self.distortion.tolist(),
            "sizes": self.sizes.tolist(),
        }

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "Cameras":
        """The cameras that `to_dict` wrote."""
        float32 = torch.float32
        return Cameras(
            camera_to_world=torch.tensor(values["camera_to_world"], dtype=float32).view(-1, 3, 4),
            focal=torch.tensor(values["focal"], dtype=float32).view(-1, 2),
            center=torch.tensor(values["center"], dtype=float32).view(-1, 2),
            distortion=torch.tensor(values["distortion"], dtype=float32).view(-1, 4),
            sizes=torch.tensor(values["sizes"], dtype=torch.int64).view(-1, 2),
        )


def distort(points: Float[Tensor, "2 n"], lens: Float[Tensor, "4 n"]) -> Float[Tensor, "2 n"]:
    """Where the lens moves points of the plane z = -1 (OpenCV axes)."""
    x, y = points
    k1, k2, p1, p2 = lens
    r2 = x * x + y * y
    g = 1 + r2 * (k1 + r2 * k2)
    xy2 = 2 * x * y
    return torch.stack(
        [x * g + p1 * xy2 + p2 * (r2 + 2 * x * x), y * g + p1 * (r2 + 2 * y * y) + p2 * xy2]
    )


def undistort(points: Float[Tensor, "2 n"], lens: Float[Tensor, "4 n"]) -> Float[Tensor, "2 n"]:
    """The points that `distort` moves to the given ones, by Newton's method.

    Valid where the lens model is one to one (its Jacobian positive from the centre outwards);
    data readers check that for the corners of every picture.
    """
    k1, k2, p1, p2 = lens
    k2_times_2 = 2 * k2
    x_d, y_d = points
    x, y = points
    for _ in range(_UNDISTORT_STEPS):
        # Residual and symmetric Jacobian [[a, b], [b, d]] of the model at (x, y).
        r2 = x * x + y * y
        g = 1 + r2 * (k1 + r2 * k2)
        h = 2 * (k1 + r2 * k2_times_2)  # dg/dx = x h, dg/dy = y h
        xy = x * y
        p1x, p1y, p2x, p2y = p1 * x, p1 * y, p2 * x, p2 * y
        error_x = x * g + 2 * (p1x * y + p2x * x) + p2 * r2 - x_d
        error_y = y * g + 2 * (p1y * y + p2x * y) + p1 * r2 - y_d
        a = g + x * x * h + 2 * p1y + 6 * p2x
        b = xy * h + 2 * (p1x + p2y)
        d = g + y * y * h + 6 * p1y + 2 * p2x
        inv_det = 1 / (a * d - b * b)
        x = x - (d * error_x - b * error_y) * inv_det
        y = y - (a * error_y - b * error_x) * inv_det
    return torch.stack([x, y])


def rays(
    cameras: Cameras, view_index: Int[Tensor, " n"], pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """Origins and unit directions of the rays through pixel positions of views.

    `pixels` are positions, not indices: the centre of the first pixel is (0.5, 0.5). Not
    differentiable on the CPU.
    """
    if pixels.device.type == "cpu":
        origins = torch.zeros(len(pixels), 3)
        directions = torch.zeros(len(pixels), 3)
        bad = write_rays(
            cameras.camera_to_world.contiguous().numpy(),
            cameras.focal.contiguous().numpy(),
            cameras.center.contiguous().numpy(),
            cameras.distortion.contiguous().numpy(),
            cameras.is_distorted,
            view_index.contiguous().numpy(),
            pixels.contiguous().numpy(),
            origins.numpy(),
            directions.numpy(),
        )
        if bad >= 0:
            raise IndexError(f"view_index={int(view_index[bad])} of {len(cameras)} cameras")
        return origins, directions
    return rays_in_torch(cameras, view_index, pixels)


def rays_in_torch(
    cameras: Cameras, view_index: Int[Tensor, " n"], pixels: Float[Tensor, "n 2"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n 3"]]:
    """What `rays` returns, in plain PyTorch: on other devices, and as the kernel's reference."""
    plane = (pixels - cameras.center[view_index]) / cameras.focal[view_index]
    if cameras.is_distorted:
        plane = undistort(plane.T, cameras.distortion[view_index].T).T
    matrix = cameras.camera_to_world[view_index]
    x, y = plane[:, :1], plane[:, 1:]
    directions = matrix[:, :, 0] * x - matrix[:, :, 1] * y - matrix[:, :, 2]
    return matrix[:, :, 3], torch.nn.functional.normalize(directions, dim=1)


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
    """Pixel positions and depths of world points in a view: the inverse of `rays`.

    Depth is the distance from the camera centre, t of the ray, negative for points behind the
    camera; their pixels mean nothing.
    """
    matrix = cameras.camera_to_world[view]
    local = (points - matrix[:, 3]) @ matrix[:, :3]
    forward = -local[:, 2]
    plane = torch.stack([local[:, 0], -local[:, 1]]) / forward
    if cameras.is_distorted:
        plane = distort(plane, cameras.distortion[view, :, None].expand(4, len(points)))
    pixels = plane.T * cameras.focal[view] + cameras.center[view]
    return pixels, local.norm(dim=1).copysign(forward)

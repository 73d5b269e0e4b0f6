"""Surface normals from a depth map."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.render.cameras import Cameras, view_rays


def normals_from_depth(
    cameras: Cameras, view: int, depth: Float[Tensor, "h w"]
) -> Float[Tensor, "h w 3"]:
    """Unit normals, in the camera's axes and towards it, of the surface that a depth map describes.

    The cross product of central differences of the points o + t d (one-sided at the border). Exact
    for planes; wrong within a pixel of an edge of the surface. Not finite depths give zero.
    """
    width, height = cameras.size(view)
    cameras = replace(cameras, homography=None)  # depth is the distance before it
    origins, directions = view_rays(cameras, view)
    rotation = cameras.camera_to_world[view, :, :3]
    t = torch.where(depth.isfinite(), depth, torch.zeros_like(depth)).reshape(-1, 1)
    points = ((origins - cameras.camera_to_world[view, :, 3] + t * directions) @ rotation).view(
        height, width, 3
    )
    # Camera axes: x right, y up; columns go right, rows go down.
    right = torch.gradient(points, dim=1)[0] if width > 1 else torch.zeros_like(points)
    down = torch.gradient(points, dim=0)[0] if height > 1 else torch.zeros_like(points)
    normals = torch.nn.functional.normalize(torch.linalg.cross(down, right), dim=2, eps=1e-12)
    towards = (normals * points).sum(dim=2, keepdim=True) <= 0
    normals = torch.where(towards, normals, -normals)
    return torch.where(depth.isfinite()[:, :, None], normals, torch.zeros_like(normals))

"""Cameras that frame a surface: a ring around it, as near as shows all of it at every angle."""

import math
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nfields.render.cameras import Cameras
from nfields.render.paths import orbit

Up = Literal["x", "y", "z", "-x", "-y", "-z"]
_AZIMUTHS = 24  # at which the distance is measured; between them, the margin is enough


def turntable(
    points: Float[Tensor, "n 3"],
    num_frames: int,
    *,
    width: int,
    height: int,
    up: Up,
    azimuth_deg: float | int,
    elevation_deg: float | int,
    fov_deg: float | int,
    margin: float | int,
) -> Cameras:
    """A full circle of cameras that look at the middle of the points; one frame: one camera.

    All points are in every picture (of one frame: in that), `margin` of its smaller side from its
    edges; the vertical field of view is `fov_deg`. Azimuth 0 looks from +z where y is up, from +x
    where z is, from +y where x is; it grows counter-clockwise seen from above.
    """
    axis = "xyz".index(up[-1])
    sign = -1.0 if up.startswith("-") else 1.0
    vertical = sign * np.eye(3)[axis]
    front = np.eye(3)[(axis + 1) % 3]
    angle = math.radians(azimuth_deg)
    side = np.cross(vertical, front)
    start = math.cos(angle) * front + math.sin(angle) * side
    low, high = points.double().amin(dim=0), points.double().amax(dim=0)
    middle = ((low + high) / 2).numpy()
    right = np.cross(vertical, start)
    focal = 0.5 * height / math.tan(math.radians(fov_deg) / 2)
    pose = np.stack([right, vertical, start, middle + start], axis=1)
    camera = Cameras(
        camera_to_world=torch.from_numpy(pose[None]).float(),
        focal=torch.full((1, 2), focal),
        center=torch.tensor([[width / 2, height / 2]]),
        distortion=torch.zeros(1, 4),
        sizes=torch.tensor([[width, height]]),
    )
    num_angles = 1 if num_frames == 1 else _AZIMUTHS
    around = orbit(
        camera, num_angles, center=middle.tolist(), radius=1.0, elevation_deg=float(elevation_deg)
    )
    usable = torch.tensor([width, height]) / 2 - margin * min(width, height)
    slope = (usable / focal).double()  # of the pyramid that the points must be in
    radius = 0.0
    centered = points.double() - torch.from_numpy(middle)
    for pose in around.camera_to_world[:, :, :3].double():
        local = centered @ pose  # z towards the camera
        reach = (local[:, :2].abs() / slope).amax(dim=1) + local[:, 2]
        radius = max(radius, float(reach.max()))
    return orbit(
        camera,
        num_frames,
        center=middle.tolist(),
        radius=max(radius, 1e-6),
        elevation_deg=float(elevation_deg),
    )

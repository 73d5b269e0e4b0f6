import math

import pytest
import torch

from nfields.render.cameras import Cameras, view_rays
from nfields.render.normal import normals_from_depth
from nfields.render.paths import orbit


def camera(width: int, height: int, focal: float) -> Cameras:
    pose = torch.tensor([[[1.0, 0, 0, 0.3], [0, 1, 0, -0.2], [0, 0, 1, 3]]])
    start = Cameras(
        camera_to_world=pose,
        focal=torch.full((1, 2), focal),
        center=torch.tensor([[width / 2, height / 2]]),
        distortion=torch.zeros(1, 4),
        sizes=torch.tensor([[width, height]]),
    )
    return orbit(start, 5, center=(0.0, 0.0, 0.0), radius=3.0, elevation_deg=20.0)


@pytest.mark.parametrize("size", [(24, 20), (2, 2)])
def test_normals_of_a_plane_are_its_own(size):
    """Also at the border, and whatever the camera."""
    cameras = camera(*size, focal=30.0)
    normal = torch.nn.functional.normalize(torch.tensor([0.2, 0.3, 1.0]), dim=0)
    num_seen = 0
    for view in range(len(cameras)):
        origins, directions = view_rays(cameras, view)
        t = ((-2 * normal - origins) @ normal) / (directions @ normal)
        if (t <= 0).any():
            continue  # this camera does not see the plane everywhere
        num_seen += 1
        got = normals_from_depth(cameras, view, t.view(size[1], size[0]))
        in_camera = normal @ cameras.camera_to_world[view, :, :3]
        towards = -in_camera if (origins[0] + 2 * normal) @ normal < 0 else in_camera
        torch.testing.assert_close(got, towards.expand_as(got), atol=2e-3, rtol=0)
    assert num_seen >= 2


def test_normals_of_a_sphere_point_from_its_centre():
    cameras = camera(120, 120, focal=150.0)
    origins, directions = view_rays(cameras, 1)
    b = (origins * directions).sum(1)
    t = -b - (b * b - (origins * origins).sum(1) + 1).clamp_min(0).sqrt()
    hit = b * b - (origins * origins).sum(1) + 1 > 0.2  # away from the silhouette
    depth = torch.where(hit, t, torch.full_like(t, math.inf)).view(120, 120)
    got = normals_from_depth(cameras, 1, depth).view(-1, 3)
    expected = (origins + t[:, None] * directions) @ cameras.camera_to_world[1, :, :3]
    inside = torch.nn.functional.max_pool2d((~hit).float().view(1, 1, 120, 120), 3, 1, 1).view(-1)
    error = (got - expected).norm(dim=1)[inside == 0]
    assert len(error) > 1000 and error.max() < 0.02
    assert not got[~hit].any()


def test_one_pixel_has_no_normal():
    assert not normals_from_depth(camera(1, 1, 3.0), 0, torch.ones(1, 1)).any()

"""Which points no camera sees: a ball in closed form, and what cannot be told."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nfields.render.cameras import Cameras, view_rays
from nfields.render.hidden import DepthViews
from nfields.render.paths import orbit

RADIUS = 0.5


def around(size: int = 64) -> Cameras:
    start = Cameras(
        camera_to_world=torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3]]]),
        focal=torch.full((1, 2), 1.5 * size),
        center=torch.tensor([[0.5 * size + 2, 0.5 * size - 3]]),
        distortion=torch.zeros(1, 4),
        sizes=torch.full((1, 2), size),
    )
    rings = [
        orbit(start, 8, center=(0.0, 0.0, 0.0), radius=3.0, elevation_deg=elevation)
        for elevation in (-60.0, 0.0, 60.0)
    ]
    return Cameras(
        *(
            torch.cat([getattr(ring, name) for ring in rings])
            for name in ("camera_to_world", "focal", "center", "distortion", "sizes")
        )
    )


def depths(cameras: Cameras) -> list[Tensor]:
    """Of a ball around the origin."""
    found = []
    for view in range(len(cameras)):
        origins, directions = view_rays(cameras, view)
        middle = -(origins * directions).sum(dim=1)
        inside = RADIUS**2 - (origins.square().sum(dim=1) - middle.square())
        depth = torch.where(inside > 0, middle - inside.clamp(min=0).sqrt(), torch.inf)
        width, height = cameras.size(view)
        found.append(depth.view(height, width))
    return found


def test_what_is_inside_a_ball_is_hidden_and_what_is_outside_is_not() -> None:
    cameras = around()
    views = DepthViews(cameras, depths(cameras))
    directions = normalize(torch.randn(2000, 3), dim=1)
    assert views.hidden(0.8 * RADIUS * directions, 0.02).all()
    assert not views.hidden(1.02 * RADIUS * directions, 0.02).any()
    assert not views.hidden(0.98 * RADIUS * directions, 0.02).any()  # within the margin
    assert views.hidden(torch.zeros(1, 3), 0.02).tolist() == [True]


def test_what_is_in_no_picture_counts_as_seen() -> None:
    cameras = around()[:1]
    views = DepthViews(cameras, depths(cameras))
    place = cameras.camera_to_world[0, :, 3]
    right = cameras.camera_to_world[0, :, 0]
    behind, beside = 1.5 * place, 3 * right
    assert not views.hidden(torch.stack([behind, beside]), 0.02).any()
    assert views.hidden(-place[None], 0.02).all()  # in the picture, behind the ball


def test_one_view_that_sees_a_point_is_enough() -> None:
    cameras = around()
    found = depths(cameras)
    found[5] = torch.full_like(found[5], torch.inf)  # looks through
    views = DepthViews(cameras, found)
    assert not views.hidden(0.1 * torch.randn(100, 3), 0.02).any()

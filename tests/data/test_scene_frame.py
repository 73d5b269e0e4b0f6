"""Our frame: it moves with the capture, holds the points, and keeps what was given."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nfields.data.camera_file import View
from nfields.data.image_reader import ImageHeader
from nfields.data.posed_images import SceneTransform
from nfields.data.scene_frame import SceneFrame, fit_frame
from nfields.errors import DataError
from tests.data.capture_folder import FOCAL, HEIGHT, WIDTH, Capture, around, in_front


def views_of(capture: Capture) -> list[View]:
    header = ImageHeader(Path("photo.png"), WIDTH, HEIGHT, False, ())
    middle = (WIDTH / 2, HEIGHT / 2)
    return [
        View(str(i), header, pose, (FOCAL, FOCAL), middle, (0.0,) * 4)
        for i, pose in enumerate(capture.poses)
    ]


def fit(capture: Capture, frame: str = "auto", points: bool = True, **given: float) -> SceneFrame:
    observed = [capture.points[track] for track in capture.tracks] if points else None
    options = {"aabb_scale": None, "scene_scale": None, "near": None, **given}
    return fit_frame(views_of(capture), observed, frame=frame, **options)  # pyright: ignore[reportArgumentType]


def moved(capture: Capture, scale: float) -> Capture:
    """The same capture in a frame that is turned, moved and scaled."""
    rotation = Rotation.from_rotvec([0.4, -1.2, 2.0]).as_matrix()
    shift = np.array([30.0, -20.0, 7.0])
    poses = rotation @ capture.poses
    poses[:, :, 3] = scale * poses[:, :, 3] + shift
    return replace(capture, poses=poses, points=scale * capture.points @ rotation.T + shift)


def ours(frame: SceneFrame, points: np.ndarray) -> torch.Tensor:
    return frame.transform.to_ours(torch.from_numpy(points))


def test_box_holds_the_points_and_z_is_up() -> None:
    capture = around()
    for what in (capture, moved(capture, 1.0)):
        frame = fit(what)
        found = ours(frame, what.points)
        inside = (found.abs() <= frame.aabb_scale).all(dim=1)
        assert float(inside.double().mean()) > 0.98
        assert float(found.abs().max()) > 0.7 * frame.aabb_scale
        up = ours(frame, what.poses[:, :, 3])[:, 2]
        assert float(up.min()) > 0  # the ring is above the cloud
        assert float(up.max() - up.min()) < 1e-4
        assert frame.transform.homography is None


@pytest.mark.parametrize("kind", ["around", "in_front"])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_size_of_the_users_units_does_not_matter(kind: str, scale: float) -> None:
    capture = around() if kind == "around" else in_front()
    first, second = fit(capture), fit(moved(capture, scale))
    assert first.aabb_scale == second.aabb_scale
    assert first.near == pytest.approx(second.near, rel=0.02)
    a, b = ours(first, capture.points), ours(second, moved(capture, scale).points)
    # The turn around the vertical is open, and looked for in whole degrees; heights and distances
    # from it are not open.
    if kind == "around":
        a, b = (torch.stack([p[:, :2].norm(dim=1), p[:, 2]], dim=1) for p in (a, b))
    assert (a - b).abs().max() < 0.02


def test_rays_start_before_the_nearest_point() -> None:
    capture = around()
    frame = fit(capture)
    places, points = ours(frame, capture.poses[:, :, 3]), ours(frame, capture.points)
    nearest = torch.cdist(places, points).min()
    assert 0.5 * nearest < frame.near < nearest


def test_forward_facing_scene_fills_the_cube() -> None:
    capture = in_front()
    frame = fit(capture)
    assert frame.transform.homography is not None
    assert (frame.aabb_scale, frame.near) == (1, 0.0)
    found = ours(frame, capture.points)
    assert float(found.abs().max()) <= 1.0
    # Depth runs as 1 / distance: points uniform in it are uniform in ours.
    assert float(found[:, 2].min()) < -0.55
    inverse = -1 / torch.from_numpy(capture.points)[:, 2]
    assert float(torch.corrcoef(torch.stack([inverse, found[:, 2]]))[0, 1]) < -0.999


def test_box_is_turned_to_fit_a_room() -> None:
    """A square room at 30 degrees to the axes needs no larger box than one along them."""
    random = np.random.default_rng(3)
    room = random.uniform(-1, 1, (3000, 3)) * [1, 1, 0.2]
    turn = Rotation.from_rotvec([0, 0, math.radians(30)]).as_matrix()
    capture = around()
    sizes = []
    for points in (room, room @ turn.T):
        tracks = [np.arange(3000)] * 6
        frame = fit(replace(capture, points=points + [1, 2, 3], tracks=tracks))
        sizes.append(frame.aabb_scale / frame.transform.scale)
    assert sizes == pytest.approx([1.1, 1.1], rel=0.02)


def test_captures_that_turn_or_spread_get_a_box() -> None:
    assert fit(around()).transform.homography is None
    wide = in_front()
    wide.poses[:, :2, 3] *= 30
    assert fit(wide).transform.homography is None
    assert fit(in_front(), frame="box").transform.homography is None
    assert fit(in_front(), aabb_scale=4).transform.homography is None


def test_given_values_are_kept() -> None:
    frame = fit(around(), scene_scale=0.25, near=0.125)
    assert (frame.transform.scale, frame.near) == (0.25, 0.125)
    assert frame.aabb_scale == 1
    assert fit(around(), scene_scale=10.0).aabb_scale == 16  # 10 units each way, and a margin
    frame = fit(around(), aabb_scale=8)
    assert frame.aabb_scale == 8
    assert float(ours(frame, around().points).abs().max()) == pytest.approx(8 / 1.1, rel=0.05)


def test_frame_of_the_file_is_only_scaled() -> None:
    frame = fit(around(), frame="none")
    assert frame.transform == SceneTransform(1.0, (0.0, 0.0, 0.0))
    assert frame.aabb_scale == 8  # points reach to 4 in the file
    frame = fit(around(), frame="none", points=False)
    assert frame.transform.scale == 1.0


def test_cameras_alone_give_a_box() -> None:
    capture = around(distance=5.0)
    frame = fit(capture, points=False)
    assert frame.aabb_scale == 4
    assert ours(frame, np.array([[1.0, 2.0, 3.0]])).abs().max() < 1e-6
    assert frame.transform.scale == pytest.approx(4 / 7.5)
    with pytest.raises(DataError, match=r"data\.frame=ndc needs the distance"):
        fit(capture, frame="ndc", points=False)


def test_points_behind_the_cameras_have_no_device_coordinates() -> None:
    capture = in_front()
    with pytest.raises(DataError, match="behind the mean camera"):
        fit(replace(capture, points=-capture.points), frame="ndc")


def test_transform_undoes_itself_in_float64() -> None:
    for capture in (around(), in_front()):
        transform = fit(moved(capture, 3.0)).transform
        points = torch.from_numpy(moved(capture, 3.0).points)
        back = transform.to_user(transform.to_ours(points))
        assert (back - points).abs().max() < 1e-9
        assert math.isclose(np.linalg.det(np.array(transform.rotation)), 1.0, abs_tol=1e-9)

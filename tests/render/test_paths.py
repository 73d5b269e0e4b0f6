import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nfields.render import paths
from nfields.render.cameras import Cameras, project

CENTER = np.array([0.2, -0.1, 0.3])
NAMES = sorted(paths.PATHS)


def scene(
    num: int = 24, seed: int = 0, arc: float = 2 * math.pi, center: np.ndarray = CENTER
) -> Cameras:
    """Level cameras on a sphere of radius 2.5 around the centre, above the ground, within an
    arc.
    """
    generator = np.random.default_rng(seed)
    azimuth, height = generator.uniform(0, arc, num), generator.uniform(0.2, 0.8, num)
    flat = np.sqrt(1 - height**2)
    directions = np.stack([flat * np.cos(azimuth), flat * np.sin(azimuth), height], axis=1)
    origins = center + 2.5 * directions
    return cameras_at(origins, paths.look_at(origins, center, np.array([0.0, 0.0, 1.0])))


def forward_scene(num: int = 20) -> Cameras:
    """A phone moved in front of a wall: parallel axes along -z, offsets of some tenths."""
    origins = np.random.default_rng(3).uniform(-0.4, 0.4, (num, 3)) * [1.0, 0.6, 0.1] + [
        0.0,
        0.0,
        2.0,
    ]
    return cameras_at(origins, np.tile(np.eye(3), (num, 1, 1)))


def cameras_at(origins: np.ndarray, rotation: np.ndarray) -> Cameras:
    num = len(origins)
    return Cameras(
        camera_to_world=torch.from_numpy(
            np.concatenate([rotation, origins[:, :, None]], axis=2)
        ).float(),
        focal=torch.full((num, 2), 50.0),
        center=torch.tensor([20.0, 15.0]).expand(num, 2),
        distortion=torch.tensor([0.1, 0.0, 0.0, 0.0]).expand(num, 4),
        sizes=torch.tensor([40, 30]).expand(num, 2),
    )


def moved(cameras: Cameras, rotation: np.ndarray, offset: np.ndarray, scale: float) -> Cameras:
    pose = cameras.camera_to_world.double().numpy()
    turned = rotation @ pose
    turned[:, :, 3] = scale * turned[:, :, 3] + offset
    return cameras_at(turned[:, :, 3], turned[:, :, :3])


def about_y(*degrees: float) -> np.ndarray:
    return Rotation.from_rotvec([[0.0, math.radians(angle), 0.0] for angle in degrees]).as_matrix()


def origins_of(cameras: Cameras) -> np.ndarray:
    return cameras.camera_to_world[:, :, 3].double().numpy()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_frames", [1, 2, 7, 60])
def test_every_path_has_its_frames_with_orthonormal_rotations(name, num_frames):
    path = paths.make_path(name, scene(), num_frames, None, None)
    assert len(path) == num_frames
    rotation = path.camera_to_world[:, :, :3].double()
    identity = torch.eye(3, dtype=torch.float64).expand(num_frames, 3, 3)
    torch.testing.assert_close(rotation @ rotation.mT, identity, atol=2e-6, rtol=0)
    torch.testing.assert_close(
        torch.linalg.det(rotation), torch.ones(num_frames, dtype=torch.float64)
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("make", [scene, lambda: scene(arc=1.0, seed=4)])
def test_paths_move_with_the_scene(name, make):
    """Turning, scaling and shifting the scene does the same to its path."""
    rotation = Rotation.from_rotvec([0.4, -1.1, 2.0]).as_matrix()
    offset, scale = np.array([3.0, -2.0, 0.5]), 1.7
    expected = moved(paths.PATHS[name](make(), 33), rotation, offset, scale).camera_to_world
    got = paths.PATHS[name](moved(make(), rotation, offset, scale), 33).camera_to_world
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=0)


def test_focus_is_where_all_axes_meet():
    np.testing.assert_allclose(paths.focus_point(scene()), CENTER, atol=1e-6)


def test_focus_of_skewed_axes_is_the_nearest_point():
    """Two axes at right angles, one unit apart: the middle of their common normal."""
    rotation = np.stack([np.eye(3), Rotation.from_euler("y", 90, degrees=True).as_matrix()])
    cameras = cameras_at(np.array([[0.0, 1.0, 5.0], [5.0, 0.0, 0.0]]), rotation)
    np.testing.assert_allclose(paths.focus_point(cameras), [0, 0.5, 0], atol=1e-6)


def test_focus_of_parallel_or_outward_cameras_is_the_fallback():
    np.testing.assert_array_equal(paths.focus_point(forward_scene(), (1.0, 2.0, 3.0)), [1, 2, 3])
    inward = scene().camera_to_world.double().numpy()
    outward = cameras_at(inward[:, :, 3], inward[:, :, :3] * [-1, 1, -1])
    np.testing.assert_array_equal(paths.focus_point(outward, (1.0, 2.0, 3.0)), [1, 2, 3])


def test_up_of_level_cameras_is_vertical_even_if_all_look_down_from_one_side():
    cameras = scene(arc=1.0)
    np.testing.assert_allclose(paths.up_direction(cameras), [0, 0, 1], atol=1e-6)
    mean = cameras.camera_to_world[:, :, 1].mean(0)
    assert (
        mean[2] / mean.norm() < 0.95
    )  # what the plain mean would have given leans by 18 degrees or more


def test_up_of_cameras_that_look_the_same_way_is_their_own():
    np.testing.assert_allclose(paths.up_direction(forward_scene()), [0, 1, 0], atol=1e-6)


def test_orbit_looks_at_the_centre_from_one_distance_and_height():
    path = paths.orbit(scene(), 36)
    offset = origins_of(path) - CENTER
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), 2.5, atol=1e-5)
    assert np.ptp(offset[:, 2]) < 1e-5
    for view in range(len(path)):
        pixels, _ = project(path, view, torch.from_numpy(CENTER).float()[None])
        torch.testing.assert_close(pixels[0], path.center[view], atol=1e-3, rtol=0)


def test_orbit_closes_with_even_spacing():
    origins = origins_of(paths.orbit(scene(), 36))
    spacing = np.linalg.norm(
        np.roll(origins, -1, axis=0) - origins, axis=1
    )  # last to first included
    np.testing.assert_allclose(spacing, spacing[0], rtol=1e-5)
    angle = np.unwrap(np.arctan2(*(origins - CENTER).T[1::-1]))
    assert angle[-1] - angle[0] == pytest.approx(2 * math.pi * 35 / 36, abs=1e-5)


def test_orbit_starts_at_the_azimuth_of_the_first_camera():
    cameras = scene()
    first, start = origins_of(cameras)[0] - CENTER, origins_of(paths.orbit(cameras, 8))[0] - CENTER
    assert math.atan2(first[1], first[0]) == pytest.approx(math.atan2(start[1], start[0]), abs=1e-5)


def test_orbit_cameras_are_level_and_right_way_up():
    rotation = paths.orbit(scene(), 12).camera_to_world
    assert rotation[:, 2, 0].abs().max() < 1e-6 and rotation[:, 2, 1].min() > 0


def test_orbit_of_one_camera_straight_above_is_defined():
    cameras = cameras_at(np.array([[0.0, 0.0, 2.0]]), np.eye(3)[None])
    path = paths.orbit(cameras, 5)
    assert torch.isfinite(path.camera_to_world).all()


def test_orbit_takes_centre_radius_and_elevation():
    path = paths.orbit(scene(), 9, center=(1.0, 2.0, 3.0), radius=4.0, elevation_deg=30.0)
    offset = origins_of(path) - [1, 2, 3]
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), 4, atol=1e-5)
    np.testing.assert_allclose(offset[:, 2], 2, atol=1e-5)


@pytest.mark.parametrize("make", [lambda: scene(arc=0.7), forward_scene])
def test_spiral_stays_among_the_cameras_and_closes(make):
    cameras = make()
    path = paths.spiral(cameras, 40)
    low, high = origins_of(cameras).min(0), origins_of(cameras).max(0)
    assert (origins_of(path) > low - 1e-6).all() and (origins_of(path) < high + 1e-6).all()
    again = paths.spiral(cameras, 80).camera_to_world  # twice the frames: every second is the same
    torch.testing.assert_close(again[::2], path.camera_to_world, atol=1e-5, rtol=0)
    steps = np.linalg.norm(np.roll(origins_of(path), -1, axis=0) - origins_of(path), axis=1)
    assert steps[-1] <= steps.max()


def test_spiral_of_parallel_cameras_looks_at_one_point_in_front():
    path = paths.spiral(forward_scene(), 30)
    mean = origins_of(forward_scene()).mean(0)
    focus = paths.focus_point(path)
    np.testing.assert_allclose(
        focus, [mean[0], mean[1], 0.0], atol=1e-4
    )  # the depth of the box centre


def test_ride_passes_exactly_through_the_views():
    cameras = scene(9)
    origins, rotation = paths.ride(cameras, np.arange(9.0))
    np.testing.assert_allclose(origins, origins_of(cameras), atol=1e-12)
    np.testing.assert_allclose(
        rotation, cameras.camera_to_world[:, :, :3].double().numpy(), atol=1e-6
    )


def test_ride_has_no_jump_in_position_direction_or_rotation_at_a_view():
    cameras = scene(9)
    small = 1e-6
    for view in range(1, 8):
        origins, rotation = paths.ride(cameras, np.array([view - small, view, view + small]))
        before, after = np.diff(origins, axis=0)
        cosine = before @ after / np.linalg.norm(before) / np.linalg.norm(after)
        assert cosine > 1 - 1e-5 and np.abs(np.diff(rotation, axis=0)).max() < 1e-4


def test_ride_along_a_line_of_equal_steps_is_straight_and_even():
    origins = np.arange(5.0)[:, None] * [1.0, 2.0, -1.0]
    cameras = cameras_at(origins, np.tile(np.eye(3), (5, 1, 1)))
    t = np.linspace(0, 4, 41)
    np.testing.assert_allclose(paths.ride(cameras, t)[0], t[:, None] * [1.0, 2.0, -1.0], atol=1e-9)


def test_ride_survives_two_views_from_one_place():
    origins = np.array([[0.0, 0, 0], [1, 0, 0], [1, 0, 0], [2, 1, 0]])
    cameras = cameras_at(origins, about_y(0, 0, 40, 50))
    t = np.linspace(0, 3, 301)
    got, _ = paths.ride(cameras, t)
    assert np.isfinite(got).all() and np.abs(got[100:201] - [1, 0, 0]).max() < 0.01


def test_interpolate_moves_at_constant_speed_from_the_first_to_the_last_view():
    origins = np.array([[0.0, 0, 0], [1, 0.2, 0], [4, 0, 1], [4.5, 3, 0]])
    cameras = cameras_at(origins, np.tile(np.eye(3), (4, 1, 1)))
    path = origins_of(paths.interpolate(cameras, 200, num_views=4))
    steps = np.linalg.norm(np.diff(path, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.02)
    ends = {tuple(np.round(point, 4)) for point in path[[0, -1]]}
    assert ends == {(0, 0, 0), (4.5, 3, 0)}


def test_interpolate_of_turning_only_turns_evenly():
    cameras = cameras_at(np.zeros((4, 3)), about_y(0, 10, 40, 90))
    path = paths.interpolate(cameras, 46, num_views=4)
    turned = Rotation.from_matrix(path.camera_to_world[:, :, :3].double().numpy())
    steps = np.rad2deg((turned[:-1].inv() * turned[1:]).magnitude())
    # Views in one place have no travelling order; whatever it is, the speed is even.
    np.testing.assert_allclose(steps[1:-1], steps.mean(), rtol=0.2)


def test_interpolate_visits_all_views_when_there_are_frames_enough():
    cameras = scene(6)
    path = origins_of(paths.interpolate(cameras, 600))
    nearest = np.linalg.norm(path[:, None] - origins_of(cameras)[None], axis=2).min(0)
    assert nearest.max() < 0.02


def test_only_a_circle_around_a_scene_seen_from_one_side_strays():
    around, one_side = scene(), scene(arc=1.0)
    assert not any(paths.strays(paths.PATHS[name](around, 30), around) for name in NAMES)
    strays = {name: paths.strays(paths.PATHS[name](one_side, 30), one_side) for name in NAMES}
    assert strays == {"orbit": True, "spiral": False, "interpolate": False}


def test_size_of_the_pictures_keeps_the_vertical_field_of_view():
    path = paths.make_path("orbit", scene(), 3, 100, 60)
    assert path.size(0) == (100, 60)
    torch.testing.assert_close(path.focal, torch.full((3, 2), 100.0))  # 50 * 60 / 30
    torch.testing.assert_close(path.center[0], torch.tensor([50.0, 30.0]))
    assert not path.is_distorted
    assert paths.make_path("orbit", scene(), 3, 80, None).size(0) == (80, 60)
    assert paths.make_path("orbit", scene(), 3, None, 15).size(0) == (20, 15)


@pytest.mark.parametrize(
    ("name", "num_frames", "width", "height", "message"),
    [
        (
            "circle",
            3,
            None,
            None,
            "path=circle is not known; use one of: orbit, spiral, interpolate",
        ),
        ("orbit", 0, None, None, "num_frames=0 must be at least 1"),
        ("orbit", 3, 0, None, "width=0 must be at least 1 pixel"),
        ("orbit", 3, None, -4, "height=-4 must be at least 1 pixel"),
    ],
)
def test_wrong_options_are_refused(name, num_frames, width, height, message):
    with pytest.raises(ValueError, match=message):
        paths.make_path(name, scene(), num_frames, width, height)


def test_paths_without_cameras_are_refused():
    for name in NAMES:
        with pytest.raises(ValueError, match=r"needs (the cameras|two views)"):
            paths.PATHS[name](scene()[:0], 4)
    with pytest.raises(ValueError, match="needs two views"):
        paths.interpolate(scene()[:1], 4)

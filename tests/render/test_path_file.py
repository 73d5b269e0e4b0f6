"""Camera path files: exact at keyframes, smooth between; three kinds read; damage is named."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nfields.data.posed_images import SceneTransform
from nfields.errors import DataError
from nfields.render.cameras import view_rays
from nfields.render.path_file import CameraPath, Keyframe, pinhole_cameras, read_path, write_path
from tests.compare import assert_matches


def keyframes(count: int = 5, spacing: float = 1.5) -> list[Keyframe]:
    random = np.random.default_rng(3)
    frames = []
    for i in range(count):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("yx", [25 * i, 10 * i], degrees=True).as_matrix()
        pose[:3, 3] = random.normal(size=3)
        frames.append(Keyframe(pose, 40.0 + 5 * (i % 2), spacing * i + 0.2 * (i == 2)))
    return frames


def test_written_paths_are_read_back_exactly(tmp_path: Path) -> None:
    made = keyframes()
    write_path(tmp_path / "a.json", made, loop_seconds=2.0)
    path = read_path(tmp_path / "a.json")
    assert path.loop_seconds == 2.0 and path.seconds == made[-1].seconds + 2.0
    for frame, found in zip(made, path.keyframes, strict=True):
        assert np.abs(frame.camera_to_world - found.camera_to_world).max() < 1e-14
        assert (frame.fov_deg, frame.seconds) == (found.fov_deg, found.seconds)


@pytest.mark.parametrize("loop", [None, 2.0])
def test_a_path_goes_through_its_keyframes_and_is_smooth_there(loop: float | None) -> None:
    path = CameraPath(tuple(keyframes()), loop)
    times = np.array([frame.seconds for frame in path.keyframes])
    pose, fov = path.at(times)
    wanted = np.stack([frame.camera_to_world for frame in path.keyframes])
    assert np.abs(pose - wanted).max() < 1e-9
    assert np.abs(fov - [frame.fov_deg for frame in path.keyframes]).max() < 1e-9
    h = 1e-4
    inner = times if loop is not None else times[1:-1]
    inner = np.where(inner == 0, path.seconds, inner) if loop is not None else inner
    before, here, after = (
        path.at(np.mod(t, path.seconds))[0] for t in (inner - h, inner, inner + h)
    )
    assert np.abs((after - here) - (here - before)).max() < 1e-5  # a kink would be of order h


def test_straight_motion_at_constant_speed_stays_that() -> None:
    frames = []
    for t in (0.0, 1.0, 3.0, 4.0):
        pose = np.eye(4)
        pose[:3, :3] = Rotation.from_euler("y", 20 * t, degrees=True).as_matrix()
        pose[:3, 3] = (t, 2 * t, -t)
        frames.append(Keyframe(pose, 50.0, t))
    path = CameraPath(tuple(frames))
    t = np.linspace(0, 4, 9)
    pose, _ = path.at(t)
    assert np.abs(pose[:, :3, 3] - t[:, None] * [1, 2, -1]).max() < 1e-9
    wanted = Rotation.from_rotvec(np.radians(20 * t)[:, None] * [0, 1, 0]).as_matrix()
    assert np.abs(pose[:, :3, :3] - wanted).max() < 1e-6


def test_parabolas_are_reproduced_between_inner_keyframes() -> None:
    frames = []
    for t in (0.0, 1.0, 3.0, 4.0, 4.5):
        pose = np.eye(4)
        pose[:3, 3] = (t * t, 1 - t * t, t)
        frames.append(Keyframe(pose, 50.0, t))
    t = np.linspace(1, 4, 13)
    pose, _ = CameraPath(tuple(frames)).at(t)
    assert np.abs(pose[:, :3, 3] - np.stack([t * t, 1 - t * t, t], axis=1)).max() < 1e-9


def test_frames_of_a_loop_do_not_repeat_the_first() -> None:
    path = CameraPath(tuple(keyframes()), 2.0)
    times = path.frame_times(10)
    assert times[0] == 0 and times[-1] == pytest.approx(0.9 * path.seconds)
    open_path = CameraPath(tuple(keyframes()))
    assert open_path.frame_times(10)[-1] == open_path.seconds


def test_field_of_view_is_the_vertical_one() -> None:
    cameras = pinhole_cameras(np.eye(4)[None], np.array([60.0]), 400, 201)
    _, directions = view_rays(cameras, 0)
    top = directions.view(201, 400, 3)[:, 200, :]
    angle = math.degrees(math.acos(float(top[0] @ top[-1])))
    assert angle == pytest.approx(60 * 200 / 201, rel=2e-3)  # between the middles of pixels


def test_nerfstudio_frames_are_taken_back_by_its_dataparser_transforms(tmp_path: Path) -> None:
    made = keyframes(3)
    turn = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    shift, scale = np.array([0.3, -0.2, 0.1]), 0.4
    frames = []
    for frame in made:
        pose = frame.camera_to_world.copy()
        pose[:3, 3] = scale * (turn @ pose[:3, 3] + shift)
        pose[:3, :3] = turn @ pose[:3, :3]
        frames.append({"camera_to_world": pose.ravel().tolist(), "fov": frame.fov_deg, "aspect": 1})
    content = {"camera_type": "perspective", "camera_path": frames, "fps": 2, "keyframes": []}
    (tmp_path / "p.json").write_text(json.dumps(content))
    plain = read_path(tmp_path / "p.json")
    assert [frame.seconds for frame in plain.keyframes] == [0.0, 0.5, 1.0]
    transform = np.concatenate([turn, shift[:, None]], axis=1).tolist()
    (tmp_path / "dataparser_transforms.json").write_text(
        json.dumps({"transform": transform, "scale": scale})
    )
    for frame, found in zip(made, read_path(tmp_path / "p.json").keyframes, strict=True):
        assert np.abs(frame.camera_to_world - found.camera_to_world).max() < 1e-12


def test_instant_ngp_keyframes_come_from_its_unit_cube(tmp_path: Path) -> None:
    """Forward as instant-ngp's loader: columns y, z negated, 0.33 p + 0.5, rows y z x."""
    entries = []
    for frame in keyframes(3):
        pose = frame.camera_to_world.copy()
        pose[:, 1:3] *= -1
        pose[:3, 3] = 0.33 * pose[:3, 3] + 0.5
        pose = pose[[1, 2, 0, 3]]
        quaternion = Rotation.from_matrix(pose[:3, :3]).as_quat().tolist()
        entries.append({"R": quaternion, "T": pose[:3, 3].tolist(), "fov": frame.fov_deg})
    content: dict[str, Any] = {"path": entries, "duration_seconds": 4.0, "loop": True}
    (tmp_path / "p.json").write_text(json.dumps(content))
    path = read_path(tmp_path / "p.json")
    assert path.seconds == pytest.approx(4.0) and path.loop_seconds == pytest.approx(4 / 3)
    for frame, found in zip(keyframes(3), path.keyframes, strict=True):
        assert np.abs(frame.camera_to_world - found.camera_to_world).max() < 1e-12


def test_poses_go_to_our_frame_and_back() -> None:
    turn = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
    transform = SceneTransform(0.5, (0.1, 0.2, 0.3), turn)
    poses = np.stack([frame.camera_to_world for frame in keyframes()])
    ours = transform.poses_to_ours(poses)
    assert_matches(
        torch.from_numpy(ours[:, :3, 3]), transform.to_ours(torch.from_numpy(poses[:, :3, 3]))
    )
    assert np.abs(transform.poses_to_user(ours) - poses).max() < 1e-12
    assert np.abs(ours[0, :3, :3] - np.array(turn) @ poses[0, :3, :3]).max() < 1e-12


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as json"),
        ("[]", "is no camera path"),
        ({"keyframes": []}, "has 0 keyframes; a path needs two or more"),
        ({"keyframes": [{}]}, r"keyframes\[0\]: camera_to_world=None must be 16 finite numbers"),
        ("one", "has 1 keyframe; a path needs two or more"),
        ("twice", r"keyframe 1 is at 0 seconds, not after the one before"),
        ("scaled", r"keyframes\[0\]: .* is no rotation"),
        ("wide", r"fov_deg=180 must be a full angle within 0 and 180"),
        ({"camera_path": [], "camera_type": "fisheye"}, "camera_type='fisheye'"),
        ({"path": [{"R": [0, 0, 0, 0], "T": [0, 0, 0]}]}, "must be a quaternion"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: Any, message: str) -> None:
    pose = np.eye(4).tolist()
    frame = {"camera_to_world": pose, "fov_deg": 50, "seconds": 0}
    scaled = frame | {"camera_to_world": (2 * np.eye(4)).tolist()}
    named = {
        "one": {"keyframes": [frame]},
        "twice": {"keyframes": [frame, frame]},
        "scaled": {"keyframes": [scaled, frame]},
        "wide": {"keyframes": [frame | {"fov_deg": 180}, frame]},
    }
    if isinstance(content, str):
        content = named.get(content, content)
    text = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(DataError, match=message):
        read_path(tmp_path / "p.json")

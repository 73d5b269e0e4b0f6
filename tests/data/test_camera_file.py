"""Bad camera files get an error that names file, frame, key, what was found and a fix."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nfields.data.camera_file import find_image, read_json, read_pose, read_views
from nfields.errors import DataError
from tests.data.scene_folder import HEIGHT, POSE, WIDTH, frame, write_transforms


def views_of(folder: Path) -> tuple[list[Any], list[str]]:
    file = folder / "transforms.json"
    return read_views(file, read_json(file), allow_outside=False)


def changed_pose(row: int, column: int, value: Any) -> list[list[Any]]:
    pose: list[list[Any]] = [list(numbers) for numbers in POSE]
    pose[row][column] = value
    return pose


def test_views_carry_pose_and_intrinsics(tmp_path: Path) -> None:
    views, missing = views_of(write_transforms(tmp_path, fl_y=6.0, cx=2.5, k1=0.01))
    assert missing == []
    assert [view.name for view in views] == ["images/000.png", "images/001.png", "images/002.png"]
    assert views[0].focal == (5.0, 6.0)
    assert views[0].center == (2.5, HEIGHT / 2)
    assert views[0].distortion == (0.01, 0.0, 0.0, 0.0)
    assert np.array_equal(views[0].camera_to_world, np.array(POSE)[:3])


def test_intrinsics_of_a_frame_win(tmp_path: Path) -> None:
    frames = [frame(0, fl_x=7.0, cx=1.0, k1=0.02), frame(1, camera_angle_x=math.pi / 2)]
    views, _ = views_of(write_transforms(tmp_path, frames=frames, k1=0.01))
    assert views[0].focal == (7.0, 7.0)
    assert views[0].center[0] == 1.0
    assert views[0].distortion[0] == 0.02
    assert views[1].focal == pytest.approx((WIDTH / 2, WIDTH / 2))


def test_focal_length_wins_over_angle(tmp_path: Path) -> None:
    views, _ = views_of(write_transforms(tmp_path, camera_angle_x=1.0, camera_angle_y=2.0))
    assert views[0].focal[0] == 5.0


def test_pose_of_three_rows_is_the_pose_of_four() -> None:
    four, three = (read_pose({"transform_matrix": pose}, "x") for pose in (POSE, POSE[:3]))
    assert np.array_equal(four, three)


@given(st.lists(st.floats(-1, 1), min_size=4, max_size=4), st.floats(-4e-4, 4e-4))
@settings(max_examples=50, deadline=None)
def test_nearly_orthonormal_pose_becomes_orthonormal(numbers: list[float], error: float) -> None:
    quaternion = np.array(numbers) + np.array([2.0, 0, 0, 0])
    w, x, y, z = quaternion / np.linalg.norm(quaternion)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    pose = np.concatenate([rotation, np.array([[1.0], [2.0], [3.0]])], axis=1)
    pose[0, 0] += error
    found = read_pose({"transform_matrix": pose.tolist()}, "x")
    np.testing.assert_allclose(found[:, :3] @ found[:, :3].T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(found[:, :3], rotation, atol=2 * abs(error) + 1e-12)


@pytest.mark.parametrize(
    ("pose", "words"),
    [
        (None, ["has no transform_matrix"]),
        ([[1, 0], [0, 1]], ["must be 4 (or 3) rows of 4 numbers"]),
        ("identity", ["must be 4 (or 3) rows of 4 numbers"]),
        ([[1, 0, 0, 0], [0, 1, 0]], ["must be 4 (or 3) rows of 4 numbers"]),
        (changed_pose(1, 3, math.nan), ["transform_matrix[1][3]=nan", "must be finite"]),
        (changed_pose(0, 0, math.inf), ["transform_matrix[0][0]=inf", "must be finite"]),
        (changed_pose(0, 0, 1.1), ["no rotation", "0.21", "allowed is 0.001"]),
        (changed_pose(0, 0, 1e300), ["no rotation"]),
        (changed_pose(0, 0, -1.0), ["mirrors", "right-handed"]),
        (changed_pose(3, 0, 2.0), ["last row", "transposed"]),
    ],
)
def test_bad_pose_is_refused(tmp_path: Path, pose: Any, words: list[str]) -> None:
    frames = [frame(0), frame(1, transform_matrix=pose)]
    with pytest.raises(DataError) as caught:
        views_of(write_transforms(tmp_path, frames=frames))
    message = str(caught.value)
    for word in ["transforms.json: frames[1] (images/001.png)", *words]:
        assert word in message


@pytest.mark.parametrize(
    ("meta", "words"),
    [
        ({"fl_x": 0.0}, ["fl_x=0.0", "finite number > 0"]),
        ({"fl_x": -5}, ["fl_x=-5", "finite number > 0"]),
        ({"fl_y": math.nan}, ["fl_y=nan", "finite number > 0"]),
        ({"fl_x": "5"}, ["fl_x='5'"]),
        ({"fl_x": True}, ["fl_x=True"]),
        ({"fl_x": None}, ["no focal length", "camera_angle_x"]),
        ({"fl_x": None, "camera_angle_x": 39.6}, ["camera_angle_x=39.6", "radians"]),
        ({"cx": math.inf}, ["cx=inf"]),
        ({"w": 12, "h": 8}, ["w=12", "000.png", f"{WIDTH} x {HEIGHT}", "data.downscale"]),
        ({"w": 0}, ["w=0"]),
        ({"k1": []}, ["k1=[]"]),
        ({"k3": 0.1}, ["k3=0.1", "Undistort"]),
        ({"camera_model": "FTHETA"}, ["camera_model='FTHETA'", "Undistort"]),
        ({"is_fisheye": 1}, ["is_fisheye=1", "true or false"]),
        ({"equirectangular": True}, ["equal-area", "latlong"]),
    ],
)
def test_bad_intrinsics_are_refused(tmp_path: Path, meta: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        views_of(write_transforms(tmp_path, **meta))
    for word in ["transforms.json", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"frames": [', ["not valid json", "line 1", "cut off"]),
        ("", ["not valid json"]),
        ("[]", ["json list", "'frames'"]),
        ("{}", ["no key 'frames'"]),
        ('{"frames": []}', ["frames=[]"]),
        ('{"frames": {}}', ["frames={}"]),
        ('{"frames": [3]}', ["frames[0]=3", "object"]),
        ('{"frames": [{}]}', ["frames[0].file_path=None"]),
        ('{"frames": [{"file_path": 3}]}', ["frames[0].file_path=3"]),
        ("\xff\xfe{", ["cannot be read as json text"]),
        ("[" * 100_000, ["cannot be read as json text"]),
    ],
)
def test_broken_json_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    (tmp_path / "transforms.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        views_of(tmp_path)
    for word in ["transforms.json", *words]:
        assert word in str(caught.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    values=st.dictionaries(
        st.sampled_from(["fl_x", "fl_y", "cx", "cy", "w", "h", "k1", "k3", "camera_angle_x",
                         "camera_model", "is_fisheye", "transform_matrix", "file_path"]),
        json_values,
    )
)  # fmt: skip
@settings(max_examples=150, deadline=None)
@pytest.mark.slow
def test_any_frame_reads_or_gives_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp() / "any_frame"
    if not folder.exists():
        write_transforms(folder, num=1)
    meta = {"fl_x": 5.0, "frames": [{**frame(0), **values}]}
    file = folder / "transforms.json"
    file.write_text(json.dumps(meta), encoding="utf-8")
    try:
        views, _ = views_of(folder)
    except DataError as error:
        assert "transforms.json" in str(error)
    else:
        assert np.isfinite(views[0].camera_to_world).all()
        assert min(views[0].focal) > 0


def test_missing_pictures_are_counted(tmp_path: Path) -> None:
    frames = [frame(7), frame(0), frame(8)]
    views, missing = views_of(write_transforms(tmp_path, frames=frames))
    assert [view.name for view in views] == ["images/000.png"]
    assert missing == ["images/007.png", "images/008.png"]


def test_no_picture_left_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none of its 2 frames has an image file.*007\.png"):
        views_of(write_transforms(tmp_path, frames=[frame(7), frame(8)]))


@pytest.mark.parametrize("name", ["images/000", "./images/000.png", "images\\000.png",
                                  "images/../images/000"])  # fmt: skip
def test_ways_to_name_a_picture(tmp_path: Path, name: str) -> None:
    folder = write_transforms(tmp_path)
    assert find_image(folder, name, False, "x") == folder / "images" / "000.png"


@pytest.mark.parametrize("name", ["../a.png", "images/../../a", "..\\a.png", "/etc/passwd"])
def test_path_that_leaves_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = write_transforms(tmp_path / "inside")
    with pytest.raises(DataError, match=r"frames\[0\].*leaves the data folder.*allow_outside=true"):
        find_image(folder, name, False, "transforms.json: frames[0]")


def test_path_that_leaves_the_folder_is_taken_if_allowed(tmp_path: Path) -> None:
    write_transforms(tmp_path / "other")
    folder = write_transforms(tmp_path / "inside")
    expected = tmp_path / "other" / "images" / "000.png"
    assert find_image(folder, "../other/images/000.png", True, "x") == expected
    assert find_image(folder, str(expected), True, "x") == expected


def test_absolute_path_into_the_folder_is_inside(tmp_path: Path) -> None:
    folder = write_transforms(tmp_path)
    path = folder / "images" / "000.png"
    assert find_image(folder, str(path), False, "x") == path


def test_dots_do_not_follow_links(tmp_path: Path) -> None:
    """link/../secret.png is secret.png beside the link, not beside its target."""
    folder = write_transforms(tmp_path / "inside")
    target = write_transforms(tmp_path / "outside" / "deep")
    (folder / "link").symlink_to(target / "images")
    (target / "secret.png").write_bytes(b"")
    assert find_image(folder, "link/../secret.png", False, "x") is None

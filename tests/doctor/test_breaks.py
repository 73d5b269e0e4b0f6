"""Real scenes, broken in every way that doctor knows: the break is named, and nothing else is."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from nfields.doctor.examination import Examination, examine
from nfields.doctor.look import alpha_of
from tests.doctor.healthy import Edit, Healthy, look

pytestmark = pytest.mark.slow

SCENES = ("chair", "fox")


@pytest.fixture(params=SCENES)
def scene(request: pytest.FixtureRequest) -> Healthy:
    return request.getfixturevalue(request.param)


def codes(found: Examination) -> list[str]:
    return [finding.code for finding in found.findings]


def poses(change: Any) -> Edit:
    """An edit of every matrix."""

    def edit(meta: dict[str, Any]) -> None:
        for frame in meta["frames"]:
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"])).tolist()

    return edit


def test_healthy_scenes_have_no_finding(scene: Healthy, tmp_path: Path) -> None:
    found = scene.examine(scene.folder)
    assert codes(found) == []
    assert found.remedy.is_empty
    assert found.score > 0.6


def turned(*columns: tuple[int, ...]) -> Any:
    """A change of the camera axes by a signed permutation."""
    return lambda matrix: (
        matrix
        @ np.block(
            [
                [np.array(columns, dtype=float).T, np.zeros((3, 1))],
                [np.zeros((1, 3)), np.ones((1, 1))],
            ]
        )
    )


OPENCV = turned((1, 0, 0), (0, -1, 0), (0, 0, -1))
BACKWARDS = turned((-1, 0, 0), (0, 1, 0), (0, 0, -1))
LYING = turned((0, -1, 0), (1, 0, 0), (0, 0, 1))


def mirrored(matrix: np.ndarray) -> np.ndarray:
    return np.concatenate([matrix[:, :3], matrix[:, 3:] * [[-1], [-1], [-1], [1]]], axis=1)


@pytest.mark.parametrize(
    ("name", "code", "change"),
    [
        ("chair", "camera_axes", OPENCV),
        ("fox", "camera_axes", OPENCV),
        ("chair", "cameras_look_outwards", BACKWARDS),
        ("fox", "cameras_look_outwards", mirrored),
        ("chair", "world_to_camera", np.linalg.inv),
        ("fox", "world_to_camera", lambda matrix: np.linalg.inv(OPENCV(matrix))),
        ("chair", "camera_axes", LYING),
    ],
)
def test_wrong_poses_are_named_and_mended(
    name: str, code: str, change: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene: Healthy = request.getfixturevalue(name)
    found = scene.examine(scene.variant(scene.folder.parent / tmp_path.name, poses(change)))
    assert codes(found) == [code]
    assert found.findings[0].severity == "error"
    mended = found.remedy.poses(found.evidence.patient)
    np.testing.assert_allclose(mended, scene.patient.poses, atol=1e-5)


def longer(meta: dict[str, Any], factor: float) -> None:
    """Multiplies the focal lengths."""
    if "fl_x" in meta:
        meta["fl_x"] *= factor
        meta["fl_y"] *= factor
    else:
        angle = 0.5 * meta["camera_angle_x"]
        meta["camera_angle_x"] = 2 * np.arctan(np.tan(angle) / factor)


@pytest.mark.parametrize(("name", "factor"), [("chair", 0.8), ("fox", 0.5), ("fox", 1.2)])
def test_wrong_field_of_view_is_measured(
    name: str, factor: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene: Healthy = request.getfixturevalue(name)
    folder = scene.folder.parent / tmp_path.name
    found = scene.examine(scene.variant(folder, lambda meta: longer(meta, factor)))
    assert codes(found) == ["field_of_view"]
    assert found.findings[0].evidence["focal_factor"] == pytest.approx(1 / factor, rel=0.02)


def test_wrong_axes_and_field_of_view_at_once(fox: Healthy, tmp_path: Path) -> None:
    def edit(meta: dict[str, Any]) -> None:
        poses(OPENCV)(meta)
        longer(meta, 0.5)

    found = fox.examine(fox.variant(fox.folder.parent / tmp_path.name, edit))
    assert codes(found) == ["camera_axes", "field_of_view"]


def test_pictures_made_smaller_with_the_old_intrinsics(fox: Healthy, tmp_path: Path) -> None:
    """Focal length and principal point are those of pictures twice as large."""

    def edit(meta: dict[str, Any]) -> None:
        for key in ("fl_x", "fl_y", "cx", "cy"):
            meta[key] *= 2
        del meta["w"], meta["h"]

    found = fox.examine(fox.variant(fox.folder.parent / tmp_path.name, edit))
    assert codes(found) == ["field_of_view"]
    assert found.findings[0].evidence["focal_factor"] == pytest.approx(0.5, rel=0.02)
    said = found.remedy.intrinsics
    assert said is not None
    np.testing.assert_allclose(said.center, 0.5, rtol=0.02)
    assert "made smaller" in found.findings[0].what


def test_single_wrong_poses_are_found(scene: Healthy, tmp_path: Path) -> None:
    """One camera turned by 6 degrees, one moved by a tenth of its distance."""
    wrong: list[str] = []

    def edit(meta: dict[str, Any]) -> None:
        if len(meta["frames"]) < 10:
            return
        turn = np.eye(4)
        angle = np.radians(6)
        turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        for i, change in ((3, lambda m: m @ turn), (9, lambda m: moved(m))):
            frame = meta["frames"][i]
            frame["transform_matrix"] = change(np.array(frame["transform_matrix"])).tolist()
            wrong.append(frame["file_path"])

    def moved(matrix: np.ndarray) -> np.ndarray:
        matrix[:3, 3] += 0.1 * np.linalg.norm(matrix[:3, 3]) * matrix[:3, 0]
        return matrix

    found = scene.examine(scene.variant(scene.folder.parent / tmp_path.name, edit))
    assert codes(found) == ["pose_outliers"]
    assert set(found.findings[0].frames) == set(wrong)
    names = found.evidence.patient.names
    assert {names[i] for i in found.remedy.dropped} == set(wrong)


@pytest.mark.parametrize(
    ("name", "code", "scale"),
    [("chair", "scene_box_missed", 60.0), ("fox", "scene_box_too_large", 0.02)],
)
def test_scenes_in_other_units_miss_the_box(
    name: str, code: str, scale: float, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    scene: Healthy = request.getfixturevalue(name)

    def change(matrix: np.ndarray) -> np.ndarray:
        matrix[:3, 3] *= scale
        return matrix

    found = scene.examine(scene.variant(scene.folder.parent / tmp_path.name, poses(change)))
    assert codes(found) == [code]
    assert found.findings[0].severity == "error"
    assert found.remedy.box is not None
    transform, aabb_scale = found.remedy.box
    before = scene.patient.transform.scale / scene.patient.aabb_scale / scale
    assert 0.4 < transform.scale / aabb_scale / before < 2.5


def test_a_box_beside_the_scene_is_missed_by_all_rays(fox: Healthy, tmp_path: Path) -> None:
    def edit(meta: dict[str, Any]) -> None:
        meta["offset"] = [0.5, 0.5, 60.0]

    found = fox.examine(fox.variant(fox.folder.parent / tmp_path.name, edit))
    assert codes(found) == ["scene_box_missed"]
    assert "no camera sees the scene box" in found.findings[0].what


def test_premultiplied_colours_are_found(chair: Healthy) -> None:
    looks = []
    for i, seen in enumerate(chair.looks):
        pixels = chair.patient.read(i).copy()
        pixels[..., :3] = np.round(pixels[..., :3] * (pixels[..., 3:] / 255.0))
        looks.append(replace(seen, alpha=alpha_of(pixels)))
    found = examine(chair.patient, looks, chair.evidence)
    assert codes(found) == ["premultiplied_alpha"]
    assert found.remedy.is_premultiplied


def test_straight_colours_that_are_said_to_be_premultiplied(chair: Healthy, tmp_path: Path) -> None:
    folder = chair.variant(
        chair.folder.parent / tmp_path.name, lambda meta: meta.update(fix_premult=True)
    )
    assert codes(chair.examine(folder)) == ["straight_alpha"]


def test_blurred_and_dark_pictures_are_found(scene: Healthy, tmp_path: Path) -> None:
    folder = scene.copy(tmp_path / "copy")
    patient = scene.patient
    train = [i for i, split in enumerate(patient.splits) if split == "train"]
    blurred, dark = train[4], train[8]
    files = [folder / view.header.path.relative_to(scene.folder) for view in patient.views]
    with Image.open(files[blurred]) as image:
        image.filter(ImageFilter.GaussianBlur(2)).save(files[blurred])
    with Image.open(files[dark]) as image:
        pixels = np.array(image)
    pixels[..., :3] = np.round(0.6 * pixels[..., :3])
    Image.fromarray(pixels).save(files[dark])
    found = scene.examine(folder, changed=(blurred, dark))
    assert codes(found) == ["blurred_images", "exposure_outliers"]
    assert list(found.findings[0].frames) == [patient.names[blurred]]
    assert list(found.findings[1].frames) == [patient.names[dark]]
    factor = found.findings[1].evidence["times_as_bright"][patient.names[dark]]
    assert 0.5 < factor < 0.85


def test_missing_unlisted_and_doubled_pictures(chair: Healthy, tmp_path: Path) -> None:
    scene = chair
    folder = scene.copy(tmp_path / "copy")
    patient = scene.patient
    paths = [folder / view.header.path.relative_to(scene.folder) for view in patient.views]
    shutil.copyfile(paths[2], paths[2].with_stem("spare"))
    shutil.copyfile(paths[5], paths[6])  # one picture under two poses
    paths[0].unlink()
    again = look(folder)
    found = examine(again.patient, again.looks, again.evidence)
    by_code = {finding.code: finding for finding in found.findings}
    assert by_code["missing_images"].frames == [patient.names[0]]
    assert [Path(name).stem for name in by_code["unlisted_images"].frames] == ["spare"]
    assert patient.names[6] in by_code["duplicate_images"].frames
    assert patient.names[6] in by_code["pose_outliers"].frames


def test_one_pose_for_two_pictures(scene: Healthy, tmp_path: Path) -> None:
    def edit(meta: dict[str, Any]) -> None:
        if len(meta["frames"]) > 10:
            meta["frames"][4]["transform_matrix"] = meta["frames"][8]["transform_matrix"]

    found = scene.examine(scene.variant(scene.folder.parent / tmp_path.name, edit))
    assert codes(found) == ["duplicate_poses", "pose_outliers"]
    assert set(found.findings[1].frames) < set(found.findings[0].frames)


def test_smaller_pictures_with_the_focal_length_of_the_others(fox: Healthy, tmp_path: Path) -> None:
    folder = fox.copy(tmp_path / "fox")
    views = fox.patient.views
    small = tuple(range(6, 10))
    for i in small:
        file = folder / views[i].header.path.relative_to(fox.folder)
        with Image.open(file) as image:
            image.resize((image.width * 2 // 3, image.height * 2 // 3)).save(file, quality=95)
    text = (folder / "transforms.json").read_text()
    (folder / "transforms.json").write_text(text.replace('"w"', '"_w"').replace('"h"', '"_h"'))
    found = fox.examine(folder, changed=small)
    assert codes(found) == ["mixed_sizes"]
    assert set(found.findings[0].frames) == {views[i].name for i in small}

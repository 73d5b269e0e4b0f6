"""The command doctor: words, what it writes, exit codes, and mended data that training reads."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nfields.config import build, compose
from nfields.data.posed_images import PosedImages, SceneTransform
from nfields.data.posed_views import cameras_of, views_only
from nfields.doctor.command import HELP, command_options, main
from nfields.doctor.evidence import Intrinsics
from nfields.doctor.finding import Remedy
from nfields.doctor.mend import mend, straight
from nfields.doctor.patient import admit
from nfields.errors import ConfigError, DataError
from tests.data.capture_folder import (
    around,
    write_colmap,
    write_instant_ngp,
    write_nerf_synthetic,
    write_nsvf,
)
from tests.doctor.healthy import Healthy


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert HELP in capsys.readouterr().out
    for name in command_options():
        assert f"  {name}=" in HELP


def test_wrong_words_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        main(["max_images=many", "mend=maybe", "data"])
    for words in ("max_images = 'many'", "mend = 'maybe'", "data: not of the form"):
        assert words in str(caught.value)
    with pytest.raises(ConfigError, match="at least 2"):
        main(["max_images=1"])


def test_bad_places_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        main([f"data.path={tmp_path / 'nowhere'}"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        main([f"data.path={tmp_path}", f"out={tmp_path / 'full'}"])
    with pytest.raises(ConfigError, match="no set of posed images"):
        main(["data=image_file", f"out={tmp_path / 'out'}"])


def test_what_training_refuses_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "transforms.json").write_text('{"frames": [')
    with pytest.raises(SystemExit) as stop:
        main([f"data.path={tmp_path / 'data'}", f"out={tmp_path / 'out'}"])
    assert stop.value.code == 1
    assert "not valid json" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert [finding["code"] for finding in record["findings"]] == ["unreadable"]


def test_straight_undoes_premultiplication() -> None:
    random = np.random.default_rng(0)
    rgb = random.integers(0, 256, (8, 8, 3))
    alpha = random.integers(128, 256, (8, 8, 1))
    multiplied = np.concatenate([np.round(rgb * alpha / 255), alpha], axis=2).astype(np.uint8)
    assert np.abs(straight(multiplied)[..., :3].astype(int) - rgb).max() <= 1
    assert (straight(np.zeros((1, 1, 4), np.uint8)) == 0).all()


WRITERS = {
    "nerf_synthetic": write_nerf_synthetic,
    "instant_ngp": write_instant_ngp,
    "colmap": write_colmap,
    "nsvf": write_nsvf,
}


def read_data(words: list[str]) -> PosedImages:
    data = build(compose(["task=nerf", *words]).data)
    assert isinstance(data, PosedImages)
    return data


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_is_mended_in_its_own_frame(name: str, tmp_path: Path) -> None:
    """Axes turned, focal lengths 1.1 times as long, the second training view left out."""
    WRITERS[name](tmp_path / "data", around(12))
    words = [f"data.path={tmp_path / 'data'}"]
    before = read_data(words)
    kept = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()}
    patient = admit(compose(["task=nerf", *words]).data)
    ones = np.ones(len(patient))
    axes = np.diag([1.0, -1.0, -1.0])
    remedy = Remedy(camera_axes=axes, intrinsics=Intrinsics(1.1 * ones, ones), dropped={1})
    mended = mend(patient, remedy, words, tmp_path / "mended")
    with views_only() as found:  # nothing is seen with such axes, which reading would refuse
        read_data(mended.words)
    assert {path: path.read_bytes() for path in kept} == kept
    for split, cameras in before.cameras.items():
        rest = [i for i in range(len(cameras)) if split != "train" or i != 1]
        again = cameras_of(found[0].splits[split], found[0].transform)
        expected = cameras[torch.tensor(rest)]
        turned = expected.camera_to_world.clone()
        turned[:, :, 1:3] *= -1
        torch.testing.assert_close(again.camera_to_world, turned, atol=2e-6, rtol=0)
        torch.testing.assert_close(again.focal, 1.1 * expected.focal)
        torch.testing.assert_close(again.center, expected.center)
        torch.testing.assert_close(again.distortion, expected.distortion)
    assert found[0].aabb_scale == before.aabb_scale


def test_a_picture_that_is_cut_off_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_nerf_synthetic(tmp_path / "data", around(6))
    picture = sorted((tmp_path / "data").rglob("*.png"))[1]
    picture.write_bytes(picture.read_bytes()[:-40])
    with pytest.raises(SystemExit) as stop:
        main([f"data.path={tmp_path / 'data'}", f"out={tmp_path / 'out'}"])
    assert stop.value.code == 1 and picture.name in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert [finding["code"] for finding in record["findings"]] == ["unreadable"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_box_is_mended_in_every_format(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "data", around(12))
    words = [f"data.path={tmp_path / 'data'}"]
    patient = admit(compose(["task=nerf", *words]).data)
    box = SceneTransform(0.2, (0.1, -0.2, 0.3))
    data = read_data(mend(patient, Remedy(box=(box, 2)), words, tmp_path / "mended").words)
    assert data.aabb_scale == 2
    for split, cameras in data.cameras.items():
        mine = [v for v, s in zip(patient.views, patient.splits, strict=True) if s == split]
        places = torch.tensor(np.stack([view.camera_to_world[:, 3] for view in mine]))
        torch.testing.assert_close(cameras.camera_to_world[:, :, 3], box.to_ours(places).float())


@pytest.mark.slow
def test_a_broken_scene_is_mended_by_the_command(
    chair: Healthy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OpenCV's axes and premultiplied colours; the mended data is the healthy data again."""
    folder = chair.copy(tmp_path / "chair")
    for file in folder.glob("transforms*.json"):
        meta = json.loads(file.read_text())
        for frame in meta["frames"]:
            matrix = np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])
            frame["transform_matrix"] = matrix.tolist()
        file.write_text(json.dumps(meta))
    for file in folder.rglob("*.png"):
        pixels = np.array(Image.open(file))
        pixels[..., :3] = np.round(pixels[..., :3] * (pixels[..., 3:] / 255))
        Image.fromarray(pixels).save(file)
    with pytest.raises(SystemExit) as stop:
        main([f"data.path={folder}", f"out={tmp_path / 'out'}"])
    assert stop.value.code == 1
    said = capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "doctor.json").read_text())
    found = {finding["code"] for finding in record["findings"]}
    assert found == {"camera_axes", "premultiplied_alpha"}
    assert all(code in said for code in found)
    assert f"python train.py task=nerf {' '.join(record['mended']['words'])}" in said
    assert {"cameras.png", "scores.png"} < {path.name for path in (tmp_path / "out").iterdir()}
    healthy, mended = read_data([f"data.path={chair.folder}"]), read_data(record["mended"]["words"])
    for split in ("train", "test"):
        torch.testing.assert_close(
            mended.cameras[split].camera_to_world, healthy.cameras[split].camera_to_world
        )
        for a, b in zip(mended.require_images(split), healthy.require_images(split), strict=True):
            solid = b[..., 3] > 64
            assert (a[solid].int() - b[solid].int()).abs().max() <= 3


@pytest.mark.slow
def test_pictures_of_another_size_than_is_said_are_mended(fox: Healthy, tmp_path: Path) -> None:
    folder = fox.copy(tmp_path / "fox")
    for view in fox.patient.views[6:10]:
        file = folder / view.header.path.relative_to(fox.folder)
        with Image.open(file) as image:
            image.resize((image.width * 2 // 3, image.height * 2 // 3)).save(file, quality=95)
    meta = json.loads((folder / "transforms.json").read_text())
    meta["frames"][0]["mask_path"] = None
    (folder / "transforms.json").write_text(json.dumps(meta))
    with pytest.raises(SystemExit) as stop:
        main([f"data.path={folder}", f"out={tmp_path / 'out'}", "max_images=12"])
    assert stop.value.code == 1
    record = json.loads((tmp_path / "out" / "doctor.json").read_text())
    assert [f["code"] for f in record["findings"] if f["severity"] == "error"] == ["mixed_sizes"]
    data = read_data(record["mended"]["words"])
    assert sum(len(cameras) for cameras in data.cameras.values()) == len(fox.patient)

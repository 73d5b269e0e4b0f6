"""The table of the options for photographs: what its damages do, and that both runs are made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from nfields.benchmark import photographs
from nfields.data.colmap import read_colmap
from nfields.data.posed_images import PosedImages
from nfields.data.transforms import read_transforms
from nfields.errors import ConfigError
from tests.data.capture_folder import around, write_colmap


@pytest.fixture
def data(tmp_path: Path) -> PosedImages:
    return read_colmap(
        path=str(write_colmap(tmp_path / "given", around(10))), downscale=1, holdout=5,
        allow_outside=False, frame="box", aabb_scale=None, scene_scale=None, near=None,
        masks="exclude",
    )  # fmt: skip


def damaged(data: PosedImages, damage: str, folder: Path, file: str = "") -> PosedImages:
    photographs.write_damaged(data, damage, folder)
    return read_transforms(
        path=str(folder / file), downscale=1, holdout=8, allow_outside=False, frame="auto",
        aabb_scale=None, scene_scale=None, near=None, masks="exclude",
    )  # fmt: skip


def is_same(a: list[torch.Tensor] | None, b: list[torch.Tensor] | None) -> bool:
    assert a is not None and b is not None
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_copy_without_damage_is_the_data_set(data: PosedImages, tmp_path: Path) -> None:
    copy = damaged(data, "none", tmp_path / "copy")
    for split, cameras in data.cameras.items():
        assert is_same(copy.require_images(split), data.require_images(split))
        theirs = copy.cameras[split]
        torch.testing.assert_close(theirs.camera_to_world, cameras.camera_to_world)
        torch.testing.assert_close(theirs.focal, cameras.focal)
        torch.testing.assert_close(theirs.center, cameras.center)
    assert copy.aabb_scale == data.aabb_scale
    for mine, theirs in zip(copy.depths["train"], data.depths["train"], strict=True):
        assert mine is not None and theirs is not None
        torch.testing.assert_close(mine.nan_to_num(0.0), theirs.to_dense(), rtol=1e-5, atol=0)


def test_exposure_changes_all_pictures_and_nothing_else(data: PosedImages, tmp_path: Path) -> None:
    copy = damaged(data, "exposure", tmp_path / "copy")
    means = []
    for split in data.cameras:
        for ours, theirs in zip(
            copy.require_images(split), data.require_images(split), strict=True
        ):
            means.append(float(ours.float().mean() - theirs.float().mean()))
    assert max(means) > 10 and min(means) < -10
    assert torch.equal(copy.cameras["train"].focal, data.cameras["train"].focal)


def test_cameras_are_turned_and_moved_a_little(data: PosedImages, tmp_path: Path) -> None:
    copy = damaged(data, "cameras", tmp_path / "copy")
    before, after = (some.cameras["train"].camera_to_world.double() for some in (data, copy))
    turn = Rotation.from_matrix((after[:, :, :3] @ before[:, :, :3].mT).numpy()).magnitude()
    assert 0.2 < np.degrees(np.sqrt((turn**2).mean() / 3)) < 0.45
    assert 0.003 < float((after - before)[:, :, 3].square().mean().sqrt()) < 0.008
    torch.testing.assert_close(
        copy.cameras["test"].camera_to_world, data.cameras["test"].camera_to_world
    )


def test_focal_lengths_of_training_cameras_are_wrong(data: PosedImages, tmp_path: Path) -> None:
    copy = damaged(data, "zoom", tmp_path / "copy")
    ratio = (copy.cameras["train"].focal / data.cameras["train"].focal).log()
    assert 0.005 < float(ratio.square().mean().sqrt()) < 0.03
    assert bool((ratio[:, 0] - ratio[:, 1]).abs().max() < 1e-5)
    torch.testing.assert_close(copy.cameras["test"].focal, data.cameras["test"].focal)


def test_masks_say_where_the_obstacles_are(data: PosedImages, tmp_path: Path) -> None:
    copy = damaged(data, "obstacle", tmp_path / "copy")
    pairs = zip(copy.require_images("train"), data.require_images("train"), strict=True)
    for view, (ours, theirs) in enumerate(pairs):
        mask = copy.mask("train", view)
        assert mask is not None
        assert 0.05 < float((~mask).float().mean()) < 0.15
        assert torch.equal(ours[mask], theirs[mask])
        assert len(ours[~mask].unique(dim=0)) == 1
    assert is_same(copy.require_images("test"), data.require_images("test"))
    unmasked = read_transforms(
        path=str(tmp_path / "copy" / "unmasked.json"), downscale=1, holdout=8, allow_outside=False,
        frame="auto", aabb_scale=None, scene_scale=None, near=None, masks="exclude",
    )  # fmt: skip
    assert is_same(unmasked.require_images("train"), copy.require_images("train"))
    assert not unmasked.has_masks("train")


@pytest.mark.slow
def test_an_option_is_trained_with_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_colmap(tmp_path / "given", around(10))
    words = ["data.path=given", "data=colmap", "data.frame=box", "model=hashgrid", "logger=none"]
    words += ["task.samples_per_step=512", "model.log2_entries=8"]
    (row,) = photographs.run(words, steps=20, only="learned sky", out="table.json")
    assert row["option"] == "learned sky"
    (without,), (with_it,) = row["without"], row["with"]
    assert with_it != without
    shown = f"| learned sky | none | {without:.2f} | {with_it:.2f} | {with_it - without:+.2f} |"
    assert shown in capsys.readouterr().out
    assert (tmp_path / "table.json").is_file()


def test_option_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"only=moon.*choose from cascades"):
        photographs.run([f"data.path={tmp_path}"], only="moon")


def test_pictures_with_alpha_are_refused() -> None:
    with pytest.raises(ConfigError, match="pictures without alpha"):
        photographs.run(["data=toy_scene", "data.resolution=8", "data.num_train=2"])

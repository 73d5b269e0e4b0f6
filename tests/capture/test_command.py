"""The command process: what it refuses, that it goes on, and cameras found from pictures alone."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nfields.capture.command import HELP, command_options, main, process
from nfields.data.posed_images import open_posed_images
from nfields.errors import ConfigError, DataError
from nfields.render.cameras import Cameras, view_rays


def options(source: Path, out: Path, **changes: Any) -> dict[str, Any]:
    return command_options(source=str(source), out=str(out), **changes)


def photographs(folder: Path, num: int = 3) -> Path:
    folder.mkdir()
    for i in range(num):
        values = np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{i}.png")
    return folder


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    assert HELP in capsys.readouterr().out
    for name in command_options(source="x"):
        assert f"  {name}=" in HELP


def test_wrong_words_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        main(["num_frame=3", "lens=wide", "data.path=x"])
    for words in ("source is missing", "did you mean num_frames?", "lens = 'wide'", "with a dot"):
        assert words in str(caught.value)


def test_pycolmap_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    with pytest.raises(ConfigError, match=r"pip install 'nfields\[colmap\]'"):
        process(options(photographs(tmp_path / "a"), tmp_path / "out"), print)
    assert not (tmp_path / "out").exists()


def test_bad_places_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pip install 'nfields[colmap]'")
    source = photographs(tmp_path / "a")
    with pytest.raises(DataError, match="nowhere does not exist"):
        process(options(tmp_path / "nowhere", tmp_path / "out"), print)
    with pytest.raises(ConfigError, match="holds the source itself"):
        process(options(source, source), print)
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        process(options(source, photographs(tmp_path / "b")), print)
    with pytest.raises(ConfigError, match="max_size=1 must be at least 3"):
        process(options(source, tmp_path / "out", max_size=1), print)


def test_pictures_without_overlap_give_an_error_and_another_start_goes_on(tmp_path: Path) -> None:
    pytest.importorskip("pycolmap", reason="pip install 'nfields[colmap]'")
    source, out = photographs(tmp_path / "a"), tmp_path / "out"
    said: list[str] = []
    for _ in range(2):
        with pytest.raises(DataError, match="no cameras were found"):
            process(options(source, out), said.append)
    assert sum("photographs of" in text for text in said) == 1
    assert not (out / "sparse").exists()
    with pytest.raises(ConfigError, match="was begun with lens=opencv"):
        process(options(source, out, lens="radial"), print)


def wall(num: int) -> tuple[Cameras, list[np.ndarray]]:
    """Pictures of two textured walls that meet at an edge, and the cameras that took them."""
    random = np.random.default_rng(0)
    noise = [random.random((size, size)) for size in (12, 40, 130)]
    poses = np.zeros((num, 3, 4))
    for i in range(num):
        angle = np.radians(-25 + 50 * i / (num - 1))
        back = np.array([np.sin(angle), 0.05 * (i % 3), np.cos(angle)])
        back /= np.linalg.norm(back)
        right = np.cross([0, 1.0, 0], back)
        right /= np.linalg.norm(right)
        poses[i] = np.stack([right, np.cross(back, right), back, 4 * back], axis=1)
    cameras = Cameras(
        camera_to_world=torch.from_numpy(poses).float(),
        focal=torch.full((num, 2), 420.0),
        center=torch.tensor([[200.0, 150.0]]).repeat(num, 1),
        distortion=torch.zeros(num, 4),
        sizes=torch.tensor([[400, 300]]).repeat(num, 1),
    )
    pictures = []
    for view in range(num):
        origins, directions = (x.double().numpy() for x in view_rays(cameras, view))
        # The walls z = -|x| / 2; the nearer hit is seen.
        t = np.stack(
            [
                -(origins[:, 2] + s * origins[:, 0] / 2)
                / (directions[:, 2] + s * directions[:, 0] / 2)
                for s in (1, -1)
            ]
        )
        points = origins + np.where(t > 0, t, np.inf).min(axis=0)[:, None] * directions
        u, v = (points[:, 0] + 4) / 8, (points[:, 1] + 4) / 8
        value = sum(
            texture[
                (v.clip(0, 0.999) * len(texture)).astype(int),
                (u.clip(0, 0.999) * len(texture)).astype(int),
            ]
            for texture in noise
        )
        grey = (255 * np.asarray(value) / 3).astype(np.uint8).reshape(300, 400)
        pictures.append(np.repeat(grey[..., None], 3, axis=2))
    return cameras, pictures


@pytest.mark.slow
def test_cameras_are_found_from_pictures_alone(tmp_path: Path) -> None:
    """Angles between the cameras found are those of the cameras that took the pictures."""
    pytest.importorskip("pycolmap", reason="pip install 'nfields[colmap]'")
    truth, pictures = wall(8)
    source = tmp_path / "photos"
    source.mkdir()
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(source / f"{i}.png")
    out = process(options(source, tmp_path / "out", lens="pinhole"), print)
    record = json.loads((out / "process.json").read_text())
    assert record["result"]["placed"] == 8
    data = open_posed_images(
        path=str(out), downscale=1, holdout=8, allow_outside=False, masks="exclude"
    )
    found = torch.zeros(8, 3)
    for split, cameras in data.cameras.items():
        for view, name in enumerate(data.names[split]):
            found[int(Path(name).stem)] = cameras.camera_to_world[view, :, 2]
    expected = truth.camera_to_world[:, :, 2]
    error = (found @ found.T - expected @ expected.T).abs().max()
    assert float(error) < 0.03
    focal = data.cameras["train"].focal.mean()
    assert float(focal) == pytest.approx(420, rel=0.08)
    before = sorted(out.rglob("*"))
    process(options(source, tmp_path / "out", lens="pinhole"), print)  # nothing is left to do
    assert sorted(out.rglob("*")) == before

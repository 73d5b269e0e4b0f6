"""what=video, still and section of a task that offers a surface; the pictures of an evaluation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from nfields.config import build
from nfields.errors import ConfigError
from nfields.export import command
from nfields.export.section import round_spacing
from nfields.export.surface_studio import SurfaceStudio, surface_errors, write_surface_pictures
from nfields.render.surface import Surface
from nfields.stored_run import StoredRun, load_run
from tests.dummy import DummyTask
from tests.stored import make_run


def ball(radius: float) -> Surface:
    def distance(x: torch.Tensor) -> torch.Tensor:
        return x.norm(dim=1) - radius

    return Surface(distance, torch.tensor([[-1.0] * 3, [1.0] * 3]), 5 * torch.eye(4), True, None)


class BallTask(DummyTask):
    """Offers the surface of the stored model, a ball."""

    def surface(self, model) -> Surface:
        return ball(float(model.radius.detach()))


@pytest.fixture
def run(tmp_path: Path) -> StoredRun:
    return replace(load_run(make_run(tmp_path / "run"), device="cpu"), task=BallTask())


def export(run: StoredRun, what: str, **options) -> list[Path]:
    node, problems = command.checked_node(command.kinds()[what], options)
    assert not problems
    return build(OmegaConf.create(node)).export(run)


def test_video_of_a_surface_shows_it_and_is_resumed(run: StoredRun) -> None:
    film, frames = export(run, "video", num_frames=2, width=32, channels=["rgb", "normal"])
    assert film.stat().st_size > 300
    with Image.open(frames / "00001.png") as frame:
        pixels = np.asarray(frame)
    assert pixels.shape == (32, 64, 3)
    assert (pixels[0, 0] == 255).all() and 60 < pixels[16, 16].mean() < 250
    assert pixels[16, 48, 2] > 245  # the normal looks at the camera: blue
    before = (frames / "00001.png").stat().st_mtime_ns
    export(run, "video", num_frames=2, width=32, channels=["rgb", "normal"])
    assert (frames / "00001.png").stat().st_mtime_ns == before


def test_still_is_transparent_where_nothing_is(run: StoredRun) -> None:
    (file,) = export(run, "still", width=32, background="transparent")
    with Image.open(file) as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (32, 32, 4) and pixels[0, 0, 3] == 0 and pixels[16, 16, 3] == 255


@pytest.mark.parametrize("mode", ["normal", "depth"])
def test_still_shows_normals_and_depth(run: StoredRun, mode: str) -> None:
    (file,) = export(run, "still", width=24, mode=mode)
    with Image.open(file) as picture:
        assert picture.size == (24, 24) and np.asarray(picture)[12, 12].any()


def test_sections_are_drawn(run: StoredRun) -> None:
    (file,) = export(run, "section", size=24)
    with Image.open(file) as picture:
        assert picture.width > 1000


def test_error_is_the_distance_in_the_users_units() -> None:
    studio = SurfaceStudio(ball(0.5), up="y")
    cameras = studio.turntable(1, 32, 32, elevation_deg=15)
    error = surface_errors(studio.look(cameras, 0, 1), ball(0.55), cameras)
    assert len(error) > 400
    assert error == pytest.approx(5 * 0.05, abs=0.02)  # 0.004 of ours: the tracer's gap


def test_pictures_say_what_they_leave_out() -> None:
    center = torch.tensor([0.9, 0.9, 0.9])
    clean = ball(0.6)
    spotted = replace(
        clean,
        distance=lambda x: torch.minimum(clean.distance(x), (x - center).norm(dim=1) - 0.005),
    )
    (note,) = SurfaceStudio(spotted, up="y").notes
    assert note.startswith("stray: 1 part of the surface") and "min_component=0" in note


@pytest.mark.slow
def test_evaluation_writes_pictures(tmp_path: Path) -> None:
    files, notes = write_surface_pictures(ball(0.5), ball(0.55), tmp_path, size=48)
    assert notes == []
    assert [file.name for file in files] == ["shaded.png", "error.png", "sections.png"]
    assert all(file.stat().st_size > 500 for file in files)
    files, _ = write_surface_pictures(ball(0.5), None, tmp_path / "alone", size=48)
    assert [file.name for file in files] == ["shaded.png", "sections.png"]


def test_spacing_is_a_round_number() -> None:
    assert [round_spacing(x) for x in (0.011, 0.02, 0.3, 7.0)] == [0.02, 0.02, 0.5, 10.0]


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        ("video", {"path": "spiral"}, "path=spiral goes through photographs"),
        ("video", {"antialias": 0}, "antialias=0 must be 1 or more"),
        ("video", {"elevation": 90}, "elevation=90 must lie within"),
        ("still", {"out": "a.jpg"}, "out=a.jpg must end in .png"),
        ("still", {"mode": "depth", "background": "transparent"}, "is for mode=shaded"),
        ("section", {"spacing": 0}, "spacing=0 must be more than 0"),
        ("section", {"spacing": 1e-6}, "gives more than 400 lines"),
    ],
)
def test_wrong_options_are_named(run: StoredRun, what: str, options, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        export(run, what, **options)


@pytest.mark.parametrize("what", ["still", "section"])
def test_task_without_a_surface_is_refused(run: StoredRun, what: str) -> None:
    with pytest.raises(ConfigError, match=f"what={what} needs a task with a surface"):
        export(replace(run, task=DummyTask()), what)

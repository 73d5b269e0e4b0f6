import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

from nfields.config import build
from nfields.errors import ConfigError, DataError
from nfields.export import command
from nfields.export.command import main
from nfields.render.path_file import Keyframe, write_path
from nfields.stored_run import load_run
from tests.dummy import DummyTask
from tests.stored import FakeTask, make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "made here")


def export(run: Path, *words: str) -> None:
    main([f"run={run}", "what=video", "num_frames=4", "width=24", *words])


def test_orbit_of_a_stored_run_is_written_into_its_folder(run, capsys):
    export(run)
    assert (run / "video" / "orbit.mp4").stat().st_size > 500
    assert len(list((run / "video" / "orbit_frames").glob("*.png"))) == 4
    assert "orbit.mp4" in capsys.readouterr().out


def test_export_needs_the_run_folder_only_wherever_it_is(run, tmp_path):
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(run, moved)
    export(moved, "path=spiral", "channels=rgb,depth,normal")
    with Image.open(moved / "video" / "spiral_frames" / "00001.png") as frame:
        assert frame.width == 3 * 24


def test_video_shows_the_scene_of_the_task_through_the_path(run):
    """The fake scene is a red ball in the middle: the orbit looks at it."""
    export(run, "background=white")
    for file in (run / "video" / "orbit_frames").glob("*.png"):
        with Image.open(file) as frame:
            pixels = np.asarray(frame).astype(int)
        middle = pixels[pixels.shape[0] // 2, pixels.shape[1] // 2]
        assert middle[0] > 200 and middle[1] < 60 and (pixels[0, 0] == 255).all()


def test_keyframes_of_a_file_are_seen_at_their_times(run, tmp_path):
    """In the frame of the data; as long as its seconds, as large as the photographs."""
    pose = np.eye(4)
    pose[2, 3] = 3.0
    aside = pose.copy()
    aside[0, 3] = 0.5
    frames = [Keyframe(pose, 40.0, 0.0), Keyframe(aside, 40.0, 0.5)]
    write_path(tmp_path / "ride.json", frames)
    main([f"run={run}", "what=video", f"path={tmp_path / 'ride.json'}", "fps=10"])
    pictures = sorted((run / "video" / "ride_frames").glob("*.png"))
    assert len(pictures) == 5 and (run / "video" / "ride.mp4").exists()
    middle = []
    for file in (pictures[0], pictures[-1]):
        with Image.open(file) as frame:
            red = np.asarray(frame)[:, :, 1] < 60
        assert red.shape == (16, 16)
        middle.append(np.argwhere(red)[:, 1].mean())
    # Half a unit aside at distance 3: 0.5 / (3 tan 20) of half the width.
    assert middle[0] == pytest.approx(7.5, abs=0.3)
    assert middle[0] - middle[1] == pytest.approx(4 / (3 * np.tan(np.radians(20))), abs=0.5)


def test_a_path_that_cannot_be_read_is_named(run, tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.json cannot be read"):
        export(run, f"path={tmp_path / 'nowhere.json'}")


def test_weights_of_another_step_make_the_frames_anew(run):
    export(run)
    first = (run / "video" / "orbit_frames" / "00001.png").read_bytes()
    make_run(run, radius=0.8)
    export(run)
    assert (run / "video" / "orbit_frames" / "00001.png").read_bytes() != first


def test_out_takes_a_gif(run, tmp_path):
    export(run, f"out={tmp_path / 'a b' / 'ball.gif'}")
    with Image.open(tmp_path / "a b" / "ball.gif") as gif:
        assert gif.format == "GIF"


def test_ctrl_c_leaves_a_video_and_says_how_to_go_on(run, capsys, monkeypatch):
    monkeypatch.setattr(FakeTask, "stop_at", 1)
    with pytest.raises(SystemExit) as stop:
        export(run)
    assert stop.value.code == 130
    assert "stopped after 2 of 4 frames; the video so far is" in capsys.readouterr().out
    assert (run / "video" / "orbit.mp4").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wdith=3"], r"wdith = 3: no such option; did you mean width\?"),
        (["path=circle"], "path=circle: choose orbit, spiral, interpolate, or a file"),
        (["what=vidoe"], r"what=vidoe: no such export; did you mean video\?; there are: .*video"),
        (["num_frames=0"], "num_frames=0 must be more than 0"),
        (["num_frames=4.5"], "num_frames = 4.5: must be a whole number"),
        (["width=0"], "width=0 must be more than 0"),
        (["height=-3"], "height=-3 must be more than 0"),
        (["fps=0"], "fps=0 must be more than 0"),
        (["channels=rgb,dept"], "channels = .*: must be a list of one of 'rgb'"),
        (["channels=[]"], "channels is empty"),
        (["depth_range=[3,1]"], r"depth_range=\[3, 1\] must be \[nearest, farthest\]"),
        (["out=film.avi"], r"out=film.avi must end in .mp4 or .gif"),
        (["split=val"], "split=val has no cameras; splits with cameras: train, test"),
        (["background=pink"], "background = 'pink': must be one of 'white', 'black' or null"),
        (["orbit"], "orbit: not of the form key=value"),
    ],
)
def test_wrong_options_are_named(run, words, message):
    with pytest.raises(ConfigError, match=message):
        export(run, *words)
    assert not (run / "video").exists()


def test_all_wrong_options_are_named_at_once(run):
    with pytest.raises(ConfigError) as caught:
        main(["pth=orbit", "fsp=3"])
    assert all(text in str(caught.value) for text in ("run is missing", "pth", "fsp"))


def test_run_without_checkpoint_or_cameras_is_refused(run):
    shutil.move(run / "checkpoint", run / "gone")
    with pytest.raises(DataError, match="holds no checkpoint"):
        export(run)
    shutil.move(run / "gone", run / "checkpoint")
    card = json.loads((run / "data.json").read_text())
    card["cameras"] = {}
    (run / "data.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match="split=train has no cameras; splits with cameras: none"):
        export(run)


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        export(tmp_path / "nothing")
    with pytest.raises(DataError, match="is not a run folder"):
        export(tmp_path)


def test_latest_run_is_the_one_saved_last(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="run=latest: no run with a checkpoint is under"):
        main(["run=latest"])
    shutil.copytree(run, tmp_path / "outputs" / "nerf" / "a")
    main(["run=latest", "num_frames=2", "width=16"])
    assert (tmp_path / "outputs" / "nerf" / "a" / "video" / "orbit.mp4").exists()


def test_task_without_cameras_is_refused(run):
    node, problems = command.checked_node(command.kinds()["video"], {})
    assert not problems
    stored = replace(load_run(run, device="cpu"), task=DummyTask())
    with pytest.raises(ConfigError, match="what=video needs a task with a surface, such as task=s"):
        build(OmegaConf.create(node)).export(stored)


def test_help_explains_every_option_of_every_export(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    for file in command.kinds().values():
        for line in file.read_text().splitlines():
            key = line.partition(":")[0]
            assert line.startswith(("#", " ", "_target_")) or f"  {key}=" in text

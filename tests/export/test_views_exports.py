"""Point clouds and depth maps of a stored run: where the ball is, in the frame of the data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from nfields.data.posed_images import SceneTransform
from nfields.data.transforms import read_transforms
from nfields.errors import ConfigError, DataError
from nfields.export.command import main
from nfields.export.depths import unit_for
from nfields.export.points import is_smooth
from nfields.render.cameras import view_rays
from nfields.run_folder import read_json, write_json
from tests.stored import make_run

TURN = ((0.0, -1.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, 1.0))
TRANSFORM = SceneTransform(0.5, (0.2, -0.4, 0.6), TURN)  # the ball is at (0.8, 0.4, -1.2), radius 1


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A ball whose data has a frame of its own."""
    folder = make_run(tmp_path / "run")
    card = read_json(folder / "data.json")
    write_json(folder / "data.json", card | {"transform": TRANSFORM.to_dict()})
    return folder


def center() -> np.ndarray:
    return TRANSFORM.to_user(torch.zeros(1, 3)).numpy()


def test_points_lie_on_the_ball_in_the_frame_of_the_data(run: Path) -> None:
    main([f"run={run}", "what=points", "num_points=300", "max_jump=0.2"])
    cloud = trimesh.load(run / "points" / "points.ply")
    assert isinstance(cloud, trimesh.PointCloud) and 30 < len(cloud.vertices) <= 300
    radius = np.linalg.norm(np.asarray(cloud.vertices) - center(), axis=1)
    assert np.abs(radius - 1.0).max() < 1e-5
    assert (np.asarray(cloud.colors)[:, :3] == [230, 26, 26]).all()


def test_depths_are_a_data_set_that_reads_back_with_the_same_cameras(run: Path) -> None:
    main([f"run={run}", "what=depths", "width=64", "background=black"])
    written = json.loads((run / "depths" / "transforms.json").read_text())
    assert len(written["frames"]) == 5
    data = read_transforms(
        path=str(run / "depths"), downscale=1, holdout=2, allow_outside=False, frame="none",
        aabb_scale=4, scene_scale=1.0, near=0.0, masks="exclude",
    )  # fmt: skip
    views = data.cameras["train"]
    offset = torch.tensor(data.transform.offset)
    depth = data.depths["train"][0]
    assert depth is not None and views.size(0) == (64, 64)
    middle = float(depth[32, 32])
    # Cameras are 3 of our units away, 6 of the data's; the ball has radius 1 there.
    assert middle == pytest.approx(5.0, abs=0.01)
    place = views.camera_to_world[0, :, 3] - offset
    looking = -views.camera_to_world[0, :, 2]
    assert torch.allclose(place + 6 * looking, torch.from_numpy(center())[0].float(), atol=1e-3)
    origins, directions = view_rays(views, 0)
    hit = depth.view(-1).isfinite()
    ends = (origins + depth.view(-1, 1) * directions)[hit] - offset
    radius = (ends - torch.from_numpy(center()).float()).norm(dim=1)
    assert 300 < hit.sum() < 64 * 64 and (radius - 1).abs().max() < 5e-3
    picture = data.require_images("train")[0]
    assert picture[32, 32, 0] > 200 and picture[0, 0].sum() == 0


def test_edges_of_things_are_left_out() -> None:
    depth = torch.full((5, 5), 2.0)
    depth[:, 3:] = 3.0
    depth[0, 0] = torch.nan
    kept = is_smooth(depth, 0.05)
    assert kept[2].tolist() == [True, True, False, False, True]
    assert kept[0].tolist() == [False, False, False, False, True]


def test_unit_of_depth_maps_keeps_four_digits() -> None:
    assert unit_for(np.array([[5.0, np.nan]])) == 1e-3
    assert unit_for(np.array([[500.0]])) == 0.1
    assert unit_for(np.array([[0.02]])) == pytest.approx(1e-6)
    assert unit_for(np.array([[np.nan]])) == pytest.approx(1e-4)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["what=points", "num_points=0"], ConfigError, "num_points=0 must be 1 or more"),
        (["what=points", "min_opacity=0"], ConfigError, "min_opacity=0 must lie in"),
        (["what=points", "out=a.obj"], ConfigError, "out=a.obj must end in .ply"),
        (["what=points", "split=val"], ConfigError, "split=val has no cameras"),
        (["what=depths", "width=0"], ConfigError, "width=0 must be 1 or more"),
        (["what=points", "max_jump=1.0e-9"], DataError, "no pixel of the 5 train views"),
    ],
)
def test_what_cannot_be_is_named(
    run: Path, words: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        main([f"run={run}", *words])
    assert not (run / "points").exists() and not (run / "depths").exists()

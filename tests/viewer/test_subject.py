"""What is looked at: layers of a field, the crop box, occupied cells."""

import numpy as np
import pytest
import torch

import nfields
from nfields.config import build
from nfields.errors import ConfigError
from nfields.render.cameras import Cameras
from nfields.render.occupancy import OccupancyGrid
from nfields.viewer.engine import Request
from nfields.viewer.subject import LAYERS, Subject
from tests.viewer.scenes import pose_at

SMALL = ["data=toy_scene", "data.resolution=16", "data.num_train=4", "data.num_test=1"]


@pytest.fixture(scope="module")
def subject() -> Subject:
    """A field of fog that fills [-1, 1]^3."""
    cfg = nfields.compose(["task=nerf", "task.visual_hull=false", "task.grid_cells=32", *SMALL])
    task = build(cfg.task, data=build(cfg.data))
    model = build(cfg.model, in_dim=3, out_dim=task.out_dim)
    task.prepare(model, torch.Generator().manual_seed(0))
    with torch.no_grad():
        model.readout.bias[0] = 4.0
    return Subject(task, model, "white")


def cameras(distance: float = 4.0, azimuth: float = 0.0) -> Cameras:
    return Request(pose_at(azimuth, distance), 50.0, 33, 33).cameras(33, 33)


def test_every_layer_is_a_picture(subject: Subject) -> None:
    assert subject.layers == LAYERS
    for layer in subject.layers:
        look = subject.draw(cameras(), layer, None)
        assert look.rgb.shape == (33, 33, 3) and look.depth.shape == (33, 33)
        assert look.rgb[16, 16].tolist() != look.rgb[0, 0].tolist()


def test_occupied_cells_begin_at_the_face_of_the_box(subject: Subject) -> None:
    look = subject.draw(cameras(), "occupancy", None)
    assert abs(look.depth[16, 16] - 3.0) < 0.02
    assert np.isinf(look.depth[0, 0])


def test_crop_box_cuts_at_its_faces(subject: Subject) -> None:
    box = np.array([[-1.0, -1, -1], [1, 1, 0]])
    look = subject.draw(cameras(), "occupancy", box)
    assert abs(look.depth[16, 16] - 4.0) < 0.02
    half = subject.draw(cameras(), "opacity", np.array([[0.0, -1, -1], [1, 1, 1]]))
    assert half.rgb[16, 6, 0] < 10 and half.rgb[16, 26, 0] > 245
    nothing = subject.draw(cameras(), "color", np.array([[1.0, 1, 1], [-1, -1, -1]]))
    assert (nothing.rgb == 255).all()
    assert abs(subject.draw(cameras(), "occupancy", None).depth[16, 16] - 3.0) < 0.02


def test_a_camera_in_the_object_or_outside_of_the_box_sees_what_is_there(subject: Subject) -> None:
    for layer in subject.layers:
        assert subject.draw(cameras(distance=0.2), layer, None).rgb.shape == (33, 33, 3)
    away = cameras(distance=-50.0)  # behind the scene, looking away from it
    assert (subject.draw(away, "color", None).rgb == 255).all()
    assert np.isinf(subject.draw(away, "depth", None).depth).all()


def test_bits_within_a_box_are_those_whose_centres_lie_in_it() -> None:
    grid = OccupancyGrid(cascades=2, cells=16, decay=0.9, threshold=0.1)
    low, high = torch.tensor([-0.4, -0.9, 0.1]), torch.tensor([0.7, 1.5, 1.9])
    found = grid.bits_within(torch.stack([low, high]))
    index = torch.arange(2 * 16**3)
    centers = grid.positions(index, 0.5)
    expected = ((centers >= low) & (centers <= high)).all(dim=1)
    unpacked = ((found[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1).flatten().bool()
    assert torch.equal(unpacked, expected)


def test_a_task_without_space_is_refused() -> None:
    cfg = nfields.compose(["task=image"])
    task = build(cfg.task, data=build(cfg.data))
    with pytest.raises(ConfigError, match="a live view needs a task"):
        Subject(task, build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim), "white")

"""The visual hull never cuts off what the masks show, and cuts most of the rest."""

import torch

from nfields.data.toy_scene import read_toy_scene, scene_distance
from nfields.render.visual_hull import visual_hull


def test_hull_keeps_the_solids_and_leaves_out_most_of_the_box() -> None:
    data = read_toy_scene(resolution=64, num_train=24, num_test=1, seed=0)
    cells = 32
    axis = (torch.arange(cells) + 0.5) * (2 / cells) - 1
    centres = torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), dim=-1).view(-1, 3)
    alphas = [image[..., 3] for image in data.require_images("train")]
    inside = visual_hull(centres, 1 / cells, data.cameras["train"], alphas)
    solid = scene_distance(centres) <= 0
    assert solid.any() and bool(inside[solid].all())
    assert inside.float().mean() < 0.35


def test_a_cell_no_camera_sees_is_outside() -> None:
    data = read_toy_scene(resolution=64, num_train=24, num_test=1, seed=0)
    cameras = data.cameras["train"][:1]
    alphas = [torch.full((64, 64), 255, dtype=torch.uint8)]
    behind = cameras.camera_to_world[0, :, 3] + 5 * cameras.camera_to_world[0, :, 2]
    centres = torch.stack([behind, torch.zeros(3)])
    assert visual_hull(centres, 0.05, cameras, alphas).tolist() == [False, True]

"""Masks as alpha: what they leave out is empty."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nfields
from nfields.config import build
from nfields.data.posed_images import PosedImages, open_posed_images
from nfields.errors import DataError
from tests.data.scene_folder import HEIGHT, WIDTH, frame, picture, write_transforms


def masked(folder: Path, num_channels: int = 3, **meta: Any) -> Path:
    """Three views, of which the first and the second have a mask that keeps the row 2."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2] = 255
    frames = [frame(0, mask_path="mask.png"), frame(1, mask_path="mask.png"), frame(2)]
    write_transforms(folder, frames=frames, num_channels=num_channels, **meta)
    Image.fromarray(values).save(folder / "mask.png")
    return folder


def read(folder: Path | None, masks: Any = "object") -> PosedImages:
    path = None if folder is None else str(folder)
    return open_posed_images(
        path=path, downscale=1, holdout=8, allow_outside=False, masks=masks
    )


@pytest.mark.parametrize("num_channels", [3, 4])
def test_alpha_is_that_of_the_picture_where_the_mask_is_and_0_elsewhere(
    num_channels: int, tmp_path: Path
) -> None:
    data = read(masked(tmp_path, num_channels))
    assert data.has_alpha and not data.has_masks("train") and not data.has_masks("test")
    (first, second), (held_out,) = data.require_images("train"), data.require_images("test")
    for image, index, rows in ((held_out, 0, [2]), (first, 1, [2]), (second, 2, range(HEIGHT))):
        stored = torch.from_numpy(picture(index, num_channels))
        assert torch.equal(image[..., :3], stored[..., :3])
        alpha = torch.zeros(HEIGHT, WIDTH, dtype=torch.uint8)
        alpha[rows] = stored[rows, :, 3] if num_channels == 4 else 255
        assert torch.equal(image[..., 3], alpha)
    drawn = data.sample_pixels(50, torch.Generator().manual_seed(0))
    assert drawn.values.shape[1] == 4
    assert any("empty" in note for note in data.notes)


def test_circle_of_a_fisheye_stays_a_mask(tmp_path: Path) -> None:
    lens = {"fl_x": 1.5, "camera_model": "OPENCV_FISHEYE", "k1": -0.3}
    circle = read(write_transforms(tmp_path / "plain", **lens), "exclude").mask("test", 0)
    data = read(masked(tmp_path / "cut", **lens))
    kept = data.mask("test", 0)
    assert circle is not None and kept is not None and torch.equal(kept, circle)
    alpha = data.require_images("test")[0][..., 3]
    assert not alpha[1][circle[1]].any() and bool((alpha[2][circle[2]] == 255).all())


@pytest.mark.slow
def test_hull_leaves_what_masks_leave_out(tmp_path: Path) -> None:
    words = ["task=nerf", "model=rbfnet", f"data.path={masked(tmp_path)}"]
    cells = []
    for masks in ("exclude", "object"):
        cfg = nfields.compose([*words, f"data.masks={masks}"])
        task = build(cfg.task, data=build(cfg.data))
        task.prepare(build(cfg.model, in_dim=3, out_dim=task.out_dim), torch.Generator())
        cells.append(len(task.grid.candidates()))
    assert 0 < cells[1] < cells[0]


def test_what_has_no_masks_is_refused(tmp_path: Path) -> None:
    for folder in (write_transforms(tmp_path), None):
        with pytest.raises(DataError, match=r"data\.masks=object needs masks"):
            read(folder)


def test_masks_that_leave_most_out_are_mentioned(tmp_path: Path) -> None:
    assert any("data.masks=object" in note for note in read(masked(tmp_path), "exclude").notes)

"""The same cameras written in every format give the same rays."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from nfields.data.posed_images import PosedImages, open_posed_images
from nfields.render.cameras import rays
from tests.data.capture_folder import (
    HEIGHT,
    WIDTH,
    Capture,
    around,
    expected_rays,
    in_front,
    write_colmap,
    write_instant_ngp,
    write_llff,
    write_nerf_synthetic,
    write_nsvf,
)

WRITERS: dict[str, Callable[[Path, Capture], Path]] = {
    "colmap_binary": write_colmap,
    "colmap_text": lambda folder, capture: write_colmap(folder, capture, binary=False),
    "llff": write_llff,
    "nsvf": write_nsvf,
    "nsvf_matrix": lambda folder, capture: write_nsvf(folder, capture, matrix=True),
    "instant_ngp": write_instant_ngp,
    "nerfstudio": lambda folder, capture: write_instant_ngp(folder, capture, aabb_scale=None),
    "nerf_synthetic": write_nerf_synthetic,
}


def pixels_of() -> np.ndarray:
    return np.random.default_rng(2).uniform(0, 1, (25, 2)) * [WIDTH, HEIGHT]


def rays_of(data: PosedImages, pixels: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """Origins and unit directions of all views, in the user's frame, by the name of the view."""
    found = {}
    for split, cameras in data.cameras.items():
        for view, name in enumerate(data.names[split]):
            index = torch.full((len(pixels),), view)
            ours = rays(cameras, index, torch.from_numpy(pixels).float())
            start, end = (
                data.transform.to_user(points.double())
                for points in (ours[0], ours[0].double() + ours[1].double())
            )
            key = int("".join(c for c in Path(name).stem.split("_")[-1] if c.isdigit()))
            found[key] = (start, torch.nn.functional.normalize(end - start, dim=1))
    starts, directions = zip(*(found[key] for key in sorted(found)), strict=True)
    return torch.stack(starts), torch.stack(directions)


@pytest.mark.parametrize("writer", WRITERS)
def test_rays_are_those_of_the_capture(tmp_path: Path, writer: str) -> None:
    capture = around()
    WRITERS[writer](tmp_path, capture)
    data = open_posed_images(path=str(tmp_path), downscale=1, holdout=8, allow_outside=False, masks="exclude")
    pixels = pixels_of()
    origins, directions = rays_of(data, pixels)
    places, expected = (torch.from_numpy(array) for array in expected_rays(capture, pixels))
    assert (origins - places[:, None]).abs().max() < 1e-5
    assert (directions - expected).abs().max() < 1e-5
    assert {len(names) for names in data.names.values() if names} == {1, 5}


@pytest.mark.parametrize("writer", ["colmap_binary", "llff"])
def test_rays_of_forward_facing_scenes_are_those_of_the_capture(
    tmp_path: Path, writer: str
) -> None:
    """In normalised device coordinates rays start at the near plane, on the same lines."""
    capture = in_front()
    WRITERS[writer](tmp_path, capture)
    data = open_posed_images(path=str(tmp_path), downscale=1, holdout=8, allow_outside=False, masks="exclude")
    assert data.transform.homography is not None
    pixels = pixels_of()
    starts, directions = rays_of(data, pixels)
    places, expected = (torch.from_numpy(array) for array in expected_rays(capture, pixels))
    assert (directions - expected).abs().max() < 2e-5
    away = torch.linalg.cross(starts - places[:, None], expected).norm(dim=2)
    assert away.max() < 2e-5
    points = torch.from_numpy(capture.points)
    ours = data.transform.to_ours(points)
    assert ours.abs().max() <= 1.0
    assert (data.transform.to_user(ours) - points).abs().max() < 1e-9


@pytest.mark.parametrize("writer", ["colmap_binary", "llff", "nsvf", "nerfstudio"])
def test_smaller_pictures_keep_the_rays(tmp_path: Path, writer: str) -> None:
    capture = around()
    WRITERS[writer](tmp_path, capture)
    data = open_posed_images(path=str(tmp_path), downscale=5, holdout=8, allow_outside=False, masks="exclude")
    assert data.cameras["train"].size(0) == (WIDTH // 5, HEIGHT // 5)
    pixels = pixels_of()
    _, directions = rays_of(data, pixels / 5)
    _, expected = expected_rays(capture, pixels)
    assert (directions - torch.from_numpy(expected)).abs().max() < 1e-5


def test_cards_keep_the_frame(tmp_path: Path) -> None:
    write_llff(tmp_path, in_front())
    data = open_posed_images(path=str(tmp_path), downscale=1, holdout=8, allow_outside=False, masks="exclude")
    restored = PosedImages.from_card(data.card())
    assert restored.transform == data.transform
    assert restored.cameras["test"].to_dict() == data.cameras["test"].to_dict()
    write_colmap(tmp_path / "b", around())
    data = open_posed_images(path=str(tmp_path / "b"), downscale=1, holdout=8, allow_outside=False, masks="exclude")
    assert PosedImages.from_card(data.card()).transform == data.transform

"""Posed images: drawing pixels, cards, and opening a folder of unknown format."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import nfields.data
from nfields.data.posed_images import PosedImages, SceneTransform, open_posed_images
from nfields.errors import ConfigError, DataError
from nfields.render.cameras import Cameras
from tests.data.scene_folder import write_blender, write_transforms


def scene(sizes: list[tuple[int, int]], num_channels: int = 3) -> PosedImages:
    """Pictures of (width, height) whose values tell where they are: view, row, column."""
    images = []
    for view, (width, height) in enumerate(sizes):
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        channels = [torch.full_like(rows, view), rows, columns, rows][:num_channels]
        images.append(torch.stack(channels, dim=2).to(torch.uint8))
    num = len(sizes)
    cameras = Cameras(
        camera_to_world=torch.eye(4)[:3].repeat(num, 1, 1),
        focal=torch.full((num, 2), 5.0),
        center=torch.tensor(sizes, dtype=torch.float32) / 2,
        distortion=torch.zeros(num, 4),
        sizes=torch.tensor(sizes),
    )
    return PosedImages(
        cameras={"train": cameras},
        images={"train": images},
        names={"train": [str(i) for i in range(num)]},
        has_alpha=num_channels == 4,
        aabb_scale=2,
        transform=SceneTransform(0.5, (0.1, 0.2, 0.3)),
        source="a test",
        near=0.1,
        notes=["one thing"],
    )


SIZES = [[(4, 3)] * 3, [(4, 3), (2, 5), (1, 1), (7, 2)], [(1, 1)]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("num_channels", [3, 4])
def test_values_belong_to_their_pixels(
    sizes: list[tuple[int, int]], num_channels: int, generator: torch.Generator
) -> None:
    batch = scene(sizes, num_channels).sample_pixels(500, generator)
    assert batch.values.shape == (500, num_channels)
    assert torch.equal(batch.values[:, 0].long(), batch.view_index)
    assert torch.equal(batch.values[:, 1] + 0.5, batch.pixels[:, 1])
    assert torch.equal(batch.values[:, 2] + 0.5, batch.pixels[:, 0])


@pytest.mark.parametrize("sizes", SIZES)
def test_every_pixel_is_equally_likely(
    sizes: list[tuple[int, int]], generator: torch.Generator
) -> None:
    total = sum(width * height for width, height in sizes)
    num = 4000 * total
    batch = scene(sizes).sample_pixels(num, generator)
    code = (batch.values.long() * torch.tensor([10_000, 100, 1])).sum(dim=1)
    _, counts = code.unique(return_counts=True)
    assert len(counts) == total
    # Binomial counts of mean 4000 have a standard deviation of at most 63.
    assert (counts - 4000).abs().max() < 5 * 63.3


def test_batches_follow_the_generator() -> None:
    data = scene([(4, 3)] * 3)
    first, again, other = (
        data.sample_pixels(20, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)
    )
    assert torch.equal(first.values, again.values)
    assert not torch.equal(first.values, other.values)


def test_drawing_nothing_gives_nothing(generator: torch.Generator) -> None:
    assert scene([(4, 3)]).sample_pixels(0, generator).pixels.shape == (0, 2)


def test_drawing_keeps_the_pictures(generator: torch.Generator) -> None:
    data = scene([(4, 3), (2, 5)])
    before: list[Tensor] = [image.clone() for image in data.require_images("train")]
    data.sample_pixels(5, generator)
    for image, kept in zip(data.require_images("train"), before, strict=True):
        assert torch.equal(image, kept)


def test_pictures_of_a_reader_are_not_copied(tmp_path: Path, generator: torch.Generator) -> None:
    data = open_scene(write_transforms(tmp_path, num=5))
    address = data.require_images("train")[0].data_ptr()
    data.sample_pixels(5, generator)
    assert data.require_images("train")[0].data_ptr() == address


def test_card_restores_all_but_the_pictures() -> None:
    data = scene([(4, 3), (2, 5)])
    restored = nfields.data.restore(json.loads(json.dumps(data.card())))
    assert isinstance(restored, PosedImages)
    assert restored.card() == data.card()
    assert restored.transform == data.transform
    assert torch.equal(restored.cameras["train"].focal, data.cameras["train"].focal)


def test_restored_data_asks_for_the_path() -> None:
    restored = nfields.data.restore(scene([(4, 3)]).card())
    with pytest.raises(DataError, match=r"not at hand.*a test.*data\.path="):
        restored.require_images("train")
    with pytest.raises(DataError, match=r"data\.path="):
        restored.sample_pixels(3, torch.Generator())


def test_unknown_split_is_an_error() -> None:
    with pytest.raises(DataError, match=r"split 'test' is not in a test; it has train"):
        scene([(4, 3)]).require_images("test")


@pytest.mark.parametrize("name", ["os.system", "nfields.data.no_such.Thing", "nfields.cli", None])
def test_card_of_another_class_is_refused(name: str | None) -> None:
    with pytest.raises(DataError, match="class="):
        nfields.data.restore({"class": name})


@pytest.mark.parametrize("key", ["cameras", "names", "transform", "aabb_scale", "near"])
def test_incomplete_card_is_refused(key: str) -> None:
    card = scene([(4, 3)]).card()
    del card[key]
    with pytest.raises(DataError, match=f"card is incomplete.*{key}"):
        nfields.data.restore(card)


def test_transform_goes_there_and_back(generator: torch.Generator) -> None:
    transform = SceneTransform(0.66, (0.5, -0.25, 1.0))
    points = torch.randn(10, 3, generator=generator)
    torch.testing.assert_close(transform.to_user(transform.to_ours(points)), points)
    expected = points * 0.66 + torch.tensor([0.5, -0.25, 1.0])
    torch.testing.assert_close(transform.to_ours(points), expected)


def open_scene(
    path: Path | None, *, downscale: int = 1, allow_outside: bool = False
) -> PosedImages:
    return open_posed_images(
        path=None if path is None else str(path),
        downscale=downscale,
        holdout=8,
        allow_outside=allow_outside, masks="exclude",
    )


def test_format_is_found_by_the_files(tmp_path: Path) -> None:
    assert "Blender" in open_scene(write_blender(tmp_path / "a")).source
    assert "transforms.json" in open_scene(write_transforms(tmp_path / "b")).source
    assert open_scene(tmp_path / "b" / "transforms.json").names["test"] == ["images/000.png"]


def test_folder_of_two_formats_is_an_error(tmp_path: Path) -> None:
    write_blender(tmp_path)
    write_transforms(tmp_path)
    with pytest.raises(DataError, match=r"as blender and as transforms.*data=blender"):
        open_scene(tmp_path)


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data\.path=.*nowhere does not exist"):
        open_scene(tmp_path / "nowhere")


def test_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is an empty folder; wanted.*transforms_train\.json"):
        open_scene(tmp_path)


def test_folder_without_cameras_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    (tmp_path / "more").mkdir()
    with pytest.raises(DataError, match=r"holds more/, photo\.jpg, nothing that names cameras"):
        open_scene(tmp_path)
    with pytest.raises(DataError, match="file of a kind"):
        open_scene(tmp_path / "photo.jpg")


def test_bad_downscale_is_refused(tmp_path: Path) -> None:
    for path in (None, tmp_path):
        with pytest.raises(ConfigError, match=r"data\.downscale=0"):
            open_scene(path, downscale=0)


def test_pictures_outside_are_read_only_if_allowed(tmp_path: Path) -> None:
    write_transforms(tmp_path / "other")
    folder = write_transforms(tmp_path / "inside")
    file = folder / "transforms.json"
    meta = json.loads(file.read_text())
    meta["frames"][1]["file_path"] = "../other/images/001.png"
    file.write_text(json.dumps(meta))
    with pytest.raises(DataError, match=r"frames\[1\].*leaves the data folder"):
        open_scene(folder)
    data = open_scene(folder, allow_outside=True)
    assert "../other/images/001.png" in data.names["train"] + data.names["test"]


def test_alpha_of_the_pictures_is_at_hand(tmp_path: Path) -> None:
    data = open_scene(write_blender(tmp_path))
    alpha = data.require_images("train")[0][..., 3]
    assert alpha.dtype == torch.uint8
    assert np.unique(alpha.numpy()).size > 2

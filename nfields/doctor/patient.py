"""The data set under examination: its views as their files say, and its pictures, made small.

Poses are camera to world in the user's frame, in our camera axes (nfields/render/cameras.py).
Positions of pixels are those of the files, whatever size the pictures are looked at.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from omegaconf import DictConfig
from PIL import Image

from nfields.config import build
from nfields.data.camera_file import View
from nfields.data.image_reader import ImageHeader, read_pixels
from nfields.data.posed_images import PosedImages, SceneTransform
from nfields.data.posed_views import PosedViews, cameras_of, views_only
from nfields.errors import ConfigError
from nfields.render.cameras import Cameras

Pixels = UInt8[np.ndarray, "h w channels"]


@dataclass(frozen=True)
class Patient:
    """Views of all splits in one list, and what else training would be given."""

    views: list[View]
    splits: list[str]  # of each view
    read: Callable[[int], Pixels]  # the picture of a view, 4 channels (straight) or 3
    transform: SceneTransform
    aabb_scale: int
    source: str
    notes: list[str]
    missing: list[str]
    path: Path | None  # the camera file, or its folder; None for a generated scene
    downscale: int  # of these pictures to those that training asks for
    near: float  # in our units

    def __len__(self) -> int:
        return len(self.views)

    @property
    def names(self) -> list[str]:
        return [view.name for view in self.views]

    @property
    def poses(self) -> Float[np.ndarray, "n 3 4"]:
        """Camera to world, as the files say."""
        return np.stack([view.camera_to_world for view in self.views])

    def cameras(self) -> Cameras:
        """The cameras in our frame; before the homography of a forward-facing scene, if any."""
        return cameras_of(self.views, SceneTransform(
            self.transform.scale, self.transform.offset, self.transform.rotation
        ))  # fmt: skip


def shrink(pixels: Pixels, max_size: int) -> Pixels:
    """A picture averaged down to a longest side of at most max_size pixels."""
    height, width = pixels.shape[:2]
    factor = max_size / max(height, width)
    if factor >= 1:
        return pixels
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def brightness(pixels: Pixels) -> Float[np.ndarray, "h w"]:
    """Mean of the channels in [0, 1], over white where there is alpha."""
    values = pixels.astype(np.float32) / 255
    grey = values[..., :3].mean(axis=2)
    if pixels.shape[2] == 4:
        grey = grey * values[..., 3] + (1 - values[..., 3])
    return grey


def admit(node: DictConfig) -> Patient:
    """The data set that a `data` node describes; nothing of it is decoded or checked yet."""
    with views_only() as found:
        data = build(node)
    if not isinstance(data, PosedImages):
        raise ConfigError(
            f"data={node.get('_target_')} is no set of posed images; doctor looks at data of "
            "task=nerf: data.path=FOLDER (any format), or data=transforms data.path=..."
        )
    return _from_files(found[0]) if found else _from_memory(data)


def _from_files(found: PosedViews) -> Patient:
    views = [view for split in found.splits.values() for view in split]
    splits = [split for split, some in found.splits.items() for _ in some]

    def read(index: int) -> Pixels:
        header = views[index].header
        return read_pixels(header.path, 4 if header.has_alpha else 3)

    return Patient(
        views, splits, read, found.transform, found.aabb_scale, found.source, found.notes,
        found.missing, found.path, found.downscale, found.near,
    )  # fmt: skip


def _from_memory(data: PosedImages) -> Patient:
    """A generated scene; its cameras back in the user's frame."""
    views, splits, pictures = [], [], []
    for split, cameras in data.cameras.items():
        images = data.require_images(split)
        for i, name in enumerate(data.names[split]):
            width, height = cameras.size(i)
            pose = cameras.camera_to_world[i].double().numpy().copy()
            pose[:, 3] = data.transform.to_user(torch.from_numpy(pose[:, 3])).numpy()
            pose[:, :3] = np.array(data.transform.rotation).T @ pose[:, :3]
            (fx, fy), (cx, cy) = cameras.focal[i].tolist(), cameras.center[i].tolist()
            header = ImageHeader(Path(name), width, height, data.has_alpha, ())
            views.append(
                View(name, header, pose, (fx, fy), (cx, cy), tuple(cameras.distortion[i].tolist()))
            )
            splits.append(split)
            pictures.append(images[i].numpy())
    return Patient(
        views, splits, lambda index: pictures[index], data.transform, data.aabb_scale,
        data.source, data.notes, [], None, 1, data.near,
    )  # fmt: skip

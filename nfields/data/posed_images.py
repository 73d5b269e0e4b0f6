"""Posed images: pictures with cameras, in our frame, and the reader that finds out their format."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

import nfields.data
from nfields.data.pixel_table import PixelBatch, PixelTable
from nfields.errors import ConfigError, DataError
from nfields.render.cameras import Cameras, apply_homography

MaskUse = Literal["exclude", "object"]  # nfields/data/object_masks.py
IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


@dataclass(frozen=True)
class SceneTransform:
    """The way from the user's frame to ours: ours = H(scale * rotation @ user + offset).

    H, a projective map, is the identity but for forward-facing scenes (nfields/data/scene_frame.py)
    """

    scale: float
    offset: tuple[float, float, float]
    rotation: tuple[tuple[float, float, float], ...] = IDENTITY
    homography: tuple[tuple[float, float, float, float], ...] | None = None

    def to_ours(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points of the user's frame in ours."""
        if self.rotation != IDENTITY:
            points = points @ points.new_tensor(self.rotation).T
        points = points * self.scale + points.new_tensor(self.offset)
        if self.homography is None:
            return points
        return apply_homography(points.new_tensor(self.homography), points)

    def to_user(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points of our frame in the user's."""
        if self.homography is not None:
            points = apply_homography(points.new_tensor(self.homography).inverse(), points)
        points = (points - points.new_tensor(self.offset)) / self.scale
        if self.rotation != IDENTITY:
            points = points @ points.new_tensor(self.rotation)
        return points

    def poses_to_ours(self, poses: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "n 4 4"]:
        """Camera-to-world matrices of the user's frame in ours, before H, as `Cameras` have them."""
        result, rotation = poses.copy(), np.array(self.rotation)
        result[:, :3] = rotation @ poses[:, :3]
        result[:, :3, 3] = result[:, :3, 3] * self.scale + np.array(self.offset)
        return result

    def poses_to_user(self, poses: Float[np.ndarray, "n 4 4"]) -> Float[np.ndarray, "n 4 4"]:
        """What `poses_to_ours` takes to the given matrices."""
        result, rotation = poses.copy(), np.array(self.rotation)
        result[:, :3, 3] = (poses[:, :3, 3] - np.array(self.offset)) / self.scale
        result[:, :3] = rotation.T @ result[:, :3]
        return result

    def to_dict(self) -> dict[str, Any]:
        """Numbers, for json."""
        values: dict[str, Any] = {"scale": self.scale, "offset": list(self.offset)}
        if self.rotation != IDENTITY:
            values["rotation"] = [list(row) for row in self.rotation]
        if self.homography is not None:
            values["homography"] = [list(row) for row in self.homography]
        return values

    @staticmethod
    def from_dict(values: dict[str, Any]) -> "SceneTransform":
        """What `to_dict` wrote."""
        x, y, z = values["offset"]
        homography = values.get("homography")
        return SceneTransform(
            values["scale"],
            (x, y, z),
            tuple((a, b, c) for a, b, c in values.get("rotation", IDENTITY)),
            None if homography is None else tuple((a, b, c, d) for a, b, c, d in homography),
        )


class PosedImages:
    """Pictures and cameras of a scene, by split ("train", "test", sometimes "val").

    images     a split's uint8 tensors (height, width, channels), 3 channels, or 4 with straight
               alpha; None when restored from a card
    transform  from the user's frame to ours; cameras, `near` and depths are in ours
    masks      a split's bool tensors (height, width), or None for a picture without: pixels that are
               False are neither drawn nor measured
    depths     a split's float32 tensors (height, width), or None: distance from the camera centre,
               NaN where it is not known; sparse where few are known, what is not stored is not
    aabb_scale the scene lies in [-aabb_scale, aabb_scale]^3; a power of two
    near       nothing is nearer to a camera than this
    notes      what the reader skipped, converted or assumed, in sentences for the user
    truth      for generated scenes: a split's {"depth": (h, w) distance along the unit ray of the
               pixel centre, inf for background; "normals": (h, w, 3), 0 for background}
    """

    def __init__(
        self,
        *,
        cameras: dict[str, Cameras],
        images: dict[str, list[Tensor]] | None,
        names: dict[str, list[str]],
        has_alpha: bool,
        aabb_scale: int,
        transform: SceneTransform,
        source: str,
        near: float,
        notes: Sequence[str] = (),
        truth: dict[str, list[dict[str, Tensor]]] | None = None,
        masks: dict[str, list[Tensor | None]] | None = None,
        depths: dict[str, list[Tensor | None]] | None = None,
    ) -> None:
        self.cameras = cameras
        self.images = images
        self.names = names
        self.has_alpha = has_alpha
        self.aabb_scale = aabb_scale
        self.transform = transform
        self.source = source
        self.near = near
        self.notes = list(notes)
        self.truth = truth
        self.masks = masks or {}
        self.depths = depths or {}
        self._pixel_tables: dict[str, PixelTable] = {}

    @property
    def num_channels(self) -> int:
        """Channels of the pictures: 4 with alpha, else 3."""
        return 4 if self.has_alpha else 3

    def require_images(self, split: str) -> list[UInt8[Tensor, "height width channels"]]:
        """The pictures of a split; an error if there are none here."""
        self._require_split(split)
        if self.images is None:
            raise DataError(
                f"the pictures of split {split!r} are not at hand: this data set was restored from "
                f"a run folder, which keeps cameras only. It was read from {self.source}; say "
                "where it is now with data.path=<folder>."
            )
        return self.images[split]

    def sample_pixels(
        self, num: int, generator: torch.Generator, split: str = "train"
    ) -> PixelBatch:
        """`num` pixels drawn uniformly, with replacement, from all pixels of all views of a split
        that no mask leaves out.

        The cost depends on `num` only, not on the number or size of the pictures.
        """
        table = self._pixel_tables.get(split)
        if table is None:
            table = PixelTable(
                self.require_images(split), self.masks.get(split), self.depths.get(split)
            )
            if self.images is not None:
                self.images[split] = table.images
            self._pixel_tables[split] = table
        return table.sample(num, generator)

    def mask(self, split: str, view: int) -> Bool[Tensor, "height width"] | None:
        """The mask of a view: False where pixels are not to be measured; None without a mask."""
        masks = self.masks.get(split)
        return None if masks is None else masks[view]

    def has_masks(self, split: str) -> bool:
        """True if some picture of the split has a mask."""
        return any(mask is not None for mask in self.masks.get(split, ()))

    def card(self) -> dict[str, Any]:
        """All but pictures and ground truth, for json; `nfields.data.restore` reads it."""
        return {
            "class": "nfields.data.posed_images.PosedImages",
            "cameras": {split: cameras.to_dict() for split, cameras in self.cameras.items()},
            "names": self.names,
            "has_alpha": self.has_alpha,
            "aabb_scale": self.aabb_scale,
            "transform": self.transform.to_dict(),
            "source": self.source,
            "near": self.near,
            "notes": self.notes,
        }

    @staticmethod
    def from_card(card: dict[str, Any]) -> "PosedImages":
        """The data set a card describes, without pictures."""
        try:
            return PosedImages(
                cameras={
                    split: Cameras.from_dict(values) for split, values in card["cameras"].items()
                },
                images=None,
                names=card["names"],
                has_alpha=card["has_alpha"],
                aabb_scale=card["aabb_scale"],
                transform=SceneTransform.from_dict(card["transform"]),
                source=card["source"],
                near=card["near"],
                notes=card["notes"],
            )
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise DataError(
                f"the data card is incomplete or damaged ({type(error).__name__}: {error}); it "
                "must be the data.json that PosedImages.card() wrote."
            ) from error

    def _require_split(self, split: str) -> None:
        if split not in self.cameras:
            raise DataError(
                f"split {split!r} is not in {self.source}; it has {', '.join(self.cameras)}."
            )


def open_posed_images(
    *,
    path: str | None,
    downscale: int,
    holdout: int,
    allow_outside: bool,
    masks: MaskUse,
) -> PosedImages:
    """The scene in a folder of any format nfields knows, or the generated scene for path=null.

    Asks every module of `nfields.data` that has `matches(path)` and `read(...)`. Options that only
    one format has (scene_scale, aabb_scale) need that format's own entry: data=blender, data=...
    `masks`: nfields/data/object_masks.py.
    """
    from nfields.data.object_masks import use_masks

    if path is None:
        from nfields.data import toy_scene

        return use_masks(toy_scene.read(downscale=downscale), masks)
    check_downscale(downscale)
    folder = Path(path)
    readers = {
        module.name: importlib.import_module(f"nfields.data.{module.name}")
        for module in pkgutil.iter_modules(nfields.data.__path__)
    }
    readers = {
        name: module
        for name, module in readers.items()
        if callable(getattr(module, "matches", None)) and callable(getattr(module, "read", None))
    }
    if not folder.exists():
        raise DataError(
            f"data.path={path} does not exist (looked in {Path.cwd()} if it is relative); "
            f"give the folder of a {' or '.join(readers)} data set."
        )
    found = [name for name, module in readers.items() if module.matches(folder)]
    if len(found) > 1:
        raise DataError(
            f"data.path={path} reads as {' and as '.join(found)}; choose one with data={found[0]}."
        )
    if not found:
        raise DataError(f"data.path={path} {describe(folder)}; {expected(readers)}")
    read: Callable[..., PosedImages] = readers[found[0]].read
    data = read(path=path, downscale=downscale, holdout=holdout, allow_outside=allow_outside)
    return use_masks(data, masks)


def describe(path: Path) -> str:
    """What a path is and holds, in words for an error message."""
    if not path.is_dir():
        return "is a file of a kind nfields does not know"
    names = sorted(entry.name + "/" * entry.is_dir() for entry in path.iterdir())
    if not names:
        return "is an empty folder"
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return f"holds {', '.join(names[:6])}{more}, nothing that names cameras"


def expected(readers: dict[str, Any]) -> str:
    """What a data folder must hold: the first line of every reader's own description."""
    wanted = [f"{name}: {module.EXPECTED}" for name, module in readers.items()]
    return f"wanted is one of these: {'; '.join(wanted)}."


def check_downscale(downscale: int) -> None:
    """Nothing; an error if downscale is not a whole number of at least 1."""
    if downscale < 1:
        raise ConfigError(f"data.downscale={downscale} must be a whole number >= 1; 1 keeps size.")

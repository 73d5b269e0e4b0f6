"""Posed images: pictures with cameras, in our frame, and the reader that finds out their format."""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

import nfields.data
from nfields.errors import ConfigError, DataError
from nfields.render.cameras import Cameras


@dataclass(frozen=True)
class SceneTransform:
    """The way from the user's frame to ours: ours = scale * user + offset."""

    scale: float
    offset: tuple[float, float, float]

    def to_ours(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points of the user's frame in ours."""
        return points * self.scale + points.new_tensor(self.offset)

    def to_user(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points of our frame in the user's."""
        return (points - points.new_tensor(self.offset)) / self.scale


class PixelBatch(NamedTuple):
    """Pixels of one split; `pixels` are the positions of their centres, values straight uint8."""

    view_index: Int[Tensor, " n"]
    pixels: Float[Tensor, "n 2"]
    values: UInt8[Tensor, "n c"]


class PosedImages:
    """Pictures and cameras of a scene, by split ("train", "test", sometimes "val").

    images     a split's uint8 tensors (height, width, channels), 3 channels, or 4 with straight
               alpha; None when restored from a card
    transform  from the user's frame to ours; cameras, `near` and depths are in ours
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
        self._pixel_tables: dict[str, _PixelTable] = {}

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
        """`num` pixels drawn uniformly, with replacement, from all pixels of all views of a split.

        The cost depends on `num` only, not on the number or size of the pictures.
        """
        table = self._pixel_tables.get(split)
        if table is None:
            table = _PixelTable(self.require_images(split))
            if self.images is not None:
                self.images[split] = table.images
            self._pixel_tables[split] = table
        return table.sample(num, generator)

    def card(self) -> dict[str, Any]:
        """All but pictures and ground truth, for json; `nfields.data.restore` reads it."""
        return {
            "class": "nfields.data.posed_images.PosedImages",
            "cameras": {split: cameras.to_dict() for split, cameras in self.cameras.items()},
            "names": self.names,
            "has_alpha": self.has_alpha,
            "aabb_scale": self.aabb_scale,
            "transform": {"scale": self.transform.scale, "offset": list(self.transform.offset)},
            "source": self.source,
            "near": self.near,
            "notes": self.notes,
        }

    @staticmethod
    def from_card(card: dict[str, Any]) -> "PosedImages":
        """The data set a card describes, without pictures."""
        try:
            x, y, z = card["transform"]["offset"]
            return PosedImages(
                cameras={
                    split: Cameras.from_dict(values) for split, values in card["cameras"].items()
                },
                images=None,
                names=card["names"],
                has_alpha=card["has_alpha"],
                aabb_scale=card["aabb_scale"],
                transform=SceneTransform(card["transform"]["scale"], (x, y, z)),
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


class _PixelTable:
    """All pixels of a split in one tensor (total, channels); how a row becomes a pixel."""

    def __init__(self, images: list[Tensor]) -> None:
        num_channels = images[0].shape[2]
        heights = torch.tensor([image.shape[0] for image in images])
        widths = torch.tensor([image.shape[1] for image in images])
        self.ends = (heights * widths).cumsum(0)
        self.starts = self.ends - heights * widths
        self.widths = widths
        self.total = int(self.ends[-1])
        self.has_one_size = bool((widths == widths[0]).all() and (heights == heights[0]).all())
        values = _as_one(images)
        if values is None:
            values = torch.cat([image.reshape(-1, num_channels) for image in images])
        self.values = values
        self.images = [
            self.values[start:end].view(-1, width, num_channels)
            for start, end, width in zip(
                self.starts.tolist(), self.ends.tolist(), widths.tolist(), strict=True
            )
        ]

    def sample(self, num: int, generator: torch.Generator) -> PixelBatch:
        row = torch.randint(self.total, (num,), generator=generator)
        values = self.values.index_select(0, row)
        if self.has_one_size:
            width = int(self.widths[0])
            # int32 divides several times faster; a view's pixels fit, the sum over views may not.
            view_index = row.div(int(self.ends[0]), rounding_mode="floor")
            inside = row.sub_(view_index, alpha=int(self.ends[0])).to(torch.int32)
            y = inside.div(width, rounding_mode="floor")
        else:
            view_index = torch.searchsorted(self.ends, row, right=True)
            inside = row.sub_(self.starts[view_index])
            width = self.widths[view_index]
            y = inside.div(width, rounding_mode="floor")
        x = inside - y * width
        pixels = torch.stack([x, y], dim=1).to(torch.float32).add_(0.5)
        return PixelBatch(view_index, pixels, values)


def _as_one(images: list[Tensor]) -> Tensor | None:
    """The one tensor (total, channels) that the pictures are consecutive parts of, if they are.

    `read_images` makes them so; copying hundreds of large pictures would double the memory.
    """
    first = images[0]
    offset = first.storage_offset()
    for image in images:
        if (
            image.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
            or image.storage_offset() != offset
            or not image.is_contiguous()
        ):
            return None
        offset += image.numel()
    num_channels = first.shape[2]
    return first.as_strided(
        ((offset - first.storage_offset()) // num_channels, num_channels), (num_channels, 1)
    )


def open_posed_images(
    *, path: str | None, downscale: int, holdout: int, allow_outside: bool
) -> PosedImages:
    """The scene in a folder of any format nfields knows, or the generated scene for path=null.

    Asks every module of `nfields.data` that has `matches(path)` and `read(...)`. Options that only
    one format has (scene_scale, aabb_scale) need that format's own entry: data=blender, data=...
    """
    if path is None:
        from nfields.data import toy_scene

        return toy_scene.read(downscale=downscale)
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
    return read(path=path, downscale=downscale, holdout=holdout, allow_outside=allow_outside)


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

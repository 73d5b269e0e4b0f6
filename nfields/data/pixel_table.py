"""The pixels of a split in one block of memory, and drawing from them."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from nfields.errors import DataError


class PixelBatch(NamedTuple):
    """Pixels of one split; `pixels` are the positions of their centres, values straight uint8.

    depth is the distance from the camera centre in our units, NaN where it is not known; None
    where no picture of the split has one.
    """

    view_index: Int[Tensor, " n"]
    pixels: Float[Tensor, "n 2"]
    values: UInt8[Tensor, "n c"]
    depth: Float[Tensor, " n"] | None = None


class PixelTable:
    """All pixels of a split in one tensor (total, channels); how a row becomes a pixel."""

    def __init__(
        self,
        images: list[Tensor],
        masks: Sequence[Tensor | None] | None = None,
        depths: Sequence[Tensor | None] | None = None,
    ) -> None:
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

        self.rows: Tensor | None = None  # that are drawn; None: all
        if masks is not None and any(mask is not None for mask in masks):
            self.rows = _drawn(images, masks)
        self.depths: _Depths | None = None
        if depths is not None and any(depth is not None for depth in depths):
            self.depths = _Depths(images, depths)

    def sample(self, num: int, generator: torch.Generator) -> PixelBatch:
        """`num` pixels, uniformly with replacement."""
        if self.rows is None:
            row = torch.randint(self.total, (num,), generator=generator)
        else:
            chosen = torch.randint(len(self.rows), (num,), generator=generator)
            row = self.rows[chosen].to(torch.int64)
        depth = None if self.depths is None else self.depths.of(row)
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
        return PixelBatch(view_index, pixels, values, depth)


class _Depths:
    """Depths of all pixels, or, where every picture knows few, of those alone."""

    def __init__(self, images: list[Tensor], depths: Sequence[Tensor | None]) -> None:
        are_few = all(depth is None or depth.is_sparse for depth in depths)
        values, rows, start = [], [], 0
        for image, depth in zip(images, depths, strict=True):
            height, width = image.shape[:2]
            if depth is not None and depth.is_sparse:
                y, x = depth.indices()
                place, known = y * width + x, depth.values()
            elif depth is not None:
                place, known = torch.arange(height * width), depth.reshape(-1)
            else:
                place, known = torch.zeros(0, dtype=torch.int64), torch.zeros(0)
            if not are_few:
                known = torch.full((height * width,), torch.nan).index_copy_(0, place, known)
            values.append(known)
            rows.append(start + place)
            start += height * width
        self.values = torch.cat(values)
        self.rows = torch.cat(rows) if are_few else None  # ascending; None: all

    def of(self, row: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The depths of pixels; NaN where not known."""
        if self.rows is None:
            return self.values[row]
        place = torch.searchsorted(self.rows, row).clamp_(max=len(self.rows) - 1)
        return torch.where(self.rows[place] == row, self.values[place], torch.nan)


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


def _drawn(images: list[Tensor], masks: Sequence[Tensor | None]) -> Int[Tensor, " rows"]:
    """The rows of all pixels that a mask leaves in; 32 bits where they suffice."""
    rows, start = [], 0
    for image, mask in zip(images, masks, strict=True):
        num = image.shape[0] * image.shape[1]
        inside = torch.arange(num) if mask is None else mask.reshape(-1).nonzero()[:, 0]
        rows.append((inside + start).to(torch.int32 if start + num < 1 << 31 else torch.int64))
        start += num
    drawn = torch.cat(rows)
    if len(drawn) == 0:
        raise DataError(
            "the masks leave out every pixel of every picture; black is left out: are they inverted?"
        )
    return drawn

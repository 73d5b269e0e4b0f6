"""What is known of the pixels of a picture besides their colours: masks and depths."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nfields.data.image_reader import ImageHeader, open_image
from nfields.errors import DataError
from nfields.render.cameras import Cameras, pixel_centers
from nfields.render.lenses import EQUIRECTANGULAR, PERSPECTIVE, from_plane


@dataclass(frozen=True)
class MaskFile:
    """A picture that says which pixels count: not black ones, or, inverted, only black ones.

    nerfstudio's masks and COLMAP's are black where a pixel is left out, instant-ngp's dynamic masks
    are not.
    """

    path: Path
    is_inverted: bool = False
    factor: int = 1  # the mask is so many times larger than its picture

    def read(self, header: ImageHeader, downscale: int) -> Bool[Tensor, "height width"]:
        """True where a pixel counts; of a block averaged by downscale, all its pixels must."""
        values = _decode(self.path)
        if values.ndim == 3 and values.shape[2] in (2, 4):  # alpha is no part of a mask
            values = values[..., :-1]
        inside = values != 0 if values.ndim == 2 else (values != 0).any(axis=2)
        _check_size(self.path, "mask", inside, header, self.factor)
        inside = _padded(~inside if self.is_inverted else inside, header, self.factor)
        return torch.from_numpy(_blocks(inside, self.factor * downscale).all(axis=(1, 3)))


@dataclass(frozen=True)
class DepthFile:
    """A depth map: a picture of 16 bits or a .npy array; value * unit is the depth in the user's
    units, measured along the optical axis (of a panorama along the ray); 0 or not finite is unknown.
    """

    path: Path
    unit: float

    def read(
        self, header: ImageHeader, cameras: Cameras, view: int, downscale: int, scale: float
    ) -> Float[Tensor, "height width"]:
        """Distance from the camera centre times `scale`, NaN where it is not known.

        Of a block of downscale x downscale pixels one in the middle is taken: a mean over the edge
        of a surface would be nowhere. `cameras` are those of the smaller pictures.
        """
        values = _decode(self.path)
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[..., 0]
        if values.ndim != 2:
            raise DataError(
                f"{self.path} has the shape {values.shape}; a depth map has one value a pixel."
            )
        _check_size(self.path, "depth map", values, header)
        middle = downscale // 2
        depth = torch.from_numpy(_blocks(values, downscale)[:, middle, :, middle].astype(np.float32))
        depth = torch.where(depth.isfinite() & (depth > 0), depth * (self.unit * scale), torch.nan)
        return depth / axis_cosines(cameras, view)


@dataclass(frozen=True)
class PointDepths:
    """The distances, in the user's units, of points from the centre of a camera, and the pixels of
    its picture (x y, n of each) that show them: depths of few pixels, as COLMAP's points give them.
    """

    pixels: Float[np.ndarray, "n 2"]
    distances: Float[np.ndarray, " n"]

    def read(
        self, header: ImageHeader, cameras: Cameras, view: int, downscale: int, scale: float
    ) -> Float[Tensor, "height width"] | None:
        """Distance times `scale`, sparse: what is not stored is not known; None if nothing is. Of
        points in the same pixel the nearest counts.
        """
        width, height = cameras.size(view)
        pixels = self.pixels / downscale
        is_inside = ((pixels >= 0) & (pixels < [width, height])).all(axis=1)
        if not is_inside.any():
            return None
        distances = self.distances[is_inside]
        farthest_first = np.argsort(-distances)
        x, y = pixels[is_inside][farthest_first].T.astype(np.int64)
        found = dict(zip((y * width + x).tolist(), distances[farthest_first].tolist(), strict=True))
        place = torch.tensor(list(found), dtype=torch.int64)
        distance = torch.tensor(list(found.values()), dtype=torch.float32) * scale
        index = torch.stack([place.div(width, rounding_mode="floor"), place % width])
        size = (height, width)
        return torch.sparse_coo_tensor(index, distance, size, check_invariants=True).coalesce()


def axis_cosines(cameras: Cameras, view: int) -> Float[Tensor, "height width"]:
    """z / distance of every pixel's ray, or 1 for a panorama, which has no axis."""
    width, height = cameras.size(view)
    lens = int(cameras.lens[view])
    if lens == EQUIRECTANGULAR:
        return torch.ones(height, width)
    plane = (pixel_centers(width, height) - cameras.center[view]) / cameras.focal[view]
    num = len(plane)
    local = from_plane(
        plane,
        torch.full((num,), lens),
        cameras.distortion[view].expand(num, 4),
        cameras.max_angle[view].float().expand(num),
    )
    cosines = local[:, 2].view(height, width)
    return cosines if lens == PERSPECTIVE else torch.where(cosines > 0, cosines, torch.nan)


def _decode(path: Path) -> np.ndarray:
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        with open_image(path) as image:
            return np.asarray(image.convert("RGBA") if image.mode in ("P", "PA") else image)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path} cannot be decoded ({error}); copy the file again, or take its key out."
        ) from error


def _check_size(
    path: Path, what: str, values: np.ndarray, header: ImageHeader, factor: int = 1
) -> None:
    # Smaller copies of a picture are cut or rounded by less than a pixel.
    difference = np.abs(np.array(values.shape[:2]) - factor * np.array([header.height, header.width]))
    if difference.max() >= factor:
        raise DataError(
            f"{path}: the {what} has {values.shape[1]} x {values.shape[0]} pixels, its picture "
            f"{header.path.name} {header.width} x {header.height}; they must have the same size."
        )


def _padded(values: np.ndarray, header: ImageHeader, factor: int) -> np.ndarray:
    """Cut or repeated at the right and the bottom to factor times the size of the picture."""
    height, width = factor * header.height, factor * header.width
    more = [(0, max(0, height - values.shape[0])), (0, max(0, width - values.shape[1]))]
    return np.pad(values, more, mode="edge")[:height, :width]


def _blocks(values: np.ndarray, factor: int) -> np.ndarray:
    """(height, width) as (rows, factor, columns, factor), without what does not fill a block."""
    height, width = values.shape[0] // factor, values.shape[1] // factor
    return values[: height * factor, : width * factor].reshape(height, factor, width, factor)

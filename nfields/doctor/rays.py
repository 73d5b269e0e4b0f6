"""Rays of pixels of views, in float64 and for changed intrinsics: what hypotheses are tried by."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int

from nfields.data.camera_file import View
from nfields.render.lenses import FISHEYE, from_plane, max_angle


def camera_rays(
    views: Sequence[View],
    index: Int[np.ndarray, " n"],
    pixels: Float[np.ndarray, "n 2"],
    focal_scale: Float[np.ndarray, " views"] | float = 1.0,
    center_scale: Float[np.ndarray, " views"] | float = 1.0,
) -> Float[np.ndarray, "n 3"]:
    """Unit rays in our camera axes (x right, y up, looking along -z) of pixels of the files.

    The focal lengths and principal points of the views are multiplied by the scales first.
    """
    scale = np.broadcast_to(np.asarray(focal_scale, np.float64), (len(views),))
    shift = np.broadcast_to(np.asarray(center_scale, np.float64), (len(views),))
    focal = np.array([view.focal for view in views]) * scale[:, None]
    center = np.array([view.center for view in views]) * shift[:, None]
    lens = np.array([view.lens for view in views])
    coefficients = np.array([view.distortion for view in views], dtype=np.float64)
    limit = max_angle(np.where(lens[:, None] == FISHEYE, coefficients, 0.0))
    plane = (pixels - center[index]) / focal[index]
    rays = from_plane(
        torch.from_numpy(plane),
        torch.from_numpy(lens[index]),
        torch.from_numpy(coefficients[index]),
        torch.from_numpy(limit[index]),
    )
    return rays.numpy() * np.array([1.0, -1.0, -1.0])

"""A surface as the zero set of a function: what tasks hand to mesh export and to sphere tracing."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from nfields.errors import DataError
from nfields.render.small_bodies import Cells

_CHUNK = 1 << 18  # points evaluated at once


@dataclass(frozen=True)
class Surface:
    """The zero set of `distance`, which is positive outside and negative inside.

    `distance` is called without gradients unless its argument asks for them. Where it is not a
    distance (a density minus its iso-level, with the sign turned), `is_distance` is False and its
    values say nothing about how far the surface is.
    """

    distance: Callable[[Float[Tensor, "n 3"]], Float[Tensor, " n"]]
    bounds: Float[Tensor, "2 3"]  # lowest and highest corner of the box to look in, our frame
    to_user: Float[Tensor, "4 4"]  # our frame to the user's: a similarity
    is_distance: bool
    color: Callable[[Float[Tensor, "n 3"]], Float[Tensor, "n 3"]] | None  # sRGB in [0, 1]
    notes: tuple[str, ...] = ()  # what was chosen for the user, such as a level, in sentences
    small_bodies: Cells | None = None  # where the data has some; None: unknown
    # The same surface, but what no camera sees counts as inside; None: that cannot be told.
    solid: "Callable[[], Surface] | None" = None

    def values(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """The function at points of the CPU, without gradients, in chunks.

        Raises DataError where it is not a number: what comes after would take that for outside.
        """
        device, parts = self.bounds.device, []
        with torch.no_grad():
            for part in points.split(_CHUNK):
                found = self.distance(part.to(device)).cpu().to(points.dtype)
                if bool(found.isnan().any()):
                    place = ", ".join(f"{x:.4g}" for x in part[int(found.isnan().int().argmax())])
                    raise DataError(
                        f"the field is not a number at ({place}) of our frame; its training went "
                        "wrong: lower model.lr and train again"
                    )
                parts.append(found)
        return torch.cat(parts) if parts else points.new_zeros(0)

    def values_of(self, points: Float[np.ndarray, "n 3"]) -> Float32[np.ndarray, " n"]:
        """The same of an array, in float32."""
        return self.values(torch.from_numpy(points.astype(np.float32))).numpy()

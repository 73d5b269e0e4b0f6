"""A surface as the zero set of a function: what tasks hand to mesh export and to sphere tracing."""

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor


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

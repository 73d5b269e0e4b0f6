"""Stray parts: bits of surface that a field has where the data has none.

A part is stray if its area is less than 0.1 % of the largest part's, and it is not where the data
has small bodies (nfields/render/small_bodies.py). Parts that make more than 1 % of the area in all
are not stray, however small: they are what the data is made of. Only distances have strays: what is
small in a density may well be there.

Fields of an armadillo after a minute had up to 26 of them, the largest 0.006 % of the body.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from nfields.render.small_bodies import are_within
from nfields.render.surface import Surface

_SHARE = 1e-3  # of the largest part's area
_MAX_SHARE = 0.01  # of the area of all parts


def are_stray(
    areas: Float[np.ndarray, " parts"],
    points: Float[np.ndarray, "n 3"],
    part: Int[np.ndarray, " n"],
    surface: Surface,
) -> Bool[np.ndarray, " parts"]:
    """Which parts of a surface are stray, from their areas and points of each, in our frame."""
    is_stray = areas < (_SHARE * areas.max(initial=0.0) if surface.is_distance else 0.0)
    if surface.small_bodies is not None:
        is_stray[part[are_within(points, surface.small_bodies)]] = False
    if areas[is_stray].sum() > _MAX_SHARE * areas.sum():
        is_stray[:] = False
    return is_stray

"""Stray parts: bits of surface that a field has where the data has none.

A part is stray if its area is less than 0.1 % of the largest part's, and less than half of that of
the smallest body of the data, where that is known. Parts that make more than 1 % of the area in all
are not stray, however small: they are what the data is made of. Only distances have strays: what is
small in a density may well be there.

Fields of an armadillo after a minute had up to 26 of them, the largest 0.006 % of the body.
"""

import numpy as np
from jaxtyping import Bool, Float

from nfields.render.surface import Surface

_SHARE = 1e-3  # of the largest part's area
_SHARE_OF_BODY = 0.5  # of the smallest body's: a field may have it smaller than it is
_MAX_SHARE = 0.01  # of the area of all parts


def are_stray(areas: Float[np.ndarray, " parts"], surface: Surface) -> Bool[np.ndarray, " parts"]:
    """Which parts of a surface are stray, from their areas in our frame."""
    limit = _SHARE * areas.max(initial=0.0) if surface.is_distance else 0.0
    if surface.smallest_body is not None:
        limit = min(limit, _SHARE_OF_BODY * surface.smallest_body)
    is_stray = areas < limit
    if areas[is_stray].sum() > _MAX_SHARE * areas.sum():
        is_stray[:] = False
    return is_stray

"""Stray parts of a mesh: bits of surface that a field has where the data has none.

A part is stray if its area is less than 0.1 % of the largest part's, and less than half of that of
the smallest body of the data, where that is known. Parts that make more than 1 % of the area in all
are not stray, however small: they are what the data is made of.

Fields of an armadillo after a minute had up to 26 of them, the largest 0.006 % of the body.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from nfields.render.surface import Surface
from nfields.render.triangle_mesh import TriangleMesh, keep_faces, part_areas

_SHARE = 1e-3  # of the largest part's area
_SHARE_OF_BODY = 0.5  # of the smallest body's: a field may have it smaller than it is
_MAX_SHARE = 0.01  # of the area of all parts


@dataclass(frozen=True)
class Dropped:
    """What a mesh has lost."""

    num: int  # parts
    share: float  # of the area there was

    def __str__(self) -> str:
        return f"{self.num:,} part{'s' * (self.num != 1)} with {100 * self.share:.2g} % of the area"

    @property
    def note(self) -> str:
        """A sentence on stray parts, and how to keep them."""
        return f"stray: {self} dropped; scripts/export.py what=mesh min_component=0 keeps all parts"


def without_strays(mesh: TriangleMesh, surface: Surface) -> tuple[TriangleMesh, Dropped]:
    """The mesh of a surface, in our frame, without stray parts.

    Only of distances: what is small in a density may well be there.
    """
    label, areas = part_areas(mesh)
    limit = _SHARE * areas.max(initial=0.0) if surface.is_distance else 0.0
    if surface.smallest_body is not None:
        limit = min(limit, _SHARE_OF_BODY * surface.smallest_body)
    is_stray = areas < limit
    if areas[is_stray].sum() > _MAX_SHARE * areas.sum():
        is_stray[:] = False
    return _without(mesh, label, areas, is_stray)


def without_small_parts(mesh: TriangleMesh, share: float) -> tuple[TriangleMesh, Dropped]:
    """The mesh without parts of less than `share` of the largest part's area."""
    label, areas = part_areas(mesh)
    return _without(mesh, label, areas, areas < share * areas.max(initial=0.0))


def _without(
    mesh: TriangleMesh,
    label: Int[np.ndarray, " f"],
    areas: Float[np.ndarray, " parts"],
    is_dropped: Bool[np.ndarray, " parts"],
) -> tuple[TriangleMesh, Dropped]:
    if not is_dropped.any():
        return mesh, Dropped(0, 0.0)
    share = float(areas[is_dropped].sum() / areas.sum())
    return keep_faces(mesh, ~is_dropped[label]), Dropped(int(is_dropped.sum()), share)

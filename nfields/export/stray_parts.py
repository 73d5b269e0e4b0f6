"""A mesh without its stray parts (nfields/render/strays.py), or without all that are small."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from nfields.render.small_bodies import num_missing
from nfields.render.strays import are_stray
from nfields.render.surface import Surface
from nfields.render.triangle_mesh import TriangleMesh, keep_faces, part_areas

_SMALL = 1e-3  # of the largest part's area


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
    """The mesh of a surface, in our frame, without stray parts."""
    label, areas = part_areas(mesh)
    corners = mesh.vertices[mesh.faces[:, 0]]
    return _without(mesh, label, areas, are_stray(areas, corners, label, surface))


def note_on_missing(mesh: TriangleMesh, surface: Surface) -> list[str]:
    """A sentence, if the mesh, in our frame, has nothing where the data has small bodies."""
    num = 0 if surface.small_bodies is None else num_missing(mesh.vertices, surface.small_bodies)
    if num == 0:
        return []
    return [
        f"missing: nothing of the mesh is at {num:,} place{'s' * (num != 1)} where the data has "
        "small bodies; they need a finer mesh (scripts/export.py what=mesh resolution=512), or "
        "longer training"
    ]


def note_on_small(mesh: TriangleMesh) -> list[str]:
    """A sentence on the parts of a density's mesh that may be floaters, if there are any."""
    _, areas = part_areas(mesh)
    is_small = areas < _SMALL * areas.max(initial=0.0)
    if not is_small.any():
        return []
    share = 100 * areas[is_small].sum() / areas.sum()
    return [
        f"small: {int(is_small.sum()):,} of {len(areas):,} parts have less than {100 * _SMALL:g} % "
        f"of the largest one's area each, {share:.2g} % of all area together; what a density has "
        f"may well be there: min_component={_SMALL:g} drops them"
    ]


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

"""The mesh of a signed distance, written in the user's frame and compared with the true surface."""

from pathlib import Path
from typing import Any

from nfields.data.true_surface import TrueSurface
from nfields.errors import DataError
from nfields.export.mesh import to_user
from nfields.export.mesh_file import write_mesh
from nfields.export.mesh_report import compare, describe
from nfields.export.stray_parts import note_on_missing, without_strays
from nfields.render.isosurface import extract_surface
from nfields.render.surface import Surface

MESH_NAME = "mesh.ply"
_CHUNK = 1 << 18  # points evaluated at once
_SAFETY = 1.5  # as in nfields/export/mesh.yaml
_COUNTS = ("is_watertight", "num_components", "num_faces")


def measure_mesh(
    surface: Surface, truth: TrueSurface | None, resolution: int, num_points: int, folder: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metrics of the extracted mesh and their protocol; the mesh itself is in `folder`.

    Stray parts are left out, and the protocol says so. Without a known surface the mesh is only
    described. Raises DataError if the field has no zero.
    """
    found = extract_surface(surface, resolution=resolution, safety=_SAFETY, chunk=_CHUNK).mesh
    mesh, dropped = without_strays(found, surface)
    shown = to_user(mesh, surface)
    try:
        write_mesh(folder / MESH_NAME, shown)
    except OSError as error:
        raise DataError(f"{folder / MESH_NAME} cannot be written: {error}; make room") from error
    counts = describe(shown)
    measured: dict[str, Any] = {name: counts[name] for name in _COUNTS}
    how: dict[str, Any] = {"mesh": f"{MESH_NAME}, {resolution} cells a side of [-1, 1]^3"}
    notes = [dropped.note] if dropped.num else []
    notes += note_on_missing(mesh, surface)
    if notes:
        how["mesh_parts"] = "; ".join(notes)
    if truth is not None:
        figures = compare(mesh, surface, truth, num_points)
        how |= figures.pop("protocol")
        measured |= figures
        measured["fscore"] = figures["fscore_0.005"]
    return measured, how

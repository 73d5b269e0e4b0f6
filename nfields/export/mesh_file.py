"""Meshes as files: ply, glb, obj, stl. A file is complete or absent.

ply    binary; normals and colours; 64-bit coordinates where 32 bits would round visibly
glb    normals and colours (linear, as glTF 2.0 section 3.9.4 wants them, and 8 bits)
obj    text; normals, and colours behind the coordinates, which most programs read
stl    binary; triangles alone, each with its own corners
"""

import math
from pathlib import Path

import numpy as np
import trimesh
from trimesh.exchange.gltf import export_glb
from trimesh.exchange.obj import export_obj
from trimesh.exchange.stl import export_stl
from trimesh.visual import ColorVisuals

from nfields.export.picture import to_uint8, write_file
from nfields.render.triangle_mesh import TriangleMesh

SUFFIXES = (".ply", ".glb", ".obj", ".stl")
_EXACT = 2.0**-23 * 100  # the share of the diagonal by which 32 bits may round coordinates


def write_mesh(file: Path, mesh: TriangleMesh) -> None:
    """Writes a mesh in the format that the suffix says; makes missing folders."""
    suffix = file.suffix.lower()
    if suffix == ".ply":
        content = _ply(mesh)
    elif suffix == ".glb":
        linear = None if mesh.colors is None else linear_from_srgb(mesh.colors)
        content = export_glb(_trimesh(mesh, linear).scene(), include_normals=True)
    elif suffix == ".obj":
        # Eight digits of the diagonal.
        digits = max(0, 8 - math.floor(math.log10(_diagonal(mesh))))
        text = export_obj(_trimesh(mesh, mesh.colors), include_normals=True, digits=digits)
        content = str(text).encode()
    else:
        content = export_stl(_trimesh(mesh, None))
    write_file(file, content)


def linear_from_srgb(srgb: np.ndarray) -> np.ndarray:
    """IEC 61966-2-1."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _diagonal(mesh: TriangleMesh) -> float:
    return float(np.linalg.norm(np.ptp(mesh.vertices, axis=0)))


def _ply(mesh: TriangleMesh) -> bytes:
    is_far = np.abs(mesh.vertices).max() * 2.0**-24 > _EXACT * _diagonal(mesh)
    number, word = ("<f8", "double") if is_far else ("<f4", "float")
    columns: list[tuple[str, str, str, np.ndarray]] = [
        (name, number, word, mesh.vertices[:, i]) for i, name in enumerate("xyz")
    ]
    if mesh.normals is not None:
        columns += [(f"n{n}", "<f4", "float", mesh.normals[:, i]) for i, n in enumerate("xyz")]
    if mesh.colors is not None:
        colors = to_uint8(mesh.colors)
        names = ("red", "green", "blue")
        columns += [(name, "u1", "uchar", colors[:, i]) for i, name in enumerate(names)]
    vertices = np.zeros(len(mesh.vertices), dtype=[(name, kind) for name, kind, _, _ in columns])
    for name, _, _, values in columns:
        vertices[name] = values
    faces = np.zeros(len(mesh.faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, mesh.faces
    header = ["ply", "format binary_little_endian 1.0", "comment made by nfields"]
    header += [f"element vertex {len(vertices)}"]
    header += [f"property {word} {name}" for name, _, word, _ in columns]
    header += [f"element face {len(faces)}", "property list uchar int vertex_indices"]
    header += ["end_header", ""]
    return b"".join(["\n".join(header).encode(), vertices.data.cast("B"), faces.data.cast("B")])


def _trimesh(mesh: TriangleMesh, colors: np.ndarray | None) -> trimesh.Trimesh:
    made = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_normals=mesh.normals, process=False, validate=False
    )
    if colors is not None:
        made.visual = ColorVisuals(made, vertex_colors=to_uint8(colors))
    return made

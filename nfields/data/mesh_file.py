"""Triangles from a file: anything trimesh reads, cleaned, with a note for what was left out."""

# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportAttributeAccessIssue=false, reportIndexIssue=false, reportReturnType=false
# pyright: reportAssignmentType=false
# (The type stubs of igl call every array an ArrayLike.)

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import igl
import numpy as np
import trimesh
from jaxtyping import Float, Int

from nfields.errors import DataError

MAX_BYTES = 4 << 30  # text of about 50 million faces; reading it takes several times that in memory
# Of the bounding box's diagonal: vertices closer than this are one, triangles flatter are none.
_SAME = 1e-9
SUFFIXES = ("obj", "ply", "stl", "off", "glb", "gltf", "3mf", "dae", "xaml", "3dxml")


@dataclass(frozen=True)
class StoredMesh:
    """What a file held, in the user's frame and units."""

    vertices: Float[np.ndarray, "v 3"]  # float64
    faces: Int[np.ndarray, "f 3"]  # int64
    notes: list[str] = field(default_factory=list)


def check_file(path: Path, suffixes: tuple[str, ...]) -> None:
    """Nothing; a DataError if there is no readable file of one of these kinds."""
    if not path.exists():
        raise DataError(
            f"data.path={path} does not exist (looked in {Path.cwd()} if it is relative); give a "
            f"mesh or a point cloud: {', '.join(suffixes)}"
        )
    if path.is_dir():
        raise DataError(f"data.path={path} is a folder; give one file: {', '.join(suffixes)}")
    suffix = path.suffix.lower().lstrip(".")
    if suffix not in suffixes:
        raise DataError(
            f"data.path={path}: files of kind {path.suffix or '(no suffix)'} are not read; "
            f"convert it to one of {', '.join(suffixes)}"
        )
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"data.path={path} is empty (0 bytes); was it copied or written in full?")
    if size > MAX_BYTES:
        raise DataError(
            f"data.path={path} has {size / 2**30:.1f} GiB, and at most {MAX_BYTES >> 30} GiB are "
            "read; simplify the mesh or thin out the points first"
        )
    if not os.access(path, os.R_OK):
        raise DataError(f"data.path={path} cannot be read: permission denied")


def reading(path: Path, read: Callable[[], Any]) -> Any:
    """What `read` gives; whatever a reader stumbles over becomes a DataError."""
    try:
        return read()
    except DataError:
        raise
    except MemoryError as error:
        raise DataError(f"data.path={path} does not fit into memory; simplify it first") from error
    # Readers of broken files fail in every way there is.
    except Exception as error:
        place = first_wrong_line(path) if path.suffix.lower() == ".obj" else None
        raise DataError(
            f"data.path={path} cannot be read as {path.suffix.lower().lstrip('.')} "
            f"({place or f'{type(error).__name__}: {error}'}); the file is damaged or cut off, or of "
            "another kind than its suffix says"
        ) from error


def first_wrong_line(path: Path) -> str | None:
    """The first vertex of an obj file that is not three numbers or more, or None."""
    with path.open(errors="replace") as file:
        for number, line in enumerate(file, start=1):
            kind, *values = line.split() or [""]
            if kind == "v" and not (len(values) >= 3 and all(map(_is_number, values))):
                return f"line {number:,} is no vertex: {line.strip()[:60]!r}"
    return None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def read_mesh(path: Path) -> StoredMesh:
    """The triangles of a file, all bodies of a scene in one; at least one of positive area."""
    check_file(path, SUFFIXES)
    scene = reading(path, lambda: trimesh.load_scene(path, process=False))
    parts = reading(path, lambda: scene.dump())
    meshes = [part for part in parts if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    if not meshes:
        num_points = sum(len(getattr(part, "vertices", ())) for part in parts)
        found = f"{num_points:,} vertices and no faces" if num_points else "no geometry"
        raise DataError(
            f"data.path={path} has {found}; a mesh needs triangles. Points alone are read from "
            "ply, xyz and npz files"
        )
    starts = np.cumsum([0, *(len(mesh.vertices) for mesh in meshes)])
    vertices = np.concatenate([np.asarray(mesh.vertices, np.float64) for mesh in meshes])
    faces = np.concatenate(
        [
            np.asarray(mesh.faces, np.int64) + start
            for mesh, start in zip(meshes, starts, strict=False)
        ]
    )
    return cleaned(vertices, faces, f"data.path={path}")


def cleaned(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], name: str
) -> StoredMesh:
    """The mesh without what has no area, is there twice or is no number; counted in notes."""
    notes, total = [], len(faces)
    is_wrong = ((faces < 0) | (faces >= len(vertices))).any(axis=1)
    if is_wrong.any():
        first = int(is_wrong.argmax())
        raise DataError(
            f"{name}: face {first + 1:,} of {total:,} has the vertices "
            f"{', '.join(str(i + 1) for i in faces[first])}, counted from 1, and there are "
            f"{len(vertices):,}; {is_wrong.sum():,} faces are like that: the file is damaged or cut "
            "off, export it again"
        )
    finite = np.isfinite(vertices).all(axis=1)
    good = finite[faces].all(axis=1)
    if not good.all():
        notes.append(f"{count(int((~good).sum()), total)} with NaN or infinite vertices left out")
        faces = faces[good]
        if len(faces) == 0:
            raise DataError(f"{name}: every face has a NaN or infinite vertex; export it again")
    used = np.unique(faces)
    low, high = vertices[used].min(axis=0), vertices[used].max(axis=0)
    diagonal = float(np.linalg.norm(high - low))
    if not 0 < diagonal < np.inf:
        raise DataError(f"{name}: all vertices are at one place; there is no surface to fit")
    # The same in any unit, and with faces of files that store corners, not vertices, joined.
    unit = np.zeros_like(vertices)
    unit[used] = (vertices[used] - low) / diagonal
    _, first, _, faces = igl.remove_duplicate_vertices(unit, faces, _SAME)
    unit, vertices = unit[first], vertices[first]
    corners = unit[faces]
    area = np.linalg.norm(
        np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1
    )
    flat = area <= _SAME**2
    if flat.any():
        notes.append(f"{count(int(flat.sum()), total)} without area left out")
        faces = faces[~flat]
        if len(faces) == 0:
            raise DataError(f"{name}: all {total:,} faces have zero area; there is no surface")
    _, kept = np.unique(np.sort(faces, axis=1), axis=0, return_index=True)
    if len(kept) < len(faces):
        notes.append(f"{count(len(faces) - len(kept), total)} that are there twice left out")
        faces = faces[np.sort(kept)]
    used, faces = np.unique(faces, return_inverse=True)
    return StoredMesh(vertices[used], faces.reshape(-1, 3).astype(np.int64), notes)


def count(num: int, total: int) -> str:
    """'3 of 100 faces'."""
    return f"{num:,} of {total:,} faces"

"""Meshes made for tests; faces are counter-clockwise seen from outside."""

from pathlib import Path

import numpy as np
import trimesh

Mesh = tuple[np.ndarray, np.ndarray]


def ball(radius: float = 1.0, center: tuple[float, ...] = (0, 0, 0), subdivisions: int = 3) -> Mesh:
    made = trimesh.creation.icosphere(subdivisions=subdivisions, radius=radius)
    return np.asarray(made.vertices) + np.array(center), np.asarray(made.faces)


def box(sides: tuple[float, ...] = (1, 1, 1), center: tuple[float, ...] = (0, 0, 0)) -> Mesh:
    made = trimesh.creation.box(extents=sides)
    return np.asarray(made.vertices) + np.array(center), np.asarray(made.faces)


def inward(mesh: Mesh) -> Mesh:
    """The same, wound inside out."""
    return mesh[0], mesh[1][:, ::-1]


def joined(*meshes: Mesh) -> Mesh:
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    faces = [faces + start for (_, faces), start in zip(meshes, starts, strict=False)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces)


def write(mesh: Mesh, path: Path) -> Path:
    trimesh.Trimesh(*mesh, process=False).export(path)
    return path

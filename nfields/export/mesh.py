"""The export what=mesh: the surface of any field that has one, as triangles in the user's frame."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import fast_simplification
import numpy as np
import torch
from jaxtyping import Float
from rich.console import Console

from nfields.config import build
from nfields.data.surface_file import SurfaceData
from nfields.data.true_surface import TrueSurface
from nfields.errors import ConfigError, DataError
from nfields.export.comparison import progress_bar
from nfields.export.export import Export, surface_task
from nfields.export.mesh_file import SUFFIXES, write_mesh
from nfields.export.mesh_report import compare, describe, lines
from nfields.export.stray_parts import (
    note_on_missing,
    note_on_small,
    without_small_parts,
    without_strays,
)
from nfields.model.field import Field
from nfields.render.isosurface import extract_surface
from nfields.render.surface import Surface
from nfields.render.surface_refine import normals, project, sharpen
from nfields.render.triangle_mesh import TriangleMesh
from nfields.run_folder import write_json
from nfields.stored_run import StoredRun


@runtime_checkable
class HasDensity(Protocol):
    """What a task offers in addition whose surface is where a density has some value."""

    def surface_at(self, model: Field, density: float) -> Surface:
        """The surface where the density, per unit of our frame, has this value."""
        ...


class MeshExport(Export):
    """what=mesh; every option is explained in mesh.yaml."""

    def __init__(
        self,
        *,
        resolution: int,
        out: str | None,
        overwrite: bool,
        level: int | float | None,
        solid: bool,
        sharp: bool,
        newton_steps: int,
        normal_step: int | float,
        min_component: int | float | None,
        max_faces: int | None,
        colors: bool,
        safety: int | float,
        truth: bool,
        num_points: int,
        chunk: int,
    ):
        if not 8 <= resolution <= 4096:
            raise ConfigError(f"resolution={resolution} must be between 8 and 4096 cells")
        if out is not None and Path(out).suffix.lower() not in SUFFIXES:
            raise ConfigError(f"out={out} must end in {', '.join(SUFFIXES)}")
        if newton_steps < 0:
            raise ConfigError(f"newton_steps={newton_steps} must be 0 or more")
        if not 0 < normal_step <= 2:
            raise ConfigError(f"normal_step={normal_step} must be above 0 and at most 2 cells")
        if min_component is not None and not 0 <= min_component <= 1:
            raise ConfigError(f"min_component={min_component} must be between 0 and 1, or null")
        if max_faces is not None and max_faces < 4:
            raise ConfigError(f"max_faces={max_faces} must be at least 4, or null")
        if safety <= 0:
            raise ConfigError(f"safety={safety} must be above 0")
        if min(num_points, chunk) < 1000:
            raise ConfigError("num_points and chunk must be at least 1000")
        self.resolution, self.out, self.overwrite = resolution, out, overwrite
        self.level = None if level is None else float(level)
        self.solid = solid
        self.sharp, self.newton_steps, self.normal_step = sharp, newton_steps, float(normal_step)
        self.min_component = None if min_component is None else float(min_component)
        self.max_faces, self.colors = max_faces, colors
        self.safety, self.truth, self.num_points = float(safety), truth, num_points
        self.chunk = chunk

    def export(self, run: StoredRun) -> list[Path]:
        """Writes the mesh and its report and returns their files."""
        file = run.folder.path / "mesh" / "mesh.ply" if self.out is None else Path(self.out)
        report_file = file.with_suffix(".json")
        for path in (file, report_file):
            if path.exists() and not self.overwrite:
                raise ConfigError(
                    f"{path} is there already; give another name with out=, or overwrite=true"
                )
        surface = self._surface(run)
        started = time.perf_counter()
        mesh, facts = self.mesh(surface)
        facts["seconds"] = time.perf_counter() - started
        truth, note = self._truth(run)
        compared = None if truth is None else compare(mesh, surface, truth, self.num_points)
        mesh = to_user(mesh, surface)
        report: dict[str, Any] = {
            "file": file.name,
            "run": str(run.folder.path.name),
            "step": run.step,
            **describe(mesh),
            **facts,
        }
        if compared is not None:
            report["truth"] = compared
        report["notes"] = [*surface.notes, *facts["notes"], *note]
        write_mesh(file, mesh)
        write_json(report_file, report)
        console = Console(highlight=False, soft_wrap=True, markup=False)
        for line in lines(report):
            console.print(line)
        return [file, report_file]

    def mesh(self, surface: Surface) -> tuple[TriangleMesh, dict[str, Any]]:
        """The mesh of a surface, in our frame, and what is to be said of it."""
        with progress_bar() as bar:
            job = bar.add_task("blocks", total=None)
            found = extract_surface(
                surface,
                resolution=self.resolution,
                safety=self.safety,
                chunk=self.chunk,
                progress=lambda done, total: bar.update(job, completed=done, total=total),
            )
        mesh, grid, num_samples, notes = found.mesh, found.grid, found.num_samples, []
        del found  # its mesh is as large as the one that takes its place
        options = {"difference": self.normal_step, "chunk": self.chunk}
        if self.min_component is None and self.level is None:
            mesh, dropped = without_strays(mesh, surface)
            notes += [dropped.note] if dropped.num else []
        else:  # at another level bodies may be of any size
            mesh, dropped = without_small_parts(mesh, self.min_component or 0.0)
            notes += [f"small: {dropped} dropped (min_component)"] if dropped.num else []
        if self.level is None:
            notes += note_on_missing(mesh, surface)
        if self.min_component is None and not surface.is_distance:
            notes += note_on_small(mesh)
        if self.sharp:
            mesh = sharpen(surface, mesh, grid, steps=self.newton_steps, **options)
        if self.max_faces is not None and self.max_faces < len(mesh.faces):
            mesh = with_fewer_faces(mesh, self.max_faces)
        if self.newton_steps > 0:
            vertices = project(surface, mesh.vertices, grid, steps=self.newton_steps, **options)
            mesh = replace(mesh, vertices=vertices)
        mesh = replace(mesh, normals=normals(surface, mesh, grid, **options))
        if self.colors and surface.color is not None:
            mesh = replace(mesh, colors=vertex_colors(surface, mesh.vertices, self.chunk))
        facts = {
            "cells": list(grid.num_cells),
            "cell_size": float(grid.spacing.max()) * _user_scale(surface),
            "evaluations_to_find": num_samples,
            "num_dropped_components": dropped.num,
            "dropped_share_of_area": dropped.share,
            "notes": notes,
        }
        return mesh, facts

    def _surface(self, run: StoredRun) -> Surface:
        task = surface_task(run, "mesh")
        if self.level is not None and isinstance(task, HasDensity):
            if self.level <= 0:
                raise ConfigError(f"level={self.level:g} must be a density above 0")
            return self._filled(task.surface_at(run.model, self.level))
        surface = self._filled(task.surface(run.model))
        return surface if self.level is None else offset_surface(surface, self.level)

    def _filled(self, surface: Surface) -> Surface:
        return surface.solid() if self.solid and surface.solid is not None else surface

    def _truth(self, run: StoredRun) -> tuple[TrueSurface | None, list[str]]:
        """The surface that the field was fitted to, read again; or why it is not compared."""
        if not self.truth or self.level is not None or not isinstance(run.data, SurfaceData):
            return None, []
        try:
            return build(run.config.data).truth, []
        except DataError as error:
            return None, [f"not compared with the truth: {error}"]


def offset_surface(surface: Surface, distance: float) -> Surface:
    """The surface at a distance outside of another, in the user's units."""
    ours = distance / _user_scale(surface)
    return replace(surface, distance=lambda x: surface.distance(x) - ours)


def _user_scale(surface: Surface) -> float:
    """Units of the user's frame in one of ours."""
    matrix = surface.to_user.double().cpu().numpy()[:3, :3]
    return float(abs(np.linalg.det(matrix))) ** (1 / 3)


def to_user(mesh: TriangleMesh, surface: Surface) -> TriangleMesh:
    """The mesh in the user's frame, outside still outside where that frame is mirrored."""
    matrix = surface.to_user.double().cpu().numpy()
    linear = matrix[:3, :3]
    is_mirrored = np.linalg.det(linear) < 0
    turned = None if mesh.normals is None else mesh.normals @ linear.T / _user_scale(surface)
    return replace(
        mesh,
        vertices=mesh.vertices @ linear.T + matrix[:3, 3],
        faces=mesh.faces[:, ::-1] if is_mirrored else mesh.faces,
        normals=turned,
    )


def with_fewer_faces(mesh: TriangleMesh, num_faces: int) -> TriangleMesh:
    """About `num_faces` triangles, by quadric edge collapse (Garland and Heckbert 1997)."""
    low = mesh.vertices.min(axis=0)
    simplify: Any = fast_simplification.simplify  # what it returns depends on an option
    vertices, faces = simplify(
        (mesh.vertices - low).astype(np.float32),
        np.ascontiguousarray(mesh.faces, np.int32),
        target_count=num_faces,
    )
    return TriangleMesh(vertices.astype(np.float64) + low, faces.astype(np.int32))


def vertex_colors(
    surface: Surface, vertices: Float[np.ndarray, "v 3"], chunk: int
) -> Float[np.ndarray, "v 3"]:
    """The colour of the surface at points, sRGB in [0, 1]."""
    assert surface.color is not None
    points = torch.from_numpy(vertices.astype(np.float32)).to(surface.bounds.device)
    with torch.no_grad():
        parts = [surface.color(part).float().cpu() for part in points.split(chunk)]
    return torch.cat(parts).clamp(0, 1).numpy()

"""A surface as a function's zero set: the data of task=sdf."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nfields.data import inner_walls, knot, mesh_file, mesh_surface, surface_samples, true_surface
from nfields.data.array_cache import cache_file
from nfields.data.knot import KnotSurface
from nfields.data.mesh_file import read_mesh
from nfields.data.mesh_surface import MeshSurface, oriented
from nfields.data.oriented_points import OrientedPoints
from nfields.data.point_file import POINT_SUFFIXES, StoredPoints, read_points
from nfields.data.posed_images import SceneTransform
from nfields.data.surface_samples import SurfaceSamples, kept_samples
from nfields.data.true_surface import TrueSurface
from nfields.errors import ConfigError, DataError
from nfields.render.small_bodies import (
    Cells, cells_of_bodies, cells_of_points, from_text, to_text,
)
from nfields.render.triangle_mesh import TriangleMesh

# The longest side of a surface's box is twice this; around it there is room for the outside.
HALF_SIDE = 0.9


class SurfaceData:
    """A surface in our frame, where its box is centred and its longest side spans [-0.9, 0.9].

    path=null is a knot whose distance is known exactly. A mesh or the knot has `truth` and
    `samples`; points have `oriented`, and so has a mesh of which only `num_points` points are to
    be learned from: its truth then serves the evaluation alone. All three are None when restored
    from a card, which has the transform to the user's frame and `small_bodies` only: where small
    parts of a field are the data's own, of points where any are; None in old cards.
    """

    def __init__(self, *, path: str | None, num_points: int | None, seed: int) -> None:
        if seed < 0:
            raise ConfigError(f"data.seed={seed} must be >= 0")
        if num_points is not None and num_points < 1:
            raise ConfigError(f"data.num_points={num_points} must be at least 1, or null for all")
        self.notes: list[str] = []
        self.truth: TrueSurface | None
        self.samples: SurfaceSamples | None = None
        self.oriented: OrientedPoints | None = None
        self.small_bodies: Cells | None = cells_of_points(np.zeros((0, 3)))
        if path is not None and Path(path).suffix.lower() in POINT_SUFFIXES:
            stored = read_points(Path(path), num_points, seed)
            if stored is not None:
                self._take_points(stored, Path(path), seed)
                return
        if path is None:
            self.source = "generated solid: a trefoil knot around a ball, distances exact"
            self.truth, content = KnotSurface(), b""
            self.transform = SceneTransform(1.0, (0.0, 0.0, 0.0))
        else:
            file = Path(path)
            mesh = read_mesh(file)
            content = file.read_bytes()
            self.transform = centred(mesh.vertices)
            vertices = mesh.vertices * self.transform.scale + np.array(self.transform.offset)
            faces, notes = oriented(vertices, mesh.faces)
            self.notes += [*mesh.notes, *notes]
            self.truth = MeshSurface(vertices, faces)
            self.small_bodies = cells_of_bodies(TriangleMesh(vertices, faces))
            if self.truth.inner_share > 0:
                self.notes.append(
                    f"{100 * self.truth.inner_share:.2g} % of the mesh's area lies inside of its "
                    "bodies, where they overlap; that is no surface of theirs and is left out"
                )
            self.source = f"mesh {file.name}, {len(faces):,} faces"
        code = [
            Path(str(module.__file__)).read_bytes()
            for module in (inner_walls, knot, mesh_file, mesh_surface, surface_samples, true_surface)
        ]
        cached = cache_file("surface", [content, str(seed).encode(), *code])
        samples, notes = kept_samples(cached, self.truth, seed)
        self.samples = samples
        self.notes += notes
        if num_points is not None:
            points, normals = self.truth.sample(num_points, np.random.default_rng(seed))
            self.oriented = OrientedPoints.of(points, normals, seed)
            self.source += f", known at {num_points:,} oriented points"

    def _take_points(self, stored: StoredPoints, file: Path, seed: int) -> None:
        self.transform = centred(stored.points)
        points = stored.points * self.transform.scale + np.array(self.transform.offset)
        self.oriented = OrientedPoints.of(points, stored.normals, seed)
        self.small_bodies = cells_of_points(points)
        self.truth = None
        self.notes += stored.notes
        self.source = f"{len(points):,} oriented points of {file.name}"

    def require_samples(self) -> SurfaceSamples:
        """The samples; an error if this was restored from a card."""
        if self.samples is None:
            raise DataError(
                f"the {self.source} is not at hand: a run folder keeps the transform to its frame "
                "only; say where the file is with data.path=<file>"
            )
        return self.samples

    @property
    def to_user(self) -> Float[Tensor, "4 4"]:
        """The matrix that takes points of our frame to the user's."""
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] /= self.transform.scale
        offset = torch.tensor(self.transform.offset, dtype=torch.float64)
        matrix[:3, 3] = -offset / self.transform.scale
        return matrix

    def card(self) -> dict[str, Any]:
        """All but the surface, for json."""
        return {
            "class": "nfields.data.surface_file.SurfaceData",
            "transform": {"scale": self.transform.scale, "offset": list(self.transform.offset)},
            "source": self.source,
            "small_bodies": None if self.small_bodies is None else to_text(self.small_bodies),
            "notes": self.notes,
        }

    @staticmethod
    def from_card(card: dict[str, Any]) -> "SurfaceData":
        """The data set a card describes, without the surface."""
        data = object.__new__(SurfaceData)
        try:
            x, y, z = (float(value) for value in card["transform"]["offset"])
            data.transform = SceneTransform(float(card["transform"]["scale"]), (x, y, z))
            data.source, data.notes = str(card["source"]), list(card["notes"])
            cells = card.get("small_bodies")  # not in cards of before 2026-11-25
            data.small_bodies = None if cells is None else from_text(cells)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"the data card is incomplete or damaged ({type(error).__name__}: {error}); it "
                "must be the data.json that SurfaceData.card() wrote."
            ) from error
        data.truth, data.samples, data.oriented = None, None, None
        return data


def centred(points: Float[np.ndarray, "n 3"]) -> SceneTransform:
    """The transform that centres the box of points and gives its longest side 2 HALF_SIDE."""
    low, high = points.min(axis=0), points.max(axis=0)
    scale = 2 * HALF_SIDE / float((high - low).max())
    x, y, z = (-scale * 0.5 * (low + high)).tolist()
    return SceneTransform(scale, (x, y, z))

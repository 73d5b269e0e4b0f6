"""Surfaces with closed forms, taken apart into blocks and put together again."""

import numpy as np
import pytest
import torch
from scipy.spatial import KDTree
from torch import Tensor

from nfields.errors import DataError
from nfields.render.isosurface import extract_surface
from nfields.render.surface import Surface
from nfields.render.surface_grid import Grid
from nfields.render.triangle_mesh import (
    TriangleMesh,
    enclosed_volume,
    face_areas,
    topology,
)
from tests.render.shapes import (
    ball,
    double_torus,
    rods,
    surface_of,
    torus,
    torus_area,
    torus_volume,
)


def extract(surface: Surface, resolution: int, block_cells: int = 64, **options) -> TriangleMesh:
    chosen = {"safety": 1.5, "chunk": 1 << 16} | options
    found = extract_surface(surface, resolution=resolution, block_cells=block_cells, **chosen)
    return found.mesh


def faces_as_in(mesh: TriangleMesh, other: TriangleMesh) -> np.ndarray:
    """The faces of a mesh by the vertices of another at the same places, in a fixed order."""
    distance, found = KDTree(other.vertices).query(mesh.vertices)
    index = np.asarray(found)
    assert np.max(distance) < 2e-6 and len(np.unique(index)) == len(index) == len(other.vertices)
    faces = index[mesh.faces]
    turned = (faces.argmin(axis=1)[:, None] + np.arange(3)) % 3
    faces = np.take_along_axis(faces, turned, axis=1)
    return faces[np.lexsort(faces.T)]


@pytest.mark.parametrize(
    ("surface", "genus", "components"),
    [
        (surface_of(ball(0.7)), 0, 1),
        (surface_of(torus), 1, 1),
        (surface_of(double_torus, is_distance=False), 2, 1),
        (surface_of(lambda p: torch.minimum(ball(0.2)(p - 0.5), ball(0.3)(p + 0.4))), 0, 2),
    ],
    ids=["sphere", "torus", "genus 2", "two balls"],
)
@pytest.mark.parametrize("block_cells", [16, 40])
def test_closed_surfaces_are_watertight_and_of_their_genus(surface, genus, components, block_cells):
    found = topology(extract(surface, 70, block_cells))
    assert found.is_watertight
    assert (found.genus, found.num_components) == (genus, components)


def test_a_field_that_never_rounds_alike_leaves_no_seams(generator: torch.Generator):
    """As matrix products: their last bits depend on a point's place among those asked at once."""

    def rounded(p: Tensor) -> Tensor:
        return ball(0.7)(p) + 1e-7 * torch.randn(len(p), generator=generator)

    found = topology(extract(surface_of(rounded), 70, 16))
    assert found.is_watertight and found.genus == 0 and found.num_components == 1


@pytest.mark.parametrize("block_cells", [8, 16, 40])
def test_blocks_leave_no_seams(block_cells):
    """The same triangles as from one block, on a grid that fills no block of an axis exactly."""
    surface = surface_of(torus, low=(-1, -1, -0.3), high=(0.95, 1, 0.5))
    whole, parts = extract(surface, 77, 80), extract(surface, 77, block_cells)
    np.testing.assert_array_equal(faces_as_in(parts, whole), faces_as_in(whole, whole))


@pytest.mark.parametrize("shape", ["ball", "torus"])
def test_area_and_volume_converge_as_the_square_of_the_cell(shape):
    surface = surface_of(ball(0.7) if shape == "ball" else torus)
    area = 4 * np.pi * 0.7**2 if shape == "ball" else torus_area()
    volume = 4 / 3 * np.pi * 0.7**3 if shape == "ball" else torus_volume()
    errors = []
    for resolution in (20, 40, 80):
        mesh = extract(surface, resolution)
        errors.append((face_areas(mesh).sum() - area, enclosed_volume(mesh) - volume))
    coarse, middle, fine = np.abs(errors)
    assert (fine < 3e-3 * np.array([area, volume])).all()
    assert (coarse / middle > 3).all() and (middle / fine > 3).all()


def test_corners_run_counter_clockwise_seen_from_outside():
    mesh = extract(surface_of(ball(0.7)), 24)
    a, b, c = mesh.vertices[mesh.faces].transpose(1, 0, 2)
    assert (np.cross(b - a, c - a) * (a + b + c)).sum(axis=1).min() > 0


def test_surface_through_corners_of_the_grid_has_no_double_vertices():
    """A cube whose faces lie in planes of the grid: all its values there are exactly zero."""
    surface = surface_of(lambda p: p.abs().amax(dim=1) - 0.5)
    mesh = extract(surface, 32, 16)
    assert topology(mesh).is_watertight and topology(mesh).genus == 0
    assert face_areas(mesh).min() > 0
    # Marching cubes cuts the edges off: half a cell's square along each.
    assert enclosed_volume(mesh) == pytest.approx(1 - 12 * 0.5 * (2 / 32) ** 2, abs=2e-3)


def test_surface_cut_by_the_box_is_open_there_only():
    mesh = extract(surface_of(ball(0.7), low=(-1, -1, 0), high=(1, 1, 1)), 48)
    found = topology(mesh)
    assert found.genus is None and found.num_irregular_edges == 0
    edges = np.sort(mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2), axis=1)
    unique, uses = np.unique(edges, axis=0, return_counts=True)
    rim = mesh.vertices[unique[uses == 1]]
    assert found.num_boundary_edges == len(rim) > 0
    np.testing.assert_allclose(rim[..., 2], 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(rim, axis=2), 0.7, atol=1e-3)


@pytest.mark.parametrize("is_distance", [True, False])
def test_most_of_an_empty_box_is_never_looked_at(is_distance):
    found = extract_surface(
        surface_of(ball(0.3), is_distance=is_distance), resolution=256, safety=1.5, chunk=1 << 18
    )
    assert found.num_samples < 0.06 * 256**3


def test_steep_function_loses_nothing():
    """A bent distance, ten times as steep near the surface as far from it."""
    surface = surface_of(lambda p: (10 * torus(p)).sinh(), is_distance=True)
    assert topology(extract(surface, 100, safety=1.0)).genus == 1


def test_surface_is_followed_into_leaves_that_looked_empty():
    """Rods thinner than the samples' spacing leave a ball; their function changes nowhere else."""
    # Every fourth corner of the grid is two cells away from the axis of a rod.
    surface = surface_of(lambda p: rods(p - 2 / 64), is_distance=False)
    mesh = extract(surface, 128, 16)
    assert topology(mesh).is_watertight
    assert np.abs(mesh.vertices).max() > 0.89


def test_no_surface_is_an_error_that_says_the_side():
    with pytest.raises(DataError, match=r"no surface: it is outside everywhere .* 20 x 20 x 20"):
        extract(surface_of(lambda p: p.norm(dim=1) + 1), 20)
    with pytest.raises(DataError, match=r"no surface: it is inside everywhere"):
        extract(surface_of(lambda p: p.norm(dim=1) - 9), 20)


def test_field_that_is_not_a_number_is_an_error_that_says_where():
    def broken(p: Tensor) -> Tensor:
        return torch.where(p[:, 0] > 0.5, torch.nan, ball(0.7)(p))

    with pytest.raises(DataError, match=r"not a number at \(0\.\d+, -?\d"):
        extract(surface_of(broken), 20)


def test_chunks_do_not_change_the_mesh():
    one, many = (extract(surface_of(torus), 40, chunk=chunk) for chunk in (1 << 20, 1000))
    np.testing.assert_array_equal(one.vertices, many.vertices)
    np.testing.assert_array_equal(one.faces, many.faces)


def test_grid_fills_its_box_with_cubes():
    grid = Grid.over(torch.tensor([[-1.0, -0.5, 0], [1, 0.5, 0.33]]), 100)
    assert grid.num_cells == (100, 50, 17)
    np.testing.assert_allclose(grid.positions(np.array([[100, 50, 17]])), [[1, 0.5, 0.33]])
    with pytest.raises(ValueError, match="block_cells=12"):
        extract(surface_of(torus), 40, 12)

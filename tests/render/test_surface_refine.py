"""Vertices on the surface and on its edges, normals of the field."""

import numpy as np
import pytest
import torch

from nfields.render.isosurface import extract_surface
from nfields.render.surface import Surface
from nfields.render.surface_grid import Grid
from nfields.render.surface_refine import gradients, normals, project, sharpen
from nfields.render.triangle_mesh import TriangleMesh, enclosed_volume, topology
from tests.render.shapes import ball, cube, surface_of, torus

OPTIONS = {"difference": 0.25, "chunk": 1 << 16}


def extract(surface: Surface, resolution: int = 40) -> tuple[TriangleMesh, Grid]:
    found = extract_surface(surface, resolution=resolution, safety=1.5, chunk=1 << 16)
    return found.mesh, found.grid


def turned_cube() -> Surface:
    random = torch.Generator().manual_seed(1)
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=random))[0]
    return surface_of(lambda p: cube(p @ rotation))


@pytest.mark.parametrize("steepness", [1.0, 30.0])
def test_projected_vertices_lie_on_the_surface(steepness):
    """Also of a function that is no distance: bent, and steeper by far."""
    surface = surface_of(
        lambda p: steepness * (torus(p) + 2 * torus(p) ** 2), is_distance=steepness == 1
    )
    mesh, grid = extract(surface)
    before = np.abs(surface.values_of(mesh.vertices)).max() / steepness
    vertices = project(surface, mesh.vertices, grid, steps=3, **OPTIONS)
    after = np.abs(surface.values_of(vertices)).max() / steepness
    assert before > 5e-4 and after < 2e-6
    assert np.abs(vertices - mesh.vertices).max() < float(grid.spacing.max()) / 4


def test_no_step_is_no_move_and_no_point_moves_by_more_than_a_cell():
    surface = surface_of(ball(0.7))
    grid = Grid.over(surface.bounds, 40)
    points = np.array([[0.9, 0, 0], [0.3, 0, 0], [0.69, 0, 0]])
    assert (project(surface, points, grid, steps=0, **OPTIONS) == points).all()
    moved = project(surface, points, grid, steps=5, **OPTIONS)
    np.testing.assert_allclose(moved[:, 0], [0.85, 0.35, 0.7], atol=1e-6)


def test_function_that_zigzags_is_never_left_further_from_zero():
    surface = surface_of(lambda p: torch.sin(40 * p[:, 0]) + 0.3 * torch.sin(173 * p[:, 1]) + 0.5)
    grid = Grid.over(surface.bounds, 30)
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (500, 3))
    moved = project(surface, points, grid, steps=4, **OPTIONS)
    assert (np.abs(surface.values_of(moved)) <= np.abs(surface.values_of(points)) + 1e-6).all()
    assert np.linalg.norm(moved - points, axis=1).max() <= float(grid.spacing.max()) * 1.0001


def test_points_stay_in_the_box():
    """Outside it the function may be anything; here it is not a number."""

    def boxed(p: torch.Tensor) -> torch.Tensor:
        return torch.where((p.abs() <= 1).all(dim=1), ball(1.2)(p), torch.nan)

    surface = surface_of(boxed)
    mesh, grid = extract(surface)
    vertices = project(surface, mesh.vertices, grid, steps=3, **OPTIONS)
    assert np.abs(vertices).max() <= 1
    moved = TriangleMesh(vertices, mesh.faces)
    directions = normals(surface, moved, grid, **OPTIONS)
    cosines = (directions * vertices).sum(axis=1) / 1.2
    assert np.median(cosines) > 0.9999 and cosines.min() > 0.9


def test_gradient_of_a_linear_function_is_exact_whatever_the_chunk():
    surface = surface_of(lambda p: p @ p.new_tensor([1.0, -2.0, 0.5]))
    points = np.random.default_rng(0).uniform(-0.9, 0.9, (100, 3))
    grid = Grid.over(surface.bounds, 16)
    for chunk in (7, 1000):
        found = gradients(surface, points, grid, difference=0.25, chunk=chunk)
        np.testing.assert_allclose(found, np.tile([1, -2, 0.5], (100, 1)), atol=2e-5)


def test_normals_point_outward_with_unit_length():
    surface = surface_of(torus)
    mesh, grid = extract(surface)
    found = normals(surface, mesh, grid, **OPTIONS)
    center = mesh.vertices * [1, 1, 0]
    center *= 0.6 / np.linalg.norm(center, axis=1, keepdims=True)
    offset = mesh.vertices - center
    expected = offset / np.linalg.norm(offset, axis=1, keepdims=True)
    np.testing.assert_allclose((found * expected).sum(axis=1), 1, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)


def test_field_that_is_flat_off_the_surface_has_the_normals_of_the_triangles():
    surface = surface_of(lambda p: (1e3 * ball(0.7)(p)).clamp(-1, 1), is_distance=False)
    mesh, grid = extract(surface)
    shifted = TriangleMesh(mesh.vertices * 1.2, mesh.faces)
    found = normals(surface, shifted, grid, **OPTIONS)
    assert ((found * shifted.vertices).sum(axis=1) > 0.5 * 0.84).all()


def test_sharpened_cube_has_its_edges_and_corners():
    surface = turned_cube()
    mesh, grid = extract(surface)
    smooth = TriangleMesh(project(surface, mesh.vertices, grid, steps=3, **OPTIONS), mesh.faces)
    sharp = sharpen(surface, mesh, grid, steps=3, **OPTIONS)
    sharp = TriangleMesh(project(surface, sharp.vertices, grid, steps=3, **OPTIONS), sharp.faces)
    assert topology(sharp) == topology(mesh)
    loss, left = (1 - enclosed_volume(m) for m in (smooth, sharp))
    assert loss > 3e-3 and abs(left) < 0.05 * loss
    # Edges: vertices at half a side from the middle along two axes at once.
    assert np.abs(surface.values_of(sharp.vertices)).max() < 1e-6
    corner = np.linalg.norm(sharp.vertices, axis=1).max()
    assert corner == pytest.approx(0.75**0.5, abs=2e-3)
    assert np.linalg.norm(smooth.vertices, axis=1).max() < 0.75**0.5 - 5e-3


def test_sharpening_leaves_smooth_surfaces_smooth():
    surface = surface_of(torus)
    mesh, grid = extract(surface)
    sharp = sharpen(surface, mesh, grid, steps=3, **OPTIONS)
    assert np.abs(surface.values_of(sharp.vertices)).max() < 4e-3
    a, b, c = sharp.vertices[sharp.faces].transpose(1, 0, 2)
    cross = np.cross(b - a, c - a)
    facing = (cross * normals(surface, sharp, grid, **OPTIONS)[sharp.faces[:, 0]]).sum(axis=1)
    assert (facing < 0).mean() < 1e-3

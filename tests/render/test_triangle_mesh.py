"""Counting on small meshes, by hand."""

import numpy as np
import pytest

from nfields.render.triangle_mesh import (
    TriangleMesh,
    draw_points,
    enclosed_volume,
    face_areas,
    keep_faces,
    topology,
)


def tetrahedron(shift: float = 0.0) -> TriangleMesh:
    """The corner of a unit cube; volume 1/6."""
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]) + shift
    return TriangleMesh(vertices, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]))


def joined(*meshes: TriangleMesh) -> TriangleMesh:
    offsets = np.cumsum([0] + [len(mesh.vertices) for mesh in meshes])
    faces = [mesh.faces + offset for mesh, offset in zip(meshes, offsets, strict=False)]
    vertices = np.concatenate([mesh.vertices for mesh in meshes])
    return TriangleMesh(vertices, np.concatenate(faces))


def test_tetrahedron_is_a_closed_sphere():
    found = topology(tetrahedron())
    assert found.is_watertight and found.num_components == 1
    assert (found.euler_characteristic, found.genus) == (2, 0)


def test_missing_face_leaves_three_boundary_edges():
    mesh = keep_faces(tetrahedron(), np.array([True, True, True, False]))
    found = topology(mesh)
    assert (found.num_boundary_edges, found.num_irregular_edges, found.genus) == (3, 0, None)
    assert not found.is_watertight


def test_turned_face_and_third_face_make_edges_irregular():
    faces = tetrahedron().faces.copy()
    faces[3] = faces[3, ::-1]
    assert topology(TriangleMesh(tetrahedron().vertices, faces)).num_irregular_edges == 3
    vertices = np.concatenate([tetrahedron().vertices, [[1.0, 1, 1]]])
    fin = TriangleMesh(vertices, np.concatenate([tetrahedron().faces, [[0, 1, 4]]]))
    assert topology(fin).num_irregular_edges == 1


def test_unused_vertices_do_not_count():
    mesh = tetrahedron()
    more = TriangleMesh(np.concatenate([mesh.vertices, [[5.0, 5, 5]]]), mesh.faces)
    assert topology(more) == topology(mesh)


def test_two_tetrahedra_are_two_components_of_genus_0():
    found = topology(joined(tetrahedron(), tetrahedron(3.0)))
    assert (found.num_components, found.genus) == (2, 0)


def test_volume_and_area_do_not_depend_on_the_place():
    for shift in (0.0, 1e7 / 3):
        mesh = tetrahedron(shift)
        assert enclosed_volume(mesh) == pytest.approx(1 / 6)
        assert face_areas(mesh) == pytest.approx([0.5, 0.5, 0.5, 3**0.5 / 2])
    inside_out = TriangleMesh(tetrahedron().vertices, tetrahedron().faces[:, ::-1])
    assert enclosed_volume(inside_out) == pytest.approx(-1 / 6)


def test_mesh_without_faces_is_nothing():
    empty = TriangleMesh(np.zeros((0, 3)), np.zeros((0, 3), dtype=np.int32))
    assert topology(empty).num_components == 0 and enclosed_volume(empty) == 0
    with pytest.raises(ValueError, match="without area"):
        draw_points(empty, 3, np.random.default_rng(0))


def test_points_are_drawn_by_area_and_lie_on_their_faces():
    points, normals = draw_points(tetrahedron(), 10_000, np.random.default_rng(0))
    slanted = np.isclose(normals, 3**-0.5).all(axis=1)
    assert slanted.mean() == pytest.approx(3**0.5 / (3 + 3**0.5), abs=2e-4)
    np.testing.assert_allclose(points[slanted].sum(axis=1), 1)
    assert (np.abs(points[~slanted]).min(axis=1) < 1e-12).all() and points.min() > -1e-12
    np.testing.assert_allclose(points[slanted].mean(axis=0), 1 / 3, atol=0.01)  # the centroid
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)

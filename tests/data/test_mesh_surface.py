"""Signed distances to meshes in every state, against solids whose distance is known."""

import numpy as np
import pytest

from nfields.data.mesh_surface import MeshSurface, oriented
from tests.data.solids import Mesh, ball, box, inward, joined

RANDOM = np.random.default_rng(0)
POINTS = RANDOM.uniform(-1, 1, (4000, 3))


def surface(mesh: Mesh) -> MeshSurface:
    return MeshSurface(mesh[0], oriented(*mesh)[0])


def to_box(points: np.ndarray, sides: tuple[float, ...]) -> np.ndarray:
    """The signed distance to a box about the origin."""
    q = np.abs(points) - np.array(sides) / 2
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)


@pytest.mark.parametrize("is_inward", [False, True])
def test_distance_to_a_box_is_exact(is_inward: bool) -> None:
    sides = (1.1, 0.7, 0.3)
    mesh = inward(box(sides)) if is_inward else box(sides)
    feet, distances = surface(mesh).closest(POINTS)
    expected = to_box(POINTS, sides)
    assert np.allclose(distances, expected, atol=1e-12)
    assert np.allclose(np.linalg.norm(POINTS - feet, axis=1), np.abs(expected), atol=1e-12)


def test_normal_of_the_nearest_place_of_a_box_is_that_of_its_side() -> None:
    sides = (1.1, 0.7, 0.3)
    solid = surface(inward(box(sides)))
    points, axis = RANDOM.uniform(-0.1, 0.1, (300, 3)), np.arange(300) % 3
    points[np.arange(300), axis] = 0.75  # beyond one side, beside no edge
    distances, normals = solid.nearest_normals(points)
    assert np.allclose(normals, np.eye(3)[axis])
    assert np.allclose(distances, 0.75 - np.array(sides)[axis] / 2)


def inside(mesh: Mesh, *points: tuple[float, ...]) -> list[bool]:
    return surface(mesh).is_inside(np.array(points, dtype=np.float64)).tolist()


MIDDLE, WALL, AWAY = (0.05, 0.0, 0.02), (0.7, 0.0, 0.01), (1.2, 0.3, 0)
OUTER, INNER, CORE = ball(0.9), ball(0.5), ball(0.2)


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        (joined(OUTER, inward(INNER)), [False, True, False]),  # a shell
        (joined(inward(OUTER), INNER), [False, True, False]),  # the same, inside out
        (joined(OUTER, INNER), [True, True, False]),  # one in the other, both solid
        (joined(inward(OUTER), inward(INNER)), [True, True, False]),
        (joined(OUTER, inward(INNER), CORE), [True, True, False]),  # a core in the cavity
        (joined(CORE, INNER, inward(OUTER)), [False, True, False]),
    ],
)
def test_bodies_in_bodies(mesh: Mesh, expected: list[bool]) -> None:
    assert inside(mesh, MIDDLE, WALL, AWAY) == expected


def test_bodies_side_by_side_are_solid_however_wound() -> None:
    left, right = ball(0.3, (-0.5, 0, 0)), inward(ball(0.3, (0.5, 0, 0)))
    points = ((-0.5, 0, 0), (0.5, 0, 0.1), (0, 0, 0))
    assert inside(joined(left, right), *points) == [True, True, False]
    crossing = joined(ball(0.4, (-0.2, 0, 0)), inward(ball(0.4, (0.2, 0, 0))))
    assert inside(crossing, (-0.4, 0, 0), (0.4, 0, 0), (0, 0, 0), (0, 0.6, 0)) == [True] * 3 + [
        False
    ]


def test_faces_that_disagree_are_turned_and_counted() -> None:
    vertices, faces = ball()
    faces = faces.copy()
    faces[::7] = faces[::7, ::-1]
    turned, notes = oriented(vertices, faces)
    assert (turned == ball()[1]).all()
    assert f"{len(faces[::7]):,} of 1,280 faces disagreed" in notes[0]
    assert oriented(*ball())[1] == []
    assert "1 of 1 parts" in oriented(*inward(ball()))[1][0]


def test_a_hole_changes_no_sign_away_from_it() -> None:
    vertices, faces = ball(0.9, subdivisions=4)
    middle = vertices[faces].mean(axis=1)
    opened = faces[middle[:, 2] > -0.75]
    assert 0.03 < 1 - len(opened) / len(faces) < 0.2
    for mesh in ((vertices, opened), inward((vertices, opened))):
        found = surface(mesh).is_inside(POINTS)
        radius = np.linalg.norm(POINTS, axis=1)
        is_clear = (np.abs(radius - 0.9) > 0.01) & (POINTS[:, 2] > -0.5)
        assert (found == (radius < 0.9))[is_clear].all()


def test_samples_are_uniform_on_the_triangles() -> None:
    sides = (1.0, 0.5, 0.25)
    points, normals = surface(box(sides)).sample(20000, np.random.default_rng(0))
    assert np.abs(to_box(points, sides)).max() < 1e-12
    # Shares of the area: faces across x have 0.125, y 0.25, z 0.5, of 0.875 each way.
    shares = np.abs(normals).mean(axis=0)
    assert np.allclose(shares, np.array([0.125, 0.25, 0.5]) / 0.875, atol=0.01)
    assert np.allclose(to_box(points + 0.01 * normals, sides), 0.01)

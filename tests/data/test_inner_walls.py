"""Overlapping bodies: what lies inside of them is no surface, and what is no overlap stays."""

import numpy as np
import pytest

from nfields.data.mesh_surface import MeshSurface, oriented
from tests.data.solids import Mesh, ball, box, inward, joined


def surface(mesh: Mesh) -> MeshSurface:
    return MeshSurface(mesh[0], oriented(*mesh)[0])


@pytest.mark.slow
def test_two_overlapping_balls_have_the_distances_of_their_union() -> None:
    """On the sphere's mesh, distances are those of spheres to the sagitta of its edges."""
    made = surface(joined(ball(0.5, (-0.25, 0, 0), 5), ball(0.5, (0.25, 0, 0), 5)))
    # Of each sphere the cap beyond the plane between them: 2 pi r h with h = r - 0.25.
    assert made.inner_share == pytest.approx(0.25, abs=0.01)
    assert made.areas.sum() == pytest.approx(2 * 2 * np.pi * 0.5 * 0.75, rel=0.01)
    points = np.random.default_rng(0).uniform(-0.7, 0.7, (5000, 3))
    centers = np.array([[-0.25, 0, 0], [0.25, 0, 0]])
    each = np.linalg.norm(points[:, None] - centers, axis=2) - 0.5
    union = each.min(axis=1)
    distances = made.closest(points)[1]
    assert (np.sign(distances) == np.sign(union))[np.abs(union) > 2e-3].all()
    assert np.allclose(distances[union > 0], union[union > 0], atol=4e-3)
    # Inside, the nearest place is on the sphere beyond, or on the circle where both meet.
    circle = np.hypot(points[:, 0], np.hypot(points[:, 1], points[:, 2]) - np.sqrt(0.1875))
    own = np.where(points[:, 0] < 0, each[:, 0], each[:, 1])
    is_lobe = (np.abs(points[:, 0]) > 0.3) & (union < 0)
    assert np.allclose(-distances[is_lobe], np.minimum(-own, circle)[is_lobe], atol=1e-2)


def test_points_are_drawn_from_the_outer_walls_alone() -> None:
    made = surface(joined(ball(0.5, (-0.25, 0, 0), 4), ball(0.5, (0.25, 0, 0), 4)))
    points, _ = made.sample(5000, np.random.default_rng(0))
    centers = np.array([[-0.25, 0, 0], [0.25, 0, 0]])
    depth = np.linalg.norm(points[:, None] - centers, axis=2).min(axis=1) - 0.5
    assert depth.min() > -0.02


def test_a_small_body_in_the_middle_of_a_large_face_is_seen() -> None:
    """The twelve triangles of a box know nothing of a ball that is half sunk into one of them."""
    made = surface(joined(box((1.6, 1.6, 0.4)), ball(0.1, (0.3, 0.2, 0.2), 3)))
    points = made.closest(np.array([[0.3, 0.2, 0.19], [0.3, 0.2, 0.3], [-0.5, 0.2, 0.19]]))[1]
    assert np.allclose(points, [-0.1, 0, -0.01], atol=0.012)


@pytest.mark.parametrize(
    "mesh",
    [
        joined(ball(0.3, (-0.5, 0, 0)), ball(0.3, (0.5, 0, 0))),
        joined(ball(0.8), inward(ball(0.5))),  # a cavity
        (ball(0.8)[0], ball(0.8)[1][ball(0.8)[0][ball(0.8)[1]].mean(axis=1)[:, 2] < 0.4]),  # open
        box((1.8, 1.8, 0.004)),  # thin
    ],
    ids=["apart", "cavity", "open", "thin"],
)
def test_without_overlap_all_is_surface(mesh: Mesh) -> None:
    made = surface(mesh)
    assert made.inner_share == 0 and len(made.faces) == len(mesh[1])


def test_a_body_inside_another_is_no_surface() -> None:
    made = surface(joined(ball(0.8), ball(0.4)))
    assert made.closest(np.zeros((1, 3)))[1] == pytest.approx(-0.8, abs=0.02)
    assert made.is_inside(np.array([[0.41, 0, 0], [0.0, 0, 0], [0.9, 0, 0]])).tolist() == [
        True, True, False,
    ]  # fmt: skip


def test_an_inward_copy_of_overlapping_bodies_gives_the_same() -> None:
    pair = joined(ball(0.5, (-0.25, 0, 0)), ball(0.5, (0.25, 0, 0)))
    assert surface(inward(pair)).inner_share == pytest.approx(surface(pair).inner_share, abs=1e-3)

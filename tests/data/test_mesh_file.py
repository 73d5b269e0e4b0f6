"""Mesh files: every format gives the same triangles; what is wrong is refused or left out and said."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from nfields.data import mesh_file
from nfields.data.mesh_file import read_mesh
from nfields.errors import DataError
from tests.data.solids import ball, box, joined, write


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "off", "glb"])
def test_every_format_gives_the_same_triangles(suffix: str, tmp_path: Path) -> None:
    mesh = read_mesh(write(ball(), tmp_path / f"a.{suffix}"))
    assert len(mesh.vertices) == 642  # corners of STL are joined
    assert len(mesh.faces) == 1280
    corners = np.sort(mesh.vertices[mesh.faces].mean(axis=1), axis=0)
    expected = np.sort(ball()[0][ball()[1]].mean(axis=1), axis=0)
    assert np.allclose(corners, expected, atol=1e-6)
    assert mesh.notes == []


def test_bodies_of_a_scene_come_in_their_places(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    for x in (0.0, 5.0):
        move = trimesh.transformations.translation_matrix([x, 0, 0])
        scene.add_geometry(trimesh.Trimesh(*ball(), process=False), transform=move)
    scene.export(tmp_path / "a.glb")
    mesh = read_mesh(tmp_path / "a.glb")
    assert len(mesh.faces) == 2560
    assert np.allclose([mesh.vertices.min(axis=0)[0], mesh.vertices.max(axis=0)[0]], [-1, 6])


def test_units_are_kept(tmp_path: Path) -> None:
    for scale in (1e-6, 700.0):
        vertices, faces = ball()
        mesh = read_mesh(write((vertices * scale, faces), tmp_path / "a.ply"))
        assert len(mesh.faces) == 1280
        assert np.isclose(np.abs(mesh.vertices).max(), scale, rtol=1e-6)


def test_what_is_no_surface_is_left_out_and_counted(tmp_path: Path) -> None:
    vertices, faces = box()
    faces = np.concatenate([faces, faces[:2], [[0, 1, 1], [2, 2, 2], [3, 4, 3]], [[0, 8, 1]]])
    vertices = np.concatenate([vertices, [[np.nan, 0, 0]]])
    mesh = mesh_file.cleaned(vertices, faces, "a")
    assert len(mesh.faces) == 12
    assert len(mesh.vertices) == 8
    assert mesh.notes == [
        "1 of 18 faces with NaN or infinite vertices left out",
        "3 of 18 faces without area left out",
        "2 of 18 faces that are there twice left out",
    ]


def text(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


def test_bad_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = "v 0 0 0\nv 1 0 0\nv 0 1 0\n"
    nan = "v nan 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    cases = [
        (tmp_path / "missing.obj", "does not exist"),
        (tmp_path, "is a folder"),
        (text(tmp_path / "a.xyzw", "1"), r"kind \.xyzw are not read"),
        (text(tmp_path / "empty.obj", ""), "is empty"),
        (text(tmp_path / "cut.obj", "v 0 0 0\nv 1 0 0\nv 0 1"), "line 3 is no vertex: 'v 0 1'"),
        (text(tmp_path / "damaged.ply", "ply\nformat no\nend"), "cannot be read as ply"),
        (text(tmp_path / "random.glb", "not a glb file at all"), "cannot be read as glb"),
        (text(tmp_path / "points.obj", points), "no faces|no geometry"),
        (text(tmp_path / "flat.obj", points + "f 1 1 2\nf 2 2 2\n"), "zero area"),
        (text(tmp_path / "one.obj", "v 1 1 1\n" * 3 + "f 1 2 3\n"), "at one place"),
        (text(tmp_path / "nan.obj", nan), "every face has a NaN"),
    ]
    for path, said in cases:
        with pytest.raises(DataError, match=said) as caught:
            read_mesh(path)
        assert path.name in str(caught.value)
    monkeypatch.setattr(mesh_file, "MAX_BYTES", 10)
    with pytest.raises(DataError, match="GiB"):
        read_mesh(tmp_path / "nan.obj")


def test_a_face_without_its_vertices_is_named() -> None:
    faces = np.concatenate([ball()[1], [[0, 1, 642], [0, 2, -1]]])
    with pytest.raises(DataError, match=r"face 1,281 of 1,282 has the vertices 1, 2, 643.* 2 faces"):
        mesh_file.cleaned(ball()[0], faces, "a")


def test_many_bodies_of_one_file_stay_apart(tmp_path: Path) -> None:
    mesh = read_mesh(write(joined(ball(), box(center=(3, 0, 0))), tmp_path / "a.ply"))
    assert len(mesh.faces) == 1280 + 12

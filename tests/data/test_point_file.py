"""Point clouds: formats, what is left out, and normals that are estimated and turned outwards."""

from pathlib import Path

import numpy as np
import pytest
import trimesh

from nfields.data.point_file import estimated_normals, read_points
from nfields.data.surface_file import SurfaceData
from nfields.errors import DataError
from tests.data.solids import ball, write

RANDOM = np.random.default_rng(0)
NORMALS = RANDOM.normal(size=(3000, 3))
NORMALS /= np.linalg.norm(NORMALS, axis=1, keepdims=True)
POINTS = 40 * NORMALS + np.array([100.0, 0, 0])


def write_ply(path: Path, with_normals: bool) -> Path:
    names = ["x", "y", "z", *(["nx", "ny", "nz"] if with_normals else [])]
    head = "".join(f"property float {name}\n" for name in names)
    rows = np.concatenate([POINTS, NORMALS], axis=1)[:, : len(names)]
    body = "\n".join(" ".join(f"{value:.7g}" for value in row) for row in rows)
    path.write_text(
        f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n{head}end_header\n{body}\n"
    )
    return path


def test_every_format_gives_points_and_normals(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a.xyz", np.concatenate([POINTS, 2 * NORMALS], axis=1))
    np.savez(tmp_path / "a.npz", points=POINTS, normals=NORMALS)
    for file in (write_ply(tmp_path / "a.ply", True), tmp_path / "a.xyz", tmp_path / "a.npz"):
        stored = read_points(file, None, 0)
        assert stored is not None
        assert np.allclose(stored.points, POINTS, atol=1e-4)
        assert np.allclose(stored.normals, NORMALS, atol=1e-6)
        assert stored.notes == []


def test_absent_normals_are_estimated_outwards_and_said_so(tmp_path: Path) -> None:
    stored = read_points(write_ply(tmp_path / "a.ply", False), None, 0)
    assert stored is not None
    assert (stored.normals * NORMALS).sum(axis=1).min() > 0.9
    assert "no normals" in stored.notes[0]


def test_normals_of_two_bodies_point_outwards_of_each() -> None:
    made = trimesh.creation.torus(2, 0.7, major_sections=80, minor_sections=40)
    ring = trimesh.sample.sample_surface(made, 4000, seed=0)
    points = np.concatenate([np.asarray(ring[0]), POINTS])
    truth = np.concatenate([made.face_normals[ring[1]], NORMALS])
    agreement = (estimated_normals(points) * truth).sum(axis=1)
    assert agreement.min() > 0
    assert np.mean(agreement > 0.95) > 0.95


def test_a_ply_with_faces_is_a_mesh(tmp_path: Path) -> None:
    assert read_points(write(ball(), tmp_path / "a.ply"), None, 0) is None


@pytest.mark.slow
def test_fewer_points_and_broken_ones(tmp_path: Path) -> None:
    points = POINTS.copy()
    points[3] = np.nan
    normals = NORMALS.copy()
    normals[5] = 0
    np.savez(tmp_path / "a.npz", points=points, normals=normals)
    stored = read_points(tmp_path / "a.npz", 100, 0)
    assert stored is not None
    assert len(stored.points) == 100
    assert stored.notes == ["2 of 3,000 points with NaN, infinite or zero values left out"]
    data = SurfaceData(path=str(tmp_path / "a.npz"), num_points=None, seed=0)
    assert data.oriented is not None and data.truth is None
    assert np.isclose(float(data.oriented.points.abs().max()), 0.9, atol=1e-3)


def test_bad_clouds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "columns.xyz").write_text("1 2 3 4\n" * 40)
    (tmp_path / "words.xyz").write_text("a b c\n" * 40)
    (tmp_path / "same.xyz").write_text("1 2 3\n" * 40)
    (tmp_path / "few.xyz").write_text("1 2 3\n3 4 5\n")
    np.savez(tmp_path / "names.npz", positions=POINTS)
    np.savez(tmp_path / "shapes.npz", points=POINTS, normals=NORMALS[:5])
    for name, said in (
        ("columns.xyz", "4 columns"), ("words.xyz", "cannot be read"), ("same.xyz", "at one place"),
        ("few.xyz", "2 usable points"), ("names.npz", "positions"), ("shapes.npz", r"\(5, 3\)"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=said):
            read_points(tmp_path / name, None, 0)

"""what=mesh from a stored run: a red ball of radius 0.5, which is 1 in the user's frame."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from omegaconf import OmegaConf

from nfields.config import build
from nfields.data.surface_file import SurfaceData
from nfields.data.true_surface import TrueSurface
from nfields.errors import ConfigError, DataError
from nfields.export import command
from nfields.export.command import main
from nfields.export.mesh import MeshExport, to_user, with_fewer_faces
from nfields.export.mesh_file import linear_from_srgb, write_mesh
from nfields.export.mesh_report import compare, nearest_faces
from nfields.export.stray_parts import without_small_parts, without_strays
from nfields.render.isosurface import extract_surface
from nfields.render.small_bodies import cells_of_points
from nfields.render.surface import Surface
from nfields.render.triangle_mesh import TriangleMesh, enclosed_volume, topology
from nfields.stored_run import load_run
from tests.dummy import DummyTask
from tests.render.shapes import ball, cube, surface_of
from tests.stored import make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def export(run: Path, *words: str) -> None:
    main([f"run={run}", "what=mesh", "resolution=24", *words])


def exporter(**options: Any) -> MeshExport:
    node, problems = command.checked_node(command.kinds()["mesh"], {"resolution": 24, **options})
    assert not problems
    return build(OmegaConf.create(node))


def read(file: Path) -> trimesh.Trimesh:
    (mesh,) = trimesh.load_scene(file, process=False).geometry.values()
    assert isinstance(mesh, trimesh.Trimesh)
    return mesh


def ball_mesh(radius: float = 0.5, resolution: int = 24) -> TriangleMesh:
    surface = surface_of(ball(radius))
    return extract_surface(surface, resolution=resolution, safety=1.5, chunk=10_000).mesh


def test_mesh_and_report_stand_in_the_run_folder(run, capsys):
    export(run)
    mesh = read(run / "mesh" / "mesh.ply")
    report = json.loads((run / "mesh" / "mesh.json").read_text())
    assert report["num_vertices"] == len(mesh.vertices) > 500
    assert report["num_faces"] == len(mesh.faces)
    assert report["is_watertight"] and report["genus"] == 0 and report["num_components"] == 1
    assert report["volume"] == pytest.approx(mesh.volume, rel=1e-5)
    assert report["area"] == pytest.approx(mesh.area, rel=1e-5)
    assert report["step"] == 500 and report["cell_size"] == pytest.approx(2 * 2 / 24)
    said = capsys.readouterr().out
    assert "watertight, genus 0" in said and "a ball, said the task" in said


@pytest.mark.parametrize("suffix", ["ply", "glb", "obj", "stl"])
def test_every_format_comes_back_in_the_frame_of_the_user(run, tmp_path, suffix):
    file = tmp_path / "made" / f"ball.{suffix}"
    export(run, f"out={file}")
    mesh = read(file)
    mesh.merge_vertices()
    assert mesh.is_watertight and mesh.volume > 0
    offset = np.asarray(mesh.vertices) - [100, 0, 0]
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), 1, atol=2e-5)
    assert file.with_suffix(".json").exists()
    if suffix != "stl":
        mesh = read(file)
        offset = np.asarray(mesh.vertices) - [100, 0, 0]
        np.testing.assert_allclose(mesh.vertex_normals, offset, atol=2e-3)
        colors = np.asarray(mesh.visual.vertex_colors)[:, :3]  # pyright: ignore
        expected = np.clip(np.stack([offset[:, 2] / 2 + 0.5, 0 * offset[:, 0]], axis=1), 0, 1)
        blue = 0.25
        if suffix == "glb":  # glTF multiplies light by them
            expected, blue = linear_from_srgb(expected), float(linear_from_srgb(np.array(blue)))
        np.testing.assert_allclose(colors[:, :2] / 255, expected, atol=0.0021)
        np.testing.assert_allclose(colors[:, 2] / 255, blue, atol=0.0021)


def test_ply_keeps_the_digits_of_coordinates_far_from_the_origin(tmp_path):
    mesh = ball_mesh()
    far = replace(mesh, vertices=mesh.vertices + np.array([4.5e6, 5.2e5, 0]))
    write_mesh(tmp_path / "far.ply", far)
    write_mesh(tmp_path / "near.ply", mesh)
    np.testing.assert_allclose(read(tmp_path / "far.ply").vertices, far.vertices, rtol=1e-14)
    assert b"property float x" in (tmp_path / "near.ply").read_bytes()[:300]


def test_mirrored_frame_keeps_the_outside_outside():
    frame = torch.diag(torch.tensor([-3.0, 3, 3, 1]))
    mesh = ball_mesh()
    mesh = replace(mesh, normals=mesh.vertices / 0.5)
    shown = to_user(mesh, surface_of(ball(0.5), to_user=frame))
    assert enclosed_volume(shown) == pytest.approx(27 * enclosed_volume(mesh))
    assert shown.normals is not None
    np.testing.assert_allclose(shown.normals, shown.vertices / 1.5)


def test_level_of_a_distance_is_in_units_of_the_user(run, tmp_path):
    export(run, "level=0.4", f"out={tmp_path / 'a.ply'}")
    radius = np.linalg.norm(np.asarray(read(tmp_path / "a.ply").vertices) - [100, 0, 0], axis=1)
    np.testing.assert_allclose(radius, 1.4, atol=1e-4)


def test_files_that_are_there_are_kept_unless_asked(run):
    export(run)
    first = (run / "mesh" / "mesh.ply").read_bytes()
    with pytest.raises(ConfigError, match=r"mesh\.ply is there already; .* overwrite=true"):
        export(run, "newton_steps=0")
    assert (run / "mesh" / "mesh.ply").read_bytes() == first
    export(run, "newton_steps=0", "overwrite=true")
    assert (run / "mesh" / "mesh.ply").read_bytes() != first


def test_report_that_is_there_is_kept_too(run, tmp_path):
    (tmp_path / "a.json").write_text("mine")
    with pytest.raises(ConfigError, match=r"a\.json is there already"):
        export(run, f"out={tmp_path / 'a.ply'}")
    assert not (tmp_path / "a.ply").exists()


def test_full_disk_leaves_the_old_file_and_says_so(run, monkeypatch):
    export(run)
    first = (run / "mesh" / "mesh.ply").read_bytes()

    def half(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(DataError, match=r"mesh\.ply cannot be written: No space .*; free \d+ MB"):
        export(run, "overwrite=true")
    assert (run / "mesh" / "mesh.ply").read_bytes() == first
    assert len(list((run / "mesh").iterdir())) == 2


def test_stopped_export_leaves_nothing(run, monkeypatch):
    def stop(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", stop)
    with pytest.raises(KeyboardInterrupt):
        export(run)
    assert list((run / "mesh").iterdir()) == []


def test_field_without_a_surface_is_an_error_without_a_file(run):
    make_run(run, radius=0.0)
    with pytest.raises(DataError, match="the field has no surface: it is outside everywhere"):
        export(run)
    make_run(run, radius=5.0)
    with pytest.raises(DataError, match="the field has no surface: it is inside everywhere"):
        export(run)
    assert not (run / "mesh").exists()


def test_small_parts_are_dropped_on_request():
    surface = surface_of(lambda p: torch.minimum(ball(0.1)(p - 0.6), ball(0.5)(p + 0.2)))
    for share, parts in ((0.0, 2), (0.03, 2), (0.05, 1)):  # areas are as 1 to 25
        mesh, facts = exporter(min_component=share, resolution=48).mesh(surface)
        assert topology(mesh).num_components == parts
        assert facts["num_dropped_components"] == 2 - parts
    assert without_small_parts(ball_mesh(), 1.0)[1].num == 0


@pytest.mark.slow
def test_stray_parts_are_dropped_and_said():
    """Balls of radius 0.025 beside one of 0.85: 0.09 % of its area each."""

    def strays(num: int):
        centers = torch.linspace(-0.9, 0.9, 25)[:num]
        centers = torch.stack([centers, torch.full((num,), 0.92), torch.full((num,), 0.92)], dim=1)
        return surface_of(
            lambda p: torch.minimum(ball(0.85)(p), torch.cdist(p, centers).amin(dim=1) - 0.025)
        )

    def parts_of(surface: Surface, **options: Any) -> int:
        return topology(exporter(resolution=96, **options).mesh(surface)[0]).num_components

    surface = strays(2)
    mesh, facts = exporter(resolution=96).mesh(surface)
    assert topology(mesh).num_components == 1 and np.abs(mesh.vertices).max() < 0.86
    assert facts["num_dropped_components"] == 2
    # A cell is nearly as large as a stray's radius, so that its mesh lacks some of its area.
    assert facts["dropped_share_of_area"] == pytest.approx(2 * (0.025 / 0.85) ** 2, rel=0.3)
    assert facts["notes"][0].startswith("stray: 2 parts with 0.1")
    assert parts_of(surface, min_component=0) == 3
    # What the data is made of stays: small bodies, many bodies, all of a density.
    there = cells_of_points(np.array([[-0.9, 0.92, 0.92]]))
    assert parts_of(replace(surface, small_bodies=there)) == 2
    assert parts_of(replace(surface, small_bodies=np.zeros_like(there))) == 1
    assert parts_of(replace(surface, is_distance=False)) == 3
    (note,) = exporter(resolution=96).mesh(replace(surface, is_distance=False))[1]["notes"]
    assert note.startswith("small: 2 of 3 parts have less than 0.1 %")
    assert parts_of(strays(25)) == 26
    # What the data has and the mesh has not is said: here one of two such places.
    there |= cells_of_points(np.array([[0.9, -0.9, -0.9]]))
    notes = exporter(resolution=96).mesh(replace(surface, small_bodies=there))[1]["notes"]
    assert "is at 1 place where" in notes[-1] and len(notes) == 2


def test_equal_bodies_are_no_strays(tmp_path):
    mesh = ball_mesh(0.02, 200)
    moved = [mesh.vertices + np.array([0.1 * k, 0, 0]) for k in range(2000)]
    faces = [mesh.faces + k * len(mesh.vertices) for k in range(2000)]
    many = TriangleMesh(np.concatenate(moved), np.concatenate(faces))
    assert without_strays(many, surface_of(ball(0.5)))[1].num == 0


def test_simplified_mesh_has_fewer_triangles_and_stays_closed():
    mesh = ball_mesh(resolution=40)
    few = with_fewer_faces(mesh, 500)
    assert len(few.faces) <= 510 and topology(few).is_watertight
    assert enclosed_volume(few) == pytest.approx(enclosed_volume(mesh), rel=0.01)
    # The export puts vertices back onto the surface.
    again, _ = exporter(max_faces=500, resolution=40).mesh(surface_of(ball(0.5)))
    assert len(again.faces) <= 510
    np.testing.assert_allclose(np.linalg.norm(again.vertices, axis=1), 0.5, atol=1e-5)


def test_sharp_edges_are_kept_better_with_the_option():
    surface = surface_of(lambda p: cube(p - 0.013))

    def loss(**options: Any) -> float:
        return 1 - enclosed_volume(exporter(**options).mesh(surface)[0])

    assert loss(sharp=False) > 0.01 and abs(loss(sharp=True)) < 0.1 * loss(sharp=False)


def test_without_options_the_mesh_is_that_of_marching_cubes(run, tmp_path):
    export(run, "newton_steps=0", "colors=false", f"out={tmp_path / 'a.ply'}")
    header = (tmp_path / "a.ply").read_bytes()[:600]
    assert b"nx" in header and b"red" not in header
    plain = ball_mesh()
    vertices = np.asarray(read(tmp_path / "a.ply").vertices)
    np.testing.assert_allclose(vertices, 2 * plain.vertices + [100, 0, 0], atol=1e-5)


class TrueBall(TrueSurface):
    """A sphere of radius 0.52 around the origin."""

    def closest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        radius = np.linalg.norm(points, axis=1)
        return points / radius[:, None] * 0.52, radius - 0.52

    def nearest_normals(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        radius = np.linalg.norm(points, axis=1)
        return np.abs(radius - 0.52), points / radius[:, None]

    def is_inside(self, points: np.ndarray) -> np.ndarray:
        return self.closest(points)[1] < 0

    def sample(self, num: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        normals = random.normal(size=(num, 3))
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        return normals * 0.52, normals


def test_figures_against_the_truth_have_no_floor():
    surface = surface_of(ball(0.5))
    mesh, _ = exporter(resolution=96).mesh(surface)
    found = compare(mesh, surface, TrueBall(), 20_000)
    diagonal = 2 * 0.52 * 3**0.5
    assert found["chamfer_l1"] == pytest.approx(2 * 0.02 / diagonal, rel=0.01)
    assert found["chamfer_l2"] == pytest.approx(2 * (0.02 / diagonal) ** 2, rel=0.02)
    assert found["hausdorff"] == pytest.approx(0.02 / diagonal, rel=0.05)
    assert found["fscore_0.005"] == 0 and found["fscore_0.01"] == 0
    assert found["iou"] == pytest.approx((0.5 / 0.52) ** 3, abs=0.02)
    # Triangles as long as a cell, h = 2 / 96, on a ball of r = 0.5: h / (2 r) at their corners.
    assert found["normal_error_deg"] < np.degrees(2 / 96)
    assert found["protocol"]["chamfer"] == "mean(p2g) + mean(g2p)"


def test_nearest_triangles_are_the_same_slab_by_slab():
    mesh = ball_mesh()
    places = np.random.default_rng(0).normal(size=(500, 3))
    points = mesh.vertices[mesh.faces[::40]].mean(axis=1)
    whole, _ = nearest_faces(mesh, places, points)
    slabs, face = nearest_faces(mesh, places, points, faces_at_once=100)
    assert np.allclose(whole, slabs, rtol=1e-12) and (whole > 0).all()
    # The triangle that is named is that near: so far from its place is its nearest corner at most.
    corners = np.linalg.norm(mesh.vertices[mesh.faces[face]] - places[:, None], axis=2)
    assert (corners.min(axis=1) >= slabs - 1e-12).all()
    assert (corners.min(axis=1) <= slabs + 0.1).all()  # an edge is at most that long
    few, _ = nearest_faces(mesh, places[:2], points, faces_at_once=100)  # more slabs than places
    assert np.allclose(few, whole[:2], rtol=1e-12)


def test_nearest_triangle_of_a_flat_mesh_across_the_slabs():
    """All triangles have one height, and the points of the mesh are exactly below the places."""
    flat = TriangleMesh(np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]))
    places = np.array([[0.2, 0.2, 1.0], [0.2, 0.2, 9.0]])
    found = nearest_faces(flat, places, places * [1, 1, 0])
    assert found[0].tolist() == [1, 9] and found[1].tolist() == [0, 0]


def test_fitted_surface_is_compared_if_its_file_is_there(run):
    stored = load_run(run, device="cpu")
    target = {
        "_target_": "nfields.data.surface_file.SurfaceData",
        "path": "gone.obj",
        "num_points": None,
        "seed": 0,
    }
    card = {
        "transform": {"scale": 1.0, "offset": [0, 0, 0]},
        "source": "mesh gone.obj",
        "notes": [],
    }
    config = OmegaConf.create({**stored.config, "data": target})
    stored = replace(stored, data=SurfaceData.from_card(card), config=config)
    exporter(out=str(run / "a.ply")).export(stored)
    report = json.loads((run / "a.json").read_text())
    assert "truth" not in report
    assert any("gone.obj does not exist" in note for note in report["notes"])
    exporter(out=str(run / "b.ply"), truth=False).export(stored)
    assert json.loads((run / "b.json").read_text())["notes"] == ["a ball, said the task"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resolution=4"], "resolution=4 must be between 8 and 4096"),
        (["out=mesh.fbx"], r"out=mesh.fbx must end in .ply, .glb, .obj, .stl"),
        (["newton_steps=-1"], "newton_steps=-1 must be 0 or more"),
        (["normal_step=0"], "normal_step=0 must be above 0"),
        (["min_component=2"], "min_component=2 must be between 0 and 1"),
        (["max_faces=2"], "max_faces=2 must be at least 4"),
        (["safety=0"], "safety=0 must be above 0"),
        (["chunk=1"], "num_points and chunk must be at least 1000"),
        (["reslution=64"], r"did you mean resolution\?"),
    ],
)
def test_wrong_options_are_named(run, words, message):
    with pytest.raises(ConfigError, match=message):
        main([f"run={run}", "what=mesh", *words])
    assert not (run / "mesh").exists()


def test_task_without_a_surface_is_refused(run):
    stored = replace(load_run(run, device="cpu"), task=DummyTask())
    with pytest.raises(ConfigError, match="what=mesh needs a task with a surface"):
        exporter().export(stored)

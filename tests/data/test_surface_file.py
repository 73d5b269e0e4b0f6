"""The data of task=sdf: samples are right, kept, and tell their frame."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nfields.data import restore, surface_samples
from nfields.data.surface_file import SurfaceData
from nfields.errors import ConfigError, DataError
from nfields.render.small_bodies import are_within
from tests.data.solids import ball, box, joined, write


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Few samples, kept in a folder of the test's own."""
    for name in ("NUM_SURFACE", "NUM_NEAR", "NUM_UNIFORM", "NUM_TEST"):
        monkeypatch.setattr(surface_samples, name, 2000)
    monkeypatch.setenv("NFIELDS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def shifted(tmp_path: Path) -> Path:
    """A box of sides 200, 100, 50 at (1000, 0, -300)."""
    return write(box((200, 100, 50), (1000, 0, -300)), tmp_path / "box.ply")


def to_box(points: torch.Tensor, sides: list[float]) -> torch.Tensor:
    q = points.abs() - torch.tensor(sides) / 2
    return q.clamp(min=0).norm(dim=1) + q.amax(dim=1).clamp(max=0)


@pytest.mark.usefixtures("small")
def test_drawn_distances_are_exact(shifted: Path) -> None:
    samples = SurfaceData(path=str(shifted), num_points=None, seed=0).require_samples()
    x, distances, _ = samples.draw(400, 300, 100, torch.Generator().manual_seed(0))
    assert torch.allclose(distances, to_box(x, [1.8, 0.9, 0.45]), atol=1e-6)
    assert (distances[:400] == 0).all()
    assert 0 < distances[400:700].abs().mean() < 0.03
    assert (distances[400:700] < 0).float().mean() > 0.2
    assert samples.test_uniform.abs().max() <= 1


@pytest.mark.usefixtures("small")
def test_our_frame_goes_back_to_the_users(shifted: Path) -> None:
    data = SurfaceData(path=str(shifted), num_points=None, seed=0)
    points = torch.cat([data.require_samples().points.double(), torch.ones(2000, 1)], dim=1)
    user = (points.double() @ data.to_user.T)[:, :3]
    low, high = user.amin(dim=0), user.amax(dim=0)
    assert torch.allclose(low, torch.tensor([900.0, -50, -325]).double(), atol=1e-3)
    assert torch.allclose(high, torch.tensor([1100.0, 50, -275]).double(), atol=1e-3)


@pytest.mark.usefixtures("small")
def test_samples_are_made_once(shifted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SurfaceData(path=str(shifted), num_points=None, seed=0).require_samples()

    def forbidden(*args: object) -> None:
        raise AssertionError("they were made again")

    monkeypatch.setattr(surface_samples, "prepare_samples", forbidden)
    again = SurfaceData(path=str(shifted), num_points=None, seed=0).require_samples()
    assert torch.equal(first.near_distances, again.near_distances)
    with pytest.raises(AssertionError, match="made again"):
        SurfaceData(path=str(shifted), num_points=None, seed=1)
    write(box((2, 1, 1)), shifted)
    with pytest.raises(AssertionError, match="made again"):
        SurfaceData(path=str(shifted), num_points=None, seed=0)


@pytest.mark.usefixtures("small")
def test_card_has_the_frame_and_no_surface(shifted: Path) -> None:
    data = SurfaceData(path=str(shifted), num_points=None, seed=0)
    card = json.loads(json.dumps(data.card()))
    restored = restore(card)
    assert torch.equal(restored.to_user, data.to_user)
    assert restored.card() == data.card()
    assert not restored.small_bodies.any()
    del card["small_bodies"]  # cards of runs from before it was there
    assert restore(card).small_bodies is None
    with pytest.raises(DataError, match=r"data\.path="):
        restored.require_samples()
    with pytest.raises(DataError, match="incomplete or damaged"):
        restore({**card, "transform": {"scale": 1}})


@pytest.mark.usefixtures("small")
def test_places_of_small_bodies_are_kept(tmp_path: Path) -> None:
    both = write(joined(box((2, 2, 2)), ball(0.05, (1.5, 0, 0))), tmp_path / "both.ply")
    data = SurfaceData(path=str(both), num_points=None, seed=0)
    restored = restore(json.loads(json.dumps(data.card())))
    places = np.array([[1.5, 0, 0], [1.55, 0, 0], [1.3, 0, 0], [1, 0, 0], [1.5, 0.5, 0]])
    ours = places * data.transform.scale + np.array(data.transform.offset)
    for cells in (data.small_bodies, restored.small_bodies):
        assert cells is not None
        assert are_within(ours, cells).tolist() == [True, True, False, False, False]
    with pytest.raises(DataError, match="incomplete or damaged"):
        restore({**data.card(), "small_bodies": "AAAA"})


@pytest.mark.usefixtures("small")
def test_the_generated_solid_has_exact_samples() -> None:
    data = SurfaceData(path=None, num_points=None, seed=0)
    samples = data.require_samples()
    assert data.truth is not None
    x, distances, _ = samples.draw(0, 500, 500, torch.Generator().manual_seed(0))
    exact = data.truth.closest(x.double().numpy())[1]
    assert np.allclose(distances.numpy(), exact, atol=1e-6)


@pytest.mark.usefixtures("small")
def test_drawing_is_quick() -> None:
    samples = SurfaceData(path=None, num_points=None, seed=0).require_samples()
    generator = torch.Generator().manual_seed(0)
    took = []
    for _ in range(20):
        start = time.perf_counter()
        samples.draw(1 << 14, 12288, 4096, generator)
        took.append(time.perf_counter() - start)
    # A training step of 32,768 points takes 30 ms at least.
    assert min(took) < 0.01


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.seed=-1"):
        SurfaceData(path=None, num_points=None, seed=-1)

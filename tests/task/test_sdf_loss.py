"""Losses of a signed distance: closed forms, and gradients through every model twice."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

import nfields
from nfields import config
from nfields.config import config_folder
from nfields.model.field import Field, Samples
from nfields.task import sdf_loss

MODELS = sorted(path.stem for path in (config_folder() / "model").glob("*.yaml"))


def ball(x: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
    return x.norm(dim=1) - 0.5


def test_a_distance_has_no_eikonal_and_no_normal_loss(generator: torch.Generator) -> None:
    x = torch.randn(100, 3, generator=generator, dtype=torch.float64)
    values, slopes = sdf_loss.with_gradient(ball, x, False)
    assert torch.allclose(values, ball(x))
    assert sdf_loss.eikonal(slopes).item() < 1e-9
    assert sdf_loss.eikonal(3 * slopes).item() == pytest.approx(2)
    normals = torch.nn.functional.normalize(x, dim=1)
    assert sdf_loss.alignment(slopes, normals).item() < 1e-9
    assert sdf_loss.alignment(slopes, -normals).item() == pytest.approx(2)


def test_flat_fields_have_finite_gradients() -> None:
    flat = torch.zeros(5, 3, requires_grad=True)
    sdf_loss.eikonal(flat).backward()
    assert flat.grad is not None and flat.grad.isfinite().all()


def test_relative_error_and_off_surface_of_known_values() -> None:
    values, truth = torch.tensor([0.1, 0.6]), torch.tensor([0.0, 0.5])
    expected = (0.1 / 0.01 + 0.1 / 0.51) / 2
    assert sdf_loss.relative_error(values, truth, 0.01).item() == pytest.approx(expected)
    expected = (math.exp(-1) + math.exp(-6)) / 2
    assert sdf_loss.off_surface(values, 10).item() == pytest.approx(expected)


def test_curvature_of_a_ball_and_a_plane(generator: torch.Generator) -> None:
    x = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    x = 0.5 * x / x.norm(dim=1, keepdim=True)
    directions = torch.randn(200, 3, generator=generator, dtype=torch.float64)
    slopes = sdf_loss.with_gradient(ball, x, True)[1]
    # The normal turns by one radius of curvature's inverse a unit.
    assert sdf_loss.curvature(ball, x, slopes, directions).item() == pytest.approx(2, rel=1e-3)

    def plane(x: Tensor) -> Tensor:
        return x @ x.new_tensor([0.6, 0.0, 0.8]) - 0.1

    slopes = sdf_loss.with_gradient(plane, x, True)[1]
    assert sdf_loss.curvature(plane, x, slopes, directions).item() < 1e-12


def first_channel(model: Field, x: Tensor) -> Tensor:
    return model(x)[:, 0]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.slow
def test_second_derivatives_of_every_model_are_those_of_the_reference(name: str) -> None:
    gradients = []
    for backend in ("auto", "reference"):
        words = ["task=sdf", f"model={name}", f"model.backend={backend}"]
        small = {
            "num_kernels": 50, "num_neighbors": 4, "width": 16, "log2_entries": 8, "num_levels": 3,
            "degree": 2,
        }  # fmt: skip
        cfg = nfields.compose(words).model
        words += [f"model.{key}={value}" for key, value in small.items() if key in cfg]
        model: Field = config.build(nfields.compose(words).model, in_dim=3, out_dim=1)
        generator = torch.Generator().manual_seed(0)
        x = 2 * torch.rand(64, 3, generator=generator) - 1
        model.initialize(Samples.uniform(x), generator)
        model.double()
        values = partial(first_channel, model)
        _, slopes = sdf_loss.with_gradient(values, x[:32].double(), True)
        sdf_loss.eikonal(slopes).backward()
        trained = [p for p in model.parameters() if p.requires_grad]
        gradients.append([p.grad for p in trained if p.grad is not None])
        assert any(gradient.abs().max() > 0 for gradient in gradients[-1])
    # Kernels take exponentials and sines by polynomials of float32's accuracy.
    for first, second in pairwise(gradients):
        assert len(first) == len(second)
        for a, b in zip(first, second, strict=True):
            assert torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-12)

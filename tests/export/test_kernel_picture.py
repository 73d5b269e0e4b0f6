"""Kernels are drawn where they are and as large as they are; responses as maps of the image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nfields.export.kernel_picture import draw_ellipses, draw_responses, write_kernels
from nfields.model.field import Kernels
from tests.dummy import DummyField


def black(width: int, height: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


class Drawn(DummyField):
    """A field with the kernels it is given; responses fall off to the right or the left."""

    def __init__(self, given: Kernels | None, num_responses: int = 0):
        super().__init__()
        self.given, self.num_responses = given, num_responses

    def kernels(self, x: Tensor) -> Kernels | None:
        if self.num_responses == 0:
            return self.given
        sides = [(1 + x[:, 0]) / 2, (1 - x[:, 0]) / 2, torch.zeros(len(x))]
        return Kernels(responses=torch.stack(sides[: self.num_responses], dim=1))


def ellipse(x: float, y: float, covariance: list[list[float]]) -> Kernels:
    return Kernels(torch.tensor([[x, y]]), torch.tensor([covariance]))


@pytest.mark.parametrize(
    ("x", "y", "covariance"),
    [
        (0.0, 0.0, [[0.04, 0.0], [0.0, 0.01]]),
        (-0.5, 0.25, [[0.01, 0.0], [0.0, 0.04]]),
        (0.4, -0.3, [[0.05, 0.03], [0.03, 0.04]]),
    ],
)
def test_outline_lies_at_one_standard_deviation(
    x: float, y: float, covariance: list[list[float]]
) -> None:
    """Every inked pixel is at Mahalanobis distance 1 from the centre, or in the dot there."""
    width, height = 960, 480
    strip = draw_ellipses(ellipse(x, y, covariance), black, width, height)
    whole = strip[-height:, :width].astype(int)
    rows, columns = np.nonzero(whole.sum(axis=2) > 200)
    places = np.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], axis=1) - [x, y]
    distance = np.sqrt(np.einsum("ni,ij,nj->n", places, np.linalg.inv(covariance), places))
    is_dot = distance < 0.1
    assert is_dot.sum() >= 1 and (~is_dot).sum() > 200
    np.testing.assert_allclose(distance[~is_dot], 1, atol=0.06)
    # The ends of the axes are reached: the widths are the standard deviations themselves.
    reach = np.abs(places).max(axis=0)
    np.testing.assert_allclose(reach, np.sqrt(np.diag(covariance)), atol=0.01)


def test_detail_shows_the_densest_place_eight_times_larger() -> None:
    centers = torch.tensor([[0.6, 0.6], [0.61, 0.61], [0.605, 0.59], [-0.8, -0.8]])
    covariances = torch.eye(2).expand(4, 2, 2) * 1e-4
    strip = draw_ellipses(Kernels(centers, covariances), black, 512, 512).astype(int)
    detail = strip[-960:, -960:]
    rows, columns = np.nonzero(detail.sum(axis=2) > 150)
    # Three ellipses of radius 0.01 (38 pixels at this scale) and nothing of the fourth.
    assert len(rows) > 300
    spread = rows.max() - rows.min(), columns.max() - columns.min()
    assert 60 < spread[0] < 200 and 60 < spread[1] < 200


def test_no_ellipse_is_drawn_outside_the_picture() -> None:
    kernels = ellipse(3.0, 3.0, [[0.01, 0.0], [0.0, 0.01]])
    assert draw_ellipses(kernels, black, 64, 64)[-960:, :960].max() == 0


def test_responses_are_maps_of_the_image(tmp_path: Path) -> None:
    file = tmp_path / "kernels.png"
    model = Drawn(None, num_responses=3)
    assert write_kernels(model, black, 80, 40, tmp_path) == [file]
    with Image.open(file) as opened:
        picture = np.asarray(opened.convert("L")).astype(int)
    first_map = picture[-75 - 8 : -8, :150]  # kernels are sorted by mean, the silent one last
    assert first_map[10, 140] > first_map[10, 75] > first_map[10, 10] or (
        first_map[10, 140] < first_map[10, 75] < first_map[10, 10]
    )
    silent = picture[-75 - 8 : -8, 2 * 154 : 2 * 154 + 150]
    assert silent.max() < 10


def test_strongest_kernel_is_shown_by_its_colour() -> None:
    responses = np.zeros((10, 20, 2), np.float32)
    responses[:, :10, 0], responses[:, 10:, 1] = 0.9, 0.8
    picture = draw_responses(responses, black(200, 100))
    winners = picture[-300:][:100] if len(picture) < 300 else picture
    panel = winners[:, 204:404].reshape(-1, 200, 3)
    left, right = panel[60, 50], panel[60, 150]
    assert left.max() > 150 and right.max() > 150 and np.abs(left.astype(int) - right).max() > 60


def test_models_without_kernels_leave_no_file(tmp_path: Path) -> None:
    assert write_kernels(Drawn(None), black, 64, 64, tmp_path) == []
    assert write_kernels(Drawn(Kernels()), black, 64, 64, tmp_path) == []
    assert list(tmp_path.iterdir()) == []

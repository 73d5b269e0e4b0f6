import pytest
import torch

from nfields.diagnose.slice import Slice, frequencies_until, waves
from nfields.errors import ConfigError
from tests.compare import assert_matches


@pytest.mark.parametrize(("dim", "num_side"), [(1, 64), (2, 32)])
def test_different_whole_frequencies_are_orthogonal(dim, num_side, generator):
    place = Slice(dim, 3, False)
    t = place.coordinates(num_side)
    vectors = place.wave_vectors([1.0, 2.0, 3.0, 7.0], generator)
    parts = waves(t, vectors, torch.rand(4, generator=generator, dtype=torch.float64))
    gram = parts.T @ parts / len(t)
    assert_matches(gram, 0.5 * torch.eye(4, dtype=torch.float64), atol=1e-12, rtol=0)


def test_points_lie_in_the_domain_and_cells_are_equal():
    place = Slice(2, 3, False)
    x = place.points(place.coordinates(4))
    assert x.shape == (16, 3) and x.abs().max() < 1 and len(x[:, 2].unique()) == 1
    assert sorted(x[:, 0].unique().tolist()) == [-0.75, -0.25, 0.25, 0.75]


def test_a_line_on_the_sphere_is_a_closed_circle(generator):
    place = Slice(1, 3, True)
    x = place.points(place.coordinates(100))
    assert_matches(x.norm(dim=1), torch.ones(100, dtype=torch.float64), atol=1e-12, rtol=0)
    gaps = (x - x.roll(1, dims=0)).norm(dim=1)
    assert_matches(gaps, gaps[:1].expand(100), atol=1e-12, rtol=0)
    anywhere = place.anywhere(1000, generator)
    assert anywhere.mean(dim=0).norm() < 0.1 and (anywhere.norm(dim=1) - 1).abs().max() < 1e-5


def test_slices_that_do_not_exist_are_refused():
    with pytest.raises(ConfigError, match="give dim=1"):
        Slice(2, 1, False)
    with pytest.raises(ConfigError, match="no flat slice"):
        Slice(2, 3, True)


def test_frequencies_grow_by_about_sqrt_two():
    assert frequencies_until(16) == [1, 2, 3, 4, 6, 8, 11, 16]

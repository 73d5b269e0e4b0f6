"""The level of a radiance field's surface, on rays with closed forms."""

import math

import pytest
import torch
from torch import Tensor

from nfields.ops.march import Samples
from nfields.render.density_level import choose_level


def rays_through(density, num_rays: int = 20, step: float = 0.002) -> tuple[Tensor, Samples]:
    """Densities along parallel rays from t = 0 to 1, of density(t, ray)."""
    t = torch.arange(0, 1, step)
    samples = Samples(
        t.repeat(num_rays), (t + step).repeat(num_rays), torch.arange(num_rays + 1) * len(t)
    )
    values = torch.stack([density(t + step / 2, ray) for ray in range(num_rays)])
    return values.reshape(-1), samples


def test_level_of_an_exponential_rise_is_where_half_of_the_light_is_lost():
    """sigma = exp(k t) has lost ln 2 where (e^(k t) - 1) / k = ln 2: at sigma = 1 + k ln 2."""
    k = 60.0
    densities, samples = rays_through(lambda t, ray: torch.exp(k * (t - 0.01 * ray)))
    found = choose_level(densities, samples, box_side=1.0)
    assert found is not None and found.num_rays == 20
    # The same level wherever the surface is, though rays reach it at other depths.
    assert found.density == pytest.approx(1 + k * math.log(2), rel=0.25)
    assert found.error < 0.005


def test_thin_fog_in_front_is_not_the_surface():
    def scene(t: Tensor, ray: int) -> Tensor:
        wall = torch.where(t > 0.5 + 0.01 * ray, 300.0, 0.0)
        return wall + torch.where((t > 0.1) & (t < 0.2), 1.0, 0.0)  # a tenth of the light

    found = choose_level(*rays_through(scene), box_side=1.0)
    assert found is not None and 1.0 < found.density <= 300 and found.error < 0.01


def test_level_leaves_out_what_does_not_stop_light():
    """Half of the rays meet a veil only, of density 5: with it, the silhouette would be wrong."""

    def scene(t: Tensor, ray: int) -> Tensor:
        if ray % 2:
            return torch.where((t > 0.4) & (t < 0.45), 5.0, 0.0)
        return torch.where(t > 0.6, 200.0, 0.0)

    found = choose_level(*rays_through(scene), box_side=1.0)
    assert found is not None and found.density > 5 and found.num_rays == 10


def test_fog_that_stops_no_ray_has_no_surface():
    assert choose_level(*rays_through(lambda t, ray: 0 * t + 0.1), box_side=1.0) is None
    nothing = Samples(torch.zeros(0), torch.zeros(0), torch.zeros(4, dtype=torch.int64))
    assert choose_level(torch.zeros(0), nothing, box_side=1.0) is None

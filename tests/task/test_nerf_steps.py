"""Longer steps for rays of many samples: bounds, where they come to rest, what a task does."""

import pytest
import torch

import nfields
from nfields.config import build
from nfields.errors import ConfigError
from nfields.task.nerf_steps import Steps, factor_of, samples_at_rest

SHORTEST = Steps(dt_min=0.01, dt_max=0.05, cone=1 / 256)


def test_steps_grow_with_the_samples_within_bounds() -> None:
    assert SHORTEST.longer(5.0, 8) == SHORTEST
    assert SHORTEST.longer(500.0, None) == SHORTEST
    assert SHORTEST.longer(8 * 2**1.25, 8) == pytest.approx((0.02, 0.05, 2 / 256))
    assert SHORTEST.longer(1e6, 8) == pytest.approx((0.08, 0.08, 8 / 256))


@pytest.mark.parametrize("shortest", [3.0, 140.0, 480.0, 5000.0])
@pytest.mark.parametrize("num_samples", [1.0, 32.0, 900.0])
def test_samples_and_steps_come_to_rest_at_once(shortest: float, num_samples: float) -> None:
    """Rays have `shortest` samples of the shortest steps, shortest / factor of longer ones."""
    factor = factor_of(num_samples, 8)
    rest = samples_at_rest(shortest / factor, factor, 8)
    assert rest == pytest.approx(shortest / factor_of(rest, 8), rel=1e-6)


def test_without_the_option_samples_stay_as_they_are() -> None:
    assert factor_of(500.0, None) == 1 and samples_at_rest(500.0, 1.0, None) == 500


@pytest.mark.slow
def test_task_takes_longer_steps_while_its_rays_are_few() -> None:
    cfg = nfields.compose(["task=nerf", "model=rbfnet", "task.samples_per_step=4096"])
    task = build(cfg.task, data=build(cfg.data))
    rays = [torch.tensor([[0.0, 0.0, -0.9]]), torch.tensor([[0.0, 0.0, 1.0]]), torch.zeros(1)]
    task.grid.bits.fill_(255)
    counts = []
    for num_rays in (512, 64):
        task.num_rays.fill_(num_rays)
        counts.append(len(task.march(*rays)[1]))
    assert task.steps.dt_min == pytest.approx(task.shortest.dt_min * 8**0.8)
    assert counts[0] == pytest.approx(counts[1] * 8**0.8, abs=8)
    with pytest.raises(ConfigError, match="samples_per_ray"):
        cfg.task.samples_per_ray = 0
        build(cfg.task, data=build(cfg.data))

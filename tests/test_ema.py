"""The average of weights: its closed form, and a swap that leaves no trace."""

import pytest
import torch

from nfields.ema import WeightAverage
from nfields.errors import ConfigError


def test_average_of_a_constant_is_the_constant() -> None:
    weight = torch.full((3,), 2.0)
    average = WeightAverage({"w": weight}, 0.9)
    for _ in range(5):
        average.update()
    assert torch.equal(average.averages["w"], weight)


def test_average_is_the_geometric_sum() -> None:
    weight = torch.zeros((), dtype=torch.float64)
    average = WeightAverage({"w": weight}, 0.5)
    expected = 0.0
    for step in range(30):
        weight.fill_(step)
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * step
    assert float(average.averages["w"]) == pytest.approx(expected, rel=1e-12)


def test_swap_is_undone_to_the_bit_also_after_an_error(generator: torch.Generator) -> None:
    weight = torch.randn(5, generator=generator)
    average = WeightAverage({"w": weight}, 0.5)
    weight.mul_(3)
    raw, averaged = weight.clone(), average.averages["w"].clone()
    with pytest.raises(RuntimeError), average.swapped_in():
        assert torch.equal(weight, averaged)
        raise RuntimeError
    assert torch.equal(weight, raw) and torch.equal(average.averages["w"], averaged)


def test_weights_keep_their_memory() -> None:
    weight = torch.zeros(4)
    place = weight.data_ptr()
    average = WeightAverage({"w": weight}, 0.5)
    with average.swapped_in():
        assert weight.data_ptr() == place
    average.copy_to_weights()
    assert weight.data_ptr() == place


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 2.0])
def test_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.ema"):
        WeightAverage({}, decay)

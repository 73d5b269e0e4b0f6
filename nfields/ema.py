"""An exponential moving average of weights: less noise in evaluation for one pass over them a step.

    a <- a + (1 - d) (w - a),   d = min(decay, (1 + n) / (10 + n))

after n earlier updates, so that the average forgets the initial weights (as in TensorFlow's
ExponentialMovingAverage). Also called Polyak averaging. Choose it when the last steps are noisy
and the learning rate hardly decays.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from nfields.errors import ConfigError


class WeightAverage:
    """Averages of named tensors; buffers are not averaged, since evaluation uses the last ones."""

    def __init__(self, weights: Mapping[str, Tensor], decay: float):
        if not 0 < decay < 1:
            raise ConfigError(f"trainer.ema={decay} must lie between 0 and 1 (0.95, 0.999) or null")
        self.decay = decay
        self.num_updates = 0
        self._weights = dict(weights)
        self.averages = {name: w.detach().clone() for name, w in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Moves the averages towards the present weights."""
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        weights, averages = [*self._weights.values()], [*self.averages.values()]
        # On a GPU all tensors at once.
        torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        self.num_updates += 1

    @torch.no_grad()
    def restart(self) -> None:
        """Forgets the past: the averages are the present weights."""
        for name, weight in self._weights.items():
            self.averages[name].copy_(weight)
        self.num_updates = 0

    @torch.no_grad()
    def copy_to_weights(self) -> None:
        """Overwrites the weights with their averages."""
        for name, weight in self._weights.items():
            weight.copy_(self.averages[name])

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Lets the weights be their averages inside the context, and themselves again after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        # In place: optimisers and kernels may hold on to the memory of a weight.
        for name, weight in self._weights.items():
            held = weight.clone()
            weight.copy_(self.averages[name])
            self.averages[name].copy_(held)

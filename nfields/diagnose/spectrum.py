"""Spectral response: which frequencies of a signal are fitted after how many steps.

The field learns a sum of sinusoids of equal amplitude and random phase, sampled on the whole slice
at every step, with the optimiser and learning rates of its training, without a schedule:

    y_c(t) = a sum_k s_kc(t)            s_kc(t) = sin(pi k . t + phase_kc),   c the output
    response(k) = sum_c <f_c, s_kc> / sum_c <y_c, s_kc>

It is 1 where a frequency is fitted, 0 where the field has nothing of it; a wrong phase counts as
not fitted. a is such that y has a standard deviation of 1/4, like a picture's.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.diagnose.slice import Slice, frequencies_until, waves
from nfields.model.field import Field
from nfields.optimizer import Adam

STD = 0.25
NUM_SIDE = {1: 1024, 2: 128}  # points a side of the slice
HIGHEST = {1: 128, 2: 32}  # frequency, in cycles over the slice


@dataclass(frozen=True)
class Signal:
    """Sinusoids on a slice; `parts` are those of unit amplitude, one a frequency and output."""

    frequencies: list[float]
    x: Float[Tensor, "n in_dim"]
    parts: Float[Tensor, "out n waves"]

    @staticmethod
    def draw(place: Slice, out_dim: int, generator: torch.Generator) -> "Signal":
        """Random phases (and, in two dimensions, directions)."""
        num_side = NUM_SIDE[place.dim]
        t = place.coordinates(num_side)
        frequencies = frequencies_until(HIGHEST[place.dim])
        vectors = place.wave_vectors(frequencies, generator)
        shape = (out_dim, len(frequencies))
        phases = 2 * math.pi * torch.rand(shape, generator=generator, dtype=torch.float64)
        parts = torch.stack([waves(t, vectors, phase) for phase in phases])
        lengths = vectors.norm(dim=1).tolist()
        return Signal([round(f, 2) for f in lengths], place.points(t).float(), parts.float())

    def to(self, device: torch.device) -> "Signal":
        """The signal on a device."""
        return Signal(self.frequencies, self.x.to(device), self.parts.to(device))

    @property
    def amplitude(self) -> float:
        """a of the module's head."""
        return STD * math.sqrt(2 / len(self.frequencies))

    @property
    def values(self) -> Float[Tensor, "n out"]:
        """y at the points of the slice."""
        return self.amplitude * self.parts.sum(dim=2).T

    def response(self, values: Float[Tensor, "n out"]) -> list[float]:
        """The response of a field with these values, for each frequency."""
        mine = torch.einsum("cnk,nc->k", self.parts, values)
        full = torch.einsum("cnk,nc->k", self.parts, self.values)
        return (mine / full).tolist()


@dataclass(frozen=True)
class Spectrum:
    """Responses (a row for each of `steps`) and the seconds it took."""

    frequencies: list[float]
    steps: list[int]
    responses: list[list[float]]
    mean_square_errors: list[float]
    seconds: float

    def steps_to_half(self) -> list[int | None]:
        """For each frequency the first of `steps` from which on the response is at least 1/2.

        What a field happens to have at its start, and loses again, is no answer to the signal.
        """
        found: list[int | None] = []
        for column in zip(*self.responses, strict=True):
            below = [i for i, response in enumerate(column) if not response >= 0.5]
            first = below[-1] + 1 if below else 0
            found.append(self.steps[first] if first < len(self.steps) else None)
        return found


def spectral_response(
    model: Field,
    signal: Signal,
    num_steps: int,
    trainer: dict[str, Any],
    say: Callable[[str], None] = lambda _: None,
) -> Spectrum:
    """Trains the model on the signal and measures on the way; the model is changed."""
    optimizer = Adam(model.parameter_groups(), tuple(trainer["betas"]), trainer["eps"])
    steps, responses, errors = [], [], []
    due = measured_steps(num_steps)
    target = signal.values
    started = time.perf_counter()
    model.train()
    for step in range(num_steps + 1):
        values = model(signal.x)
        if step in due:
            with torch.no_grad():
                steps.append(step)
                responses.append(signal.response(values))
                errors.append((values - target).square().mean().item())
            if not math.isfinite(errors[-1]):
                say(f"the spectral response diverged by step {step}; lower the learning rates")
                break
        if step < num_steps:
            optimizer.zero_grad(set_to_none=True)
            (values - target).square().mean().backward()
            optimizer.step()
    seconds = time.perf_counter() - started
    return Spectrum(signal.frequencies, steps, responses, errors, seconds)


def measured_steps(num_steps: int) -> Sequence[int]:
    """0, 1, 2, 3, 4, 6, 8, 11, 16, ... and the last."""
    doubling = {round(2 ** (i / 2)) for i in range(64)}
    return sorted({0, num_steps} | {step for step in doubling if step <= num_steps})

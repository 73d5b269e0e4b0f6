"""Points a second, forward and forward + backward, of one model with different kernels.

Backends take turns at each batch size, and medians are kept, so that a machine whose speed drifts
slows all alike. A backend that needs longer than a second for a batch is not asked for more.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from nfields.diagnose.slice import Slice
from nfields.model.field import Field

BATCH_SIZES = tuple(1 << k for k in range(10, 19, 2))
TOO_LONG_SECONDS = 1.0


@dataclass(frozen=True)
class Rate:
    """Points a second with one backend at one batch size; medians."""

    backend: str
    batch_size: int
    forward: float
    forward_backward: float


def throughput(
    models: Mapping[str, Field],
    place: Slice,
    device: torch.device,
    *,
    batch_sizes: Sequence[int] = BATCH_SIZES,
    repeats: int = 5,
) -> list[Rate]:
    """The rates of each backend's model at each batch size, points anywhere in the domain."""
    generator = torch.Generator().manual_seed(0)
    rates, too_slow = [], set[str]()
    for size in batch_sizes:
        x = place.anywhere(size, generator).to(device)
        taking_part = {name: model for name, model in models.items() if name not in too_slow}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in taking_part}
        for name, model in taking_part.items():
            if sum(_times(model, x, device)) > TOO_LONG_SECONDS:  # it also compiles
                again = _times(model, x, device)
                if sum(again) > TOO_LONG_SECONDS:
                    too_slow.add(name)
                    times[name].append(again)
        for _ in range(repeats):
            for name, model in taking_part.items():
                if name not in too_slow:
                    times[name].append(_times(model, x, device))
        for name, pairs in times.items():
            forward, both = (statistics.median(column) for column in zip(*pairs, strict=True))
            rates.append(Rate(name, size, size / forward, size / both))
    return rates


def _times(model: Field, x: torch.Tensor, device: torch.device) -> tuple[float, float]:
    """Seconds of a forward pass without gradients, and of a forward and a backward pass."""

    def forward() -> None:
        with torch.no_grad():
            model(x)

    def both() -> None:
        model.zero_grad(set_to_none=True)
        values = model(x)
        values.backward(torch.ones_like(values))

    return _seconds(forward, device), _seconds(both, device)


def _seconds(function: Callable[[], None], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start

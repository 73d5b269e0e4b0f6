"""Means of losses and measures over the steps since the last line of the log."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nfields.task.task import StepResult


class RunningMean:
    """Sums and counts by name; floats on the CPU, tensors on a GPU, which is not waited for."""

    def __init__(self) -> None:
        self._sums: dict[str, Any] = {}
        self._counts: dict[str, int] = {}

    def add(self, total: Tensor, result: StepResult) -> None:
        """Adds one step: the total loss, each named loss, each measure and the sizes."""
        self._add("loss", _value(total))
        for name, loss in result.losses.items():
            self._add(f"loss_{name}", _value(loss))
        for name, measure in result.measures.items():
            self._add(name, measure)
        self._add("samples", result.num_samples)
        self._add("items", result.num_items)

    def means(self) -> dict[str, float]:
        """Returns the mean of everything added since the last `clear`; {} without a step."""
        return {name: float(total) / self._counts[name] for name, total in self._sums.items()}

    def clear(self) -> None:
        """Starts a new window."""
        self._sums.clear()
        self._counts.clear()

    def state(self) -> dict[str, Any]:
        """Returns what a checkpoint holds, exactly: json keeps every bit of a float."""
        return {
            "sums": {name: float(total) for name, total in self._sums.items()},
            "counts": dict(self._counts),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Goes on with the window of a checkpoint."""
        self._sums, self._counts = dict(state["sums"]), dict(state["counts"])

    def _add(self, name: str, value: Any) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value
        self._counts[name] = self._counts.get(name, 0) + 1


def _value(scalar: Tensor) -> float | Tensor:
    return scalar.item() if scalar.device.type == "cpu" else scalar.detach()

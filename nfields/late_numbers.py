"""Numbers that a GPU computes, for a host that does not wait for them.

To look at a number on a GPU is to wait for all the work before it. Here the GPU copies the number
when it gets there, and the host finds it some steps later. A number on the CPU is there at once.
"""

from collections import deque
from typing import Generic, TypeVar

import torch
from torch import Tensor

Note = TypeVar("Note")


class LateNumbers(Generic[Note]):
    """Numbers on their way to the host, each with a note about what it is of, in their order."""

    def __init__(self) -> None:
        self._on_their_way: deque[tuple[Tensor, torch.cuda.Event | None, Note]] = deque()

    def put(self, number: Tensor, note: Note) -> None:
        """Sends a number; the host goes on."""
        number, event = start_copy(number.detach())
        self._on_their_way.append((number, event, note))

    def arrived(self) -> list[tuple[float, Note]]:
        """The numbers that have arrived since the last call; all, if the GPU is done."""
        found = []
        while self._on_their_way:
            number, event, note = self._on_their_way[0]
            if event is not None and not event.query():
                break
            self._on_their_way.popleft()
            found.append((float(number.item()), note))
        return found

    def all_but_last(self, count: int) -> list[tuple[float, Note]]:
        """All numbers but the last few, which the host waits for if it is that far ahead.

        What follows from them is then the same in every run, and in all processes of one.
        """
        found = []
        while len(self._on_their_way) > count:
            number, event, note = self._on_their_way.popleft()
            if event is not None:
                event.synchronize()
            found.append((float(number.item()), note))
        return found

    def forget(self) -> None:
        """Drops what is on its way."""
        self._on_their_way.clear()


def start_copy(number: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """The number on the host, which has it when the event has happened; None: it has it now."""
    if number.device.type == "cpu":
        return number, None
    # Only into pinned memory does a GPU copy while the host goes on.
    host = torch.zeros(number.shape, dtype=number.dtype, pin_memory=True)
    host.copy_(number, non_blocking=True)
    event = torch.cuda.Event()
    event.record()
    return host, event

"""A stand-in for a CUDA graph, on the CPU: it records operations, and a replay runs them again.

It has the graph's manners. In a replay Python does not run: every operation gets the very tensors
of the capture and the numbers of then, and its results go to the memory where they went then.
Recording changes nothing, and no version of a tensor tells that a replay has written to it. What
writes to memory behind PyTorch's back (a Numba kernel that is no operation) is not in it.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nfields.step_graph import Results


def tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def place(tensor: Tensor) -> int:
    """The memory of a tensor, as long as it lives."""
    return tensor.untyped_storage()._cdata


class RecordedGraph(TorchDispatchMode):
    """The operations inside it; `undo` puts back what they wrote to, `replay` runs them."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.made: set[int] = set()
        self.before: dict[int, tuple[Tensor, Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        for written in _written(func, args, kwargs):
            if place(written) not in self.made | self.before.keys():
                self.before[place(written)] = (written, written.untyped_storage().clone())
        results = func(*args, **kwargs)
        given = {place(t) for t in tensors(args, kwargs)}
        self.made |= {place(t) for t in tensors(results)} - given - self.before.keys()
        self.calls.append((func, args, kwargs, results))
        return results

    def undo(self) -> None:
        for tensor, storage in self.before.values():
            tensor.untyped_storage().copy_(storage)

    def replay(self) -> None:
        written = tuple(tensor for tensor, _ in self.before.values())
        preserved = torch.autograd._unsafe_preserve_version_counter  # pyright: ignore[reportPrivateImportUsage]
        with torch.no_grad(), preserved(written):
            for func, args, kwargs, results in self.calls:
                given = {place(t) for t in tensors(args, kwargs)}
                again = func(*args, **kwargs)
                for old, new in zip(tensors(results), tensors(again), strict=True):
                    assert old.shape == new.shape, f"{func}: its shape depends on values"
                    if place(old) not in given:
                        old.copy_(new)


def recorded(function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
    """What `record_on_cuda` returns, of the stand-in."""
    graph = RecordedGraph()
    with graph:
        results = function()
    graph.undo()
    return results, graph.replay


def _written(func: Any, args: Any, kwargs: Any) -> list[Tensor]:
    found = []
    for index, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[index] if index < len(args) else kwargs.get(argument.name)
            found += tensors(value)
    return found

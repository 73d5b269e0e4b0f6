"""A training step as a CUDA graph: captured once, then launched as a whole in every step.

A replay runs the kernels of the capture again: the same addresses, the same numbers, no Python. So
what changes from step to step lies in memory that is filled before, and is copied out after:

    batch     to where the captured one lay
    numbers   of the optimiser: learning rate and correction of bias (Adam.numbers)
    results   losses, measures, the number of samples: the next replay writes over them

Whatever else changes asks for a capture anew: the shapes of a batch, a weight that lies elsewhere,
or one that PyTorch has written to, as the average of the weights is looked at (kernels may have
made something of it: half copies, search trees). Batches, occupancy and averages stay outside.

A capture comes after two steps of the same shapes without one, which are steps of the training as
any other. The first compiles kernels; the second is watched for operations that no graph can hold.
If there is one, this and all later steps are taken without a graph, and the log says so once.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nfields.failed_step import is_out_of_memory
from nfields.optimizer import Due
from nfields.task.task import StepResult
from nfields.training_state import TrainingState
from nfields.transfer import send

Results = tuple[Tensor, StepResult]
# Captures a function: what it returned, whose memory every call of the second writes again.
Record = Callable[[Callable[[], Results]], tuple[Results, Callable[[], None]]]

# The host waits for a number of the device: to return it, to know a size, or to choose kernels.
_WAITS = {
    "_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim",
    "unique_consecutive", "equal", "linalg_matrix_exp", "_linalg_check_errors",
}  # fmt: skip


@dataclass(frozen=True)
class _Capture:
    batch: Any
    numbers: Tensor
    due: Due
    results: Results
    replay: Callable[[], None]


class StepGraph:
    """Forward, backward and optimiser of a training, in a graph as soon and as long as they fit.

    `gradients` takes a batch and returns total loss and results; the gradients are then there.
    """

    def __init__(
        self,
        state: TrainingState,
        gradients: Callable[[Any], Results],
        record: Record,
        note: Callable[[str], None],
    ):
        self._state, self._gradients, self._record, self._note = state, gradients, record, note
        self._parameters = [p for module in state.modules.values() for p in module.parameters()]
        self._shapes: Any = None
        self._left: Any = None  # the memory of weights and buffers, as the last step left it
        self._num_alike = 0  # steps of these shapes, without a graph
        self._is_refused = False
        self._capture: _Capture | None = None

    def step(self, batch: Any) -> Results:
        """Total loss and results of a step, which nothing later writes over."""
        shapes = [None if t is None else (t.shape, t.dtype) for t in _parts(batch)]
        if shapes != self._shapes or self._memory() != self._left:
            self.forget()
            self._shapes = shapes
        results = self._step(batch)
        self._left = self._memory()
        return results

    def _step(self, batch: Any) -> Results:
        if self._capture is not None:
            return self._replay(self._capture, batch)
        self._num_alike += 1
        if self._num_alike == 1 or self._is_refused:
            results = self._gradients(batch)
            self._state.optimizer.step(scaling=self._scaling())
            return _copied(results)
        # Those of the step before, of the same shapes, have a gradient in this one too.
        due = self._state.optimizer.due()
        numbers = send(self._state.optimizer.numbers(due), self._device)
        if self._num_alike == 2:
            with Watch(self._device) as watch:
                results = self._work(batch, due, numbers)
            self._state.optimizer.count(due)
            if watch.found:
                self._refuse(watch.found[0])
            return _copied(results)
        held = _map(torch.clone, batch)
        try:
            results, replay = self._record(lambda: self._work(held, due, numbers))
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._refuse(str(error).partition("\n")[0])
            results = self._work(batch, due, numbers)
            self._state.optimizer.count(due)
            return _copied(results)
        self._capture = _Capture(held, numbers, due, results, replay)
        return self._replay(self._capture, batch)

    def forget(self) -> None:
        """Gives the memory of the graph back; the next steps are taken without one."""
        self._capture, self._shapes, self._num_alike = None, None, 0

    def _replay(self, capture: _Capture, batch: Any) -> Results:
        optimizer = self._state.optimizer
        capture.numbers.copy_(send(optimizer.numbers(capture.due), self._device))
        for held, part in zip(_parts(capture.batch), _parts(batch), strict=True):
            if held is not None and part is not None:
                held.copy_(part)
        capture.replay()
        optimizer.count(capture.due)
        return _copied(capture.results)

    def _work(self, batch: Any, due: Due, numbers: Tensor) -> Results:
        """What is captured: work of the device alone."""
        total, result = self._gradients(batch)
        optimizer = self._state.optimizer
        assert len(optimizer.due()) == len(due), "other parameters have a gradient than before"
        optimizer.update(due, self._scaling(), numbers)
        # Without their history, which would keep what was made on the way.
        losses = {name: loss.detach() for name, loss in result.losses.items()}
        return total.detach(), replace(result, losses=losses)

    def _scaling(self) -> Tensor | None:
        scale = self._state.loss_scale
        return None if scale is None else scale.judge(self._parameters)

    def _refuse(self, reason: str) -> None:
        self._is_refused = True
        self._note(
            f"trainer.cuda_graph: steps are taken without a graph, which cannot hold {reason}"
        )

    def _memory(self) -> list[tuple[int, int]]:
        """Where weights and buffers lie, and how often PyTorch has written to a weight."""
        buffers = [b for module in self._state.modules.values() for b in module.buffers()]
        return [(p.data_ptr(), p._version) for p in self._parameters] + [
            (b.data_ptr(), 0) for b in buffers
        ]

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device


def record_on_cuda(function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
    """The function in a CUDA graph, captured on the current stream, which `own_stream` makes."""
    graph = torch.cuda.CUDAGraph()
    # thread_local: what other threads (a viewer's) ask of the GPU meanwhile is no mistake.
    with torch.cuda.graph(
        graph, stream=torch.cuda.current_stream(), capture_error_mode="thread_local"
    ):
        results = function()
    return results, graph.replay


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Inside, work goes to a stream of its own: the usual one cannot be captured."""
    stream, usual = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(usual)
    try:
        with torch.cuda.stream(stream):
            yield
    finally:
        usual.wait_stream(stream)


class Watch(TorchDispatchMode):
    """Collects in `found` the operations inside it that a graph of a device cannot hold."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device, self.found = device, list[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        reason = refusal(func, args, kwargs, self.device)
        if reason is not None:
            self.found.append(reason)
        return func(*args, **kwargs)


def refusal(func: Any, args: Any, kwargs: Any, device: torch.device) -> str | None:
    """Why a graph of this device cannot hold an operation, None if it can.

    The host would have to wait for the device, or to give it something of its memory: what is there
    at the moment of the capture.
    """
    name = func.overloadpacket.__name__
    places = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
    if kwargs.get("device") is not None:
        places.add(torch.device(kwargs["device"]).type)
    if device.type not in places:
        return None  # the host's own, such as a size, which follows from the shapes
    if len(places) > 1:
        return f"{name} on {' and '.join(sorted(places))}"
    if name in _WAITS:
        return name
    if name == "repeat_interleave" and kwargs.get("output_size") is None:
        return f"{name} of unknown length"
    if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
        if any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]):
            return f"{name} by a mask"
    return None


def _parts(batch: Any) -> list[Tensor | None]:
    """The tensors of a batch (one, or a tuple of tensors, tuples or None), None where it has it."""
    if batch is None or isinstance(batch, Tensor):
        return [batch]
    return [part for parts in batch for part in _parts(parts)]


def _map(function: Callable[[Tensor], Tensor], batch: Any) -> Any:
    if batch is None or isinstance(batch, Tensor):
        return None if batch is None else function(batch)
    return type(batch)(*(_map(function, part) for part in batch))


def _copied(results: Results) -> Results:
    def copy(value: Any) -> Any:
        return value.detach().clone() if isinstance(value, Tensor) else value

    total, result = results
    losses = {name: copy(loss) for name, loss in result.losses.items()}
    measures = {name: copy(value) for name, value in result.measures.items()}
    samples = copy(result.num_samples)
    return copy(total), StepResult(losses, measures, samples, result.num_items)

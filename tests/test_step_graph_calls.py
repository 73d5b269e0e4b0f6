"""What a graph of a step captures on a GPU is right for every step: found without a GPU.

The meta device plays it (tests/device_waits.py). A step is captured twice, with other batches,
learning rates and counts: all operations and launches must be the same, with the same numbers, on
the same memory. Then a replay of the first does what the second would.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import nfields.optimizer
from nfields.config import compose
from nfields.loss_scale import LossScale
from nfields.ops.adam import adam
from nfields.step_graph import Results, StepGraph, refusal
from nfields.task.nerf import NerfTask
from nfields.training_state import TrainingState, optimizer_tensors
from tests.device_waits import Waits, counted_waits, on_meta
from tests.recorded_graph import place, tensors
from tests.task.marble import photographs
from tests.test_step_graph import MODEL, TASKS, write_shapes

META = torch.device("meta")
Call = tuple[str, list[Any]]


class Calls(Waits):
    """Keeps the operations and launches between `start` and `stop`, and what no graph can hold."""

    def __init__(self) -> None:
        super().__init__()
        self.is_on = False

    def start(self) -> None:
        self.is_on = True
        self.calls: list[Call] = []
        self.made: dict[int, int] = {}  # memory, in the order in which it was first used
        self.alive: list[Any] = []  # or another tensor could get the same place

    def stop(self) -> list[Call]:
        self.is_on = False
        return self.calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = super().__torch_dispatch__(func, types, args, kwargs)
        if self.is_on and func not in self.kernels and func.namespace != "profiler":
            reason = refusal(func, args, kwargs or {}, META)
            if reason is not None:
                self._note(reason)
            self._keep(str(func), (args, kwargs or {}))
            given = {place(t) for t in tensors(args, kwargs)}
            for t in tensors(results):
                if place(t) not in given:
                    self.made[place(t)] = len(self.made)
            self.alive.append((args, kwargs, results))
        return results

    def launched(self, kernel: Any, grid: Any, args: Any, kwargs: Any) -> None:
        if self.is_on:
            self._keep(kernel.fn.__name__, (grid, args, kwargs))

    def _keep(self, name: str, given: Any) -> None:
        def described(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            where = self.made.get(place(value))
            lies = ("outside", place(value)) if where is None else ("inside", where)
            return (*lies, value.storage_offset(), value.shape, value.stride(), value.dtype)

        self.calls.append((name, [described(leaf) for leaf in tree_leaves(given)]))


def captures(
    name: str, model_name: str, folder: Path, before: Callable[[Any], None] = lambda model: None
) -> tuple[list[list[Call]], list[str]]:
    """The calls of two captures, memory by its name, and what no graph can hold."""
    words = [w.replace("BALL", str(folder)) for w in TASKS[name.replace("endless", "nerf")]]
    if name == "endless":
        words += ["task.space=contracted", "task.distortion_weight=0.01"]
    words += [w for w in MODEL[1:] if model_name == "hashgrid"]
    words += ["model.num_levels=1"] * (name == "points" and model_name == "hashgrid")
    words += ["model.num_kernels=200"] * (model_name == "neurbf")
    cfg = compose([*words, f"model={model_name}"])
    data = photographs(4) if name == "endless" else None
    task, model, optimizer, generator = on_meta(cfg, data)
    scale = LossScale(META)
    state = TrainingState(model, task, optimizer, None, generator, scale)
    mode, found = Calls(), list[list[Call]]()

    def gradients(batch: Any) -> Results:
        result = task.losses(model, batch)
        total = torch.stack([*result.losses.values()]).sum()
        optimizer.zero_grad(set_to_none=True)
        scale.of(total).backward()
        return total, result

    def record(function: Callable[[], Results]) -> tuple[Results, Callable[[], None]]:
        mode.start()
        results = function()
        found.append(mode.stop())
        return results, lambda: None

    names = {place(t): f"state {k}" for k, t in enumerate(state.tensors())}
    names |= {place(t): f"state {n}" for n, t in optimizer_tensors(optimizer).items()}
    if isinstance(task, NerfTask):
        task.grid._candidates = torch.zeros(1000, dtype=torch.int64, device=META)  # once a run
    with counted_waits(mode) as waits:
        graph = StepGraph(state, gradients, record, waits.append)
        if model_name == "neurbf":
            model.neighbors()  # once a run
            waits.clear()
        for step in range(6):
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] / (step + 1)
            before(model)
            task.before_step(model, step, generator)
            graph.step(task.batch(generator))
            if graph._capture is not None:
                parts = tensors(graph._capture.batch, graph._capture.numbers)
                names |= {place(t): f"filled {k}" for k, t in enumerate(parts)}
                kept = graph._capture  # or its memory would be another's
                graph.forget()
                mode.alive.append(kept)
                found[-1] = [(n, [_named(leaf, names) for leaf in call]) for n, call in found[-1]]
    return found, waits


def _named(leaf: Any, names: dict[int, str]) -> Any:
    if isinstance(leaf, tuple) and leaf[:1] == ("outside",):
        return names.get(leaf[1], leaf[1]), *leaf[2:]
    return leaf


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "model_name"),
    [
        ("image", "hashgrid"),
        ("image", "rbfnet"),
        ("image", "neurbf"),
        ("sdf", "siren"),
        ("points", "hashgrid"),
        ("nerf", "hashgrid"),
        ("endless", "hashgrid"),
    ],
)
def test_every_step_would_capture_the_same(name: str, model_name: str, tmp_path: Path) -> None:
    found, waits = captures(name, model_name, write_shapes(tmp_path))
    assert waits == []
    first, second = found
    assert len(first) > 50 and any(call[0] == "adam_kernel" for call in first)
    for one, other in zip(first, second, strict=True):
        assert one == other


def bake_the_rate(model: Any, patch: pytest.MonkeyPatch) -> None:
    def baked(*args: Any, numbers: Any, num_steps: int, **options: Any) -> None:
        adam(*args, num_steps=max(num_steps, 1), **options)

    patch.setattr(nfields.optimizer, "adam", baked)


def exchange_a_buffer(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.encoder.scales = model.encoder.scales.clone()


def bake_a_number(model: Any, patch: pytest.MonkeyPatch) -> None:
    model.calls = getattr(model, "calls", 0) + 1
    original = type(model).forward
    patch.setattr(model, "forward", lambda *args: original(model, *args) * model.calls)


@pytest.mark.parametrize("mistake", [bake_the_rate, exchange_a_buffer, bake_a_number])
def test_what_another_step_would_capture_otherwise_is_found(
    mistake: Callable[[Any, pytest.MonkeyPatch], None], tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        found, _ = captures("image", "hashgrid", tmp_path, lambda model: mistake(model, patch))
    assert found[0] != found[1]

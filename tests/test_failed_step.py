"""Steps that go wrong: memory that runs out, losses that are not finite, and what is kept."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.failed_step import is_out_of_memory, keep_batch
from nfields.late_numbers import LateNumbers
from nfields.task.image import ImageTask
from nfields.task.nerf import NerfTask
from nfields.task.sdf import SdfTask
from nfields.task.sphere import SphereTask
from nfields.task.task import Task
from nfields.trainer import TrainingDiverged
from tests.dummy import DummyTask, fit

ON_A_GPU = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.\nMore advice")


class Hungry(DummyTask):
    """Has no memory for more than `most` points, nor in its first backward passes."""

    def __init__(self, most: int, error: BaseException, num_failures: int = 0):
        super().__init__()
        self.most, self.error, self.num_failures = most, error, num_failures
        self.sizes: list[int] = []

    def losses(self, model: nn.Module, batch: Any) -> Any:
        if len(batch) > self.most:
            raise self.error
        result = super().losses(model, batch)
        if self.num_failures > 0:
            self.num_failures -= 1
            result.losses["fit"].register_hook(self._fail)
        self.sizes.append(len(batch))
        return result

    def _fail(self, gradient: Tensor) -> Tensor:
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        ON_A_GPU,
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "numpy"],
)
def test_step_without_memory_is_done_again_with_half_of_its_items(
    tmp_path: Path, capsys: Any, error: BaseException
) -> None:
    task = Hungry(2, error)
    summary, field, _ = fit(tmp_path, task=task, max_steps=20)
    assert summary.steps == 20 and set(task.sizes) == {2}
    assert task.calls.count("halve_step") == 2  # 8 to 4 to 2, in the rehearsal; and no more
    said = capsys.readouterr().out
    assert "out of memory in step 1" in said and "going on with task.most_items=2" in said
    assert "More advice" not in said
    assert bool(torch.isfinite(field.table).all())


def test_memory_that_ends_in_a_backward_pass_leaves_no_half_of_a_gradient(tmp_path: Path) -> None:
    plain, failing = DummyTask(), Hungry(8, ON_A_GPU, num_failures=1)
    plain.most_items = 4
    _, expected, _ = fit(tmp_path / "plain", task=plain, max_steps=5)
    _, found, _ = fit(tmp_path / "failing", task=failing, max_steps=5)
    assert failing.calls.count("halve_step") == 1
    assert torch.equal(found.table, expected.table)


def test_step_that_cannot_be_smaller_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"step 1,.* cannot be smaller: CUDA out .*size of the m"):
        fit(tmp_path, task=Hungry(0, ON_A_GPU))


def test_other_errors_are_not_taken_for_missing_memory(tmp_path: Path) -> None:
    task = Hungry(0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        fit(tmp_path, task=task)
    assert "halve_step" not in task.calls
    assert not is_out_of_memory(ValueError("not enough memory"))


def test_real_allocation_that_fails_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(1 << 60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(MemoryError) as numpy_caught:
        np.zeros(1 << 60, np.uint8)
    assert is_out_of_memory(numpy_caught.value)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (ImageTask, {"pixels_per_step": 1000}),
        (SphereTask, {"points_per_step": 1000}),
        (SdfTask, {"points_per_step": 1000, "data": SimpleNamespace(oriented=None)}),
        (SdfTask, {"oriented_per_step": 1000, "data": SimpleNamespace(oriented=1)}),
        (NerfTask, {"samples_per_step": 1000, "num_rays": torch.tensor(77)}),
    ],
)
def test_every_task_halves_its_step_until_nothing_is_left_to_halve(
    kind: type[Task], state: dict[str, Any]
) -> None:
    task = kind.__new__(kind)  # nothing else of a task matters here
    nn.Module.__init__(task)
    for name, value in state.items():
        setattr(task, name, value)
    before = 1000
    while (said := task.halve_step()) is not None:
        option, _, value = said.removeprefix("task.").partition("=")
        assert getattr(task, option) == int(value) == before // 2 > 0
        before = int(value)
    assert before < 128


def test_batch_of_a_bad_loss_is_kept(tmp_path: Path) -> None:
    seen = []

    class Watched(DummyTask):
        def losses(self, model: nn.Module, batch: Any) -> Any:
            seen.append(batch.clone())
            return super().losses(model, batch)

    with pytest.raises(
        TrainingDiverged, match=r"in step 6 \(fit\)\. Its batch is kept in .*failed"
    ):
        fit(tmp_path, task=Watched(bad_step=5), checkpoint_every=0)
    assert torch.equal(load_file(tmp_path / "failed_step/batch.safetensors")["batch"], seen[-1])
    state = json.loads((tmp_path / "failed_step/state.json").read_text())
    assert state["step"] == 6 and state["losses"]["fit"] == "nan" and state["not_finite"] == []


class _Rays(NamedTuple):
    origins: Tensor
    target: Tensor
    depth: Tensor | None = None


def test_kept_batch_has_its_fields_and_names_those_that_are_not_finite(tmp_path: Path) -> None:
    batch = _Rays(torch.ones(3, 3), torch.tensor([1.0, float("nan")]))
    said = keep_batch(tmp_path / "failed_step", 3, batch, {"rgb": torch.tensor(float("inf"))})
    assert said.endswith("; of it, target is not finite.")
    assert set(load_file(tmp_path / "failed_step/batch.safetensors")) == {"origins", "target"}


def test_batch_that_cannot_be_written_does_not_hide_the_loss(tmp_path: Path) -> None:
    (tmp_path / "failed_step").write_text("in the way")
    (tmp_path / "failed_step.old").mkdir()
    (tmp_path / "failed_step.old" / "file").write_text("in the way as well")
    said = keep_batch(tmp_path / "failed_step" / "below", 3, torch.zeros(2), {})
    assert "could not be kept" in said


def test_loss_that_arrives_late_stops_training_and_keeps_its_own_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the host learns of a loss some steps later."""
    import nfields.late_numbers

    class Event:
        num_started = 0

        def __init__(self) -> None:
            Event.num_started += 1
            self.number = Event.num_started

        def query(self) -> bool:
            return Event.num_started >= self.number + 3

    monkeypatch.setattr(nfields.late_numbers, "start_copy", lambda number: (number, Event()))

    class Unmoved(DummyTask):
        def after_step(self, model: nn.Module, result: Any, step: int) -> None:
            self.num_steps += 1

    task = Unmoved(bad_step=5)
    with pytest.raises(TrainingDiverged, match=r"in step 6 \(fit\)"):
        fit(tmp_path, task=task, checkpoint_every=None, log_every=1000)
    assert int(task.num_steps) == 8
    state = json.loads((tmp_path / "failed_step/state.json").read_text())
    assert state["step"] == 6


def test_numbers_arrive_in_their_order_with_their_notes() -> None:
    numbers: LateNumbers[str] = LateNumbers()
    numbers.put(torch.tensor(1.5), "one")
    numbers.put(torch.tensor(2), "two")
    assert numbers.arrived() == [(1.5, "one"), (2, "two")] and numbers.arrived() == []
    numbers.put(torch.tensor(3.0), "three")
    numbers.forget()
    assert numbers.arrived() == []

"""A training step on a GPU never waits for it: found on the meta device, without a GPU."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nfields.config import compose
from nfields.distributed import Processes
from nfields.ops.harmonics import harmonics
from nfields.optimizer import Adam
from nfields.running_mean import RunningMean
from nfields.task.task import Task
from tests.device_waits import counted_waits, on_meta
from tests.distributed_worker import RUNS
from tests.task.marble import photographs


@pytest.mark.parametrize(
    ("wait", "words"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: bool(x.sum() > 0), "_local_scalar_dense"),
        (lambda x: x.cpu(), "copy from meta to cpu"),
        (lambda x: x[x > 0], "nonzero"),
        (lambda x: (x > 0).nonzero(), "nonzero"),
        (lambda x: torch.repeat_interleave(x.long()), "repeat_interleave"),
        (lambda x: x.to("meta") + torch.ones(3).to("meta"), "copy from cpu to meta"),
        (lambda x: torch.tensor([1.0], device="meta"), "copy from cpu to meta"),
        (lambda x: x.new_tensor([1.0]), "copy from cpu to meta"),
        (lambda x: torch.zeros(3).copy_(x), "copy from meta to cpu"),
    ],
)
def test_every_kind_of_wait_is_found(wait: Callable[[Tensor], Any], words: str) -> None:
    x = torch.ones(3, device="meta")
    with counted_waits() as found:
        wait(x)
    assert len(found) == 1 and found[0].startswith(words)


def test_what_does_not_wait_is_not_found() -> None:
    x = torch.ones(3, device="meta")
    with counted_waits() as found:
        x.clamp(max=1.0).sum().add(x[torch.zeros(2, dtype=torch.int64, device="meta")].mean())
        torch.ones(3).to("meta", non_blocking=True)
        torch.ones(3).sum().item()
    assert found == []


def test_harmonics_with_slopes_do_not_wait() -> None:
    directions = torch.ones(5, 3, device="meta").requires_grad_()
    with counted_waits() as found:
        harmonics(directions, 4).sum().backward()
    assert found == []


def one_step(task: Task, model: Any, optimizer: Adam, step: int, generator: Any) -> None:
    """A step of the training loop, and what is added up for the log."""
    running = RunningMean()
    task.before_step(model, step, generator)
    batch = Processes().share(task.batch(generator))
    result = task.losses(model, batch)
    total = torch.stack([*result.losses.values()]).sum()
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    optimizer.step()
    task.after_step(model, result, step)
    running.add(total, result)


@pytest.mark.parametrize("model_name", ["hashgrid", "rbfnet", "siren", "neurbf", "sh_siren"])
@pytest.mark.parametrize("task_name", ["nerf", "endless", "image"])
def test_no_step_waits(task_name: str, model_name: str) -> None:
    """endless: nerf with all of space, and its regulariser."""
    endless = ["task.space=contracted", "task.distortion_weight=0.01"] * (task_name == "endless")
    task_name = task_name.replace("endless", "nerf")
    words = [w for w in RUNS[task_name] if not w.startswith(("model", "trainer"))]
    words += endless + ["model.num_kernels=200"] * (model_name == "neurbf")
    cfg = compose([*words, f"model={model_name}"])
    task, model, optimizer, generator = on_meta(cfg, photographs(4) if endless else None)
    steps = [0, 1]
    if task_name == "nerf":
        # Two updates of the occupancy grid: everywhere, and of some cells in turn.
        steps = [0, task.grid_every, task.grid_every * (1 + task.grid_warmup // task.grid_every)]
        task.grid._candidates = torch.zeros(1000, dtype=torch.int64, device="meta")  # once a run
    with counted_waits() as found:
        if model_name == "neurbf":
            model.neighbors()  # once a run
            found.clear()
        for step in steps:
            one_step(task, model, optimizer, step, generator)
    assert found == []

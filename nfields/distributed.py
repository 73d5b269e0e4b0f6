"""Several processes train one field together: torchrun --nproc_per_node=N train.py ...

All draw the same random numbers and the same batch. Process r takes rows r, r + N, r + 2 N, ... of
it, so that together they take the batch that one process would have taken. Gradients, losses and
measures are averaged, numbers of samples added up, in one flat buffer by one all-reduce; then all
do the same step. So weights, moments, the occupancy grid and the random generators stay equal to
the bit, and the checkpoint of one is that of all, for any number of processes.

Process 0 alone writes files, logs and shows progress. Its clock decides for all when time is up.
"""

import importlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from nfields.errors import ConfigError
from nfields.task.task import StepResult

# Longer than what process 0 does while the others wait for it: a checkpoint, a validation.
_TIMEOUT = timedelta(minutes=30)


class ProcessLost(ConfigError):
    """Another process of the run has stopped, so that this one cannot go on."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run, seen from the one with this rank."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """True for the process that writes, logs and shows progress."""
        return self.rank == 0

    def share(self, batch: Any) -> Any:
        """The rows of a batch (a tensor, or a tuple of tensors, tuples or None) that are ours."""
        if self.size == 1 or batch is None:
            return batch
        if isinstance(batch, Tensor):
            if len(batch) % self.size != 0:
                raise ConfigError(
                    f"{len(batch):,} rows of a batch cannot be shared equally by {self.size} "
                    "processes; choose another --nproc_per_node, or a size of the step that it "
                    "divides (task.pixels_per_step, points_per_step, oriented_per_step, max_rays)"
                )
            return batch[self.rank :: self.size].contiguous()
        return type(batch)(*map(self.share, batch))

    @torch.no_grad()
    def average(
        self, parameters: Sequence[Tensor], total: Tensor, result: StepResult
    ) -> tuple[Tensor, StepResult]:
        """The loss and result of the whole batch; the gradients become those of the whole batch.

        Every parameter has a gradient afterwards: whether another process has one is not known.
        """
        if self.size == 1:
            return total, result
        device = total.device
        scalars = [total, *result.losses.values(), *result.measures.values(), result.num_samples]
        numbers = [torch.as_tensor(n, dtype=torch.float32, device=device) for n in scalars]
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.stack(numbers)])
        with _together():
            dist.all_reduce(flat)
        num_samples = flat[-1].clone()
        flat /= self.size
        parts = flat.split([*(g.numel() for g in gradients), len(numbers)])
        for parameter, part in zip(parameters, parts[:-1], strict=True):
            parameter.grad = part.view_as(parameter)
        total, *rest, _ = parts[-1].unbind()
        losses = dict(zip(result.losses, rest, strict=False))
        measures: dict[str, Any] = dict(zip(result.measures, rest[len(losses) :], strict=True))
        if device.type == "cpu":
            measures = {name: value.item() for name, value in measures.items()}
        count = int(num_samples) if device.type == "cpu" else num_samples
        return total, StepResult(losses, measures, count, result.num_items * self.size)

    def make_equal(self, tensors: Iterable[Tensor]) -> None:
        """Gives all processes the tensors of the first one, in place."""
        if self.size > 1:
            with _together(), torch.no_grad():
                for tensor in tensors:
                    dist.broadcast(tensor, 0)
                    torch.autograd.graph.increment_version(tensor)  # which a broadcast does not

    def agree(self, seconds: float, signal_number: int | None) -> tuple[float, int | None]:
        """The first process's seconds of training, and a signal that any process was sent."""
        if self.size == 1:
            return seconds, signal_number
        numbers = torch.tensor(
            [seconds if self.is_first else -1.0, signal_number or 0], dtype=torch.float64
        )
        with _together():
            dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return numbers[0].item(), int(numbers[1]) or None

    def gather(self, value: Any) -> list[Any]:
        """What every process gives, in their order; as json has it."""
        if self.size == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        length = torch.tensor(len(text))
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        with _together():
            dist.all_gather(lengths, length)
            longest = max(map(int, lengths))
            padded = torch.zeros(longest, dtype=torch.uint8)
            padded[: len(text)] = text
            texts = [torch.zeros_like(padded) for _ in range(self.size)]
            dist.all_gather(texts, padded)
        return [
            json.loads(bytes(text[: int(n)].tolist()))
            for text, n in zip(texts, lengths, strict=True)
        ]

    def tell(self, value: Any) -> Any:
        """What the first process gives, for all; as json has it."""
        return self.gather(value if self.is_first else None)[0]


def processes() -> Processes:
    """The processes of this run; one alone unless `joined` is entered."""
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    return Processes()


@contextmanager
def joined() -> Iterator[Processes]:
    """Connects the processes that torchrun started, as long as it is entered."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or processes().size > 1:
        yield processes()
        return
    # Its functions take the group of the time of their import as a default. Imported later (every
    # optimizer does so) they would keep the group and its threads beyond the end of Python, which
    # then aborts now and then.
    importlib.import_module("torch.distributed.nn.functional")
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    with _together():
        dist.init_process_group(backend, timeout=_TIMEOUT)
    try:
        yield processes()
        with _together():
            dist.barrier()  # a process that leaves first would look like one that has died
    finally:
        dist.destroy_process_group()


def local_device(name: str) -> str:
    """The GPU of this process, where several share a machine and trainer.device=auto or cuda."""
    if processes().size == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    if name not in ("auto", "cuda"):
        raise ConfigError(
            f"trainer.device={name}: each of {processes().size} processes has a GPU of its own; "
            "leave it at auto, or choose the GPUs with CUDA_VISIBLE_DEVICES=0,1"
        )
    index = int(os.environ.get("LOCAL_RANK", "0"))
    if index >= torch.cuda.device_count():
        raise ConfigError(
            f"process {index} of this machine has no GPU: there are {torch.cuda.device_count()}; "
            f"use --nproc_per_node={torch.cuda.device_count()}, or trainer.device=cpu"
        )
    return f"cuda:{index}"


@contextmanager
def _together() -> Iterator[None]:
    """Says in the user's words that a process is gone, or did not answer in time."""
    try:
        yield
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise ProcessLost(
            f"another process of this run has stopped or does not answer; its own message says "
            f"why ({reason:.200}). Go on with resume=auto"
        ) from error

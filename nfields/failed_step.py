"""Steps that go wrong: what of them is kept to look at, and which of them may be tried again.

failed_step/ in the run folder holds batch.safetensors, the batch of the first step whose loss was
not finite, and state.json: the step, the losses, and which of the batch's tensors are not finite.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nfields.checkpoint import CheckpointError, write_checkpoint

# What PyTorch's allocator of the CPU says; that of the GPU has a type of its own.
_CPU_WORDS = ("can't allocate memory", "not enough memory", "alloc_cpu")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and any(part in words for part in _CPU_WORDS)


def named_parts(batch: Any) -> dict[str, Tensor]:
    """The tensors of a batch by their field's name; a batch that is one tensor is "batch"."""
    fields = {"batch": batch} if isinstance(batch, Tensor) else batch._asdict()
    return {name: part for name, part in fields.items() if isinstance(part, Tensor)}


def keep_batch(folder: Path, step: int, batch: Any, losses: Mapping[str, Tensor]) -> str:
    """Writes the batch of a step to `folder`, and returns a sentence about it."""
    parts = named_parts(batch)
    bad = [n for n, part in parts.items() if part.is_floating_point() and not finite(part)]
    state = {
        "step": step,
        "losses": {name: str(loss.item()) for name, loss in losses.items()},  # json has no NaN
        "not_finite": bad,
    }
    try:
        write_checkpoint(folder, {"batch": parts}, state)
    except CheckpointError as error:
        return f"Its batch could not be kept: {error}."
    known = f"; of it, {', '.join(bad)} is not finite" if bad else ""
    return f"Its batch is kept in {folder}{known}."


def finite(tensor: Tensor) -> bool:
    """Whether all values are finite."""
    return bool(tensor.isfinite().all())

"""Where the host would wait for a GPU, found without one.

The meta device plays the GPU: its tensors have shapes and no values. The code around the CUDA
kernels runs, but for the launches. Whatever asks for a value, makes a shape depend on one, or
copies from memory that is not pinned is noted with the line it comes from, and goes on with a value
made up.
"""

import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import nfields.late_numbers
import nfields.transfer
from nfields.config import build
from nfields.ops.backend import cuda_kernels, traced
from nfields.optimizer import Adam


class Waits(TorchDispatchMode):
    """Collects "operation at file:line" of every wait inside it, in `found`."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.kernels = {op._opoverload: kernel for op, kernel in cuda_kernels().items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in self.kernels:
            module, name = self.kernels[func].split(":")
            with self:
                return getattr(importlib.import_module(module), name)(*args)
        name = func.overloadpacket.__name__
        first: Any = args[0] if args else None
        on_gpu = isinstance(first, Tensor) and first.is_meta
        if name == "_local_scalar_dense" and on_gpu:
            self._note(name)
            return {torch.bool: True}.get(first.dtype, 1.0 if first.is_floating_point() else 1)
        if name == "nonzero" and on_gpu:
            self._note(name)
            return torch.zeros(1, first.ndim, dtype=torch.int64, device="meta")
        if name in ("index", "index_put_", "index_put") and on_gpu:
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            if masks:
                self._note("nonzero of a mask")
                return first if name != "index" else first[:1]
        if name in ("masked_select", "_unique2", "unique_dim") and on_gpu:
            self._note(name)
        if name == "repeat_interleave" and on_gpu and kwargs.get("output_size") is None:
            self._note(name)
            return torch.zeros(1, dtype=torch.int64, device="meta")
        if name == "_to_copy":
            target = kwargs.get("device") or first.device
            if torch.device(target).type != first.device.type:
                if on_gpu or not kwargs.get("non_blocking"):
                    self._note(f"copy from {first.device.type} to {torch.device(target).type}")
                return torch.zeros(
                    first.shape, dtype=kwargs.get("dtype") or first.dtype, device=target
                )
        if name == "copy_" and first.device.type != args[1].device.type:
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            if on_gpu is False or not non_blocking:
                self._note(f"copy from {args[1].device.type} to {first.device.type}")
            return first
        return func(*args, **kwargs)

    def launched(self, kernel: Any, grid: Any, args: Any, kwargs: Any) -> None:
        """A kernel that would run on a GPU."""

    def _note(self, what: str) -> None:
        lines = [f for f in traceback.extract_stack() if "/nfields/" in f.filename]
        where = [f"{f.filename.rpartition('/nfields/')[2]}:{f.lineno}" for f in lines[-1:]]
        self.found.append(" at ".join([what, *where]))


def on_meta(cfg: Any, data: Any = None) -> tuple[Any, Any, Adam, torch.Generator]:
    """Task, model and optimiser of a configuration, prepared, then moved to the meta device."""
    task = build(cfg.task, data=build(cfg.data) if data is None else data)
    model = build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim)
    generator = torch.Generator().manual_seed(0)
    task.prepare(model, generator)
    model.to("meta")
    task.to("meta")
    optimizer = Adam([*model.parameter_groups(), *task.parameter_groups()], (0.9, 0.99), 1e-15)
    return task, model, optimizer, generator


@contextmanager
def counted_waits(mode: Waits | None = None) -> Iterator[list[str]]:
    """The waits of everything inside, that works on tensors of the meta device."""
    mode = mode or Waits()
    jit = pytest.importorskip("triton.runtime.jit", reason="Triton is for Linux")
    interpreter = pytest.importorskip("triton.runtime.interpreter")

    def not_launched(self: Any, grid: Any) -> Any:
        return lambda *args, **kwargs: mode.launched(self, grid, args, kwargs)

    def noting(make: Any) -> Any:
        """Numbers of Python become a tensor of the meta device without any operation."""

        def made(*args: Any, **kwargs: Any) -> Any:
            tensor = make(*args, **kwargs)
            if tensor.is_meta:
                mode._note("copy from cpu to meta")
            return tensor

        return made

    with pytest.MonkeyPatch.context() as patch, traced():
        patch.setattr(jit.KernelInterface, "__getitem__", not_launched)
        patch.setattr(interpreter.InterpretedFunction, "__getitem__", not_launched, raising=False)
        patch.setattr(torch, "tensor", noting(torch.tensor))
        patch.setattr(Tensor, "new_tensor", noting(Tensor.new_tensor))
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        patch.setattr(nfields.late_numbers, "start_copy", lambda number: (torch.zeros(()), None))
        with mode:
            yield mode.found

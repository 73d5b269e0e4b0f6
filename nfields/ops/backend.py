"""Which implementation of an operation runs: the choice, its refusals, and the CUDA kernels.

Every operation offers `backend=`:

    auto       the compiled kernel of the tensors' device (Numba, Triton); the default
    reference  plain PyTorch, the definition; any device, any floating dtype
    compile    the reference, through torch.compile where that pays (rbf_decode, composite); on
               the CPU it needs a C++ compiler and is slower than auto
    numba      the CPU kernel, or an error if the tensors are elsewhere
    triton     the CUDA kernel, or an error if the tensors are elsewhere
    tcnn       tiny-cuda-nn for grid_encode and mlp (nfields/ops/tiny_cuda_nn.py), the CUDA kernel
               for the others; an error if it is not installed or the tensors are elsewhere

There is no silent fallback: what was asked for runs, or an error says what is missing.

CUDA kernels are functions `module:name` that PyTorch's dispatcher finds under the operation; Triton
is imported when the first one runs. Without a GPU the very same kernels run on CPU tensors, slowly,
inside `interpreted()`: that is how they are tested.
"""

import importlib
import importlib.util
import inspect
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any, Literal, TypeVar, get_args

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from nfields.errors import ConfigError

Backend = Literal["auto", "reference", "compile", "numba", "triton", "tcnn"]
F = TypeVar("F", bound=Callable[..., Any])
REFERENCES: tuple[Backend, ...] = ("reference", "compile")  # that run no kernel of ours
Precision = Literal["fp32", "bf16", "fp16"]

# tl.dot on tensor cores in TF32 and bfloat16 begins with Ampere.
MIN_CAPABILITY = (8, 0)

_precision: ContextVar[Precision] = ContextVar("precision", default="fp32")
_eager: ContextVar[bool] = ContextVar("eager", default=False)
_cuda_kernels: dict[CustomOpDef, str] = {}
_stand_in: str | None = None  # the device that plays the GPU


@contextmanager
def matrix_products(precision: Precision) -> Iterator[None]:
    """Inside, kernels may take matrix products of networks in this precision."""
    token = _precision.set(precision)
    try:
        yield
    finally:
        _precision.reset(token)


def product_precision() -> Precision:
    """What `matrix_products` allows; fp32 outside of it."""
    return _precision.get()


def uses_reference(backend: str, operation: str, tensor: Tensor) -> bool:
    """True if the PyTorch reference is to run, False for the kernel of the tensor's device.

    Raises ConfigError for a backend that does not exist here or not on this device.
    """
    if backend == "reference":
        return True
    if backend == "compile":
        if tensor.device.type == "cpu":
            _require_compiler()
        return True
    if backend not in get_args(Backend):
        allowed = ", ".join(get_args(Backend))
        raise ConfigError(f"backend={backend!r} does not exist; choose one of {allowed}")
    device = tensor.device
    if uses_triton(tensor):
        if backend == "numba":
            raise ConfigError(
                f"{operation}: backend=numba runs on the CPU but the tensors are on {device}; "
                "use trainer.device=cpu, or model.backend=auto (and task.backend=auto)"
            )
        require_triton(device)
        return False
    if device.type == "cpu":
        if backend in ("triton", "tcnn"):
            raise ConfigError(
                f"{operation}: backend={backend} runs on NVIDIA GPUs but the tensors are on the "
                "CPU; use trainer.device=cuda, or model.backend=auto (and task.backend=auto)"
            )
        return False
    raise ConfigError(
        f"{operation}: no compiled kernel for device {device}; set model.backend=reference (plain "
        "PyTorch, any device) or trainer.device=cpu"
    )


def plain(function: F, backend: str) -> F:
    """The reference of an operation that torch.compile makes faster, as `backend` has it."""
    return _compiled(function) if backend == "compile" and not _eager.get() else function


@contextmanager
def second_derivatives() -> Iterator[None]:
    """Inside, references are not compiled: torch.compile differentiates once only."""
    token = _eager.set(True)
    try:
        yield
    finally:
        _eager.reset(token)


@cache
def _compiled(function: Any) -> Any:
    return torch.compile(inspect.unwrap(function))  # checks of its types are not compiled


@cache
def _require_compiler() -> None:
    """Raises ConfigError without the C++ compiler that torch.compile takes for the CPU."""
    name = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name) is None:
        raise ConfigError(
            f"backend=compile: torch.compile needs a C++ compiler on the CPU and {name} is not "
            "found; install it, name another one (CXX=...), or use model.backend=auto (and "
            "task.backend=auto), which needs none and is faster"
        )


def uses_triton(tensor: Tensor) -> bool:
    """True where Triton kernels are the tensor's: the host queues work and must not wait for it.

    To look at a number on a GPU is to wait for all the work before it. Code that runs in a training
    step asks this before it does.
    """
    return tensor.is_cuda or tensor.device.type == _stand_in


def require_triton(device: torch.device) -> None:
    """Raises ConfigError unless Triton is installed and compiles for this device."""
    if not _has_triton():
        raise ConfigError(
            "CUDA kernels need Triton, which comes with CUDA builds of PyTorch on Linux; install "
            "it with: pip install triton; or use trainer.device=cpu"
        )
    if device.type == "cuda":
        _require_capability(device.index or 0)


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _require_capability(index: int) -> None:
    capability = torch.cuda.get_device_capability(index)
    if capability < MIN_CAPABILITY:
        raise ConfigError(
            f"{torch.cuda.get_device_name(index)} has compute capability "
            f"{capability[0]}.{capability[1]}; the CUDA kernels need {MIN_CAPABILITY[0]}."
            f"{MIN_CAPABILITY[1]} or newer (A100, RTX 30 and later). Use trainer.device=cpu, or "
            "model.backend=reference and task.backend=reference (plain PyTorch)"
        )


def implement_on_cuda(operation: CustomOpDef, kernel: str) -> None:
    """Makes the function "module:name" the CUDA implementation of an operation.

    Its arguments and results are those of the operation; its module is imported at the first call.
    """
    _cuda_kernels[operation] = kernel
    operation.register_kernel("cuda")(cuda_function(kernel))


def cuda_function(kernel: str) -> Callable[..., Any]:
    """The function "module:name", which runs on the device of its first tensor."""
    module, name = kernel.split(":")

    def run(*args: Any) -> Any:
        function = getattr(importlib.import_module(module), name)
        first = next(a for a in args if isinstance(a, Tensor))
        # Triton launches on the current device, wherever the tensors are.
        with torch.cuda.device(first.device) if first.is_cuda else nullcontext():
            return function(*args)

    return run


@contextmanager
def interpreted() -> Iterator[None]:
    """Inside, the CUDA kernels run on CPU tensors by Triton's interpreter, instead of Numba's.

    Needs TRITON_INTERPRET=1 in the environment before Triton is imported. For tests: a thousand
    times slower than a GPU.
    """
    global _stand_in
    assert os.environ.get("TRITON_INTERPRET") == "1", "Triton compiles unless TRITON_INTERPRET=1"
    fallback = {operation: operation._backend_fns["cpu"] for operation in _cuda_kernels}
    for operation, kernel in _cuda_kernels.items():
        operation._backend_fns["cpu"] = cuda_function(kernel)
    _stand_in = "cpu"
    try:
        yield
    finally:
        _stand_in = None
        for operation, function in fallback.items():
            operation._backend_fns["cpu"] = function


@contextmanager
def traced() -> Iterator[None]:
    """Inside, tensors on the meta device are taken for those of a GPU.

    They have no values, so code that waits for one fails. For tests, which replace the launches.
    """
    global _stand_in
    _stand_in = "meta"
    try:
        yield
    finally:
        _stand_in = None


def cuda_kernels() -> dict[CustomOpDef, str]:
    """The CUDA implementation "module:name" of every operation that has one."""
    return dict(_cuda_kernels)


def require_same_dtype(operation: str, **tensors: Tensor) -> None:
    """Raises ValueError unless all tensors share one dtype, float32 or float64, and one device."""
    (first_name, first), *others = tensors.items()
    if first.dtype not in (torch.float32, torch.float64):
        raise ValueError(
            f"{operation}: {first_name} is {first.dtype}; kernels take float32 or float64"
        )
    for name, tensor in others:
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise ValueError(
                f"{operation}: {name} is {tensor.dtype} on {tensor.device}, "
                f"{first_name} is {first.dtype} on {first.device}; they must agree"
            )

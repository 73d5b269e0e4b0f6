"""Which implementation of an operation runs: the choice, its refusals and the CUDA slot.

Every operation offers `backend=`:

    auto       the compiled kernel of the tensors' device (Numba on the CPU); the default
    reference  plain PyTorch, the definition; any device, any floating dtype
    numba      the CPU kernel, or an error if the tensors are elsewhere

There is no silent fallback: what was asked for runs, or an error says what is missing.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, get_args

import torch
from torch import Tensor

from nfields.errors import ConfigError

Backend = Literal["auto", "reference", "numba", "triton", "tcnn"]
Precision = Literal["fp32", "bf16"]

_precision: ContextVar[Precision] = ContextVar("precision", default="fp32")


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
    if backend in ("auto", "numba") and tensor.device.type == "cpu":
        return False
    if backend not in get_args(Backend):
        allowed = ", ".join(get_args(Backend))
        raise ConfigError(f"backend={backend!r} does not exist; choose one of {allowed}")
    if backend == "numba":
        raise ConfigError(
            f"{operation}: backend=numba runs on the CPU but the tensors are on {tensor.device}; "
            "use trainer.device=cpu or model.backend=reference"
        )
    if backend in ("triton", "tcnn"):
        raise ConfigError(
            f"{operation}: backend={backend} is not part of this version; use model.backend=auto "
            "on the CPU or model.backend=reference on any device"
        )
    raise ConfigError(
        f"{operation}: no compiled kernel for device {tensor.device} in this version; "
        "set model.backend=reference (plain PyTorch, any device) or trainer.device=cpu"
    )


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

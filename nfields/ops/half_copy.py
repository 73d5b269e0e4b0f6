"""float16 copies of float32 tensors that kernels only read: half of the bytes.

A copy is made at the first call and again when PyTorch has changed the tensor since. The kernel of
the optimiser, of whose changes PyTorch does not know, writes to both.
"""

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_copies = WeakTensorKeyDictionary()  # tensor -> (its version, the copy)


def half_copy(tensor: Tensor) -> Tensor:
    """The tensor in float16, contiguous."""
    copy = kept_copy(tensor)
    if copy is None:
        copy = tensor.detach().to(torch.float16, memory_format=torch.contiguous_format)
        _copies[tensor] = (tensor._version, copy)
    return copy


def kept_copy(tensor: Tensor) -> Tensor | None:
    """The copy, if there is one that holds."""
    version, copy = _copies.get(tensor) or (None, None)
    return copy if version == tensor._version else None

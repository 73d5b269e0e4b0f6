"""Where the tests of CUDA kernels run: on the GPU, or on the CPU by Triton's interpreter."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from nfields.ops.backend import interpreted


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The GPU, or the CPU with the very same kernels interpreted."""
    if torch.cuda.is_available():
        yield torch.device("cuda")
        return
    pytest.importorskip("triton", reason="Triton is for Linux; pip install triton")
    with pytest.MonkeyPatch.context() as patch, interpreted():
        _multiply_bfloat16(patch)
        yield torch.device("cpu")


def _multiply_bfloat16(patch: pytest.MonkeyPatch) -> None:
    """Teaches the interpreter products of bfloat16, which numpy has not and it holds as bits."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    plain: Any = InterpreterBuilder.create_dot

    def as_float32(operand: Any) -> Any:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = operand.data.view(np.uint16).astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return plain(self, as_float32(a), as_float32(b), *rest)

    patch.setattr(InterpreterBuilder, "create_dot", create_dot)

"""How tests compare a kernel with its reference: values, every gradient, second derivatives."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from tests.compare import assert_matches


def assert_same_derivatives(
    kernel: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    *,
    num_operations: int,
    zero_rows: slice | None = None,
) -> None:
    """Fails unless both agree in value, gradients of all inputs and mixed second derivatives.

    `zero_rows` get no incoming gradient, as samples behind an opaque surface do not.
    """
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    found, expected = kernel(*leaves), reference(*leaves)
    assert_matches(found, expected, num_operations=num_operations)
    incoming = torch.randn_like(expected)
    if zero_rows is not None:
        incoming[zero_rows] = 0
    first = torch.autograd.grad(found, leaves, incoming, create_graph=True)
    wanted = torch.autograd.grad(expected, leaves, incoming, create_graph=True)
    for a, b in zip(first, wanted, strict=True):
        assert_matches(a, b, num_operations=num_operations * len(incoming))
    directions = [torch.randn_like(leaf) for leaf in leaves]
    total = torch.stack([(g * v).sum() for g, v in zip(first, directions, strict=True)]).sum()
    wanted_total = torch.stack(
        [(g * v).sum() for g, v in zip(wanted, directions, strict=True)]
    ).sum()
    second = torch.autograd.grad(total, leaves, allow_unused=True)
    wanted_second = torch.autograd.grad(wanted_total, leaves, allow_unused=True)
    for a, b in zip(second, wanted_second, strict=True):
        if b is None:
            assert a is None or not a.any()
        else:
            assert a is not None
            assert_matches(a, b, num_operations=num_operations * len(incoming))

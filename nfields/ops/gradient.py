"""Second derivatives of an operation through its reference; which gradients are asked for."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def reference_gradients(
    forward: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    gradient: Tensor,
    input_gradient_gradients: Sequence[Tensor | None],
) -> tuple[Tensor | None, ...]:
    """Gradients of sum_i <g_i, v_i> for (gradient, *inputs), with g = vjp of `forward` at `inputs`.

    v = `input_gradient_gradients` are the gradients that arrive at an operation's backward; None
    entries are skipped. Used where a second derivative is not worth a kernel.
    """
    with torch.enable_grad():
        gradient = gradient.detach().requires_grad_()
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        first = torch.autograd.grad(
            forward(*leaves), leaves, gradient, create_graph=True, allow_unused=True
        )
        total = gradient.new_zeros(())
        for g, v in zip(first, input_gradient_gradients, strict=True):
            if g is not None and v is not None and v.numel():
                total = total + (g * v).sum()
        if not total.requires_grad:
            return (None,) * (1 + len(leaves))
        return torch.autograd.grad(total, (gradient, *leaves), allow_unused=True)


def asked_later(tensor: Tensor) -> Tensor:
    """The tensor under a node of its own, which `is_asked_for` can tell of; leaves have none."""
    return tensor.view_as(tensor) if tensor.requires_grad and tensor.is_leaf else tensor


def is_asked_for(tensor: Tensor) -> bool:
    """Whether the backward pass that runs now needs the gradient of an input of the operation.

    A context's `needs_input_grad` says whether the input requires one, which parameters always do,
    also where the derivative in the points alone is taken. True where that is not known.
    """
    node = tensor.grad_fn
    # What checkpointing and hooks of several tensors (torch.autograd.graph) ask too.
    return node is None or bool(torch._C._will_engine_execute_node(node))

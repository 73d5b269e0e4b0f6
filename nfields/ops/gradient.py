"""Second derivatives of an operation through its reference."""

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

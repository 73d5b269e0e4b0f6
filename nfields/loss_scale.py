"""A dynamic scale of the loss, for gradients that are computed in float16.

float16 ends at 6e-8, and gradients are smaller. The loss is multiplied by a power of two before the
backward pass and the gradients are divided by it in the optimiser's step. Where one of them is not
finite the step is left out and the scale halved; after GROWTH_STEPS good ones it doubles (section
3.2 of arXiv:1710.03740). All of it stays on the device: the host never waits.

The Triton kernels scale their gradients themselves (nfields/ops/mlp/cuda.py), so they need this
least; networks of tiny-cuda-nn (model.backend=tcnn) need it most.
"""

import math
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

START, LARGEST = 2.0**16, 2.0**24
SMALLEST = 2.0**-8  # below it, no scale helps: the gradients themselves are not finite
GROWTH_STEPS = 2000


class LossScale:
    """The scale and the counts that decide its future, `numbers`: (3,) float32 on the device.

    They are the scale, the good steps since it changed, and the steps left out so far.
    """

    def __init__(self, device: torch.device):
        self.numbers = torch.tensor([START, 0.0, 0.0]).to(device)

    def of(self, loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """The loss to go backward from."""
        return loss * self.numbers[0]

    @torch.no_grad()
    def judge(self, parameters: Iterable[Tensor]) -> Float[Tensor, " 2"]:
        """What `nfields.ops.adam` takes as `scaling`, after a look at all gradients."""
        gradients = [p.grad for p in parameters if p.grad is not None and p.numel() > 0]
        largest = torch.stack([torch.linalg.vector_norm(g, ord=math.inf) for g in gradients])
        is_finite = largest.isfinite().all()
        scale, good, left_out = self.numbers.unbind()
        scaling = torch.stack([torch.where(is_finite, 1 / scale, 0.0), left_out])
        grows = is_finite & (good + 1 >= GROWTH_STEPS)
        larger = torch.where(grows, (2 * scale).clamp(max=LARGEST), scale)
        self.numbers.copy_(
            torch.stack(
                [
                    torch.where(is_finite, larger, scale / 2),
                    torch.where(is_finite & ~grows, good + 1, 0.0),
                    left_out + ~is_finite,
                ]
            )
        )
        return scaling

    def value(self) -> float:
        """The scale, for which the host waits."""
        return float(self.numbers[0])

"""The empirical neural tangent kernel (NTK; Jacot et al. 2018, arXiv:1806.07572).

Notation
    J_c   (n, P) the Jacobian of output c at n points by all P parameters
    K     1/C sum_c J_c J_c^T, (n, n): how a gradient step for one point moves the others
    lambda_1 >= ... >= lambda_n, v_j   eigenvalues and eigenvectors of K

Under small steps of plain gradient descent the error along v_j decays at the rate lambda_j. Adam
and learning rates that differ by group change the rates; K is a property of the model alone.

Memory: one backward pass with random weights finds the parameters that any of the points touches;
only their columns are kept, and if these are still too many, J is made anew for blocks of points.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.diagnose.slice import Slice, waves
from nfields.model.field import Field

MEMORY_BYTES = 256 << 20  # of the Jacobian's rows that are held at once
MOST_OUTPUTS = 3


@dataclass(frozen=True)
class TangentKernel:
    """K of some points and its eigenvalues, largest first, with eigenvectors as columns."""

    kernel: Float[Tensor, "n n"]
    eigenvalues: Float[Tensor, " n"]
    eigenvectors: Float[Tensor, "n n"]
    outputs: list[int]
    num_touched: int  # parameters that any of the points depends on

    @property
    def floor(self) -> float:
        """Eigenvalues below are rounding: n eps lambda_1."""
        eps = torch.finfo(self.kernel.dtype).eps
        return len(self.kernel) * eps * self.eigenvalues[0].item()

    @property
    def condition_number(self) -> float | None:
        """lambda_1 / lambda_n; None if lambda_n is below the floor: it is beyond 1 / (n eps)."""
        smallest = self.eigenvalues[-1].item()
        return self.eigenvalues[0].item() / smallest if smallest > self.floor else None

    @property
    def effective_rank(self) -> float:
        """exp of the entropy of lambda / sum lambda (Roy and Vetterli 2007): n if all are equal."""
        share = self.eigenvalues.clamp(min=0) / self.eigenvalues.clamp(min=0).sum()
        return math.exp(-(share * share.clamp(min=1e-300).log()).sum().item())

    @property
    def numerical_rank(self) -> int:
        """How many eigenvalues are above the floor."""
        return int((self.eigenvalues > self.floor).sum())

    def learning_rates(self, waves: Float[Tensor, "n k"]) -> Float[Tensor, " k"]:
        """s^T K s / s^T s over lambda_1: the initial speed of each wave, 1 for the fastest one."""
        unit = waves / waves.norm(dim=0)
        return (unit * (self.kernel @ unit)).sum(dim=0) / self.eigenvalues[0]

    def alignment(self, waves: Float[Tensor, "n k"]) -> Float[Tensor, "k n"]:
        """The part of each wave's energy that lies along each eigenvector; rows sum to 1."""
        return (self.eigenvectors.T @ (waves / waves.norm(dim=0))).square().T


def tangent_kernel(
    model: Field, x: Float[Tensor, "n in_dim"], memory_bytes: int = MEMORY_BYTES
) -> TangentKernel:
    """K at the points x, in their precision, over at most three outputs evenly chosen."""
    outputs = sorted(
        {round(c) for c in torch.linspace(0, model.out_dim - 1, MOST_OUTPUTS).tolist()}
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    touched = touched_parameters(model, parameters, x)
    num_touched = sum(len(index) for index in touched)
    row_bytes = max(num_touched, 1) * x.element_size()
    block = max(min(len(x), memory_bytes // (2 * row_bytes)), 1)
    parts = list(torch.arange(len(x)).split(block))
    kernel = x.new_zeros(len(x), len(x))
    for output in outputs:
        for a, rows in enumerate(parts):
            left = jacobian(model, parameters, touched, x[rows], output)
            kernel[rows[0] : rows[-1] + 1, rows[0] : rows[-1] + 1] += left @ left.T
            for others in parts[:a]:
                right = jacobian(model, parameters, touched, x[others], output)
                product = left @ right.T
                kernel[rows[0] : rows[-1] + 1, others[0] : others[-1] + 1] += product
                kernel[others[0] : others[-1] + 1, rows[0] : rows[-1] + 1] += product.T
    kernel /= len(outputs)
    values, vectors = torch.linalg.eigh(kernel)
    return TangentKernel(kernel, values.flip(0), vectors.flip(1), outputs, num_touched)


def touched_parameters(
    model: Field, parameters: list[torch.nn.Parameter], x: Float[Tensor, "n in_dim"]
) -> list[Tensor]:
    """For each parameter the indices (flat) on which the values at x depend."""
    generator = torch.Generator().manual_seed(0)
    values = model(x)
    upstream = torch.randn(values.shape, generator=generator, dtype=values.dtype)
    gradients = torch.autograd.grad((values * upstream).sum(), parameters, allow_unused=True)
    return [
        torch.zeros(0, dtype=torch.int64) if g is None else g.flatten().nonzero()[:, 0]
        for g in gradients
    ]


def jacobian(
    model: Field,
    parameters: list[torch.nn.Parameter],
    touched: list[Tensor],
    x: Float[Tensor, "n in_dim"],
    output: int,
) -> Float[Tensor, "n touched"]:
    """The gradient of one output at each point by the touched parameters.

    Point by point, since kernels with a hand-written backward cannot be vectorised by torch.func.
    """
    used = [(p, index) for p, index in zip(parameters, touched, strict=True) if len(index)]
    rows = x.new_zeros(len(x), sum(len(index) for _, index in used))
    for i in range(len(x)):
        value = model(x[i : i + 1])[0, output]
        gradients = torch.autograd.grad(value, [p for p, _ in used], allow_unused=True)
        first = 0
        for gradient, (_, index) in zip(gradients, used, strict=True):
            if gradient is not None:
                rows[i, first : first + len(index)] = gradient.flatten()[index]
            first += len(index)
    return rows


def both_phases(
    place: Slice, t: Float[Tensor, "n dim"], frequencies: list[float]
) -> tuple[Float[Tensor, "n waves"], Float[Tensor, "n waves"]]:
    """Sine and cosine of each frequency along the slice's first coordinate."""
    vectors = torch.zeros(len(frequencies), place.dim, dtype=torch.float64)
    vectors[:, 0] = torch.tensor(frequencies)
    return waves(t, vectors, 0.0), waves(t, vectors, math.pi / 2)

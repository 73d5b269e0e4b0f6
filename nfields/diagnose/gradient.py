"""Gradient check: the model that trains against float64 autograd, and that against differences.

Three comparisons, of L = <u, f(x)> with random u at random points:

    values      f with the chosen kernels (float32) against f through the reference in float64
    kernels     gradients of L by x and by each parameter, the same two sides
    differences float64 gradients against (L(p + h v) - L(p - h v)) / 2h along random directions v

A large h meets kinks (of ReLU, of grids), a small one rounding, and which is which depends on the
scale of the weights; so h runs over some decades and the best agreement counts. A wrong gradient
agrees at none. By x the error is taken point by point, and the worst twentieth left out: a grid's
derivative jumps where cells meet, and a point may lie within rounding, or within h, of a face.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.model.field import Field

# float32 sums of some thousand terms through some layers, and a sine's argument of some hundred.
KERNEL_TOLERANCE = 2e-3
DIFFERENCE_TOLERANCE = 1e-4
STEPS = (1e-4, 1e-6, 1e-8, 1e-10)  # h, relative to the rms of a parameter
SMALLEST_RMS = 1e-2  # of parameters that are 0
NUM_DIRECTIONS = 4
LEFT_OUT = 0.05


@dataclass(frozen=True)
class Check:
    """One comparison: the relative error and whether it is small enough."""

    comparison: str
    of: str
    error: float
    tolerance: float

    @property
    def is_good(self) -> bool:
        """NaN is not."""
        return self.error <= self.tolerance


def gradient_check(
    model: Field, precise: Field, x: Float[Tensor, "n in_dim"], generator: torch.Generator
) -> list[Check]:
    """All comparisons of a model and its float64 reference with the same weights.

    x are float32 points on the model's device; the reference is on the CPU.
    """
    upstream = torch.randn(len(x), model.out_dim, generator=generator).to(x.device)
    got, values = gradients(model, x, upstream)
    values, got = values.cpu(), {name: gradient.cpu() for name, gradient in got.items()}
    x, upstream = x.double().cpu(), upstream.double().cpu()
    wanted, true_values = gradients(precise, x, upstream)
    checks = [Check("values", "f", _relative(values, true_values), KERNEL_TOLERANCE)]
    for name, true in wanted.items():
        error = _by_point(got[name], true) if name == "x" else _relative(got[name], true)
        checks.append(Check("kernels", name, error, KERNEL_TOLERANCE))
    checks += differences(precise, x, upstream, wanted, generator)
    return checks


def gradients(
    model: Field, x: Float[Tensor, "n in_dim"], upstream: Float[Tensor, "n out"]
) -> tuple[dict[str, Tensor], Tensor]:
    """The gradients of <upstream, f(x)> by x and each trained parameter, and f(x)."""
    x = x.clone().requires_grad_()
    sources = {"x": x, **{n: p for n, p in model.named_parameters() if p.requires_grad}}
    values = model(x)
    found = torch.autograd.grad(
        (values * upstream).sum(), list(sources.values()), allow_unused=True
    )
    pairs = zip(sources.items(), found, strict=True)
    return {
        name: torch.zeros_like(source) if gradient is None else gradient.detach()
        for (name, source), gradient in pairs
    }, values.detach()


@torch.no_grad()
def differences(
    model: Field,
    x: Float[Tensor, "n in_dim"],
    upstream: Float[Tensor, "n out"],
    found: dict[str, Tensor],
    generator: torch.Generator,
) -> list[Check]:
    """Central differences along random directions, for x and for each parameter by itself."""
    checks = []
    for name, gradient in found.items():
        directions = [
            torch.randn(gradient.shape, generator=generator, dtype=torch.float64)
            for _ in range(NUM_DIRECTIONS)
        ]
        errors = []
        for step in STEPS:
            if name == "x":
                slopes = [point_slopes(model, x, upstream, v, step) for v in directions]
                true = [(gradient * v).sum(dim=1) for v in directions]
                errors.append(_by_point(torch.cat(slopes)[:, None], torch.cat(true)[:, None]))
            else:
                parameter = model.get_parameter(name)
                slopes = [slope(model, x, upstream, parameter, v, step) for v in directions]
                true = [(gradient * v).sum() for v in directions]
                errors.append(_relative(torch.stack(slopes), torch.stack(true)))
        checks.append(Check("differences", name, min(errors), DIFFERENCE_TOLERANCE))
    return checks


def point_slopes(
    model: Field,
    x: Float[Tensor, "n in_dim"],
    upstream: Float[Tensor, "n out"],
    direction: Float[Tensor, "n in_dim"],
    h: float,
) -> Float[Tensor, " n"]:
    """The slope of each point's part of L, as it moves along its own direction."""
    change = (model(x + h * direction) - model(x - h * direction)) * upstream
    return change.sum(dim=1) / (2 * h)


def slope(
    model: Field,
    x: Float[Tensor, "n in_dim"],
    upstream: Float[Tensor, "n out"],
    parameter: Tensor,
    direction: Tensor,
    step: float,
) -> Float[Tensor, ""]:
    """The slope of L as a parameter moves along the direction; the parameter is put back."""
    kept = parameter.clone()
    h = step * max(kept.square().mean().sqrt().item(), SMALLEST_RMS)
    values = []
    for sign in (1, -1):
        parameter.copy_(kept + sign * h * direction)
        values.append(model(x))
    parameter.copy_(kept)
    return ((values[0] - values[1]) * upstream).sum() / (2 * h)


def failures(checks: Sequence[Check]) -> list[Check]:
    """The comparisons whose error is too large."""
    return [check for check in checks if not check.is_good]


def _relative(got: Tensor, true: Tensor) -> float:
    """|got - true| / |true|; 0 if both are 0."""
    error, size = (got.double() - true.double()).norm().item(), true.double().norm().item()
    return error / size if size > 0 else (0.0 if error == 0 else float("inf"))


def _by_point(got: Tensor, true: Tensor) -> float:
    """The error that all but the worst points stay below, relative to the mean gradient."""
    errors = (got.double() - true.double()).norm(dim=1)
    size = true.double().square().sum(dim=1).mean().sqrt().item()
    worst = torch.quantile(errors, 1 - LEFT_OUT).item()
    return worst / size if size > 0 else (0.0 if worst == 0 else float("inf"))

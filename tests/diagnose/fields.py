"""Fields with known answers."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import ParameterGroup


class LinearField(Field):
    """values = W h(x) + b with features h that are not learned; starts at zero."""

    def __init__(
        self, features: Callable[[Tensor], Tensor], in_dim: int, hidden: int, out_dim: int
    ):
        super().__init__()
        self.in_dim, self.out_dim, self.size_option = in_dim, out_dim, "hidden"
        self.features = features
        self.readout = nn.Linear(hidden, out_dim)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.readout.bias)

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        return self.readout(self.features(x))

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        pass

    def kernels(self, x: Tensor) -> Kernels | None:
        return None

    def parameter_groups(self) -> list[ParameterGroup]:
        return [ParameterGroup("readout", [*self.readout.parameters()], lr=0.05)]


class ReluField(LinearField):
    """Two layers; `gradient_factor` not 1 makes the backward of the first one wrong."""

    def __init__(self, widths: Sequence[int], gradient_factor: float | int = 1):
        in_dim, hidden, out_dim = widths
        super().__init__(lambda x: x, in_dim, hidden, out_dim)
        self.first = nn.Linear(in_dim, hidden)
        self.gradient_factor = gradient_factor
        nn.init.normal_(self.readout.weight)

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        hidden = self.first(x).relu()
        if self.gradient_factor != 1:
            hidden = _Scaled.apply(hidden, self.gradient_factor)
        return self.readout(hidden)


class _Scaled(torch.autograd.Function):
    """The identity, with a gradient times a factor."""

    @staticmethod
    def forward(ctx, x, factor):
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return ctx.factor * gradients[0], None

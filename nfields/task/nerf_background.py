"""What lies behind a radiance field, where a ray is not opaque.

Pictures with alpha are over a grey level, or in training over random colours, which settles opacity
(task.background, task.train_background). Photographs have no alpha: what they show beyond the scene
is `Sky`:

    black     nothing; the field itself has to paint what is far away
    random    another colour for every ray of training, so that only an opaque ray can be right;
              black in evaluation
    learned   a colour of the direction, sigmoid(sum_k Y_k(d) c_k); degree 0 is one colour
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.optimizer import ParameterGroup
from nfields.render.harmonics import spherical_harmonics

BACKGROUNDS = {"white": 1.0, "black": 0.0}
SkyMode = Literal["black", "random", "learned"]


class Sky(nn.Module):
    """Behind photographs; options are explained in configs/task/nerf.yaml."""

    coefficients: nn.Parameter | None

    def __init__(self, *, mode: SkyMode, degree: int, lr: float | int):
        super().__init__()
        if mode not in get_args(SkyMode):
            raise ConfigError(f"task.sky.mode={mode!r}: choose black, random or learned")
        if lr <= 0:
            raise ConfigError(f"task.sky.lr={lr} must be above 0")
        num = spherical_harmonics(torch.zeros(0, 3), degree).shape[1]
        self.mode, self.degree, self.lr = mode, degree, lr
        self.coefficients = nn.Parameter(torch.zeros(num, 3)) if mode == "learned" else None

    def draw(self, num: int, generator: torch.Generator) -> Float[Tensor, "n 3"]:
        """Colours behind the rays of a training batch, where they are not learned."""
        return draw_background("random" if self.mode == "random" else "black", num, generator)

    def color(
        self, directions: Float[Tensor, "n 3"], otherwise: Float[Tensor, "n 3"]
    ) -> Float[Tensor, "n 3"]:
        """The learned colours of unit directions; `otherwise` if they are not learned."""
        if self.coefficients is None:
            return otherwise
        harmonics = spherical_harmonics(directions.nan_to_num(), self.degree)
        return torch.sigmoid(harmonics @ self.coefficients)

    def parameter_groups(self) -> list[ParameterGroup]:
        """The coefficients, if they are learned."""
        return [ParameterGroup("sky", list(self.parameters()), self.lr)]


def draw_background(
    mode: Literal["random", "white", "black"], num: int, generator: torch.Generator
) -> Float[Tensor, "n 3"]:
    """Colours behind the rays of a training batch of pictures with alpha."""
    if mode == "random":
        return torch.rand(num, 3, generator=generator)
    return torch.full((num, 3), BACKGROUNDS[mode])


def over(
    values: Float[Tensor, "*size c"], color: float | Float[Tensor, "*size 3"]
) -> Float[Tensor, "*size 3"]:
    """RGBA over a grey level, or over a colour each; RGB as it is."""
    if values.shape[-1] == 3:
        return values
    alpha = values[..., 3:]
    return values[..., :3] * alpha + color * (1 - alpha)

"""How bright, and how warm, each photograph came out: a small colour correction a picture.

A phone meters every picture anew, so the same wall is brighter in one than in the next; without a
correction the field explains this by fog in front of the cameras and by colours of the direction.

    gain     c' = c exp(g_i), three log gains a picture: exposure and white balance (a change of
             exposure is a gain in sRGB too, as far as the curve is a power)
    affine   c' = c + A_i c + b_i, also contrast and haze

The corrections are held around the mean of the pictures: their mean is subtracted, so that what the
field shows has the mean look, and what is a matter of one picture stays there (the gauge: field and
corrections could trade a common factor otherwise). They are for training. Held-out views have none:
they are shown with the mean look, or fitted on one half and measured on the other (`fit_gain`).
The idea is that of NeRF in the Wild (arXiv:2008.02268) with a model small enough to be no shortcut.
"""

from typing import Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.optimizer import ParameterGroup

ExposureMode = Literal["none", "gain", "affine"]
_NUM_VALUES = {"none": 0, "gain": 3, "affine": 12}


class Exposure(nn.Module):
    """A colour correction a training picture; options are explained in configs/task/nerf.yaml."""

    values: nn.Parameter | None

    def __init__(self, *, mode: ExposureMode, lr: float | int, weight: float | int):
        super().__init__()
        if mode not in get_args(ExposureMode):
            raise ConfigError(f"task.exposure.mode={mode!r}: choose none, gain or affine")
        if lr <= 0 or weight < 0:
            raise ConfigError(
                f"task.exposure.lr={lr} must be above 0 and task.exposure.weight={weight} at "
                "least 0"
            )
        self.mode, self.lr, self.weight, self.values = mode, lr, weight, None

    def start(self, num_views: int) -> None:
        """Makes the corrections of so many pictures, none of which changes anything."""
        if self.mode != "none":
            self.values = nn.Parameter(torch.zeros(num_views, _NUM_VALUES[self.mode]))

    def corrections(self) -> Float[Tensor, "views values"]:
        """The corrections in effect: of mean zero over the pictures."""
        assert self.values is not None
        return self.values - self.values.mean(dim=0)

    def apply_to(
        self, rgb: Float[Tensor, "n 3"], view_index: Int[Tensor, " n"]
    ) -> Float[Tensor, "n 3"]:
        """Colours as the pictures they are compared with would show them."""
        if self.values is None:
            return rgb
        own = self.corrections()[view_index]
        if self.mode == "gain":
            return rgb * torch.exp(own)
        return rgb + (own[:, :9].view(-1, 3, 3) @ rgb[:, :, None])[:, :, 0] + own[:, 9:]

    def losses(self) -> dict[str, Tensor]:
        """What holds the corrections near nothing, by name."""
        if self.values is None or self.weight == 0:
            return {}
        return {"exposure": self.weight * self.corrections().square().mean()}

    def parameter_groups(self) -> list[ParameterGroup]:
        """The corrections, if there are any."""
        return [ParameterGroup("exposure", list(self.parameters()), self.lr)]


def fit_gain(prediction: Float[Tensor, "n 3"], truth: Float[Tensor, "n 3"]) -> Float[Tensor, " 3"]:
    """The gain of each channel with which a prediction is nearest to the truth (least squares)."""
    return (prediction * truth).sum(dim=0) / prediction.square().sum(dim=0).clamp_min(1e-6)

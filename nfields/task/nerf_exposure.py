"""How bright, and how warm, each photograph came out: a small colour correction a picture.

A phone meters every picture anew, so the same wall is brighter in one than in the next; without a
correction the field explains this by fog in front of the cameras and by colours of the direction.

    gain     c' = c exp(g_i), three log gains a picture: exposure and white balance (a change of
             exposure is a gain in sRGB too, as far as the curve is a power)
    affine   c' = c + A_i c + b_i, also contrast and haze

The corrections are held around the mean of the pictures: their mean is subtracted, so that what the
field shows has the mean look, and what is a matter of one picture stays there (the gauge: field and
corrections could trade a common factor otherwise). Views and films have the mean look. A held-out
picture is measured with what its neighbours in the order of taking tell (`between_neighbors`): no
pixel of its own is looked at. Or a gain is fitted on one half of it, and the other half is measured
(`fit_gain`).
The idea is that of NeRF in the Wild (arXiv:2008.02268) with a model small enough to be no shortcut.
"""

import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.optimizer import ParameterGroup

ExposureMode = Literal["none", "gain", "affine"]
_NUM_VALUES = {"none": 0, "gain": 3, "affine": 12}


class Exposure(nn.Module):
    """A colour correction a training picture; options are explained in configs/task/nerf.yaml."""

    values: nn.Parameter | None

    def __init__(
        self,
        *,
        mode: ExposureMode,
        lr: float | int,
        final_lr_part: float | int,
        pull: float | int,
    ):
        super().__init__()
        if mode not in get_args(ExposureMode):
            raise ConfigError(f"task.exposure.mode={mode!r}: choose none, gain or affine")
        if lr <= 0 or not 0 < final_lr_part <= 1 or pull < 0:
            raise ConfigError(
                f"task.exposure: lr={lr} must be above 0, final_lr_part={final_lr_part} in (0, 1] "
                f"and pull={pull} at least 0"
            )
        self.mode, self.lr = mode, float(lr)
        self.final_lr_part, self.pull = float(final_lr_part), float(pull)
        self.values = None

    def start(self, num_views: int) -> None:
        """Makes the corrections of so many pictures, none of which changes anything."""
        if self.mode != "none":
            self.values = nn.Parameter(torch.zeros(num_views, _NUM_VALUES[self.mode]))

    def corrections(self) -> Float[Tensor, "views values"]:
        """The corrections in effect: of mean zero over the pictures."""
        assert self.values is not None
        return self.values - self.values.mean(dim=0)

    def apply_to(
        self,
        rgb: Float[Tensor, "*batch 3"],
        own: Float[Tensor, "*batch values"],
        backdrop: Float[Tensor, "*batch _"] | float = 0.0,
    ) -> Float[Tensor, "*batch 3"]:
        """Colours as pictures with these corrections would show them; the part of the colour that
        is a backdrop, put behind pictures with alpha by us, stays as it is.
        """
        light = rgb - backdrop
        if self.mode == "gain":
            return light * torch.exp(own) + backdrop
        matrix = own[..., :9].unflatten(-1, (3, 3))
        return rgb + (matrix @ light[..., None])[..., 0] + own[..., 9:]

    @torch.no_grad()
    def of_others(
        self, names: Sequence[str], others: Sequence[str]
    ) -> Float[Tensor, "others values"]:
        """The corrections of pictures that were not trained on, from those of the training pictures
        `names` next to them in the order of names, which is that of taking (`between_neighbors`).
        """
        order = sorted(
            [(natural(name), True, i) for i, name in enumerate(names)]
            + [(natural(name), False, i) for i, name in enumerate(others)]
        )
        index = torch.tensor([i for _, _, i in order])
        is_known = torch.tensor([is_known for _, is_known, _ in order])
        found = torch.zeros(len(others), _NUM_VALUES[self.mode])
        corrections = self.corrections().cpu()[index[is_known]]
        found[index[~is_known]] = between_neighbors(corrections, is_known)
        return found

    def parameter_groups(self) -> list[ParameterGroup]:
        """The corrections, if there are any."""
        return [
            ParameterGroup(
                "exposure",
                list(self.parameters()),
                self.lr,
                final_lr_part=self.final_lr_part,
                pull=self.pull,
            )
        ]


def between_neighbors(
    known: Float[Tensor, "known values"], is_known: Bool[Tensor, " all"]
) -> Float[Tensor, "unknown values"]:
    """Values of the pictures that lie, in the order of taking, between those with known values (of
    mean zero): a c_i, c_i the linear interpolation of the nearest known ones before and after.

    a in [0, 1] is how well known pictures foretell each other in this way, each left out in turn
    (least squares): near 1 where light changes slowly, near 0 where the order says nothing.
    """
    place = np.arange(len(is_known))
    at, missing = place[is_known.numpy()], place[~is_known.numpy()]
    columns = [np.interp(missing, at, column) for column in known.T.numpy()]
    between = torch.from_numpy(np.stack(columns, axis=1)).to(known.dtype)
    part = torch.from_numpy((at[1:-1] - at[:-2]) / (at[2:] - at[:-2])).to(known.dtype)
    told = torch.lerp(known[:-2], known[2:], part[:, None])
    agreement = (told * known[1:-1]).sum() / told.square().sum().clamp_min(1e-12)
    return agreement.clamp(0, 1) * between


def natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts names with numbers as people do: 2.jpg before 10.jpg."""
    return [
        (int(part or 0), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)
    ]


def fit_gain(prediction: Float[Tensor, "n 3"], truth: Float[Tensor, "n 3"]) -> Float[Tensor, " 3"]:
    """The gain of each channel with which a prediction is nearest to the truth (least squares)."""
    return (prediction * truth).sum(dim=0) / prediction.square().sum(dim=0).clamp_min(1e-6)

"""Masks that show an object: what they leave out becomes empty, as alpha 0 is.

Masks say of themselves only that pixels do not count. Around people who walked through a scene that
is all there is to know; of an object that was cut out it is half: behind such pixels there is
nothing, and a field that is not told fills the space that no picture constrains.
"""

import torch
from jaxtyping import UInt8
from torch import Tensor

from nfields.data.posed_images import MaskUse, PosedImages
from nfields.data.posed_views import fisheye_circle
from nfields.errors import DataError


def use_masks(data: PosedImages, masks: MaskUse) -> PosedImages:
    """The data set with its masks as they are ("exclude"), or as alpha ("object").

    The circle of a fisheye lens is no part of an object's mask and stays one of its own. A picture
    without a mask is all object.
    """
    if masks == "exclude" or data.images is None:
        return data
    num_left_out = 0
    for split, images in data.images.items():
        for index, image in enumerate(images):
            shown, mask = fisheye_circle(data.cameras[split], index), data.mask(split, index)
            inside = torch.ones(image.shape[:2], dtype=torch.bool) if mask is None else mask
            if shown is not None:
                inside = inside | ~shown
            num_left_out += int((~inside).sum())
            images[index] = _with_alpha(image, inside)
            if mask is not None:
                data.masks[split][index] = shown
    if num_left_out == 0:
        raise DataError(
            f"data.masks=object needs masks that leave something out, and {data.source} has none; "
            "leave the option out, or name them in the camera file (mask_path) or a folder masks/"
        )
    data.has_alpha = True
    data.notes = [note for note in data.notes if "have a mask" not in note]
    data.notes.append("what masks leave out is empty: alpha 0 (data.masks=object)")
    return data


def _with_alpha(image: Tensor, inside: Tensor) -> UInt8[Tensor, "height width 4"]:
    alpha = image[..., 3:] if image.shape[2] == 4 else image.new_full((*image.shape[:2], 1), 255)
    return torch.cat([image[..., :3], alpha * inside[..., None]], dim=2)

"""Evaluation of a radiance field: held-out views, what they are compared with, and the protocol."""

import math
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from nfields.data.posed_images import PosedImages
from nfields.export.comparison import ComparedImage, compare_images, is_ours
from nfields.model.field import Field
from nfields.render.cameras import Cameras, rays
from nfields.task.nerf_background import BACKGROUNDS, over
from nfields.task.nerf_exposure import Exposure, fit_gain
from nfields.task.nerf_poses import PoseRefinement

Appearance = Literal["neighbors", "mean", "left_half"]
_NUM_PIXELS = 1 << 14  # of a quick validation


@runtime_checkable
class EvaluatedField(Protocol):
    """What a task offers to be evaluated."""

    data: PosedImages
    background: Literal["white", "black"]
    exposure: Exposure
    poses: PoseRefinement

    def render_view(
        self, model: Field, cameras: Cameras, view: int, background: str | None = None
    ) -> dict[str, Tensor]:
        """The picture of a view."""
        ...

    def render_rays(
        self,
        model: Field,
        origins: Tensor,
        directions: Tensor,
        background: str | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """rgb, opacity and weighted depth of rays, on the CPU."""
        ...


def held_out_split(data: PosedImages) -> str:
    """The split that is held out, or train where nothing is."""
    return "test" if "test" in data.cameras else "train"


@torch.no_grad()
def quick_psnr(task: EvaluatedField, model: Field, generator: torch.Generator) -> float:
    """PSNR over 16,384 random pixels of the held-out views (not a mean over images)."""
    split = held_out_split(task.data)
    pixels = task.data.sample_pixels(_NUM_PIXELS, generator, split)
    origins, directions = rays(task.data.cameras[split], pixels.view_index, pixels.pixels)
    color = BACKGROUNDS[task.background] if task.data.has_alpha else 0.0
    truth = over(pixels.values.float() / 255, color)
    rgb, opacity, _ = task.render_rays(model, origins, directions)
    own = _corrections(task, split, "neighbors")
    if own is not None:
        rgb = task.exposure.apply_to(rgb, own[pixels.view_index], (1 - opacity)[:, None] * color)
    error = (rgb.clamp(0, 1) - truth).square().mean().item()
    return -10 * math.log10(max(error, 1e-10))


def evaluate_views(
    task: EvaluatedField,
    model: Field,
    folder: Path,
    limit: int | None,
    *,
    split: str | None,
    background: Literal["white", "black"] | None,
    appearance: Appearance,
    num_pictures: int,
    flip: bool,
) -> dict[str, Any]:
    """Metrics of every view of a split, rendered at full size; pictures of the first few.

    appearance   neighbors: where corrections are learned, each view has those of the training
                 pictures next to it in the order of taking (nerf_exposure.py);
                 mean: views as the field has them, the mean look of the training pictures;
                 left_half: a gain a channel is fitted on the left half of each view, and the right
                 half alone is measured
    """
    data = task.data
    split = split or held_out_split(data)
    images = data.require_images(split)[:limit]
    cameras, names = data.cameras[split], data.names[split]
    if split == "train":
        cameras = task.poses.refined(cameras)
    shown = background or task.background
    color = BACKGROUNDS[shown] if data.has_alpha else 0.0
    corrections = _corrections(task, split, appearance)

    def compared() -> Iterator[ComparedImage]:
        if images:  # kernels are compiled for one ray, so that no view's seconds have it
            task.render_rays(model, *rays(cameras, torch.zeros(1).long(), torch.zeros(1, 2)))
        for view, image in enumerate(images):
            if not is_ours(view, num_pictures):
                continue
            started = perf_counter()
            seen = task.render_view(model, cameras, view, shown)
            rgb, mask = seen["rgb"], data.mask(split, view)
            truth = over(image.float() / 255, color)
            if corrections is not None:
                backdrop = (1 - seen["opacity"])[:, :, None] * color
                own = corrections[view].expand(*rgb.shape[:2], -1)
                rgb = task.exposure.apply_to(rgb, own, backdrop).clamp(0, 1)
            if appearance == "left_half":
                rgb, mask = _fitted_on_the_left(rgb, truth, mask)
            yield ComparedImage(
                name=names[view],
                prediction=rgb,
                truth=truth,
                seconds=perf_counter() - started,
                depth=seen["depth"],
                opacity=seen["opacity"],
                mask=mask,
                index=view,
            )

    return compare_images(
        compared(),
        folder=folder,
        protocol={
            "split": split,
            "background": shown if data.has_alpha else "photograph",
            **({"masked": True} if data.has_masks(split) else {}),
            "color_space": "sRGB",
            **_appearance_note(task.exposure, appearance, split),
            **_camera_note(task.poses, split),
        },
        total=len(images),
        num_pictures=num_pictures,
        with_flip=flip,
    )


def _fitted_on_the_left(rgb: Tensor, truth: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The picture with a gain a channel, and the mask of the pixels that did not choose it."""
    inside = torch.ones(rgb.shape[:2], dtype=torch.bool) if mask is None else mask
    is_left = torch.zeros_like(inside)
    is_left[:, : rgb.shape[1] // 2] = True
    chosen = inside & is_left
    gain = fit_gain(rgb[chosen], truth[chosen]) if bool(chosen.any()) else torch.ones(3)
    return (rgb * gain).clamp(0, 1), inside & ~is_left


def _corrections(task: EvaluatedField, split: str, appearance: Appearance) -> Tensor | None:
    """The colour corrections with which the views of a split are measured; None: without any."""
    if task.exposure.values is None or appearance != "neighbors":
        return None
    if split == "train":
        return task.exposure.corrections().detach().cpu()
    return task.exposure.of_others(task.data.names["train"], task.data.names[split])


def _appearance_note(exposure: Exposure, appearance: Appearance, split: str) -> dict[str, str]:
    if appearance == "left_half":
        return {"appearance": "gain a channel fitted on the left half, right half measured"}
    if exposure.values is None:
        return {}
    if appearance == "mean":
        return {"appearance": "mean of the training pictures"}
    if split == "train":
        return {"appearance": "of each picture, learned in training"}
    return {"appearance": "interpolated between the training pictures next to it by name"}


def _camera_note(poses: PoseRefinement, split: str) -> dict[str, str]:
    if not poses.is_on:
        return {}
    return {"cameras": "refined in training" if split == "train" else "as given"}

"""The views of a run's data, seen through its field: for exports that look at all of them."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from nfields.errors import ConfigError
from nfields.export.export import RendersViews
from nfields.render.cameras import Cameras, view_rays
from nfields.stored_run import StoredRun


@runtime_checkable
class RefinesCameras(Protocol):
    """What a task offers that learns the cameras of its training views."""

    def refined_cameras(self) -> Cameras:
        """The training cameras as they were found to be."""
        ...


@dataclass(frozen=True)
class SeenView:
    """A rendered view; points are where its rays end, in the frame of the data, NaN where nothing
    is hit. depth is the distance along the ray, in units of the data.
    """

    index: int
    rgb: Float[Tensor, "h w 3"]
    opacity: Float[Tensor, "h w"]
    depth: Float[Tensor, "h w"]
    points: Float[Tensor, "h w 3"]


def cameras_of_run(run: StoredRun, split: str, what: str) -> Cameras:
    """The cameras of a split, in our frame; those that were refined in training as they became."""
    if not isinstance(run.task, RendersViews):
        raise ConfigError(
            f"what={what} needs a task with cameras, such as task=nerf; {run.folder.path} is of "
            f"task={run.config.choices.task}"
        )
    cameras: dict[str, Cameras] = run.data.cameras
    if split not in cameras or len(cameras[split]) == 0:
        there = ", ".join(name for name in cameras if len(cameras[name])) or "none"
        raise ConfigError(f"split={split} has no cameras; splits with cameras: {there}")
    if split == "train" and isinstance(run.task, RefinesCameras):
        return run.task.refined_cameras()
    return cameras[split]


def see(run: StoredRun, cameras: Cameras, background: str | None) -> Iterator[SeenView]:
    """All views, one after the other."""
    task = run.task
    assert isinstance(task, RendersViews)
    task.eval()
    run.model.eval()
    transform = replace(run.data.transform, homography=None)
    # Depths are distances from the cameras, before a homography.
    bare = replace(cameras, homography=None)
    for index in range(len(cameras)):
        with torch.inference_mode():
            seen = task.render_view(run.model, cameras, index, background=background)
        width, height = cameras.size(index)
        origins, directions = view_rays(bare, index)
        depth, opacity = seen["depth"].reshape(-1), seen["opacity"].reshape(-1)
        depth = torch.where(depth.isfinite() & (opacity >= 0.5), depth, torch.nan)
        points = transform.to_user(origins + depth[:, None] * directions)
        yield SeenView(
            index,
            seen["rgb"],
            seen["opacity"],
            (depth / transform.scale).view(height, width),
            points.view(height, width, 3),
        )

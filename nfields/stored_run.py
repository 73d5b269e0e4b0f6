"""A run folder back in memory, ready to evaluate, export or look at."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from nfields.checkpoint import load_weights
from nfields.config import build
from nfields.data import restore
from nfields.machine import choose_device, use_threads
from nfields.model.field import Field
from nfields.overrides import parse
from nfields.resume import continued
from nfields.run_folder import RunFolder
from nfields.task.task import Task


@dataclass(frozen=True)
class StoredRun:
    """What `load_run` gives; `step` is the one of the checkpoint."""

    folder: RunFolder
    config: DictConfig
    data: Any
    task: Task
    model: Field
    device: torch.device
    step: int


def load_run(
    path: str | os.PathLike[str],
    *,
    needs_images: bool = False,
    overrides: Sequence[str] = (),
    device: str = "auto",
) -> StoredRun:
    """The run in the folder `path`, with the weights to evaluate (the EMA, if one was kept).

    The data comes from its card in the folder: cameras and the transform to the user's frame, no
    pixels. With `needs_images` it is read again from where `data.path` says; after a move that is
    `overrides=["data.path=..."]`.
    """
    folder = RunFolder.load(path)
    cfg = continued(folder, parse(overrides))
    chosen = choose_device(device)
    use_threads(cfg.trainer.threads if chosen.type == "cpu" else None)
    data = build(cfg.data) if needs_images else restore(folder.data_card())
    task = build(cfg.task, data=data)
    model = build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim)
    config: Any = OmegaConf.to_container(cfg)
    state = load_weights(folder.checkpoint, {"model": model, "task": task}, config)
    return StoredRun(folder, cfg, data, task.to(chosen), model.to(chosen), chosen, state["step"])

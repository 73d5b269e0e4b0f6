"""What the options for photographs buy: runs with and without each, on the same pictures.

Some options mend what a good data set does not have. For those the pictures or cameras are first
damaged in a known way, and both runs get the damaged ones:

    exposure   all pictures become brighter and darker in turn along the order of taking, as a
               camera's metering makes them, up to a factor of 1.5 in light, and colder or warmer
    cameras    every training camera is turned by 0.3 degrees and moved by 0.005 scene units
               (standard deviations an axis)
    zoom       the focal length of every training camera is wrong by 1.5 % (standard deviation)
    obstacle   a rectangle of one colour hides a tenth of every training picture; a mask says where

Held-out pictures keep their true cameras, and nothing hides them.
"""

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.spatial.transform import Rotation

from nfields.config import build, compose
from nfields.config_check import raise_problems
from nfields.data.pixel_file import axis_cosines
from nfields.data.posed_images import PosedImages
from nfields.data.transfer_curve import linear_from_srgb, srgb_from_linear
from nfields.errors import ConfigError
from nfields.export.depths import frame_of
from nfields.key_values import option_problems, sort_words
from nfields.render.cameras import Cameras
from nfields.run import train
from nfields.run_folder import write_json

_BRIGHTER = math.log(1.5)
_WARMER = 0.06
_WAVES = 3  # from the first picture to the last
_TURN_RAD, _SHIFT = math.radians(0.3), 0.005
_ZOOM = 0.015
_HIDDEN = 0.1


@dataclass
class _Scene:
    """Pictures, cameras of our frame, masks and depths of each split; damage changes them."""

    images: dict[str, list[UInt8[np.ndarray, "h w 3"]]]
    cameras: dict[str, Cameras]
    names: dict[str, list[str]]
    depths: dict[str, list[Float[np.ndarray, "h w"] | None]]  # along the axis, NaN: not known
    masks: dict[str, list[np.ndarray]] = field(default_factory=dict)  # True where a pixel counts


@dataclass(frozen=True)
class Option:
    """A pair of runs: what the pictures suffer from, and the words of the run with and without."""

    name: str
    damage: str
    words_with: tuple[str, ...] = ()
    words_without: tuple[str, ...] = ()


_REFINE = "task.poses.refine=true"
OPTIONS = (
    Option("cascades beyond the unit box", "none", (), ("data.aabb_scale=1",)),
    Option("contracted space", "none", ("task.space=contracted",), ("data.aabb_scale=1",)),
    Option("learned sky", "none", ("task.sky.mode=learned",)),
    Option("random sky", "none", ("task.sky.mode=random",)),
    Option("distortion loss", "none", ("task.distortion_weight=1e-3",)),
    Option("depths", "none", ("task.depth_weight=0.3",)),
    Option("gains", "exposure", ("task.exposure.mode=gain",)),
    Option("learned cameras", "cameras", (_REFINE,)),
    Option("learned intrinsics", "zoom", ("task.poses.intrinsics=each",)),
    Option("masks", "obstacle", (), ("data.path={folder}/unmasked.json",)),
)


def run(
    overrides: Sequence[str],
    *,
    steps: int = 1000,
    seeds: int = 1,
    only: str | None = None,
    out: str | None = None,
) -> list[dict[str, Any]]:
    """PSNR over the held-out pictures with and without every option (`only`: whose name has this).

    `overrides` say the data and the model; they need pictures without alpha and a split in a box.
    """
    chosen = [option for option in OPTIONS if only is None or only in option.name]
    if not chosen:
        names = ", ".join(option.name for option in OPTIONS)
        raise ConfigError(f"only={only}: no option has this in its name; choose from {names}")
    if min(steps, seeds) < 1:
        raise ConfigError(f"steps={steps} and seeds={seeds} must be 1 or more")
    cfg = compose(["task=nerf", *overrides])
    data = build(cfg.data)
    if not isinstance(data, PosedImages) or data.has_alpha:
        raise ConfigError(
            f"{data.source}: wanted are photographs, pictures without alpha; data.path=FOLDER says "
            "where they are"
        )
    if any(data.has_masks(split) for split in data.cameras):
        raise ConfigError(f"{data.source} has masks, which the copies would lack; take them out")
    if data.cameras["train"].homography is not None:
        raise ConfigError("normalised device coordinates have no box; take data.frame=box")
    rest = [w for w in overrides if not w.startswith(("data.", "data="))]
    rest += ["task=nerf", f"trainer.max_steps={steps}", "trainer.max_time=null"]
    rest += ["task.num_pictures=0"]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        for option in chosen:
            has_depths = any(depth is not None for depth in data.depths.get("train", []))
            if option.name == "depths" and not has_depths:
                print(f"{option.name}: left out, {data.source} has no depths", flush=True)
                continue
            folder = Path(place, option.damage)
            if not folder.is_dir():
                write_damaged(data, option.damage, folder)
            common = ["data=transforms", f"data.near={data.near}", *rest]
            psnr: dict[str, list[float]] = {"without": [], "with": []}
            for seed in range(seeds):
                for which, own in (("without", option.words_without), ("with", option.words_with)):
                    words = [f"data.path={folder}", *own]
                    words = [word.format(folder=folder) for word in words]
                    psnr[which].append(train([*common, *words, f"seed={seed}"])["psnr"])
            rows.append({"option": option.name, "damage": option.damage, **psnr})
    _print_table(rows, steps, overrides)
    if out is not None:
        write_json(Path(out), {"steps": steps, "overrides": list(overrides), "rows": rows})
    return rows


def _print_table(rows: Sequence[dict[str, Any]], steps: int, overrides: Sequence[str]) -> None:
    print(f"\n{' '.join(overrides)}, {steps} steps, PSNR over the held-out pictures")
    print("| option | damage | without, dB | with, dB | difference |")
    print("|---|---|---|---|---|")
    for row in rows:
        before, after = (statistics.mean(row[which]) for which in ("without", "with"))
        print(
            f"| {row['option']} | {row['damage']} | {before:.2f} | {after:.2f} "
            f"| {after - before:+.2f} |"
        )


def write_damaged(data: PosedImages, damage: str, folder: Path) -> None:
    """A copy of the data set, damaged: transforms.json, and unmasked.json where there are masks."""
    scene = _Scene(
        {
            split: [image.numpy() for image in images]
            for split, images in (data.images or {}).items()
        },
        dict(data.cameras),
        data.names,
        {split: _axial_depths(data, split) for split in data.cameras},
    )
    _DAMAGES[damage](scene, np.random.default_rng(0))
    meta: dict[str, Any] = {
        "scale": 0.5, "offset": [0.5] * 3, "aabb_scale": data.aabb_scale,
        "integer_depth_scale": 1.0, "frames": [],
    }  # fmt: skip
    for name in ("images", "depth", "masks"):
        (folder / name).mkdir(parents=True)
    for split, cameras in scene.cameras.items():
        meta[f"{split}_filenames"] = []
        for view in range(len(cameras)):
            file = f"{split}_{view:04d}.png"
            pose = np.eye(4)
            pose[:3] = cameras.camera_to_world[view].double().numpy()
            frame = frame_of(cameras, view, pose, file)
            del frame["depth_file_path"]
            if (depth := scene.depths[split][view]) is not None:
                frame["depth_file_path"] = f"depth/{file}.npy"
                np.save(folder / frame["depth_file_path"], depth)
            Image.fromarray(scene.images[split][view]).save(folder / "images" / file)
            if split in scene.masks:
                frame["mask_path"] = f"masks/{file}"
                Image.fromarray(scene.masks[split][view]).save(folder / "masks" / file)
            meta["frames"].append(frame)
            meta[f"{split}_filenames"].append(frame["file_path"])
    write_json(folder / "transforms.json", meta)
    if scene.masks:
        frames = [{k: v for k, v in f.items() if k != "mask_path"} for f in meta["frames"]]
        write_json(folder / "unmasked.json", {**meta, "frames": frames})


def _axial_depths(data: PosedImages, split: str) -> list[Float[np.ndarray, "h w"] | None]:
    """Depths along the axis of each view, NaN where not known."""
    depths = data.depths.get(split) or [None] * len(data.cameras[split])
    found = []
    for view, depth in enumerate(depths):
        if depth is None:
            found.append(None)
            continue
        if depth.is_sparse:
            dense = depth.to_dense()
            depth = torch.where(dense > 0, dense, torch.nan)
        found.append((depth * axis_cosines(data.cameras[split], view)).numpy())
    return found


def _none(scene: _Scene, random: np.random.Generator) -> None:
    pass


def _expose(scene: _Scene, random: np.random.Generator) -> None:
    order = sorted(
        (name, split, view)
        for split, names in scene.names.items()
        for view, name in enumerate(names)
    )
    for place, (_, split, view) in enumerate(order):
        wave = 2 * math.pi * _WAVES * place / len(order)
        warmth = _WARMER * math.cos(wave) * np.array([1.0, 0.0, -1.0])
        gain = np.exp(_BRIGHTER * math.sin(wave) + warmth)
        light = gain * linear_from_srgb(scene.images[split][view] / 255.0)
        values = np.round(255 * srgb_from_linear(light.clip(0, 1)))
        scene.images[split][view] = values.astype(np.uint8)


def _misplace(scene: _Scene, random: np.random.Generator) -> None:
    cameras = scene.cameras["train"]
    poses = cameras.camera_to_world.double().numpy().copy()
    turns = Rotation.from_rotvec(random.normal(0, _TURN_RAD, (len(poses), 3))).as_matrix()
    poses[:, :, :3] = turns @ poses[:, :, :3]
    poses[:, :, 3] += random.normal(0, _SHIFT, (len(poses), 3))
    wrong = torch.from_numpy(poses).to(cameras.camera_to_world.dtype)
    scene.cameras["train"] = replace(cameras, camera_to_world=wrong)


def _zoom(scene: _Scene, random: np.random.Generator) -> None:
    cameras = scene.cameras["train"]
    factor = torch.from_numpy(np.exp(random.normal(0, _ZOOM, (len(cameras), 1)))).float()
    scene.cameras["train"] = replace(cameras, focal=factor * cameras.focal)


def _hide(scene: _Scene, random: np.random.Generator) -> None:
    scene.masks["train"] = []
    for view, image in enumerate(scene.images["train"]):
        size = np.array(image.shape[:2])
        extent = np.maximum(1, np.round(math.sqrt(_HIDDEN) * size)).astype(int)
        y, x = (random.random(2) * (size - extent + 1)).astype(int)
        image = image.copy()
        mask = np.ones(image.shape[:2], bool)
        where = (slice(y, y + extent[0]), slice(x, x + extent[1]))
        image[where], mask[where] = random.integers(0, 256, 3), False
        scene.images["train"][view] = image
        scene.masks["train"].append(mask)


_DAMAGES: dict[str, Callable[[_Scene, np.random.Generator], None]] = {
    "none": _none,
    "exposure": _expose,
    "cameras": _misplace,
    "zoom": _zoom,
    "obstacle": _hide,
}


def main(words: Sequence[str]) -> None:
    """python scripts/photographs.py data.path=FOLDER model=hashgrid [steps=N] [seeds=N] ..."""
    given, problems = sort_words(words, own=("steps", "seeds", "only", "out"))
    raise_problems([*problems, *option_problems(given.options, [run], "photographs")])
    run(given.overrides, **given.options)

"""Small data sets written to a folder, right or wrong, for the tests of the readers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Looks along -z from (0, 0, 2): sees the scene box.
POSE = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 2.0], [0.0, 0.0, 0.0, 1.0]]
WIDTH, HEIGHT = 6, 4


def picture(index: int, num_channels: int = 3) -> np.ndarray:
    """A picture of HEIGHT x WIDTH pixels, different for every index."""
    random = np.random.default_rng(index)
    return random.integers(0, 256, (HEIGHT, WIDTH, num_channels), dtype=np.uint8)


def frame(index: int, **changes: Any) -> dict[str, Any]:
    """The entry of picture number index; a change to None takes the key out."""
    values = {"file_path": f"images/{index:03d}.png", "transform_matrix": POSE, **changes}
    return {key: value for key, value in values.items() if value is not None}


def write_transforms(
    folder: Path,
    *,
    num: int = 3,
    frames: list[dict[str, Any]] | None = None,
    num_channels: int = 3,
    **meta: Any,
) -> Path:
    """A transforms.json with pictures images/000.png, ...; a key set to None is left out."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for i in range(num):
        Image.fromarray(picture(i, num_channels)).save(folder / "images" / f"{i:03d}.png")
    values = {"fl_x": 5.0, "w": WIDTH, "h": HEIGHT, "aabb_scale": 1, **meta}
    values = {key: value for key, value in values.items() if value is not None}
    values["frames"] = [frame(i) for i in range(num)] if frames is None else frames
    (folder / "transforms.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


def write_blender(
    folder: Path, *, num: int = 2, splits: tuple[str, ...] = ("train", "test")
) -> Path:
    """transforms_{split}.json and RGBA pictures, file_path without suffix as Blender's are."""
    for split in splits:
        (folder / split).mkdir(parents=True, exist_ok=True)
        for i in range(num):
            Image.fromarray(picture(i, 4)).save(folder / split / f"r_{i}.png")
        values = {
            "camera_angle_x": 2 * math.atan(0.5 * WIDTH / 5.0),
            "frames": [
                {"file_path": f"./{split}/r_{i}", "rotation": 0.01, "transform_matrix": POSE}
                for i in range(num)
            ],
        }
        (folder / f"transforms_{split}.json").write_text(json.dumps(values), encoding="utf-8")
    return folder

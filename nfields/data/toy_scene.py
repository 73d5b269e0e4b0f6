"""The generated scene: a still life of solids, rendered here, with exact depth and normals.

The data of task=nerf when no path is given, and the ground truth of geometric tests. Its solids are
in toy_solids, their look in toy_light. Rendered scenes are kept in a cache folder (NFIELDS_CACHE,
else nfields in the user's cache folder) and rendered again if it is lost.
"""

import json
import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nfields.data import toy_light, toy_solids
from nfields.data.array_cache import cache_file, load_arrays, save_arrays
from nfields.data.posed_images import PosedImages, SceneTransform
from nfields.errors import ConfigError
from nfields.jit import source_stamp
from nfields.render.cameras import Cameras

log = logging.getLogger(__name__)

# configs/data/toy_scene.yaml says the same; this copy serves data=posed_images without a path.
DEFAULTS = {"resolution": 200, "num_train": 60, "num_test": 10, "seed": 0}

# As the scenes of NeRF-synthetic: the user's box [-1.5, 1.5]^3, cameras 4.03 from its centre with
# a field of view of 0.69 rad.
_TRANSFORM = SceneTransform(2 / 3, (0.0, 0.0, 0.0))
_RADIUS = 4.03 * _TRANSFORM.scale
_FIELD_OF_VIEW_RAD = 0.69
_LOOK_AT = (0.0, 0.0, -0.18)


def read(*, downscale: int) -> PosedImages:
    """The scene at its defaults, rendered with 1/downscale of their resolution."""
    if not 1 <= downscale <= DEFAULTS["resolution"]:
        raise ConfigError(
            f"data.downscale={downscale} must be from 1 to {DEFAULTS['resolution']}, the size of "
            "the generated scene's pictures."
        )
    return read_toy_scene(**{**DEFAULTS, "resolution": DEFAULTS["resolution"] // downscale})


def read_toy_scene(*, resolution: int, num_train: int, num_test: int, seed: int) -> PosedImages:
    """The scene in RGBA pictures of resolution x resolution pixels, with `truth`.

    Training cameras are spread over the upper half sphere, their places drawn with the seed; test
    cameras go once round it, up and down.
    """
    for name, value in (
        ("resolution", resolution),
        ("num_train", num_train),
        ("num_test", num_test),
    ):
        if value < 1:
            raise ConfigError(f"data.{name}={value} must be a whole number >= 1.")
    if seed < 0:
        raise ConfigError(f"data.seed={seed} must be >= 0.")
    cameras = {
        "train": _cameras(_train_directions(num_train, seed), resolution),
        "test": _cameras(_test_directions(num_test), resolution),
    }
    notes: list[str] = []
    file = cache_file(
        "toy_scene",
        [
            json.dumps({k: v.to_dict() for k, v in cameras.items()}).encode(),
            source_stamp(Path(toy_light.__file__)),
        ],
    )
    arrays = _load(file, cameras)
    if arrays is None:
        log.info("rendering the generated scene (kept for the next time in %s)", file.parent)
        arrays = {}
        for split, views in cameras.items():
            for name, array in render(views).items():
                arrays[f"{split}_{name}"] = array
        notes += save_arrays(file, arrays, "the generated scene")
    return PosedImages(
        cameras=cameras,
        images={split: list(torch.from_numpy(arrays[f"{split}_colors"])) for split in cameras},
        names={
            split: [f"{split}/{i:03d}" for i in range(len(views))]
            for split, views in cameras.items()
        },
        has_alpha=True,
        aabb_scale=1,
        transform=_TRANSFORM,
        source=f"generated scene, {resolution} x {resolution} pixels, seed {seed}",
        near=0.0,
        notes=notes,
        truth={
            split: [
                {"depth": torch.from_numpy(depth), "normals": torch.from_numpy(normals)}
                for depth, normals in zip(
                    arrays[f"{split}_depth"], arrays[f"{split}_normals"], strict=True
                )
            ]
            for split in cameras
        },
    )


def scene_distance(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch"]:
    """Signed distance (ours) of points of our frame to the scene's surface, negative inside.

    Exact outside; inside, where solids touch, a lower bound of the depth. Computed in float64.
    """
    flat = np.ascontiguousarray(points.detach().reshape(-1, 3).numpy(), dtype=np.float64)
    out = np.empty(len(flat))
    toy_solids.fill_distances(toy_solids.SOLIDS, flat, out)
    return torch.from_numpy(out).to(points.dtype).view(points.shape[:-1])


def scene_normal(points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
    """Outward unit normals at points of our frame near the surface. Computed in float64."""
    flat = np.ascontiguousarray(points.detach().reshape(-1, 3).numpy(), dtype=np.float64)
    out = np.empty_like(flat)
    toy_solids.fill_normals(toy_solids.SOLIDS, flat, out)
    return torch.from_numpy(out).to(points.dtype).view(points.shape)


def render(cameras: Cameras) -> dict[str, np.ndarray]:
    """colors (n, h, w, 4) uint8, depth (n, h, w) and normals (n, h, w, 3) float32 of views that
    have one size and no lens; distances in ours.
    """
    width, height = cameras.size(0)
    num = len(cameras)
    colors = np.zeros((num, height, width, 4), dtype=np.uint8)
    depth = np.empty((num, height, width), dtype=np.float32)
    normals = np.zeros((num, height, width, 3), dtype=np.float32)
    # Exactly the float32 cameras that everybody else computes rays from, in float64 arithmetic.
    poses, focal, center = (
        tensor.numpy().astype(np.float64)
        for tensor in (cameras.camera_to_world, cameras.focal, cameras.center)
    )

    def render_one(i: int) -> None:
        toy_light.render_view(
            toy_solids.SOLIDS, poses[i], focal[i], center[i], colors[i], depth[i], normals[i]
        )

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for _ in pool.map(render_one, range(num)):
            pass
    return {"colors": colors, "depth": depth, "normals": normals}


def _train_directions(num: int, seed: int) -> np.ndarray:
    """Unit vectors spread evenly over the half sphere (golden spiral), each moved a little."""
    random = np.random.default_rng(seed)
    # Not below 3 degrees: the plate is seen edge-on there.
    z = 0.05 + 0.93 * (np.arange(num) + random.uniform(size=num)) / num
    golden_angle = math.pi * (3 - math.sqrt(5))
    azimuth = golden_angle * np.arange(num) + random.uniform(0, 2 * math.pi)
    azimuth = azimuth + random.uniform(-0.2, 0.2, size=num)
    return _from_height(z, azimuth)


def _test_directions(num: int) -> np.ndarray:
    """Unit vectors once round the scene, up and down twice between 12 and 57 degrees."""
    azimuth = 2 * math.pi * (np.arange(num) + 0.5) / num - 1.2
    elevation = math.radians(34.5) + math.radians(22.5) * np.sin(2 * azimuth)
    return _from_height(np.sin(elevation), azimuth)


def _from_height(z: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    radius = np.sqrt(1 - z * z)
    return np.stack([radius * np.cos(azimuth), radius * np.sin(azimuth), z], axis=1)


def _cameras(directions: np.ndarray, resolution: int) -> Cameras:
    """Cameras around the scene in the given directions, looking at it, z up in the picture."""
    backward = directions
    right = np.cross([0.0, 0.0, 1.0], backward)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    up = np.cross(backward, right)
    origins = np.array(_LOOK_AT) + _RADIUS * directions
    poses = np.stack([right, up, backward, origins], axis=2)
    num = len(poses)
    focal = 0.5 * resolution / math.tan(0.5 * _FIELD_OF_VIEW_RAD)
    return Cameras(
        camera_to_world=torch.from_numpy(poses).to(torch.float32),
        focal=torch.full((num, 2), focal),
        center=torch.full((num, 2), 0.5 * resolution),
        distortion=torch.zeros(num, 4),
        sizes=torch.full((num, 2), resolution, dtype=torch.int64),
    )


def _load(file: Path, cameras: dict[str, Cameras]) -> dict[str, np.ndarray] | None:
    """The arrays of the cache file; None if it is not there or damaged."""
    arrays = load_arrays(file)
    if arrays is None:
        return None
    shapes = {"colors": (4,), "depth": (), "normals": (3,)}
    for split, views in cameras.items():
        width, height = views.size(0)
        for name, channels in shapes.items():
            array = arrays.get(f"{split}_{name}")
            if array is None or array.shape != (len(views), height, width, *channels):
                return None
    return arrays

"""One capture written in every format nfields reads: what the readers' tests compare.

The writers know nothing of the readers: each states its format's axes and units once more.
"""

import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

WIDTH, HEIGHT = 40, 30
FOCAL = 45.0
MODEL_IDS = {
    "SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4,
    "OPENCV_FISHEYE": 5, "FULL_OPENCV": 6, "FOV": 7,
}  # fmt: skip
PARAMETERS = {
    "SIMPLE_PINHOLE": [FOCAL, 20.0, 15.0],
    "PINHOLE": [FOCAL, FOCAL, 20.0, 15.0],
    "SIMPLE_RADIAL": [FOCAL, 20.0, 15.0, 0.05],
    "RADIAL": [FOCAL, 20.0, 15.0, 0.05, -0.02],
    "OPENCV": [FOCAL, 46.0, 19.0, 15.5, 0.05, -0.02, 0.001, -0.002],
    "OPENCV_FISHEYE": [FOCAL, 46.0, 19.0, 15.5, 0.05, -0.02, 0.01, -0.002],
}


@dataclass
class Capture:
    """Cameras (camera to world, OpenGL axes) and the points in front of them, in user units."""

    poses: np.ndarray
    points: np.ndarray
    tracks: list[np.ndarray] = field(default_factory=list)  # of each view, indices of points

    def pixels(self, view: int) -> np.ndarray:
        """Where a view's pinhole camera sees the points of its track, x y."""
        pose = self.poses[view]
        x, y, z = ((self.points[self.tracks[view]] - pose[:, 3]) @ pose[:, :3]).T
        return np.stack([WIDTH / 2 - FOCAL * x / z, HEIGHT / 2 + FOCAL * y / z], axis=1)

    @property
    def names(self) -> list[str]:
        return [f"{i:03d}.png" for i in range(len(self.poses))]


def around(num: int = 6, distance: float = 5.0, center: tuple[float, ...] = (1.0, 2.0, 3.0)) -> Capture:
    """Cameras on a ring 30 degrees above a cloud of points, looking at its middle; z is up."""
    random = np.random.default_rng(0)
    middle = np.array(center)
    azimuth = 2 * math.pi * np.arange(num) / num
    out = np.stack([np.cos(azimuth), np.sin(azimuth), np.full(num, math.tan(math.pi / 6))], axis=1)
    places = middle + distance * out / np.linalg.norm(out, axis=1, keepdims=True)
    points = middle + random.uniform(-1, 1, (200, 3))
    return _capture(places, np.broadcast_to(middle, places.shape), points)


def in_front(num: int = 6) -> Capture:
    """Cameras in a plane that look the same way, at points 4 to 40 units away."""
    random = np.random.default_rng(1)
    places = np.concatenate([random.uniform(-0.5, 0.5, (num, 2)), np.zeros((num, 1))], axis=1)
    depth = 1 / random.uniform(1 / 40, 1 / 4, 300)
    spread = random.uniform(-0.3, 0.3, (300, 2)) * depth[:, None]
    points = np.concatenate([spread, -depth[:, None]], axis=1)
    return _capture(places, places - np.array([0, 0, 1.0]), points, up=(0.0, 1.0, 0.0))


def _capture(
    places: np.ndarray, targets: np.ndarray, points: np.ndarray, up: tuple[float, ...] = (0, 0, 1.0)
) -> Capture:
    back = places - targets
    back /= np.linalg.norm(back, axis=1, keepdims=True)
    right = np.cross(np.array(up), back)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    poses = np.stack([right, np.cross(back, right), back, places], axis=2)
    return Capture(poses, points, [np.arange(len(points))] * len(places))


def expected_rays(capture: Capture, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Origins (views, 3) and unit directions (views, pixels, 3) of a pinhole, in user units."""
    x, y = (pixels - [WIDTH / 2, HEIGHT / 2]).T / FOCAL
    local = np.stack([x, -y, -np.ones_like(x)], axis=1)
    local /= np.linalg.norm(local, axis=1, keepdims=True)
    return capture.poses[:, :, 3], np.einsum("vij,nj->vni", capture.poses[:, :, :3], local)


def write_pictures(folder: Path, names: list[str], factor: int = 1) -> None:
    for i, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        random = np.random.default_rng(i)
        values = random.integers(0, 256, (HEIGHT // factor, WIDTH // factor, 3), dtype=np.uint8)
        Image.fromarray(values).save(file)


def world_to_camera(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quaternion w x y z and translation of COLMAP, whose camera looks along +z, y down."""
    rotation = (pose[:, :3] @ np.diag([1.0, -1.0, -1.0])).T
    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return np.array([w, x, y, z]), -rotation @ pose[:, 3]


def write_colmap(
    folder: Path, capture: Capture, *, model: str = "SIMPLE_PINHOLE", binary: bool = True
) -> Path:
    """images/ and sparse/0; point j has the number 10 + j, every view an unmatched feature."""
    write_pictures(folder / "images", capture.names)
    place = folder / "sparse" / "0"
    place.mkdir(parents=True, exist_ok=True)
    (_binary if binary else _text)(place, capture, model, PARAMETERS[model])
    return folder


def _binary(place: Path, capture: Capture, model: str, parameters: list[float]) -> None:
    cameras = struct.pack("<QiiQQ", 1, 7, MODEL_IDS[model], WIDTH, HEIGHT)
    (place / "cameras.bin").write_bytes(
        cameras + struct.pack(f"<{len(parameters)}d", *parameters)
    )
    images = struct.pack("<Q", len(capture.poses))
    for i, pose in enumerate(capture.poses):
        quaternion, translation = world_to_camera(pose)
        images += struct.pack("<i7di", i + 1, *quaternion, *translation, 7)
        images += capture.names[i].encode() + b"\0"
        track = capture.tracks[i]
        images += struct.pack("<Q", len(track) + 1) + struct.pack("<ddq", 1.5, 2.5, -1)
        for j, pixel in zip(track, capture.pixels(i), strict=True):
            images += struct.pack("<ddq", *pixel, 10 + j)
    (place / "images.bin").write_bytes(images)
    points = struct.pack("<Q", len(capture.points))
    for j, point in enumerate(capture.points):
        seen = [i for i, track in enumerate(capture.tracks) if j in track]
        points += struct.pack("<Q3d3Bd", 10 + j, *point, 1, 2, 3, 0.5)
        points += struct.pack("<Q", len(seen))
        for i in seen:
            points += struct.pack("<ii", i + 1, int(np.flatnonzero(capture.tracks[i] == j)[0]) + 1)
    (place / "points3D.bin").write_bytes(points)


def _text(place: Path, capture: Capture, model: str, parameters: list[float]) -> None:
    numbers = " ".join(map(repr, parameters))
    (place / "cameras.txt").write_text(f"# cameras\n7 {model} {WIDTH} {HEIGHT} {numbers}\n")
    lines = ["# images"]
    for i, pose in enumerate(capture.poses):
        numbers = " ".join(repr(float(v)) for part in world_to_camera(pose) for v in part)
        lines.append(f"{i + 1} {numbers} 7 {capture.names[i]}")
        seen = zip(capture.tracks[i], capture.pixels(i).tolist(), strict=True)
        lines.append(" ".join(["1.5 2.5 -1", *(f"{x!r} {y!r} {10 + j}" for j, (x, y) in seen)]))
    (place / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# points"]
    for j, point in enumerate(capture.points):
        seen = " ".join(
            f"{i + 1} {int(np.flatnonzero(track == j)[0]) + 1}"
            for i, track in enumerate(capture.tracks)
            if j in track
        )
        lines.append(f"{10 + j} {' '.join(repr(float(v)) for v in point)} 1 2 3 0.5 {seen}")
    (place / "points3D.txt").write_text("\n".join(lines) + "\n")


def write_llff(folder: Path, capture: Capture) -> Path:
    """poses_bounds.npy: axes down, right, backward; bounds are z-depths."""
    write_pictures(folder / "images", capture.names)
    rows = []
    for pose in capture.poses:
        right, up, back, place = pose.T
        matrix = np.stack([-up, right, back, place, [HEIGHT, WIDTH, FOCAL]], axis=1)
        depth = -(capture.points - place) @ back
        rows.append([*matrix.reshape(-1), depth.min(), depth.max()])
    np.save(folder / "poses_bounds.npy", np.array(rows))
    return folder


def write_nsvf(folder: Path, capture: Capture, *, matrix: bool = False) -> Path:
    """Poses in OpenCV's axes; every eighth view from the first is test (2_), the rest train."""
    names = [f"{2 if i % 8 == 0 else 0}_{i:04d}" for i in range(len(capture.poses))]
    write_pictures(folder / "rgb", [f"{name}.png" for name in names])
    (folder / "pose").mkdir(exist_ok=True)
    for name, pose in zip(names, capture.poses, strict=True):
        full = np.eye(4)
        full[:3] = pose * [1, -1, -1, 1]
        np.savetxt(folder / "pose" / f"{name}.txt", full, fmt="%.17g")
    if matrix:
        text = f"{FOCAL} 0 20 0\n0 {FOCAL} 15 0\n0 0 1 0\n0 0 0 1\n"
    else:
        text = f"{FOCAL} 20 15 0.\n0. 0. 0.\n0.\n1.\n{HEIGHT} {WIDTH}\n"
    (folder / "intrinsics.txt").write_text(text)
    low, high = capture.points.min(axis=0), capture.points.max(axis=0)
    (folder / "bbox.txt").write_text(" ".join(map(str, [*low, *high, 0.1])) + "\n")
    return folder


def write_instant_ngp(folder: Path, capture: Capture, **meta: object) -> Path:
    """transforms.json in OpenGL axes."""
    write_pictures(folder / "images", capture.names)
    frames = [
        {"file_path": f"images/{name}", "transform_matrix": [*pose.tolist(), [0, 0, 0, 1]]}
        for name, pose in zip(capture.names, capture.poses, strict=True)
    ]
    values = {"fl_x": FOCAL, "w": WIDTH, "h": HEIGHT, "aabb_scale": 16, "frames": frames, **meta}
    values = {key: value for key, value in values.items() if value is not None}
    (folder / "transforms.json").write_text(json.dumps(values))
    return folder


def write_nerf_synthetic(folder: Path, capture: Capture) -> Path:
    """transforms_{train,test}.json; every eighth view from the first is test."""
    write_pictures(folder / "images", capture.names)
    for split in ("train", "test"):
        chosen = [i for i in range(len(capture.poses)) if (i % 8 == 0) == (split == "test")]
        frames = [
            {
                "file_path": f"./images/{i:03d}",
                "transform_matrix": [*capture.poses[i].tolist(), [0, 0, 0, 1]],
            }
            for i in chosen
        ]
        values = {"camera_angle_x": 2 * math.atan(0.5 * WIDTH / FOCAL), "frames": frames}
        (folder / f"transforms_{split}.json").write_text(json.dumps(values))
    return folder

"""The export what=depths: depth maps, pictures and cameras, as a data set for other programs."""

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from PIL import Image

from nfields.data.pixel_file import axis_cosines
from nfields.errors import ConfigError
from nfields.export.export import Export, say
from nfields.export.picture import save_png
from nfields.export.views import SeenView, cameras_of_run, see
from nfields.render.cameras import Cameras
from nfields.render.lenses import EQUIRECTANGULAR, FISHEYE
from nfields.render.paths import picture_size
from nfields.run_folder import write_json
from nfields.stored_run import StoredRun

_MODELS = {FISHEYE: "OPENCV_FISHEYE", EQUIRECTANGULAR: "EQUIRECTANGULAR"}
_LARGEST = 65535  # of 16 bits


class DepthsExport(Export):
    """what=depths; every option is explained in depths.yaml."""

    def __init__(
        self,
        *,
        split: str,
        width: int | None,
        height: int | None,
        background: Literal["white", "black"] | None,
        out: str | None,
    ):
        for key, value in {"width": width, "height": height}.items():
            if value is not None and value < 1:
                raise ConfigError(f"{key}={value} must be 1 or more")
        self.split, self.width, self.height = split, width, height
        self.background, self.out = background, out

    def export(self, run: StoredRun) -> list[Path]:
        """Renders every view of the split and writes the folder."""
        cameras = cameras_of_run(run, self.split, "depths")
        if self.width is not None or self.height is not None:
            cameras = cameras.resized(*picture_size(cameras.size(0), self.width, self.height))
        folder = run.folder.path / "depths" if self.out is None else Path(self.out)
        poses = np.tile(np.eye(4), (len(cameras), 1, 1))
        poses[:, :3] = cameras.camera_to_world.double().numpy()
        poses = run.data.transform.poses_to_user(poses)
        frames, unit = [], None
        for view in see(run, cameras, self.background):
            axial = along_axis(view, cameras)
            if unit is None:
                unit = unit_for(axial)
            name = f"{view.index:04d}.png"
            save_png(folder / "images" / name, view.rgb)
            clipped = save_depth_png(folder / "depth" / name, axial, unit)
            frames.append(frame_of(cameras, view.index, poses[view.index], name))
            if clipped:
                say(
                    f"note: {clipped:,} depths of {name} are beyond {_LARGEST * unit:g} units and "
                    "count as unknown"
                )
        file = folder / "transforms.json"
        write_json(file, {"integer_depth_scale": unit, "frames": frames})
        return [file, folder / "images", folder / "depth"]


def along_axis(view: SeenView, cameras: Cameras) -> Float[np.ndarray, "h w"]:
    """Depth along the optical axis, as other programs have it; of a panorama along the ray."""
    cosines = axis_cosines(cameras, view.index)
    return view.depth.double().numpy() * cosines.double().numpy()


def unit_for(depth: Float[np.ndarray, "h w"]) -> float:
    """The step of the 16-bit maps in units of the data: 1/1000, as nerfstudio takes it, unless the
    first view would fill less than a thirtieth of the range, or more than half of it.
    """
    known = depth[np.isfinite(depth)]
    farthest = float(known.max()) if len(known) else 1.0
    if _LARGEST / 30 <= farthest / 1e-3 <= _LARGEST / 2:
        return 1e-3
    return 10.0 ** math.ceil(math.log10(2 * farthest / _LARGEST))


def save_depth_png(file: Path, depth: Float[np.ndarray, "h w"], unit: float) -> int:
    """Writes a 16-bit map, 0 where nothing is known; returns how many depths were too far."""
    steps = np.nan_to_num(depth / unit).round()
    is_far = steps > _LARGEST
    picture = Image.fromarray(np.where(is_far, 0, steps).astype(np.uint16))
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}")
    picture.save(temporary, format="PNG")
    temporary.replace(file)
    return int(is_far.sum())


def frame_of(
    cameras: Cameras, view: int, pose: Float[np.ndarray, "4 4"], name: str
) -> dict[str, Any]:
    """The entry of a view in transforms.json."""
    (fx, fy), (cx, cy) = cameras.focal[view].tolist(), cameras.center[view].tolist()
    width, height = cameras.size(view)
    lens = int(cameras.lens[view])
    names = ("k1", "k2", "k3", "k4") if lens == FISHEYE else ("k1", "k2", "p1", "p2")
    bends = dict(zip(names, cameras.distortion[view].tolist(), strict=True))
    frame = {
        "file_path": f"images/{name}",
        "depth_file_path": f"depth/{name}",
        "transform_matrix": pose.tolist(),
        "camera_model": _MODELS.get(lens, "OPENCV"),
        **{"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height},
    }
    return frame if lens == EQUIRECTANGULAR else frame | bends

"""The panel beside the view: layers, photographs, crop box, camera path, and training."""

import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nfields.data.posed_images import SceneTransform
from nfields.errors import DataError
from nfields.progress import HIDDEN
from nfields.render.cameras import Cameras
from nfields.render.path_file import Keyframe, write_path
from nfields.viewer.page import Page

Array = np.ndarray

_MAX_PHOTOGRAPHS = 120  # frusta; of more views, some at equal distances
_THUMBNAIL = 96  # pixels of the longer side
_SIZES = (256, 384, 512, 768, 1024, 1536)


class Panel:
    """Everything of a page that can be clicked."""

    def __init__(
        self,
        page: Page,
        *,
        half_size: float,
        transform: SceneTransform | None,
        run_folder: Path,
    ):
        self._page, self._transform, self._run = page, transform, run_folder
        self.keyframes: list[Keyframe] = []
        self._lock = threading.Lock()
        self._add_view()
        if page.subject.can_crop:
            self._add_crop(half_size)
        self._add_path()

    # ---- the view -----------------------------------------------------------------------------

    def _add_view(self) -> None:
        gui, page = self._page.server.gui, self._page
        self._view = gui.add_folder("View")
        with self._view:
            self.layer = gui.add_dropdown("layer", page.subject.layers, initial_value="color")
            self.size = gui.add_dropdown(
                "pixels", [str(size) for size in _SIZES], initial_value=str(page.style.max_size),
                hint="of the longer side of the finished picture",
            )  # fmt: skip

        @self.layer.on_update
        def _(_: Any) -> None:
            page.style.layer = self.layer.value
            page.refresh()

        @self.size.on_update
        def _(_: Any) -> None:
            page.style.max_size = int(self.size.value)
            page.refresh()

    def add_photographs(
        self, cameras: Cameras, images: Sequence[Any] | None, names: Sequence[str]
    ) -> None:
        """Cameras as frusta, with small pictures where there are some; a click looks through it."""
        page = self._page
        with self._view:
            box = page.server.gui.add_checkbox(
                "photographs", False, hint="click one to look through it"
            )
        frusta: list[Any] = []

        @box.on_update
        def _(_: Any) -> None:
            with self._lock:
                page.shows_objects = box.value
                if box.value and not frusta:
                    frusta.extend(self._frusta(cameras, images, names))
                for frustum in frusta:
                    frustum.visible = box.value
            page.refresh()

    def _frusta(
        self, cameras: Cameras, images: Sequence[Any] | None, names: Sequence[str]
    ) -> list[Any]:
        count = min(len(cameras), _MAX_PHOTOGRAPHS)
        made = []
        for i in np.linspace(0, len(cameras) - 1, count).round().astype(int).tolist():
            pose = np.eye(4)
            pose[:3] = cameras.camera_to_world[i].double().numpy()
            width, height = cameras.size(i)
            fov = 2 * float(np.arctan(0.5 * height / float(cameras.focal[i, 1])))
            frustum = self._page.server.scene.add_camera_frustum(
                f"/photographs/{i:04d} {names[i]}".replace("..", ""), fov=fov,
                aspect=width / height, scale=0.12, thickness=0.003, color=(40, 90, 200),
                image=None if images is None else _thumbnail(images[i]),
                wxyz=_quaternion(pose[:3, :3] @ np.diag([1.0, -1.0, -1.0])),
                position=tuple(pose[:3, 3]),
            )  # fmt: skip

            def look_through(event: Any, pose: Array = pose, fov: float = fov) -> None:
                event.client.camera.position = pose[:3, 3]
                event.client.camera.look_at = (
                    pose[:3, 3] - max(np.linalg.norm(pose[:3, 3]), 0.5) * (pose[:3, 2])
                )
                event.client.camera.fov = fov

            frustum.on_click(look_through)
            made.append(frustum)
        return made

    # ---- the crop box -------------------------------------------------------------------------

    def _add_crop(self, half_size: float) -> None:
        gui, page = self._page.server.gui, self._page
        whole = (half_size,) * 3
        with gui.add_folder("Crop box", expand_by_default=False):
            is_on = gui.add_checkbox("crop", False, hint="shows only what lies in the box")
            low = gui.add_vector3(
                "lowest",
                tuple(-x for x in whole),
                min=tuple(-x for x in whole),
                max=whole,
                step=0.01,
            )
            high = gui.add_vector3(
                "highest", whole, min=tuple(-x for x in whole), max=whole, step=0.01
            )

        def update(_: Any) -> None:
            corners = (tuple(map(float, low.value)), tuple(map(float, high.value)))
            page.style.crop = corners if is_on.value else None
            page.refresh()

        for part in (is_on, low, high):
            part.on_update(update)

    # ---- the camera path ----------------------------------------------------------------------

    def _add_path(self) -> None:
        gui = self._page.server.gui
        with gui.add_folder("Camera path", expand_by_default=False):
            seconds = gui.add_number(
                "seconds", 2.0, min=0.1, step=0.1, hint="from the camera before to the one added"
            )
            add = gui.add_button("add this camera")
            remove = gui.add_button("remove the last one")
            loop = gui.add_checkbox("back to the first one", False)
            default = self._run / "camera_path.json"
            file = gui.add_text("file", str(default), hint="export what=video path=FILE reads it")
            save = gui.add_button("save")
            video = gui.add_button("render a video")
            status = gui.add_markdown("no cameras yet")

        @add.on_click
        def _(event: Any) -> None:
            if event.client is not None:
                self.add_camera(event.client, float(seconds.value))
            status.content = self._describe()

        @remove.on_click
        def _(_: Any) -> None:
            with self._lock:
                del self.keyframes[-1:]
            status.content = self._describe()

        def write() -> str | None:
            target = Path(file.value).expanduser()
            return self.write(target, float(seconds.value) if loop.value else None)

        @save.on_click
        def _(_: Any) -> None:
            status.content = write() or f"{self._describe()}, saved in `{file.value}`"

        @video.on_click
        def _(_: Any) -> None:
            problem = write()
            if problem is not None:
                status.content = problem
                return
            video.disabled = True
            status.content = "rendering the video ..."
            threading.Thread(
                target=self._render, args=(file.value, status, video), daemon=True
            ).start()

    def add_camera(self, client: Any, seconds: float) -> None:
        """Adds where a browser is, so many seconds after the camera before."""
        pose, fov_deg = self._page.pose_of(client)
        if self._transform is not None:
            pose = self._transform.poses_to_user(pose[None])[0]
        with self._lock:
            start = self.keyframes[-1].seconds + seconds if self.keyframes else 0.0
            self.keyframes.append(Keyframe(pose, fov_deg, start))

    def write(self, file: Path, loop_seconds: float | None) -> str | None:
        """Writes the path; what is wrong, or None."""
        if len(self.keyframes) < 2:
            return f"a path needs two cameras or more; there are {len(self.keyframes)}"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_path(file, self.keyframes, loop_seconds=loop_seconds)
        except (OSError, DataError) as error:
            return f"{file} cannot be written: {error}"
        return None

    def _describe(self) -> str:
        count = len(self.keyframes)
        if count == 0:
            return "no cameras yet"
        return f"{count} camera{'s' * (count > 1)}, {self.keyframes[-1].seconds:.1f} seconds"

    def _render(self, file: str, status: Any, button: Any) -> None:
        """Exports the video in a process of its own: the view goes on meanwhile."""
        command = [
            sys.executable, "-c", "from nfields.cli import main; main()", "export",
            f"run={self._run}", "what=video", f"path={Path(file).expanduser().resolve()}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        status.content = "\n\n".join(lines[-2:]) or "the export said nothing"
        button.disabled = False


class StartPanel:
    """Training that goes on with a stored run: whoever serves the page reads `wanted_seconds`."""

    def __init__(self, page: Page, message: str):
        self.wanted_seconds: float | None = None
        gui = page.server.gui
        with gui.add_folder("Training"):
            seconds = gui.add_number("seconds", 60.0, min=1.0, step=1.0)
            button = gui.add_button("train longer", hint="the view goes on while it trains")
            self._status = gui.add_markdown(message)

        @button.on_click
        def _(_: Any) -> None:
            button.disabled = True
            self._status.content = "preparing the data; after the training it is evaluated"
            self.wanted_seconds = float(seconds.value)


class TrainingPanel:
    """Pause, continue and the state of a training."""

    def __init__(self, page: Page):
        self.is_paused = False
        with page.server.gui.add_folder("Training"):
            self._status = page.server.gui.add_markdown("starting")
            button = page.server.gui.add_button("pause")

        @button.on_click
        def _(_: Any) -> None:
            self.is_paused = not self.is_paused
            button.label = "continue" if self.is_paused else "pause"

    def show(self, step: int, seconds: float, values: Mapping[str, float]) -> None:
        """What the training is at."""
        found = ", ".join(
            f"{name} {value:.4g}"
            for name, value in values.items()
            if name not in HIDDEN and not name.startswith("loss_")
        )
        state = "paused at" if self.is_paused else "at"
        self._status.content = f"{state} step {step:,}, {seconds:.0f} s\n\n{found}"


def _thumbnail(image: Any) -> Array:
    """A small 8-bit RGB picture; transparent parts are white."""
    step = max(1, max(image.shape[:2]) // _THUMBNAIL)
    small = image[::step, ::step].numpy()
    if small.shape[2] == 4:
        alpha = small[..., 3:] / 255.0
        return (small[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return small[..., :3]


def _quaternion(rotation: Array) -> tuple[float, float, float, float]:
    """w, x, y, z."""
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(rotation).as_quat()
    return float(w), float(x), float(y), float(z)

"""A run folder made by hand, in milliseconds: a red ball whose radius is the model's only weight.

Its data is pictures of a larger ball at 16 x 16 pixels. Everything poses as the module
nfields.red_ball, since a configuration may name nothing outside nfields.
"""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import torch
import yaml
from jaxtyping import Float
from torch import Tensor, nn

from nfields.checkpoint import named_tensors, write_checkpoint
from nfields.config import config_folder
from nfields.data.posed_images import PosedImages, SceneTransform
from nfields.export.comparison import ComparedImage, compare_images
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import ParameterGroup
from nfields.render.cameras import Cameras, view_rays
from nfields.render.paths import orbit
from nfields.render.surface import Surface
from nfields.run_folder import RunFolder, write_json
from nfields.task.task import StepResult, Task

BACKGROUNDS = {"white": 1.0, "black": 0.0}


def read_ball(*, resolution: int) -> PosedImages:
    """Five training and three test views of a striped ball of radius 0.6, with alpha."""
    start = Cameras(
        camera_to_world=torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3]]]),
        focal=torch.full((1, 2), 1.4 * resolution),
        center=torch.full((1, 2), resolution / 2),
        distortion=torch.zeros(1, 4),
        sizes=torch.full((1, 2), resolution),
    )
    cameras = {
        "train": orbit(start, 5, center=(0.0, 0.0, 0.0), radius=3.0, elevation_deg=30.0),
        "test": orbit(start, 3, center=(0.0, 0.0, 0.0), radius=3.0, elevation_deg=10.0),
    }
    images: dict[str, list[Tensor]] = {}
    for split, views in cameras.items():
        images[split] = []
        for view in range(len(views)):
            seen = render_ball(0.6, views, view, 1.0)
            stripes = torch.arange(resolution)[:, None, None] % 3 == view % 3
            colors = torch.where(stripes, seen["rgb"], seen["rgb"] * 0.7)
            rgba = torch.cat([colors, seen["opacity"][:, :, None]], dim=2)
            images[split].append((rgba * 255).round().to(torch.uint8))
    return PosedImages(
        cameras=cameras,
        images=images,
        names={split: [f"{split}_{i}" for i in range(len(images[split]))] for split in images},
        has_alpha=True,
        aabb_scale=1,
        transform=SceneTransform(1.0, (0.0, 0.0, 0.0)),
        source="a ball",
        near=0.1,
    )


def render_ball(
    radius: float | Tensor, cameras: Cameras, view: int, paper: float
) -> dict[str, Tensor]:
    """A red ball around the origin."""
    width, height = cameras.size(view)
    origins, directions = view_rays(cameras, view)
    b = (origins * directions).sum(1)
    inside = b * b - (origins * origins).sum(1) + radius**2
    opacity = (inside > 0).float().view(height, width)
    rgb = opacity[:, :, None] * torch.tensor([0.9, 0.1, 0.1]) + paper * (1 - opacity)[:, :, None]
    depth = (-b - inside.clamp_min(0).sqrt()).view(height, width)
    return {"rgb": rgb, "depth": depth, "opacity": opacity}


class FakeField(Field):
    """One number, the radius."""

    def __init__(self, *, in_dim: int, out_dim: int):
        super().__init__()
        self.radius = nn.Parameter(torch.tensor(0.5))

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out_dim"]:
        return x.norm(dim=1, keepdim=True) - self.radius

    def kernels(self, x: Tensor) -> Kernels | None:
        return None

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        pass

    def parameter_groups(self) -> list[ParameterGroup]:
        return []


class FakeTask(Task):
    """Renders the ball and compares it with the pictures of the data."""

    in_dim = 3
    out_dim = 1
    stop_at: ClassVar[int | None] = None  # raises Ctrl-C while it renders this view

    def __init__(self, *, data: Any):
        super().__init__()
        self.data = data

    def render_view(
        self, model: nn.Module, cameras: Cameras, view: int, background: str | None = None
    ) -> dict[str, Tensor]:
        if view == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        assert isinstance(model, FakeField)
        return render_ball(model.radius, cameras, view, BACKGROUNDS[background or "white"])

    def surface(self, model: nn.Module) -> Surface:
        """The ball, painted by height, twice as large in the user's frame and 100 to the right."""
        to_user = torch.diag(torch.tensor([2.0, 2, 2, 1]))
        to_user[0, 3] = 100
        return Surface(
            distance=lambda x: model(x)[:, 0],
            bounds=torch.tensor([[-1.0] * 3, [1.0] * 3]),
            to_user=to_user,
            is_distance=True,
            color=lambda x: torch.stack([x[:, 2] + 0.5, 0 * x[:, 2], 0 * x[:, 2] + 0.25], dim=1),
            notes=("a ball, said the task",),
        )

    def evaluate(
        self,
        model: nn.Module,
        folder: Path,
        limit: int | None,
        *,
        split: str = "test",
        background: Literal["white", "black"] = "white",
    ) -> dict[str, Any]:
        assert not self.training and not model.training
        protocol = {"split": split, "background": background, "color_space": "sRGB"}
        images = self.images(model, split, background, limit)
        return compare_images(images, folder=folder, protocol=protocol, num_pictures=1)

    def images(
        self, model: nn.Module, split: str, background: str, limit: int | None
    ) -> Iterator[ComparedImage]:
        for i, rgba in enumerate(self.data.require_images(split)[:limit]):
            straight = rgba.float() / 255
            paper = BACKGROUNDS[background] * (1 - straight[:, :, 3:])
            truth = straight[:, :, :3] * straight[:, :, 3:] + paper
            got = self.render_view(model, self.data.cameras[split], i, background)
            name = self.data.names[split][i]
            yield ComparedImage(name, got["rgb"].detach(), truth, seconds=0.25)

    def prepare(self, model: nn.Module, generator: torch.Generator) -> None:
        raise NotImplementedError

    def before_step(self, model: nn.Module, step: int, generator: torch.Generator) -> None:
        raise NotImplementedError

    def batch(self, generator: torch.Generator) -> Any:
        raise NotImplementedError

    def losses(self, model: nn.Module, batch: Any) -> StepResult:
        raise NotImplementedError

    def after_step(self, model: nn.Module, result: StepResult, step: int) -> None:
        raise NotImplementedError

    def halve_step(self) -> str | None:
        raise NotImplementedError

    def validate(self, model: nn.Module, generator: torch.Generator | None) -> dict[str, float]:
        raise NotImplementedError

    def parameter_groups(self) -> list[ParameterGroup]:
        return []


def make_run(path: Path, radius: float = 0.5, data: dict[str, Any] | None = None) -> Path:
    """Writes a finished run; again into the same folder, it is the run trained further."""
    module = ModuleType("nfields.red_ball")
    for kind in (FakeTask, FakeField, read_ball):
        kind.__module__ = "nfields.red_ball"
        setattr(module, kind.__name__, kind)
    sys.modules["nfields.red_ball"] = module
    trainer = yaml.safe_load((config_folder() / "trainer" / "default.yaml").read_text())
    config = {
        "task": {"_target_": "nfields.red_ball.FakeTask"},
        "model": {"_target_": "nfields.red_ball.FakeField"},
        "data": data or {"_target_": "nfields.red_ball.read_ball", "resolution": 16},
        "trainer": trainer | {"threads": 1},
        "seed": 0,
        "choices": {"task": "red_ball", "model": "red_ball", "data": "red_ball"},
    }
    if not path.exists():
        card = read_ball(resolution=16).card()
        RunFolder.create(path, config=config, overrides=[], data=card)
    run = RunFolder(path)
    model = FakeField(in_dim=3, out_dim=1)
    with torch.no_grad():
        model.radius.fill_(radius)
    weights = named_tensors({"model": model, "task": FakeTask(data=None)})
    step = round(1000 * radius)
    state = {"step": step, "seconds": 2.5, "peak_memory_bytes": 123, "config": config}
    write_checkpoint(run.checkpoint, {"weights": weights}, state)
    summary = {"steps": step, "train_seconds": 2.5, "parameters": 1, "peak_memory_bytes": 456}
    write_json(run.summary_file, {**summary, "device": "cpu", "threads": 1})
    return path

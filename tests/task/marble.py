"""A scene known in closed form, photographed from around: a soft ball with waves of colour."""

import torch
from torch import Tensor

import nfields
from nfields.config import build
from nfields.data.posed_images import PosedImages, SceneTransform
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.optimizer import ParameterGroup
from nfields.render.cameras import Cameras
from nfields.render.paths import orbit
from nfields.task.nerf import NerfTask

SMALL = [
    "task.grid_cells=32", "task.samples_per_step=2048", "task.steps_per_unit=32",
    "task.visual_hull=false", "task.density_bias=0.0",
]  # fmt: skip


class HandMade(Field):
    """A field whose hidden values are functions of the point; the first is the log density."""

    def __init__(self, num_hidden: int, out_dim: int):
        super().__init__()
        self.in_dim, self.out_dim = 3, out_dim
        self.readout = torch.nn.Linear(num_hidden, out_dim)
        with torch.no_grad():
            self.readout.weight.zero_()
            self.readout.bias.zero_()
            self.readout.weight[0, 0] = 1.0

    def hidden(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, groups: GroupReadout | None = None) -> Tensor:
        hidden = self.hidden(x)
        if groups is None:
            return self.readout(hidden)
        index = torch.zeros(len(x), dtype=torch.int64)
        if groups.offsets is not None:
            index = torch.repeat_interleave(groups.offsets.diff())
        return (groups.weight[index] @ hidden[:, :, None])[:, :, 0] + groups.bias[index]

    def kernels(self, x: Tensor) -> Kernels | None:
        return None

    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        pass

    def parameter_groups(self) -> list[ParameterGroup]:
        return []


class Marble(HandMade):
    """A soft ball of radius 0.6 with waves of colour; the same from all sides."""

    def __init__(self) -> None:
        super().__init__(num_hidden=5, out_dim=4)
        with torch.no_grad():
            for channel in range(3):
                self.readout.weight[1 + channel, 1 + channel] = 6.0

    def hidden(self, x: Tensor) -> Tensor:
        waves = [torch.sin(7 * x[:, i] + i + 2 * x[:, (i + 1) % 3]) for i in range(3)]
        ball = 3 - 30 * (x.norm(dim=1) - 0.6)
        return torch.stack([ball.clamp(max=4), *waves, torch.ones(len(x))], dim=1)


def photographs(num: int = 6, size: int = 28) -> PosedImages:
    """Black photographs from around the ball, to be filled in."""
    start = Cameras(
        camera_to_world=torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 3]]]),
        focal=torch.full((1, 2), 1.8 * size),
        center=torch.full((1, 2), size / 2),
        distortion=torch.zeros(1, 4),
        sizes=torch.full((1, 2), size),
    )
    cameras = orbit(start, num, center=(0.0, 0.0, 0.0), radius=2.5, elevation_deg=25.0)
    return PosedImages(
        cameras={"train": cameras, "test": cameras[:2]},
        images={
            "train": [torch.zeros(size, size, 3, dtype=torch.uint8) for _ in range(num)],
            "test": [torch.zeros(size, size, 3, dtype=torch.uint8) for _ in range(2)],
        },
        names={"train": [f"{i}" for i in range(num)], "test": ["a", "b"]},
        has_alpha=False,
        aabb_scale=1,
        transform=SceneTransform(1.0, (0.0, 0.0, 0.0)),
        source="a marble",
        near=0.1,
    )


def make(*overrides: str, num: int = 6) -> tuple[NerfTask, Marble]:
    """The task with photographs of the marble itself."""
    cfg = nfields.compose(["task=nerf", "task.sh_degree=0", *SMALL, *overrides])
    task, model = build(cfg.task, data=photographs(num)), Marble()
    radius = 0.75 if task.contracted is None else 0.375 / task.contracted.radius
    task.grid.exclude(lambda centers, half: centers.norm(dim=1) < radius)
    for split, images in task.data.images.items():
        for view, image in enumerate(images):
            rgb = task.render_view(model, task.data.cameras[split], view)["rgb"]
            image.copy_((rgb * 255).round())
    return task, model

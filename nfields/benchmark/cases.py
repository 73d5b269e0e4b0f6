"""Kernels on inputs like those of training: all that have a CUDA implementation, for bench-gpu.

A case gives tensors and a function of them; what may have gradients does. The same case in float64
by the reference is what the kernel is compared with.
"""

# pyright: reportCallIssue=false
# (One kernel takes a list of tensors for one argument.)

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import normalize

from nfields.ops.adam import adam
from nfields.ops.composite import composite
from nfields.ops.distortion import distortion
from nfields.ops.grid_encode import GridLayout, grid_encode
from nfields.ops.harmonics import harmonics
from nfields.ops.march import march
from nfields.ops.march_contracted import march_contracted
from nfields.ops.mlp import mlp
from nfields.ops.rbf_decode import rbf_decode
from nfields.ops.rbf_interp import NeighborTree, build_tree, rbf_interp
from nfields.ops.render import GridNetwork, render


@dataclass(frozen=True)
class Case:
    """`function(tensors, backend)` gives outputs; tensors that require gradients get them."""

    name: str
    tensors: list[Tensor]
    function: Callable[[list[Tensor], str], list[Tensor]]

    def both(self, backend: str) -> None:
        """Forward and backward once, from a gradient of ones."""
        leaves = [t for t in self.tensors if t.requires_grad]
        outputs = self.function(self.tensors, backend)
        torch.autograd.grad(outputs, leaves, [torch.ones_like(t) for t in outputs])

    def on(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        """Copies of the floating tensors in `dtype`, of all on `device`."""
        return [
            t.detach()
            .to(device, dtype if t.is_floating_point() else t.dtype, copy=True)
            .requires_grad_(t.requires_grad)
            for t in self.tensors
        ]


def cases(num_points: int) -> list[Case]:
    """All of them, for about so many points or samples."""
    makers = (
        grid_case, _mlp, rbf_case, _interp, _harmonics, composite_case, _distortion, _march,
        _march_contracted, _render, _adam,
    )  # fmt: skip
    return [make(num_points) for make in makers]


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _offsets(num_points: int) -> Tensor:
    return torch.linspace(0, num_points, num_points // 32 + 1).long()


def grid_case(n: int) -> Case:
    layout = GridLayout.build(
        dim=3, num_levels=16, base_resolution=16, max_resolution=2048,
        log2_entries=19 if n > 10_000 else 12,
    )  # fmt: skip
    # 64 points along each ray, as neighbours share cells.
    starts = 0.2 + 0.6 * torch.rand(n // 64, 1, 3, generator=torch.Generator().manual_seed(0))
    directions = normalize(_random(n // 64, 1, 3), dim=2)
    points = (starts + directions * torch.linspace(0, 0.2, 64)[None, :, None]).view(-1, 3)
    table = _random(layout.num_entries, 2).requires_grad_()

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        x, table = tensors
        scales, levels = layout.scales.to(x), layout.levels.to(x.device)
        return [grid_encode(x, table, scales, levels, backend=backend)]

    return Case("grid_encode", [points, table], function)


def _mlp(n: int) -> Case:
    sizes = (32, 64, 64, 16)
    weights = [_random(b, a).div(a**0.5).requires_grad_() for a, b in pairwise(sizes)]

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        return [mlp(tensors[0], tensors[1:], backend=backend)]

    return Case("mlp", [_random(n, 32).requires_grad_(), *weights], function)


def rbf_case(n: int) -> Case:
    offsets = _offsets(n)
    rays = len(offsets) - 1
    shapes = ((n, 24), (32, 24), (32, 24), (rays, 4, 56), (rays, 4))
    tensors = [(0.3 * _random(*shape)).requires_grad_() for shape in shapes]

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        return [rbf_decode(*tensors, backend=backend)]

    return Case("rbf_decode", [*tensors, offsets], function)


def _interp(n: int) -> Case:
    generator = torch.Generator().manual_seed(0)
    centers = 2 * torch.rand(min(n, 20_000), 2, generator=generator) - 1
    shapes = torch.tensor([2.0, 0.5, 1.0]).expand(len(centers), 3) * len(centers) / 4
    frequencies = torch.logspace(-3, 6, 32, base=2.0)  # higher ones amplify the rounding of weights
    trees: dict[tuple[torch.device, torch.dtype], NeighborTree] = {}

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        x, features, centers, shapes, frequencies = tensors
        key = centers.device, centers.dtype
        if backend != "reference" and key not in trees:  # built once, as a model does
            trees[key] = build_tree(centers, 4)
        return [
            rbf_interp(
                x, features, centers, shapes, frequencies, kernel="ivq", num_neighbors=4,
                normalize=True, neighbors=trees.get(key), backend=backend,
            )
        ]  # fmt: skip

    tensors = [_random(n, 2).clamp(-1, 1).requires_grad_(), _random(len(centers), 32)]
    tensors[1].requires_grad_()
    return Case("rbf_interp", [*tensors, centers, shapes, frequencies], function)


def _harmonics(n: int) -> Case:
    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        return [harmonics(tensors[0], 10, backend=backend)]

    return Case("harmonics", [_random(n, 3)], function)


def composite_case(n: int) -> Case:
    starts = torch.arange(n) % 32 / 16.0

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        # No ray ends early: where one ends, rounding would decide.
        return list(composite(*tensors, min_transmittance=0.0, backend=backend))

    tensors = [_random(n).abs().requires_grad_(), _random(n, 3).requires_grad_()]
    return Case("composite", [*tensors, starts, starts + 1 / 16, _offsets(n)], function)


def _distortion(n: int) -> Case:
    starts = torch.arange(n) % 32 / 16.0
    ends = starts + 1 / 16

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        return [distortion(*tensors, min_transmittance=0.0, backend=backend)]

    density = _random(n).abs().requires_grad_()
    return Case("distortion", [density, starts, ends, starts / 2, ends / 2, _offsets(n)], function)


def _march(n: int) -> Case:
    rays = n // 32
    origins = 0.5 * normalize(_random(rays, 3), dim=1)
    directions = normalize(_random(rays, 3) + 0.1, dim=1)
    bits = torch.full((1, 32, 32, 4), 255, dtype=torch.uint8)

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        samples = march(*tensors, near=0.0, dt_min=1 / 64, dt_max=1 / 64, backend=backend)
        count = samples.offsets.diff().to(tensors[0].dtype)  # one step more or less is rounding
        return [count]

    return Case("march", [origins, directions, bits, torch.zeros(rays)], function)


def _march_contracted(n: int) -> Case:
    rays = n // 256
    bits = torch.full((1, 32, 32, 4), 255, dtype=torch.uint8)

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        samples = march_contracted(*tensors, near=0.05, dt_min=1 / 64, backend=backend)
        return [samples.offsets.diff().to(tensors[0].dtype)]  # as for march

    origins, directions = 0.5 * normalize(_random(rays, 3), dim=1), _random(rays, 3) + 0.1
    tensors = [origins, normalize(directions, dim=1), bits, torch.zeros(rays)]
    return Case("march_contracted", tensors, function)


def _render(n: int) -> Case:
    """A view of rbfnet, harmonics of degree 2; no ray ends early, as for composite."""
    rays = max(n // 32, 32)
    layout = GridLayout.build(
        dim=3, num_levels=8, base_resolution=16, max_resolution=256, log2_entries=12
    )
    origins = normalize(_random(rays, 3), dim=1)
    directions = normalize(0.3 * _random(rays, 3).flip(0) - origins, dim=1)
    bits = torch.full((1, 32, 32, 4), 255, dtype=torch.uint8)
    table, centers = 0.3 * _random(layout.num_entries, 4), 0.3 * _random(32, 32)
    readout = 0.3 * _random(28, 64)
    tensors = [origins, directions, _random(rays, 9), bits, table, centers, readout, readout[:, 0]]

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        origins, directions, basis, bits, table, centers, readout, bias = tensors
        network = GridNetwork(
            table, layout.scales.to(table), layout.levels.to(table.device), False, centers,
            torch.ones_like(centers), [], [], readout, bias,
        )  # fmt: skip
        found = render(
            origins, directions, basis, network, bits, center=(0.0, 0.0, 0.0), half_size=1.0,
            density_bias=0.0, near=0.0, dt_min=1 / 16, dt_max=1 / 16, cone=0.0, max_samples=1024,
            min_transmittance=0.0, backend=backend,
        )  # fmt: skip
        return [*found]

    return Case("render", tensors, function)


def _adam(n: int) -> Case:
    tensors = [_random(n), _random(n + 1)[:n], _random(n + 2)[:n], _random(n + 3)[:n].abs()]

    def function(tensors: list[Tensor], backend: str) -> list[Tensor]:
        adam(
            *tensors, lr=1e-2, betas=(0.9, 0.99), eps=1e-15, weight_decay=0.0, num_steps=10,
            skip_zero=True, backend=backend,
        )  # fmt: skip
        return [tensors[0], tensors[2], tensors[3]]

    return Case("adam", tensors, function)

"""backend=tcnn: our parameters in tiny-cuda-nn's layout, with a stand-in for the package.

The stand-in computes in plain PyTorch from options and one vector, as the package's sources have it
(nfields/ops/tiny_cuda_nn.py names them); it shares no code with nfields.
"""

import itertools
import math
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.model.field import GroupReadout
from nfields.model.hashgrid import HashGrid
from nfields.ops import backend, tiny_cuda_nn
from nfields.ops.backend import matrix_products
from nfields.ops.grid_encode import GridLayout, grid_encode
from nfields.ops.mlp import mlp
from tests.compare import assert_matches


def float32_scale(level: int, config: dict[str, Any]) -> np.float32:
    exponent = np.float32(level) * np.log2(np.float32(config["per_level_scale"]))
    return np.exp2(exponent) * np.float32(config["base_resolution"]) - np.float32(1)


class Encoding(nn.Module):
    """tinycudann.Encoding with otype Grid."""

    def __init__(self, n_input_dims: int, config: dict[str, Any], seed: int = 0, dtype: Any = None):
        super().__init__()
        self.config, self.dtype, self.sizes = config, dtype, []
        for level in range(config["n_levels"]):
            side = math.ceil(float32_scale(level, config)) + 1
            rounded = (side**n_input_dims + 7) // 8 * 8
            self.sizes.append((side, min(rounded, 1 << config["log2_hashmap_size"])))
        entries = sum(size for _, size in self.sizes)
        self.params = nn.Parameter(torch.zeros(entries * config["n_features_per_level"]))

    def forward(self, x: Tensor) -> Tensor:
        features, first, out = self.config["n_features_per_level"], 0, []
        params = self.params.to(self.dtype)
        for level, (side, size) in enumerate(self.sizes):
            scale = float(float32_scale(level, self.config))
            place = torch.addcmul(torch.tensor(0.5), x, torch.tensor(scale))
            cell = place.detach().floor()
            t = place - cell
            if self.config["interpolation"] == "Smoothstep":
                t = t * t * (3 - 2 * t)
            part = params[first * features : (first + size) * features]
            total: Any = 0
            for bits in itertools.product((0, 1), repeat=x.shape[1]):
                vertex = [(cell[:, k].long() + bit).tolist() for k, bit in enumerate(bits)]
                index = torch.tensor([grid_index(v, size, side) for v in zip(*vertex, strict=True)])
                weight: Any = math.prod(
                    t[:, k] if bit else 1 - t[:, k] for k, bit in enumerate(bits)
                )
                total = (
                    total
                    + weight[:, None] * part[index[:, None] * features + torch.arange(features)]
                )
            out.append(total)
            first += size
        return torch.cat(out, dim=1).to(self.dtype)


def grid_index(vertex: Any, size: int, side: int) -> int:
    """common_device.h: dense while the stride is within the level's entries, else hashed."""
    stride, index = 1, 0
    for coordinate in vertex:
        if stride > size:
            break
        index += coordinate * stride
        stride *= side
    if size < stride:
        index = 0
        for coordinate, prime in zip(vertex, (1, 2654435761, 805459861), strict=False):
            index ^= coordinate * prime % 2**32
    return index % size


class Network(nn.Module):
    """tinycudann.Network with otype FullyFusedMLP; its padded inputs are 1 (identity.h)."""

    def __init__(self, n_input_dims: int, n_output_dims: int, config: dict[str, Any]):
        super().__init__()
        assert config["otype"] == "FullyFusedMLP" and config["n_neurons"] in (16, 32, 64, 128)
        self.outputs, width = n_output_dims, config["n_neurons"]
        columns, rows = -(-n_input_dims // 16) * 16, -(-n_output_dims // 16) * 16
        hidden = config["n_hidden_layers"]
        self.sizes = [(width, columns), *[(width, width)] * (hidden - 1), (rows, width)]
        self.params = nn.Parameter(torch.zeros(sum(a * b for a, b in self.sizes)))

    def forward(self, x: Tensor) -> Tensor:
        first, x = 0, nn.functional.pad(x, (0, self.sizes[0][1] - x.shape[1]), value=1.0)
        for k, (rows, columns) in enumerate(self.sizes):
            matrix = self.params[first : first + rows * columns].reshape(rows, columns)
            x = x @ matrix.T
            x = x.relu() if k < len(self.sizes) - 1 else x
            first += rows * columns
        assert first == self.params.numel()
        return x[:, : self.outputs]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stand-in is importable, and the CPU plays the GPU."""
    module: Any = ModuleType("tinycudann")
    module.__spec__ = ModuleSpec("tinycudann", None)
    module.Encoding, module.Network = Encoding, Network
    monkeypatch.setitem(sys.modules, "tinycudann", module)
    monkeypatch.setattr(backend, "_stand_in", "cpu")
    tiny_cuda_nn._network.cache_clear()
    yield
    tiny_cuda_nn._network.cache_clear()


def hashgrid(dim: int, name: Any, interpolation: Any = "linear", **options: Any) -> HashGrid:
    """Two dense levels and two hashed, two hidden layers of 20 units."""
    sizes: dict[str, Any] = {
        "num_levels": 4, "features_per_level": 2, "base_resolution": 4, "max_resolution": 40,
        "log2_entries": 9, "width": 20, "num_layers": 2, **options,
    }  # fmt: skip
    return HashGrid(
        in_dim=dim, out_dim=5, interpolation=interpolation, feature_init=1e-4, lr=1e-2,
        network_lr=1e-2, weight_decay=0.0, backend=name, **sizes,
    )  # fmt: skip


def pair(dim: int, generator: torch.Generator, **options: Any) -> tuple[HashGrid, HashGrid]:
    """A field by plain PyTorch and the same by tiny-cuda-nn, one loaded from the other."""
    ours, theirs = hashgrid(dim, "reference", **options), hashgrid(dim, "tcnn", **options)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0, 0.5, generator=generator)
    theirs.load_state_dict(ours.state_dict())
    return ours, theirs


@pytest.mark.parametrize("interpolation", ["linear", "smoothstep"])
@pytest.mark.parametrize("dim", [2, 3])
def test_a_field_has_the_same_values_and_gradients_by_tiny_cuda_nn(
    stand_in: None, dim: int, interpolation: str, generator: torch.Generator
) -> None:
    ours, theirs = pair(dim, generator, interpolation=interpolation)
    x = torch.rand(50, dim, generator=generator) * 2.2 - 1.1  # some outside, which are clamped
    x[0], x[1] = -1, 1
    points = [x.clone().requires_grad_() for _ in range(2)]
    direction = torch.randn(50, 5, generator=generator)
    # The positions in the finest cells differ by some 1e-6 of its 40 cells.
    values = [field(p) for field, p in zip((ours, theirs), points, strict=True)]
    assert_matches(values[1], values[0].detach(), rtol=1e-4, atol=1e-4)
    for field, value in zip((ours, theirs), values, strict=True):
        value.backward(direction)
        assert field.encoder.table.grad is not None
    for name, parameter in ours.named_parameters():
        other = dict(theirs.named_parameters())[name].grad
        assert other is not None and parameter.grad is not None
        assert_matches(other, parameter.grad, rtol=1e-3, atol=1e-3)
    assert points[0].grad is not None and points[1].grad is not None
    assert_matches(points[1].grad, points[0].grad, rtol=1e-3, atol=1e-2)


def test_one_hidden_layer_before_the_readouts_of_groups(
    stand_in: None, generator: torch.Generator
) -> None:
    ours, theirs = pair(3, generator, num_layers=1)
    groups = GroupReadout(torch.randn(1, 7, 20, generator=generator), torch.zeros(1, 7), None)
    x = torch.rand(30, 3, generator=generator) * 2 - 1
    assert_matches(theirs(x, groups), ours(x, groups), rtol=1e-4, atol=1e-4)


def test_checkpoints_have_our_names_and_shapes_alone(
    stand_in: None, generator: torch.Generator
) -> None:
    ours, theirs = pair(2, generator)
    theirs(torch.zeros(1, 2))
    assert {k: v.shape for k, v in theirs.state_dict().items()} == {
        k: v.shape for k, v in ours.state_dict().items()
    }


def test_matrices_lie_row_by_row_and_biases_are_a_last_column() -> None:
    weights = [torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0]])]
    biases = [torch.tensor([7.0, 8.0]), torch.tensor([9.0])]
    params = tiny_cuda_nn.network_to_params(weights, biases)
    assert len(params) == 2 * 16 * 16
    first, last = params.view(2, 16, 16)
    expected = torch.zeros(2, 16, 16)
    expected[0, :3, :3] = torch.tensor([[1.0, 2.0, 7.0], [3.0, 4.0, 8.0], [0.0, 0.0, 1.0]])
    expected[1, 0, :3] = torch.tensor([5.0, 6.0, 9.0])
    assert torch.equal(torch.stack([first, last]), expected)
    plain = tiny_cuda_nn.network_to_params(weights, []).view(2, 16, 16)
    assert torch.equal(plain[0, :2, :2], weights[0]) and plain.sum() == 21


@pytest.mark.parametrize("has_biases", [False, True])
def test_a_network_comes_back_from_the_layout(has_biases: bool, generator: torch.Generator) -> None:
    shapes = [(63, 33), (63, 63), (17, 63)]
    weights = [torch.randn(*shape, generator=generator) for shape in shapes]
    biases = [torch.randn(o, generator=generator) for o, _ in shapes] if has_biases else []
    params = tiny_cuda_nn.network_to_params(weights, biases)
    assert len(params) == 64 * 48 + 64 * 64 + 32 * 64
    back = tiny_cuda_nn.params_to_network(params, shapes, has_biases)
    for before, after in zip([*weights, *biases], [*back[0], *back[1]], strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("dim", "num_levels", "base", "finest", "log2_entries"),
    [
        (3, 16, 16, 2048, 19),  # 12,196,240 parameters with two features
        (3, 16, 16, 2048, 15),
        (3, 8, 16, 2048, 19),  # resolutions are powers of two: the edges of ceil
        (3, 8, 16, 512, 16),
        (2, 16, 16, 256, 24),
        (2, 16, 16, 512, 24),
        (2, 16, 16, 256, 14),
        (2, 3, 4, 16, 19),
        (2, 1, 16, 16, 19),
    ],
)
def test_grids_have_the_entries_and_resolutions_of_ours(
    dim: int, num_levels: int, base: int, finest: int, log2_entries: int
) -> None:
    layout = GridLayout.build(
        dim=dim, num_levels=num_levels, base_resolution=base, max_resolution=finest,
        log2_entries=log2_entries,
    )  # fmt: skip
    config = tiny_cuda_nn.grid_config(layout.scales, layout.levels, dim, 2, False)
    encoding = Encoding(dim, config)
    assert [size for _, size in encoding.sizes] == layout.levels[:, 2].tolist()
    for (side, _), (resolution, _, _, hashed) in zip(
        encoding.sizes, layout.levels.tolist(), strict=True
    ):
        assert hashed or side == resolution
    # Where a vertex lies: within a hundredth of a cell.
    finest_scale = float(float32_scale(num_levels - 1, config))
    assert abs(finest_scale - float(layout.scales[-1])) < 0.01


def test_tables_are_half_where_products_are(stand_in: None, generator: torch.Generator) -> None:
    layout = GridLayout.build(
        dim=2, num_levels=2, base_resolution=4, max_resolution=8, log2_entries=9
    )
    table = torch.full((layout.num_entries, 2), 1.0001)
    x = torch.rand(5, 2, generator=generator)

    def features() -> Tensor:
        return grid_encode(x, table, layout.scales, layout.levels, backend="tcnn")

    with matrix_products("fp16"):
        assert (features() == 1).all()
    assert (features() > 1).all() and features().dtype == torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [2, 3])
def test_the_package_itself_agrees_where_it_is(dim: int, generator: torch.Generator) -> None:
    pytest.importorskip("tinycudann", reason="tiny-cuda-nn is not installed")
    ours, theirs = (field.cuda() for field in pair(dim, generator, num_levels=8))
    x = (torch.rand(1000, dim, generator=generator) * 2 - 1).cuda()
    expected, found = ours(x), theirs(x)
    scale = float(expected.detach().abs().max())
    assert_matches(found, expected, rtol=0.0, atol=0.01 * scale)  # three layers in float16
    for field, value in ((ours, expected), (theirs, found)):
        value.square().sum().backward()
        assert field.encoder.table.grad is not None
    for name, parameter in ours.named_parameters():
        other = dict(theirs.named_parameters())[name].grad
        assert other is not None and parameter.grad is not None
        scale = float(parameter.grad.abs().max())
        assert_matches(other, parameter.grad, rtol=0.0, atol=0.05 * scale)


# ---- refusals -------------------------------------------------------------------------------


def test_an_absent_package_names_its_install_command() -> None:
    if "tinycudann" in sys.modules:
        pytest.skip("tiny-cuda-nn is installed")
    with pytest.raises(ConfigError, match=r"pip install git\+https://github.com/NVlabs/tiny-cuda"):
        hashgrid(3, "tcnn")(torch.zeros(1, 3))


def test_on_the_cpu_the_package_is_not_enough(
    stand_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "_stand_in", None)
    with pytest.raises(ConfigError, match=r"runs on CUDA alone .* on cpu; .*trainer.device=cuda"):
        hashgrid(3, "tcnn")(torch.zeros(1, 3))


def test_entries_that_are_no_power_of_two_are_refused(stand_in: None) -> None:
    with pytest.raises(ConfigError, match=r"model.log2_entries=9\.49.* set 9 or 10"):
        hashgrid(3, "tcnn", log2_entries=9.5)(torch.zeros(1, 3))


def test_a_unit_stands_for_the_biases(stand_in: None) -> None:
    assert hashgrid(2, "tcnn", width=127)(torch.zeros(3, 2)).shape == (3, 5)
    with pytest.raises(ConfigError, match=r"model.width=128: .* lower model.width to 127"):
        hashgrid(2, "tcnn", width=128)(torch.zeros(3, 2))


def test_no_points_have_no_values(stand_in: None) -> None:
    with torch.no_grad():
        assert hashgrid(2, "tcnn")(torch.zeros(0, 2)).shape == (0, 5)


def test_sines_are_refused(stand_in: None) -> None:
    weights = [torch.zeros(4, 2), torch.zeros(1, 4)]
    with pytest.raises(ConfigError, match=r"ReLU networks .* not sine"):
        mlp(torch.zeros(1, 2), weights, activation="sine", backend="tcnn")


def test_second_derivatives_are_refused_in_the_users_terms(
    stand_in: None, generator: torch.Generator
) -> None:
    _, field = pair(3, generator, interpolation="smoothstep")
    x = torch.rand(4, 3, generator=generator).requires_grad_()
    (slope,) = torch.autograd.grad(field(x).sum(), x, create_graph=True)
    with pytest.raises(ConfigError, match="no second derivatives, which losses on slopes need"):
        slope.square().sum().backward()

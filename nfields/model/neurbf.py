"""neurbf: adaptive radial basis functions in coordinate space beside a hash grid.

Notation (NeuRBF, arXiv:2309.15426)
    g(x)    features of the k nearest kernels, each channel c times sin(m_c w): see
            nfields/ops/rbf_interp/reference.py
    h       [grid features, g] + b, b learned
    h1      W1 h + b1;  h1 <- h1 + sin(m' h1) instead of ReLU, m' by unit
    out     ReLU layers and a linear readout behind h1

m and m' are spaced evenly in their logarithms. Kernels are put where the signal varies, and shaped
as it does (nfields/model/kernel_placement.py); centres and shapes stay as they are put. Where the
set of neighbours changes, values jump a little: losses on gradients suit other representations.

Without num_kernels the model is made as large as a plain hash grid with the same network:

    K = (entries of the reference grid - what else the model has) // (F + d + numbers of a shape)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import linear

from nfields.errors import ConfigError
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.model.grid import GridEncoder
from nfields.model.kernel_placement import (
    Shape,
    clip_axes,
    cluster_covariances,
    covariances_of,
    place_kernels,
    shapes_of,
)
from nfields.model.readout import (
    hidden_layers,
    initialize_relu,
    network,
    parameters_of,
    read_out,
)
from nfields.ops.backend import REFERENCES, Backend
from nfields.ops.grid_encode import GridLayout
from nfields.ops.rbf_interp import Kernel, NeighborTree, build_tree, rbf_interp
from nfields.optimizer import ParameterGroup


class NeuRBF(Field):
    """Radial basis functions and hash grid; options are explained in configs/model/neurbf.yaml."""

    kernel: Kernel
    shape: Shape

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        kernel: Kernel,
        shape: Shape,
        num_kernels: int | None,
        num_neighbors: int,
        normalize: bool,
        rbf_features: int,
        rbf_frequencies: Sequence[float | int] | None,
        layer_frequencies: Sequence[float | int] | None,
        shape_alpha: float | int,
        shape_bounds: Sequence[float | int],
        num_levels: int,
        features_per_level: int,
        base_resolution: int,
        max_resolution: int,
        log2_entries: float | int,
        reference_levels: int,
        reference_features: int,
        reference_base_resolution: int,
        reference_max_resolution: int,
        reference_log2_entries: float | int,
        feature_init: float | int,
        width: int,
        num_layers: int,
        lr: float | int,
        grid_lr: float | int,
        network_lr: float | int,
        backend: Backend,
    ):
        super().__init__()
        if kernel == "tent" and shape == "full":
            raise ConfigError(
                "model.kernel=tent falls off along the axes and has no model.shape=full; "
                "choose model.shape=diagonal or scalar"
            )
        if num_neighbors < 1 or rbf_features < 1:
            raise ConfigError(
                f"model.num_neighbors={num_neighbors} and model.rbf_features={rbf_features} must "
                "be at least 1"
            )
        if shape_alpha <= 0 or feature_init <= 0:
            raise ConfigError(
                f"model.shape_alpha={shape_alpha} and model.feature_init={feature_init} must be "
                "above 0"
            )
        if len(shape_bounds) != 2 or not 0 < shape_bounds[0] <= shape_bounds[1]:
            raise ConfigError(
                f"model.shape_bounds={[*shape_bounds]} must be the smallest and the largest "
                "standard deviation of a kernel, the smallest above 0"
            )
        self.in_dim, self.out_dim, self.size_option = in_dim, out_dim, "num_kernels"
        self.kernel, self.shape, self.normalize = kernel, shape, normalize
        self.num_neighbors, self.backend = num_neighbors, backend
        self.shape_alpha, self.shape_bounds = shape_alpha, shape_bounds
        self.feature_init = feature_init
        self.lr, self.grid_lr, self.network_lr = lr, grid_lr, network_lr
        self.encoder = GridEncoder(
            in_dim=in_dim,
            kind="hash",
            num_levels=num_levels,
            features_per_level=features_per_level,
            base_resolution=base_resolution,
            max_resolution=max_resolution,
            log2_entries=log2_entries,
            smoothstep=False,
            backend=backend,
        )
        inputs = self.encoder.out_dim + rbf_features
        self.bias = nn.Parameter(torch.zeros(inputs))
        self.layers = hidden_layers(inputs, width, num_layers)
        self.readout = nn.Linear(width, out_dim)
        num_shape = {"scalar": 1, "diagonal": in_dim, "full": in_dim * (in_dim + 1) // 2}[shape]
        if num_kernels is None:
            reference = GridLayout.build(
                dim=in_dim,
                num_levels=reference_levels,
                base_resolution=reference_base_resolution,
                max_resolution=reference_max_resolution,
                log2_entries=reference_log2_entries,
            )
            table = reference.num_entries * reference_features
            spared = (inputs - reference_levels * reference_features) * width  # in the first layer
            left = table - self.encoder.table.numel() - inputs - spared
            num_kernels = max(0, left // (rbf_features + in_dim + num_shape))
            origin = (
                f" (model.num_kernels=null: what is left of a grid of {table:,} numbers beside "
                "this model's own; raise model.reference_log2_entries or lower model.log2_entries)"
            )
        else:
            origin = ""
        if num_neighbors > num_kernels:
            raise ConfigError(
                f"model.num_neighbors={num_neighbors} is larger than the kernel count "
                f"{num_kernels}{origin}; lower model.num_neighbors or raise model.num_kernels"
            )
        self.features = nn.Parameter(torch.zeros(num_kernels, rbf_features))
        # Not trained, but stored and counted: without them the features mean nothing.
        self.centers = nn.Parameter(torch.zeros(num_kernels, in_dim), requires_grad=False)
        self.shapes = nn.Parameter(torch.ones(num_kernels, num_shape), requires_grad=False)
        self.rbf_frequencies: Tensor | None
        self.layer_frequencies: Tensor | None
        for name, band, num in (
            ("rbf_frequencies", rbf_frequencies, rbf_features),
            ("layer_frequencies", layer_frequencies, width),
        ):
            self.register_buffer(name, frequencies_of(name, band, num), persistent=False)
        self._neighbors: NeighborTree | None = None

    def neighbors(self) -> NeighborTree | None:
        """The search structure of the centres as they are now; None if the backend has none."""
        if self.backend in REFERENCES:
            return None
        tree = self._neighbors
        if tree is None or not tree.fits(self.centers, self.num_neighbors):
            self._neighbors = tree = build_tree(self.centers, self.num_neighbors)
        return tree

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        interpolated = rbf_interp(
            x,
            self.features,
            self.centers,
            self.shapes,
            self.rbf_frequencies,
            kernel=self.kernel,
            num_neighbors=self.num_neighbors,
            normalize=self.normalize,
            neighbors=self.neighbors(),
            backend=self.backend,
        )
        h = torch.cat([self.encoder(x), interpolated], dim=1) + self.bias
        weights, biases = parameters_of(self.layers)
        if self.layer_frequencies is None:
            return network(h, weights, biases, self.readout, groups, "relu", self.backend)
        first = linear(h, weights[0], biases[0])
        first = first + torch.sin(self.layer_frequencies * first)
        if len(weights) == 1:
            return read_out(first, self.readout, groups, self.backend)
        return network(first, weights[1:], biases[1:], self.readout, groups, "relu", self.backend)

    @torch.no_grad()
    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        centers, cluster = place_kernels(samples, len(self.centers), generator)
        covariances = cluster_covariances(samples, centers, cluster) / self.shape_alpha
        covariances = clip_axes(covariances, *self.shape_bounds)
        self.centers.copy_(centers)
        self.shapes.copy_(shapes_of(covariances, self.shape, self.kernel == "tent"))
        for table in (self.encoder.table, self.features):
            table.uniform_(-self.feature_init, self.feature_init, generator=generator)
        self.bias.zero_()
        initialize_relu(self.layers, self.readout, generator)

    @torch.no_grad()
    def kernels(self, x: Float[Tensor, "n in_dim"]) -> Kernels | None:
        covariances = covariances_of(self.shapes, self.in_dim, self.kernel == "tent")
        return Kernels(centers=self.centers.detach(), covariances=covariances)

    def parameter_groups(self) -> list[ParameterGroup]:
        layers = [self.bias, *self.layers.parameters(), *self.readout.parameters()]
        return [
            ParameterGroup("kernels", [self.features], self.lr, is_sparse=True),
            ParameterGroup("grid", [self.encoder.table], self.grid_lr, is_sparse=True),
            ParameterGroup("network", layers, self.network_lr),
        ]


def frequencies_of(
    name: str, band: Sequence[float | int] | None, num: int
) -> Float[Tensor, " num"] | None:
    """`num` frequencies from the lowest to the highest of a band, evenly in their logarithms."""
    if band is None:
        return None
    if len(band) != 2 or not 0 < band[0] <= band[1]:
        raise ConfigError(
            f"model.{name}={[*band]} must be null or the lowest and the highest frequency, both "
            "above 0"
        )
    low, high = torch.tensor(band, dtype=torch.float64).log()
    return torch.exp(low + (high - low) * torch.linspace(0, 1, num, dtype=torch.float64)).float()

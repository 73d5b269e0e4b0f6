"""rbfnet: multi-scale grid features decoded by one layer of Gaussian neurons.

Notation (Gaussian RBFNet / GNF, arXiv:2503.06762; the code's factor 1/2)
    F(x)     D grid features of a point
    phi_i    exp(-1/2 sum_d ((F_d - mu_id) / omega_id)^2),  i = 1 .. N <= 64
    out(x)   W [phi, F] + b; without the linear term W phi + b

Initialisation. The published one (centres U(+-1e-4), widths 1 on features of 1e-4) makes all
neurons equal to 1 and to each other. Here the layer is set to the scale of the features, whose
standard deviation s_d is measured at points of the signal:

    mu ~ N(0, (center_spread s)^2),    omega = s sqrt(D / width_scale)

so that the exponent is width_scale / 2 times a mean over the dimensions, whatever their number and
scale. Widths are learned as logarithms: features grow many times over during training, and a
logarithm follows at a constant rate.

`decoder=mlp` puts a ReLU network (two hidden layers) behind the same features, to compare with.
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nfields.errors import ConfigError
from nfields.model.field import Field, GroupReadout, Kernels, Samples
from nfields.model.grid import GridEncoder, PeriodicGridEncoder
from nfields.model.readout import parameters_of, read_out
from nfields.ops.backend import Backend
from nfields.ops.mlp import mlp
from nfields.ops.rbf_decode import rbf_decode
from nfields.ops.render import GridNetwork
from nfields.optimizer import ParameterGroup

MAX_NEURONS = 64  # the representation's claim: fewer than 64 units suffice


class RBFNet(Field):
    """Gaussian RBFNet; options are explained in configs/model/rbfnet.yaml."""

    def __init__(
        self,
        *,
        in_dim: int,
        out_dim: int,
        encoder: Literal["dense", "hash", "dif"],
        num_levels: int,
        features_per_level: int,
        base_resolution: int,
        max_resolution: int,
        log2_entries: float | int,
        dif_features: Sequence[int],
        dif_resolutions: Sequence[int],
        dif_frequencies: Sequence[float | int],
        dif_coefficient_resolution: int | None,
        dif_scale: float | int,
        feature_init: float | int,
        decoder: Literal["rbf", "mlp"],
        num_neurons: int,
        linear_term: bool,
        center_spread: float | int,
        width_scale: float | int,
        mlp_width: int,
        lr: float | int,
        decoder_lr: float | int,
        width_lr: float | int,
        backend: Backend,
    ):
        super().__init__()
        if not 1 <= num_neurons <= MAX_NEURONS:
            raise ConfigError(f"model.num_neurons={num_neurons} is outside 1..{MAX_NEURONS}")
        if feature_init <= 0 or width_scale <= 0 or center_spread < 0:
            raise ConfigError(
                f"model.feature_init={feature_init} and model.width_scale={width_scale} must be "
                f"above 0, model.center_spread={center_spread} at least 0"
            )
        self.in_dim, self.out_dim = in_dim, out_dim
        self.decoder, self.backend = decoder, backend
        self.size_option = {"dense": "max_resolution", "hash": "log2_entries"}.get(
            encoder, "dif_scale"
        )
        self.feature_init, self.center_spread = feature_init, center_spread
        self.width_scale, self.linear_term = width_scale, linear_term
        self.lr, self.decoder_lr, self.width_lr = lr, decoder_lr, width_lr
        if encoder == "dif":
            self.encoder = PeriodicGridEncoder(
                in_dim=in_dim,
                features=dif_features,
                resolutions=dif_resolutions,
                frequencies=dif_frequencies,
                coefficient_resolution=dif_coefficient_resolution,
                scale=dif_scale,
                backend=backend,
            )
        else:
            self.encoder = GridEncoder(
                in_dim=in_dim,
                kind=encoder,
                num_levels=num_levels,
                features_per_level=features_per_level,
                base_resolution=base_resolution,
                max_resolution=max_resolution,
                log2_entries=log2_entries,
                smoothstep=False,
                backend=backend,
            )
        dim = self.encoder.out_dim
        if decoder == "rbf":
            self.centers = nn.Parameter(torch.zeros(num_neurons, dim))
            self.log_inv_widths = nn.Parameter(torch.zeros(num_neurons, dim))
            hidden = num_neurons + dim if linear_term else num_neurons
        else:
            sizes = (dim, mlp_width, mlp_width)
            self.layers = nn.ModuleList(
                nn.Linear(sizes[k], sizes[k + 1]) for k in range(len(sizes) - 1)
            )
            hidden = mlp_width
        self.readout = nn.Linear(hidden, out_dim)

    def features(self, x: Float[Tensor, "n in_dim"]) -> Float[Tensor, "n features"]:
        """Grid features of points in [-1, 1]^in_dim."""
        return self.encoder(x)

    def forward(
        self, x: Float[Tensor, "n in_dim"], groups: GroupReadout | None = None
    ) -> Float[Tensor, "n out"]:
        features = self.encoder(x)
        if self.decoder == "rbf":
            if groups is None:
                weight, bias, offsets = self.readout.weight[None], self.readout.bias[None], None
            else:
                weight, bias, offsets = groups.weight, groups.bias, groups.offsets
            return rbf_decode(
                features, self.centers, self.log_inv_widths.exp(), weight, bias, offsets,
                backend=self.backend,
            )  # fmt: skip
        hidden = mlp(
            features,
            *parameters_of(self.layers),
            activate_last=True,
            backend=self.backend,
        )
        return read_out(hidden, self.readout, groups, self.backend)

    @torch.no_grad()
    def initialize(self, samples: Samples, generator: torch.Generator) -> None:
        for name, parameter in self.encoder.named_parameters():
            low, high = -self.feature_init, self.feature_init
            if "coefficients" in name:
                low, high = 1 - self.feature_init, 1 + self.feature_init
            parameter.uniform_(low, high, generator=generator)
        if self.decoder == "mlp":
            for layer in self.layers:
                assert isinstance(layer, nn.Linear)
                _init_linear(layer, math.sqrt(2 / layer.in_features), generator)
            _init_linear(self.readout, math.sqrt(1 / self.readout.in_features), generator)
            return
        features = self.encoder(samples.x)
        std = features.std(dim=0) if len(features) > 1 else torch.zeros(features.shape[1])
        std = std.clamp(min=1e-3 * self.feature_init)
        num_neurons, dim = self.centers.shape
        self.centers.copy_(
            torch.randn(num_neurons, dim, generator=generator) * self.center_spread * std.cpu()
        )
        self.log_inv_widths.copy_(0.5 * torch.log(self.width_scale / (dim * std.square())))
        _init_linear(self.readout, 0.1, generator)
        if self.linear_term:
            # Features start small; their readout must not, or they would learn slowly.
            self.readout.weight[:, num_neurons:].normal_(0, 0.1, generator=generator)

    def grid_network(self) -> GridNetwork | None:
        if not isinstance(self.encoder, GridEncoder):
            return None
        grid, readout = self.encoder.as_tensors(), (self.readout.weight, self.readout.bias)
        if self.decoder == "rbf":
            return GridNetwork(*grid, self.centers, self.log_inv_widths.exp(), [], [], *readout)
        weights, biases = parameters_of(self.layers)
        return GridNetwork(*grid, None, None, weights, biases, *readout)

    @torch.no_grad()
    def kernels(self, x: Float[Tensor, "n in_dim"]) -> Kernels | None:
        if self.decoder == "mlp":
            return None
        scaled = (self.encoder(x)[:, None] - self.centers) * self.log_inv_widths.exp()
        return Kernels(responses=torch.exp(-0.5 * scaled.square().sum(dim=2)))

    def parameter_groups(self) -> list[ParameterGroup]:
        grids = [*self.encoder.parameters()]
        groups = [ParameterGroup("grid", grids, self.lr, is_sparse=True)]
        if self.decoder == "rbf":
            neurons = [self.centers, *self.readout.parameters()]
            groups.append(ParameterGroup("neurons", neurons, self.decoder_lr))
            groups.append(ParameterGroup("widths", [self.log_inv_widths], self.width_lr))
        else:
            layers = [*self.layers.parameters(), *self.readout.parameters()]
            groups.append(ParameterGroup("mlp", layers, self.decoder_lr))
        return groups


def _init_linear(layer: nn.Linear, std: float, generator: torch.Generator) -> None:
    layer.weight.normal_(0, std, generator=generator)
    layer.bias.zero_()

"""The linear end of every representation, through its own readout or through that of groups."""

from jaxtyping import Float
from torch import Tensor, nn

from nfields.model.field import GroupReadout
from nfields.ops.rbf_decode import grouped_linear


def read_out(
    hidden: Float[Tensor, "n hidden"],
    readout: nn.Linear,
    groups: GroupReadout | None,
    backend: str,
) -> Float[Tensor, "n out"]:
    """values = W hidden + b, with W and b of `readout`, or of the group a point belongs to."""
    if groups is None:
        return readout(hidden)
    return grouped_linear(hidden, groups.weight, groups.bias, groups.offsets, backend=backend)

"""Operation rbf_interp: the nearest radial basis functions in coordinate space, interpolated.

Contract
    x            (n, d), d = 2 or 3; any real values
    features     (K, F)
    centers      (K, d)
    shapes       (K, s) inverse covariances: s = d (d + 1) / 2 upper triangle by rows, s = d the
                        diagonal, s = 1 a multiple of the identity. tent: s = d or 1 inverse widths
    frequencies  (F,) at least 0, or None: weights are not passed through sines
    kernel       ivq | gaussian | imq | tent: nfields/ops/rbf_interp/reference.py has the formulas
    normalize    weights are divided by their sum over the neighbours + 1e-8
    neighbors    build_tree(centers, k), to be used again; None: built for this call, on the CPU:
                 with centers on a GPU the host waits for them
    returns      (n, F)

The k nearest are by Euclidean distance to the centres, of equals the lower index, anywhere, however
unevenly the centres lie. A point that is not a number gives NaN.

Gradients: x and features, first order by kernels, second order through the reference. Centres,
shapes and frequencies get none: they are fixed. The derivative in x is that of the value, through
the normaliser too, while the neighbours stay the same (the paper's code stops it at the normaliser,
which there concerned shapes alone); where the neighbours change, values jump a little. tent has the
derivative 0 at its centre. n = 0 is allowed. Deterministic for any number of threads. Gaussian
responses below exp(-60) are 0 (no denormals).
"""

# pyright: reportCallIssue=false, reportArgumentType=false
# (Type stubs misjudge calls of jitted functions.)

import math
from typing import get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nfields.ops.backend import implement_on_cuda, require_same_dtype, uses_reference
from nfields.ops.gradient import reference_gradients
from nfields.ops.rbf_interp import cpu
from nfields.ops.rbf_interp.neighbors import NeighborTree, build_tree, search_kernel
from nfields.ops.rbf_interp.reference import Kernel, nearest_reference, rbf_interp_reference

__all__ = ["Kernel", "NeighborTree", "build_tree", "nearest_centers", "rbf_interp"]


def rbf_interp(
    x: Float[Tensor, "n d"],
    features: Float[Tensor, "kernels f"],
    centers: Float[Tensor, "kernels d"],
    shapes: Float[Tensor, "kernels s"],
    frequencies: Float[Tensor, " f"] | None,
    *,
    kernel: Kernel,
    num_neighbors: int,
    normalize: bool,
    neighbors: NeighborTree | None = None,
    backend: str = "auto",
) -> Float[Tensor, "n f"]:
    """Interpolated features of the points; see the module's contract."""
    num_kernels, dim = centers.shape
    sizes = (1, dim) if kernel == "tent" else (1, dim, dim * (dim + 1) // 2)
    if dim not in (2, 3):
        raise ValueError(f"rbf_interp: centers must be (K, 2) or (K, 3), not {(num_kernels, dim)}")
    if kernel not in get_args(Kernel):
        raise ValueError(f"rbf_interp: kernel={kernel!r}; choose one of {get_args(Kernel)}")
    if shapes.shape[1] not in sizes:
        raise ValueError(
            f"rbf_interp: {shapes.shape[1]} numbers a shape; kernel={kernel} takes {sizes}"
        )
    if not 1 <= num_neighbors <= num_kernels:
        raise ValueError(
            f"rbf_interp: num_neighbors={num_neighbors} must be in 1..{num_kernels}, the number "
            "of kernels"
        )
    if uses_reference(backend, "rbf_interp", x):
        nearest = nearest_reference(x, centers, num_neighbors)
        return rbf_interp_reference(
            x, features, centers, shapes, frequencies, nearest, kernel, normalize
        )
    require_same_dtype("rbf_interp", x=x, features=features, centers=centers, shapes=shapes)
    nearest = nearest_centers(x, centers, num_neighbors, neighbors, backend=backend)
    half_turns = x.new_zeros(0) if frequencies is None else frequencies.detach() / math.pi
    return _interp(
        x, features, centers.detach(), shapes.detach(), half_turns, nearest, kernel, normalize
    )[0]


def nearest_centers(
    x: Float[Tensor, "n d"],
    centers: Float[Tensor, "kernels d"],
    num_neighbors: int,
    neighbors: NeighborTree | None = None,
    *,
    backend: str = "auto",
) -> Int[Tensor, "n k"]:
    """Indices of the nearest centres of each point, nearest first, of equals the lower index."""
    if uses_reference(backend, "nearest_centers", x):
        return nearest_reference(x, centers, num_neighbors)
    require_same_dtype("nearest_centers", x=x, centers=centers)
    tree = build_tree(centers, num_neighbors) if neighbors is None else neighbors
    assert tree.num_neighbors == num_neighbors and tree.position.dtype == x.dtype
    return _nearest(
        x.detach(), tree.bounds, tree.split, tree.link, tree.leaf, tree.starts, tree.index,
        tree.position, num_neighbors,
    )  # fmt: skip


@torch.library.custom_op("nfields::nearest_centers", mutates_args=(), device_types="cpu")
def _nearest(
    x: Tensor, bounds: Tensor, split: Tensor, link: Tensor, leaf: Tensor, starts: Tensor,
    index: Tensor, position: Tensor, num_neighbors: int,
) -> Tensor:  # fmt: skip
    out = torch.empty(x.shape[0], num_neighbors, dtype=torch.int32)
    search_kernel(x.shape[1], num_neighbors)(
        x.contiguous().numpy(), bounds.numpy(), split.numpy(), link.numpy(), leaf.numpy(),
        starts.numpy(), index.numpy(), position.numpy(), out.view(-1).numpy(),
    )  # fmt: skip
    return out


@_nearest.register_fake
def _(x, bounds, split, link, leaf, starts, index, position, num_neighbors):
    return x.new_empty(x.shape[0], num_neighbors, dtype=torch.int32)


@torch.library.custom_op("nfields::rbf_interp", mutates_args=(), device_types="cpu")
def _interp(
    x: Tensor, features: Tensor, centers: Tensor, shapes: Tensor, half_turns: Tensor,
    nearest: Tensor, kernel: str, normalize: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Values and, for the backward pass, the weights (n, k)."""
    out = x.new_empty(x.shape[0], features.shape[1])
    weights = x.new_empty(nearest.shape)
    cpu.forward_kernel(*_sizes(x, features, shapes, half_turns, nearest, kernel, normalize))(
        *(t.contiguous().numpy() for t in (x, features, centers, shapes, half_turns, nearest)),
        weights.numpy(), out.numpy(),
    )  # fmt: skip
    return out, weights


def _sizes(x, features, shapes, half_turns, nearest, kernel: str, normalize: bool):
    """The constants that kernels are made for."""
    return (
        x.shape[1], nearest.shape[1], features.shape[1], cpu.KERNEL_CODES[kernel], shapes.shape[1],
        int(normalize), int(len(half_turns) > 0),
    )  # fmt: skip


@_interp.register_fake
def _(x, features, centers, shapes, half_turns, nearest, kernel, normalize):
    return x.new_empty(x.shape[0], features.shape[1]), x.new_empty(nearest.shape)


@torch.library.custom_op("nfields::rbf_interp_backward", mutates_args=(), device_types="cpu")
def _interp_backward(
    gradient: Tensor, x: Tensor, features: Tensor, centers: Tensor, shapes: Tensor,
    half_turns: Tensor, nearest: Tensor, kernel: str, normalize: bool, weights: Tensor,
    needs_x: bool, needs_features: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients of x and features; an empty tensor where not needed."""
    x_gradient = x.new_empty(x.shape if needs_x else 0)
    features_gradient = x.new_empty(features.shape if needs_features else 0)
    gradient = gradient.contiguous()
    if needs_x:
        sizes = _sizes(x, features, shapes, half_turns, nearest, kernel, normalize)
        inputs = (gradient, x, features, centers, shapes, half_turns, nearest, weights)
        cpu.point_gradient_kernel(*sizes)(
            *(t.contiguous().numpy() for t in inputs), x_gradient.numpy()
        )
    if needs_features:
        pairs, starts = cpu.sort_pairs(nearest.numpy(), len(features))
        cpu.feature_gradient_kernel(nearest.shape[1], features.shape[1], int(len(half_turns) > 0))(
            gradient.numpy(), weights.numpy(), half_turns.contiguous().numpy(), pairs, starts,
            features_gradient.numpy(),
        )  # fmt: skip
    return x_gradient, features_gradient


@_interp_backward.register_fake
def _(
    gradient, x, features, centers, shapes, half_turns, nearest, kernel, normalize, weights,
    needs_x, needs_features,
):  # fmt: skip
    return x.new_empty(x.shape if needs_x else 0), x.new_empty(
        features.shape if needs_features else 0
    )


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.kernel, ctx.normalize = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _backward(ctx, gradient, _):
    if gradient is None:
        return (None,) * 8
    *tensors, weights = ctx.saved_tensors
    needs_x, needs_features = ctx.needs_input_grad[:2]
    x_gradient, features_gradient = _interp_backward(
        gradient, *tensors, ctx.kernel, ctx.normalize, weights, needs_x, needs_features
    )
    return (
        x_gradient if needs_x else None,
        features_gradient if needs_features else None,
        *(None,) * 6,
    )


def _save_backward(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.kernel, ctx.normalize = inputs[7:9]
    ctx.needs_x, ctx.needs_features = inputs[10:]


def _double_backward(ctx, x_gradient_gradient, features_gradient_gradient):
    gradient, x, features, centers, shapes, half_turns, nearest = ctx.saved_tensors
    frequencies = half_turns * math.pi if len(half_turns) else None
    second = reference_gradients(
        lambda x, features: rbf_interp_reference(
            x, features, centers, shapes, frequencies, nearest, ctx.kernel, ctx.normalize
        ),
        (x, features),
        gradient,
        (
            x_gradient_gradient if ctx.needs_x else None,
            features_gradient_gradient if ctx.needs_features else None,
        ),
    )
    return (*second, *(None,) * 9)


_interp.register_autograd(_backward, setup_context=_save)
_interp_backward.register_autograd(_double_backward, setup_context=_save_backward)
implement_on_cuda(_nearest, "nfields.ops.rbf_interp.cuda:nearest_centers")
implement_on_cuda(_interp, "nfields.ops.rbf_interp.cuda:interp")
implement_on_cuda(_interp_backward, "nfields.ops.rbf_interp.cuda:interp_backward")

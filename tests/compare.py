"""How tests compare numbers: the tolerance follows from the dtype and the work done."""

import math

import torch
from torch import Tensor


def assert_matches(
    actual: Tensor,
    expected: Tensor,
    *,
    num_operations: int = 1,
    scale: float | None = None,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    """Fails unless `actual` is `expected` up to the rounding of `num_operations` operations.

    The error allowed is 4 * eps(actual.dtype) * sqrt(num_operations), relative to each expected
    value and to `scale` (the size of the numbers that were added up, as sums cancel; the largest
    finite expected value if not given). Give `rtol` or `atol` only for a bound that follows from
    something else than rounding, and say from what. Shapes and devices must be equal; NaN matches
    NaN, and infinity the same infinity.
    """
    assert actual.shape == expected.shape, (
        f"shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    )
    assert actual.device == expected.device, f"device {actual.device}, not {expected.device}"
    if not actual.is_floating_point():
        assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, not {expected.dtype}"
        assert torch.equal(actual, expected), f"{actual} is not {expected}"
        return
    wanted = expected.detach().to(torch.float64)
    finite = wanted[torch.isfinite(wanted)].abs()
    if scale is None:
        scale = float(finite.max()) if finite.numel() else 0.0
    step = 4 * torch.finfo(actual.dtype).eps * math.sqrt(num_operations)
    torch.testing.assert_close(
        actual.detach().to(torch.float64),
        wanted,
        rtol=step if rtol is None else rtol,
        atol=step * scale if atol is None else atol,
        equal_nan=True,
    )

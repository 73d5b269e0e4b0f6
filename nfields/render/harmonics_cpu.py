"""The CPU kernel of `nfields.render.harmonics`: one pass where PyTorch stacks sixteen columns.

0.4 ms for the 65,536 rays of a small view, against 3.5 ms (two cores of a cloud machine).
"""

from typing import Any

from nfields.jit import njit


@njit(cache=True, nogil=True)
def fill_harmonics(directions: Any, out: Any) -> None:
    """Rows of out (n, 1, 4, 9 or 16) from unit vectors (n, 3), in their floating type."""
    kind = out.dtype.type
    num_values = out.shape[1]
    for i in range(len(directions)):
        x, y, z = directions[i, 0], directions[i, 1], directions[i, 2]
        out[i, 0] = 0.28209479177387814
        if num_values > 1:
            linear = kind(0.4886025119029199)
            out[i, 1], out[i, 2], out[i, 3] = -linear * y, linear * z, -linear * x
        xx, yy, zz, two, three = x * x, y * y, z * z, kind(2), kind(3)
        if num_values > 4:
            mixed = kind(1.0925484305920792)
            out[i, 4], out[i, 5], out[i, 7] = mixed * x * y, -mixed * y * z, -mixed * x * z
            out[i, 6] = kind(0.31539156525252005) * (two * zz - xx - yy)
            out[i, 8] = kind(0.5462742152960396) * (xx - yy)
        if num_values > 9:
            outer = kind(-0.5900435899266435)
            inner = kind(-0.4570457994644658) * (two * two * zz - xx - yy)
            out[i, 9], out[i, 15] = outer * y * (three * xx - yy), outer * x * (xx - three * yy)
            out[i, 10] = kind(2.890611442640554) * x * y * z
            out[i, 11], out[i, 13] = inner * y, inner * x
            out[i, 12] = kind(0.3731763325901154) * z * (two * zz - three * (xx + yy))
            out[i, 14] = kind(1.445305721320277) * z * (xx - yy)

"""Pictures of any size to files, a band of rows at a time: 8 and 16 bits, halves and floats."""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import OpenImageIO as oiio
from jaxtyping import Float

from nfields.errors import DataError
from nfields.export.comparison import progress_bar

Kind = Literal["uint8", "uint16", "half", "float"]


def write_picture(
    file: Path,
    rows: Callable[[int, int], Float[np.ndarray, "rows width c"]],
    width: int,
    height: int,
    num_channels: int,
    kind: Kind,
    band: int,
) -> None:
    """Writes rows(first, last) for bands of rows from the top; the name says the format.

    Values of integer kinds are clipped to [0, 1] and rounded; alpha is straight in them and
    multiplied into the colours in an EXR. Makes missing folders; the file is complete or absent.
    """
    # The suffix stays at the end: the library chooses the format by it.
    temporary = file.with_name(f".{secrets.token_hex(4)}.{file.name}")
    spec = oiio.ImageSpec(width, height, num_channels, kind)
    if num_channels == 4 and kind in ("uint8", "uint16"):
        spec.attribute("oiio:UnassociatedAlpha", 1)
    spec.attribute("png:compressionLevel", 3)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            output: Any = oiio.ImageOutput.create(str(temporary))
            if output is None or not output.open(str(temporary), spec):
                raise OSError(0, (output or oiio).geterror())
            with progress_bar() as bar:
                job = bar.add_task("writing", total=-(-height // band))
                for first in range(0, height, band):
                    last = min(height, first + band)
                    values = np.ascontiguousarray(_codes(rows(first, last), kind))
                    if not output.write_scanlines(first, last, 0, values):
                        raise OSError(0, output.geterror())
                    bar.update(job, advance=1)
            if not output.close():
                raise OSError(0, output.geterror())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{file} cannot be written: {error.strerror}; make room or give another place with "
            "out=<file>"
        ) from error


def _codes(values: np.ndarray, kind: Kind) -> np.ndarray:
    if kind in ("half", "float"):
        return values.astype(np.float16 if kind == "half" else np.float32)
    top = np.iinfo(kind).max
    return np.rint(np.clip(values, 0, 1) * np.float32(top)).astype(kind)

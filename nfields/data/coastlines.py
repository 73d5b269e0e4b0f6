"""Coastlines from a TopoJSON file, such as land-110m.json of the world-atlas package.

None come with nfields, and none are downloaded: Natural Earth's files, which map programs such as
cartopy fetch when they draw, would make a picture depend on a network.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nfields.errors import DataError


def read_coastlines(path: Path) -> list[Float[np.ndarray, "n 2"]]:
    """The lines of a TopoJSON file, each (latitude, longitude) in degrees."""
    try:
        topology: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"coastlines={path} cannot be read ({error}); give a TopoJSON file, such as "
            "land-110m.json of the npm package world-atlas."
        ) from error
    try:
        quantised = topology.get("transform")
        lines = []
        for arc in topology["arcs"]:
            line = np.array(arc, dtype=np.float64)[:, :2]
            if quantised is not None:  # positions are differences of whole numbers
                line = np.cumsum(line, axis=0) * quantised["scale"] + quantised["translate"]
            if not (np.isfinite(line).all() and np.abs(line[:, 1]).max() <= 90.1):
                raise ValueError("positions are no degrees")
            lines.append(line[:, ::-1].copy())
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise DataError(
            f"coastlines={path} is not TopoJSON with longitudes and latitudes ({error}); give a "
            "file such as land-110m.json of the npm package world-atlas."
        ) from error
    return lines

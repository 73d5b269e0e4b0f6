"""The export what=map: a stored function on the sphere as a map, without its data."""

from pathlib import Path
from typing import Protocol, runtime_checkable

from nfields.data.coastlines import read_coastlines
from nfields.errors import ConfigError
from nfields.export.export import Export
from nfields.export.map_picture import Panel, sheets
from nfields.export.picture import save_png
from nfields.model.field import Field
from nfields.stored_run import StoredRun


@runtime_checkable
class DrawsMaps(Protocol):
    """What a task offers whose field lives on the sphere."""

    def map_panel(self, model: Field) -> Panel:
        """The field at places in degrees, and its colours."""
        ...


class MapExport(Export):
    """what=map; every option is explained in map.yaml."""

    def __init__(
        self, *, width: int, center: int | float, coastlines: str | None, out: str | None
    ) -> None:
        if width < 100:
            raise ConfigError(f"width={width} must be at least 100 pixels")
        if not -360 <= center <= 360:
            raise ConfigError(f"center={center} must be a longitude in degrees, -180 to 180")
        if out is not None and Path(out).suffix.lower() != ".png":
            raise ConfigError(f"out={out} must end in .png")
        self.width, self.center, self.out = width, center, out
        self.lines = [] if coastlines is None else read_coastlines(Path(coastlines))

    def export(self, run: StoredRun) -> list[Path]:
        """Writes the map and returns its file."""
        task = run.task
        if not isinstance(task, DrawsMaps):
            raise ConfigError(
                f"what=map needs a function on the sphere, task=sphere; {run.folder.path} is of "
                f"another task ({type(task).__name__})"
            )
        file = run.folder.path / "map" / "map.png" if self.out is None else Path(self.out)
        save_png(file, sheets([task.map_panel(run.model)], self.width, self.lines, self.center)[0])
        return [file]

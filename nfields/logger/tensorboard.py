"""TensorBoard: curves in the browser, without an account. `tensorboard --logdir outputs`."""

from collections.abc import Mapping

from nfields.errors import ConfigError
from nfields.logger import Logger
from nfields.run_folder import RunFolder


class TensorBoard(Logger):
    """Writes event files into <run folder>/<folder>."""

    def __init__(self, *, folder: str):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError(
                'logger=tensorboard needs a package: pip install "nfields[tensorboard]"'
            ) from error
        self._make_writer = SummaryWriter
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def start(self, run: RunFolder, step: int) -> None:
        purge_step = step + 1 if step > 0 else None
        self._writer = self._make_writer(str(run.path / self._folder), purge_step=purge_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        assert self._writer is not None, "start() comes before log()"
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

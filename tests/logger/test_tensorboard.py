"""TensorBoard: the event files hold what was logged; without the package an error says so."""

import sys
import warnings
from pathlib import Path

import pytest

from nfields.errors import ConfigError
from nfields.logger.tensorboard import TensorBoard
from tests.dummy import fit


def test_curves_are_in_the_run_folder(tmp_path: Path) -> None:
    logger = TensorBoard(folder="tensorboard")
    fit(tmp_path, max_steps=8, loggers=[logger])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of the reader's own imports
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(tmp_path / "tensorboard"))
        events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [4, 8]
    assert {"seconds", "psnr", "lr", "loss_fit"} <= set(events.Tags()["scalars"])


def test_missing_package_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ConfigError, match=r'pip install "nfields\[tensorboard\]"'):
        TensorBoard(folder="tensorboard")

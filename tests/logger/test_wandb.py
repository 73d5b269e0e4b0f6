"""Weights & Biases, offline: no network, one identity per run folder, an error without it."""

from pathlib import Path
from typing import Any

import pytest

from nfields.errors import ConfigError
from nfields.logger import wandb as module
from nfields.logger.wandb import WandB
from nfields.run_folder import RunFolder
from tests.dummy import fit

OPTIONS: dict[str, Any] = {"project": "test", "entity": None, "group": None, "tags": ["a"]}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_offline_run_is_in_the_run_folder_and_keeps_its_identity(tmp_path: Path) -> None:
    fit(tmp_path, max_steps=8, loggers=[WandB(mode="offline", **OPTIONS)])
    (first,) = (tmp_path / "wandb").glob("offline-run-*")
    assert list(first.glob("*.wandb"))
    identity = (tmp_path / "wandb" / "id.txt").read_text()
    logger = WandB(mode="disabled", **OPTIONS)
    fit(tmp_path, max_steps=12, resume_from=RunFolder(tmp_path), loggers=[logger])
    assert (tmp_path / "wandb" / "id.txt").read_text() == identity
    assert first.name.endswith(identity)


def test_missing_package_is_an_error_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "nfields\[wandb\]"'):
        WandB(mode="offline", **OPTIONS)

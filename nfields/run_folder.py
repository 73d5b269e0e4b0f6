"""The folder of one run: all that evaluate, export, view, compare and resume need.

    config.yaml       the resolved configuration
    overrides.yaml    what the command line said
    data.json         the card of the data: cameras, transform to the user's frame; no pixels
    environment.json  versions and hardware
    metrics.jsonl     one object a line: step, seconds of training, losses, measures
    summary.json      what training took
    checkpoint/       weights, optimiser, random states (see checkpoint.py)
    evaluation/       metrics.json and pictures

Nothing in it refers to a place outside it, so it can be moved; nothing in it is unpickled.
"""

import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from nfields.checkpoint import checkpoint_in_use
from nfields.errors import ConfigError, DataError
from nfields.machine import environment


@dataclass(frozen=True)
class RunFolder:
    """Paths and small files of a run; use `create` for a new one and `load` for an old one."""

    path: Path

    @property
    def config_file(self) -> Path:
        return self.path / "config.yaml"

    @property
    def overrides_file(self) -> Path:
        return self.path / "overrides.yaml"

    @property
    def data_file(self) -> Path:
        return self.path / "data.json"

    @property
    def environment_file(self) -> Path:
        return self.path / "environment.json"

    @property
    def metrics_file(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def summary_file(self) -> Path:
        return self.path / "summary.json"

    @property
    def checkpoint(self) -> Path:
        return self.path / "checkpoint"

    @property
    def evaluation(self) -> Path:
        return self.path / "evaluation"

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        config: Mapping[str, Any],
        overrides: Sequence[str],
        data: Mapping[str, Any],
    ) -> "RunFolder":
        """Returns a new run folder with its configuration, data card and environment written.

        A folder that already holds a run is refused, so that no run overwrites another.
        """
        run = cls(Path(path))
        if run.config_file.exists() or run.checkpoint.exists():
            raise ConfigError(
                f"run_dir={run.path} already holds a run; choose another folder, "
                f"or go on with that run: resume={run.path}"
            )
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            run.write_config(config, overrides)
            write_json(run.data_file, dict(data))
            write_json(run.environment_file, environment())
        except OSError as error:
            raise ConfigError(
                f"run_dir={run.path} cannot be written ({error.strerror}); choose another folder"
            ) from error
        return run

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """Returns an existing run folder; says what is missing if it is not one."""
        run = cls(Path(path))
        if not run.path.is_dir():
            raise DataError(f"{run.path} is not a folder; give the folder of a run")
        if not run.config_file.is_file():
            raise DataError(
                f"{run.path} is not a run folder: it has no config.yaml; "
                "give the folder that train.py named at its end"
            )
        return run

    def has_checkpoint(self) -> bool:
        """Says whether there is something to resume or evaluate."""
        return checkpoint_in_use(self.checkpoint).is_dir()

    def write_config(self, config: Mapping[str, Any], overrides: Sequence[str]) -> None:
        """Writes config.yaml and overrides.yaml; a resumed run with other options does it again."""
        _write(self.config_file, yaml.safe_dump(dict(config), sort_keys=False))
        _write(self.overrides_file, yaml.safe_dump(list(overrides)))

    def config(self) -> dict[str, Any]:
        """Returns the resolved configuration; {} for a folder made without one (notebooks)."""
        config = _read_yaml(self.config_file, default={})
        if not isinstance(config, dict):
            raise DataError(f"{self.config_file} holds {config!r:.60}, not options; it was changed")
        return config

    def overrides(self) -> list[str]:
        """Returns what the command line said, in its order."""
        overrides = _read_yaml(self.overrides_file, default=[])
        if not isinstance(overrides, list):
            raise DataError(f"{self.overrides_file} holds {overrides!r:.60}, not a list of options")
        return overrides

    def data_card(self) -> dict[str, Any]:
        """Returns the card from which nfields.data.restore makes the data, without its pixels."""
        return read_json(self.data_file)

    def summary(self) -> dict[str, Any]:
        """Returns what training took, as TrainSummary has it."""
        return read_json(self.summary_file)

    def metrics(self) -> list[dict[str, Any]]:
        """Returns the lines of metrics.jsonl, without a last one cut off by a crash."""
        return [json.loads(line) for line in complete_lines(self.metrics_file)]


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Writes readable json so that the file is either the old or the new one, never half of it."""
    _write(file, json.dumps(value, indent=2) + "\n")


def read_json(file: Path) -> dict[str, Any]:
    """Returns the object in a json file of a run; says so if the file is missing or broken."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{file} is missing; the run folder is not complete") from error
    except ValueError as error:
        raise DataError(f"{file} is not readable json ({error}); restore it or train again") from (
            error
        )
    if not isinstance(value, dict):
        raise DataError(f"{file} holds {value!r:.60}, not an object; it was changed by hand")
    return value


def _read_yaml(file: Path, default: Any) -> Any:
    if not file.exists():
        return default
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{file} is not readable yaml: {error}; restore it") from error


def complete_lines(metrics_file: Path) -> list[str]:
    """Returns the lines that end; a process that was killed may leave half a line behind."""
    if not metrics_file.exists():
        return []
    lines = metrics_file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def _write(file: Path, text: str) -> None:
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)

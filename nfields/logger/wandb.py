"""Weights & Biases: many runs side by side. Offline it needs neither network nor account.

What an offline run wrote is sent later with `wandb sync <run folder>/wandb/offline-run-*`.
"""

import secrets
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

from nfields.errors import ConfigError
from nfields.logger import Logger
from nfields.run_folder import RunFolder


class WandB(Logger):
    """Sends every line to one W&B run per run folder; a resumed run keeps its identity."""

    def __init__(
        self,
        *,
        project: str,
        entity: str | None,
        mode: Literal["offline", "online", "disabled"],
        group: str | None,
        tags: list[str],
    ):
        if find_spec("wandb") is None:
            raise ConfigError('logger=wandb needs a package: pip install "nfields[wandb]"')
        if mode not in ("offline", "online", "disabled"):
            raise ConfigError(f"logger.wandb.mode={mode!r} must be offline, online or disabled")
        self._options: dict[str, Any] = {
            "project": project,
            "entity": entity,
            "mode": mode,
            "group": group,
            "tags": tags,
        }
        self._run: Any = None

    def start(self, run: RunFolder, step: int) -> None:
        import wandb

        id_file = run.path / "wandb" / "id.txt"
        id_file.parent.mkdir(parents=True, exist_ok=True)
        if step == 0 or not id_file.exists():
            id_file.write_text(secrets.token_hex(4))
        try:
            self._run = wandb.init(
                dir=str(run.path),
                id=id_file.read_text().strip(),
                name="/".join(run.path.resolve().parts[-3:]),
                config=run.config(),
                resume="allow",
                # It would capture the terminal, where the progress line is.
                settings=wandb.Settings(console="off"),
                **self._options,
            )
        except wandb.Error as error:
            raise ConfigError(
                f"logger=wandb: {error}; run `wandb login`, or use logger.wandb.mode=offline"
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        assert self._run is not None, "start() comes before log()"
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
            self._run = None

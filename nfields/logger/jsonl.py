"""metrics.jsonl: one json object a line, flushed at once, so that any tool can follow a run."""

import json
import math
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from nfields.logger import Logger
from nfields.run_folder import RunFolder, complete_lines


class JsonLines(Logger):
    """The log that every run has. Numbers that are not finite become null: json has none."""

    def __init__(self) -> None:
        self._file: TextIO | None = None

    def start(self, run: RunFolder, step: int) -> None:
        run.path.mkdir(parents=True, exist_ok=True)
        keep_until(run.metrics_file, step)
        self._file = run.metrics_file.open("a", encoding="utf-8")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        assert self._file is not None, "start() comes before log()"
        line = {"step": step, **{name: _rounded(value) for name, value in values.items()}}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def keep_until(metrics_file: Path, step: int) -> None:
    """Drops lines after `step`: steps that were done after the checkpoint are done again."""
    kept = []
    for line in complete_lines(metrics_file):
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue  # damaged by a crash or by hand; the run does not depend on it
    if step == 0:
        kept = []
    temporary = metrics_file.with_name(f".{metrics_file.name}.{secrets.token_hex(4)}")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(metrics_file)


def _rounded(value: float) -> float | None:
    """Returns 8 significant digits, about what float32 holds; None if not finite."""
    return float(f"{value:.8g}") if math.isfinite(value) else None

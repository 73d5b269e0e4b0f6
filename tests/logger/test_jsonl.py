"""metrics.jsonl: one json object a line, cut back to the checkpoint on resume."""

import json
from pathlib import Path
from typing import Any

import pytest

from nfields.logger.jsonl import JsonLines
from nfields.run_folder import RunFolder


def reject(constant: str) -> None:
    raise AssertionError(f"{constant} is not json")


def read(run: RunFolder) -> list[dict[str, Any]]:
    lines = run.metrics_file.read_text().splitlines()
    return [json.loads(line, parse_constant=reject) for line in lines]


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run with lines of the steps 1, 2 and 3."""
    logger = JsonLines()
    run = RunFolder(tmp_path / "run")
    logger.start(run, 0)
    for step in (1, 2, 3):
        logger.log(step, {"seconds": step / 8, "loss": 1.0})
    logger.close()
    return run


def test_lines_are_readable_before_the_log_is_closed(tmp_path: Path) -> None:
    logger, run = JsonLines(), RunFolder(tmp_path)
    logger.start(run, 0)
    logger.log(5, {"seconds": 0.5, "loss": 0.25})
    assert read(run) == [{"step": 5, "seconds": 0.5, "loss": 0.25}]
    logger.close()


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), float("nan")])
def test_numbers_that_are_not_finite_are_null(tmp_path: Path, value: float) -> None:
    logger, run = JsonLines(), RunFolder(tmp_path)
    logger.start(run, 0)
    logger.log(1, {"psnr": value})
    logger.close()
    assert read(run)[0]["psnr"] is None


def test_resume_keeps_lines_up_to_the_checkpoint(run: RunFolder) -> None:
    logger = JsonLines()
    logger.start(run, 2)
    logger.log(3, {"loss": 7.0})
    logger.close()
    assert [line["step"] for line in read(run)] == [1, 2, 3]
    assert read(run)[-1]["loss"] == 7.0


@pytest.mark.parametrize("rest", ['{"step": 4, "lo', "not json\n", '{"loss": 1}\n', "\xff\n"])
def test_damaged_lines_are_dropped_on_resume(run: RunFolder, rest: str) -> None:
    with run.metrics_file.open("a", encoding="latin-1") as file:
        file.write(rest)
    logger = JsonLines()
    logger.start(run, 3)
    logger.close()
    assert [line["step"] for line in read(run)] == [1, 2, 3]


def test_new_run_starts_an_empty_log(run: RunFolder) -> None:
    logger = JsonLines()
    logger.start(run, 0)
    logger.close()
    assert read(run) == []

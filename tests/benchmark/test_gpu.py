"""The report of bench-gpu: its dry run on the CPU, and its refusals."""

import json
from pathlib import Path

import pytest
import torch

from nfields.benchmark import gpu
from nfields.benchmark.cases import Case, cases
from nfields.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.slow
def test_dry_run_checks_all_kernels_and_writes_the_report(tmp_path: Path) -> None:
    report = gpu.run([], dry_run=True, out=str(tmp_path))
    assert json.loads((tmp_path / "report.json").read_text())["dry_run"] is True
    assert (tmp_path / "kernels.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "report.md").read_text()
    assert "times mean nothing" in text and "NO" not in text
    names = {case.name for case in cases(64)}
    assert {row["kernel"] for row in report["checks"] if row["right"]} == names
    assert all(row["forward_ms"] > 0 for row in report["kernels"])
    assert [(row["model"], row["steps"]) for row in report["trainings"]] == [
        ("hashgrid", 3),
        ("rbfnet", 3),
    ]
    assert report["graphs"][0]["eager_ms"] > 0 and "not tried: no CUDA" in text
    with pytest.raises(ConfigError, match="already holds a report"):
        gpu.run([], dry_run=True, out=str(tmp_path))


def test_a_kernel_that_is_wrong_is_found() -> None:
    def function(tensors: list[torch.Tensor], backend: str) -> list[torch.Tensor]:
        return [tensors[0] * (1.0 if backend == "reference" else 1.01)]

    wrong = Case("wrong", [torch.ones(4).requires_grad_()], function)
    assert not gpu._check(wrong, CPU)["right"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_error_names_the_dry_run() -> None:
    with pytest.raises(ConfigError, match="dry_run=true"):
        gpu.run([])

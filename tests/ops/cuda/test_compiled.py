"""CUDA kernels compiled for three generations of GPUs, without one: what they take of it.

resources.json holds registers and spilled bytes a thread, and shared bytes a program. It may only
get better; after a change that is worth it, write it again:

    TRITON_INTERPRET=0 python -m nfields.benchmark.compiled > tests/ops/cuda/resources.json
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TABLE = Path(__file__).parent / "resources.json"
REPOSITORY = Path(__file__).parents[3]
# Groups of about equal time, so that two workers share them.
GROUPS = [
    ("grid_encode", "adam"),
    ("march", "march_contracted", "composite", "distortion", "harmonics"),
    ("mlp",),
    ("rbf_decode", "rbf_interp", "render"),
]
# Their state is a few numbers a thread: a spill would be a mistake.
NEVER_SPILL = (
    "grid_encode",
    "march",
    "composite",
    "adam",
    "mlp",
    "rbf_interp",
    "harmonics",
    "distortion",
)
ARCHITECTURES = {"sm_80", "sm_90", "sm_120"}
MOST_SHARED = 99 * 1024  # bytes a program may have on consumer cards (sm_86, sm_89, sm_120)

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is for Linux; pip install triton"
)


def recorded() -> dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


def what_is_worse(found: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """Sentences about every number of `found` that is above that of `before`, or not in it."""
    worse = []
    for case, by_architecture in found.items():
        if case not in before:
            worse.append(f"{case} is not in {TABLE.name}")
            continue
        for architecture, numbers in by_architecture.items():
            limits = before[case][architecture]
            worse += [
                f"{case} on {architecture}: {key} {value}, not {limits[key]}"
                for key, value in numbers.items()
                if value > limits[key]
            ]
    return worse


@pytest.mark.slow
@pytest.mark.parametrize("operations", GROUPS, ids="-".join)
def test_kernels_compile_and_take_no_more_than_before(operations: tuple[str, ...]) -> None:
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "nfields.benchmark.compiled",
        "brief",
        *operations,
    ]
    environment = {**os.environ, "TRITON_INTERPRET": "0", "PYTHONPATH": str(REPOSITORY)}
    output = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert output.returncode == 0, output.stderr[-2000:]
    found, before = json.loads(output.stdout), recorded()
    version = found.pop("triton")
    assert {case.split(".")[0] for case in found} == set(operations)
    everywhere = {case.split("[")[0] for case, rows in found.items() if set(rows) == ARCHITECTURES}
    assert everywhere == {case.split("[")[0] for case in found}  # every kernel, in one case
    for case, by_architecture in found.items():
        if case.startswith(NEVER_SPILL):
            assert not any(numbers["spilled"] for numbers in by_architecture.values()), case
        assert all(numbers["shared"] <= MOST_SHARED for numbers in by_architecture.values()), case
    if version == before["triton"]:  # another compiler allocates otherwise
        assert not what_is_worse(found, before)


def test_a_number_that_grows_is_found() -> None:
    table = {"march.kernel[RAYS=32]": {"sm_90": {"registers": 50, "spilled": 0, "shared": 0}}}
    better = {"march.kernel[RAYS=32]": {"sm_90": {"registers": 40, "spilled": 0, "shared": 0}}}
    assert what_is_worse(better, table) == []
    assert what_is_worse(table, better) == ["march.kernel[RAYS=32] on sm_90: registers 50, not 40"]
    assert what_is_worse(table, {}) == ["march.kernel[RAYS=32] is not in resources.json"]


def test_every_operation_with_kernels_is_in_a_group() -> None:
    folders = {path.parent.name for path in (REPOSITORY / "nfields/ops").glob("*/cuda.py")}
    assert folders == {operation for group in GROUPS for operation in group}

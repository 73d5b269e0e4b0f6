"""What every test gets: shapes that are executed, one seed, one data folder, no colours."""

import os
import random
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from hypothesis import settings

# The same examples in every run: what passed here passes there.
settings.register_profile("same", derandomize=True)
settings.load_profile("same")

REPOSITORY = Path(__file__).resolve().parents[1]
KERNEL_COMPILERS = ("numba", "triton", "nfields.jit")


class LeaveKernelsAlone:
    """Finds the modules of nfields that import a kernel compiler before jaxtyping's hook does.

    The hook wraps every function, and a compiler cannot compile the wrapper. It has no option to
    leave modules out, only one to name them, by prefix; so these are found here first.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if not name.startswith("nfields."):
            return None
        spec = PathFinder.find_spec(name, path)  # pyright: ignore[reportArgumentType]
        if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
            return None
        source = Path(spec.origin).read_text(encoding="utf-8")
        compiled = any(f"import {c}" in source or f"from {c}" in source for c in KERNEL_COMPILERS)
        return spec if compiled else None


sys.meta_path.insert(0, LeaveKernelsAlone)  # pyright: ignore[reportArgumentType]


def pytest_configure(config: pytest.Config) -> None:
    # Two workers on two cores: with more threads than cores, each waits for the others' turns.
    is_worker = "PYTEST_XDIST_WORKER" in os.environ
    # Programs that the tests start see these too.
    os.environ.setdefault("OMP_NUM_THREADS", "1" if is_worker else "2")
    if is_worker:
        torch.set_num_threads(1)
        numba.set_num_threads(1)
    # Read when Triton is imported. Where there is a GPU the tests of CUDA kernels run on it.
    if not torch.cuda.is_available():
        os.environ.setdefault("TRITON_INTERPRET", "1")
    os.environ["NO_COLOR"] = "1"
    os.environ["WANDB_MODE"] = "offline"
    os.environ.pop("HYDRA_FULL_ERROR", None)
    os.environ.pop("NFIELDS_DEBUG", None)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def fixed_seeds() -> None:
    """Global generators start alike in every test; nfields itself uses none of them."""
    torch.set_flush_denormal(False)  # a trainer of an earlier test turned it on
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - the global generator is what libraries fall back to
    torch.manual_seed(0)  # noqa: TID251 - the same


@pytest.fixture
def generator() -> torch.Generator:
    """A CPU generator with a fixed seed."""
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets: $NFIELDS_DATA, or ../shared/data beside the checkout."""
    given = os.environ.get("NFIELDS_DATA")
    folder = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(
            f"real data not found: {'NFIELDS_DATA' if given else '../shared/data'} is no folder"
        )
    return folder

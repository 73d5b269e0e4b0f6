"""What the machine is: peak memory of this process, devices, threads."""

import numpy as np
import pytest
import torch

from nfields.errors import ConfigError
from nfields.machine import choose_device, environment, peak_memory_bytes


@pytest.mark.slow
def test_peak_memory_grows_with_what_was_used() -> None:
    before = peak_memory_bytes()
    if before is None:
        pytest.skip("the system does not tell")
    size = before + 64_000_000  # more than the peak so far, wherever the suite has been
    block = np.ones(size // 8)
    after = peak_memory_bytes()
    assert after is not None and after >= before + 50_000_000
    del block
    assert (peak_memory_bytes() or 0) >= before + 50_000_000


def test_environment_is_json_and_names_the_machine() -> None:
    found = environment()
    assert found["versions"]["torch"] == torch.__version__
    assert found["num_cores"] >= 1 and found["processor"]


@pytest.mark.parametrize("name", ["gpu", "CPU", "mps", "", "cuda0"])
def test_unknown_device_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.device="):
        choose_device(name)


def test_automatic_device_exists() -> None:
    torch.zeros(1, device=choose_device("auto"))

"""backend=: what is refused, in the user's words."""

import pytest
import torch

from nfields.errors import ConfigError
from nfields.ops import backend
from nfields.ops.backend import require_triton, uses_reference, uses_triton


def test_the_kernel_of_the_device_is_the_default_and_the_reference_runs_anywhere() -> None:
    x = torch.zeros(1)
    assert not uses_reference("auto", "op", x) and not uses_reference("numba", "op", x)
    assert uses_reference("reference", "op", x)
    assert uses_reference("reference", "op", torch.zeros(1, device="meta"))
    assert not uses_triton(x)


def test_triton_on_the_cpu_names_the_device_option() -> None:
    with pytest.raises(ConfigError, match=r"runs on NVIDIA GPUs .* trainer.device=cuda"):
        uses_reference("triton", "op", torch.zeros(1))


def test_a_missing_triton_names_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_has_triton", lambda: False)
    with pytest.raises(ConfigError, match="pip install triton"):
        require_triton(torch.device("cuda"))


def test_a_card_that_is_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_has_triton", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Tesla T4")
    backend._require_capability.cache_clear()
    with pytest.raises(ConfigError, match=r"Tesla T4 has compute capability 7.5; .* need 8.0"):
        require_triton(torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    require_triton(torch.device("cuda", 0))
    backend._require_capability.cache_clear()

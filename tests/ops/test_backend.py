"""backend=: what is refused, in the user's words."""

import shutil
import sys

import pytest
import torch

from nfields.benchmark.cases import composite_case, rbf_case
from nfields.errors import ConfigError
from nfields.ops import backend
from nfields.ops.backend import (
    plain,
    require_triton,
    second_derivatives,
    uses_reference,
    uses_triton,
)


def test_the_kernel_of_the_device_is_the_default_and_the_reference_runs_anywhere() -> None:
    x = torch.zeros(1)
    assert not uses_reference("auto", "op", x) and not uses_reference("numba", "op", x)
    assert uses_reference("reference", "op", x)
    assert uses_reference("reference", "op", torch.zeros(1, device="meta"))
    assert not uses_triton(x)


def test_compile_without_a_compiler_names_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    backend._require_compiler.cache_clear()
    with pytest.raises(ConfigError, match=r"no-such-compiler is not found; .*model.backend=auto"):
        uses_reference("compile", "op", torch.zeros(1))
    assert uses_reference("compile", "op", torch.zeros(1, device="meta"))  # Triton compiles there
    monkeypatch.setenv("CXX", sys.executable)
    assert uses_reference("compile", "op", torch.zeros(1))
    backend._require_compiler.cache_clear()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch.compile's own
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_operations_are_their_references() -> None:
    for case in (rbf_case(960), composite_case(960)):
        leaves = [t for t in case.tensors if t.requires_grad]
        compiled, eager = (case.function(case.tensors, name) for name in ("compile", "reference"))
        assert "Compiled" in type(compiled[0].grad_fn).__name__, case.name
        assert "Compiled" not in type(eager[0].grad_fn).__name__
        upstream = [torch.randn_like(t) for t in eager]
        for a, b in zip(
            [*compiled, *torch.autograd.grad(compiled, leaves, upstream)],
            [*eager, *torch.autograd.grad(eager, leaves, upstream)],
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_where_second_derivatives_are_taken_nothing_is_compiled() -> None:
    with second_derivatives():
        assert plain(torch.sin, "compile") is torch.sin
    assert plain(torch.sin, "compile") is not torch.sin
    assert plain(torch.sin, "reference") is torch.sin


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

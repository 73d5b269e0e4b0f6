"""Compiled kernels on disk are used again, and only while none of their sources has changed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core import caching

from nfields import jit
from nfields.ops.render import cpu as render_cpu

KERNEL = """
from nfields.jit import njit
from nfields.tile import one

@njit(cache=True)
def two():
    return one() + 1

print(two(), sum(two.stats.cache_hits.values()))
"""
TILE = "from nfields.jit import njit\n\n@njit\ndef one():\n    return {}\n"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package `nfields` of a kernel and the tile that it is made of."""
    folder = tmp_path / "nfields"
    folder.mkdir()
    shutil.copy(jit.__file__, folder)
    (folder / "__init__.py").touch()
    (folder / "kernel.py").write_text(KERNEL)
    (folder / "tile.py").write_text(TILE.format(1))
    return folder


def test_a_stamp_follows_what_a_file_imports_and_nothing_else(package, monkeypatch):
    monkeypatch.setattr(jit, "_PACKAGE", package)

    def stamp() -> bytes:
        jit.source_stamp.cache_clear()
        return jit.source_stamp(package / "kernel.py")

    first = stamp()
    (package / "other.py").write_text("x = 1")
    assert stamp() == first
    (package / "tile.py").write_text(TILE.format(5))
    assert stamp() != first
    (package / "tile.py").write_text(TILE.format(1))
    assert stamp() == first
    jit.source_stamp.cache_clear()


def test_kernels_of_the_package_are_cached_under_our_stamp():
    file = render_cpu.__file__
    locator = caching.FunctionCache(render_cpu.render.py_func)._impl.locator  # pyright: ignore
    assert locator.get_source_stamp() == jit.source_stamp(Path(file))
    assert jit.InTree.from_function(None, __file__) is None  # other packages have Numba's own


@pytest.mark.slow
def test_a_changed_tile_compiles_the_kernel_again(package):
    def run() -> str:
        command = [sys.executable, "-m", "nfields.kernel"]
        return subprocess.run(
            command, cwd=package.parent, env={"PYTHONPATH": str(package.parent)}, check=True,
            capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    assert run() == "2 0"
    assert run() == "2 1"
    (package / "tile.py").write_text(TILE.format(5))
    assert run() == "6 0"

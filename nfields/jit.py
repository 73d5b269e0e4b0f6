"""Numba's njit with a disk cache that sees every file a kernel is made of.

Numba compares the content of the compiled function's own file alone: a kernel whose tiles or march
live in another file would go on with the old code after that one has changed. Here the content of
what the file imports from nfields, and of what that imports, counts too.
"""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from numba import njit, prange
from numba.core.caching import (
    CacheImpl,
    InTreeCacheLocator,
    UserProvidedCacheLocator,
    UserWideCacheLocator,
)

__all__ = ["njit", "prange"]

_PACKAGE = Path(__file__).parent


@cache
def source_stamp(file: Path) -> bytes:
    """A digest of a module of nfields and of all that it imports from nfields, once a process."""
    digest, found, waiting = hashlib.sha256(), {file}, [file]
    while waiting:
        source = waiting.pop()
        content = source.read_bytes()
        digest.update(content)
        new = sorted(set(_imported(content)) - found)
        found.update(new)
        waiting += new
    return digest.digest()


def _imported(content: bytes) -> Iterator[Path]:
    """Files of nfields that a source imports from when it is loaded; not those for type checks."""
    for node in ast.parse(content).body:
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("nfields"):
            continue
        parent = _PACKAGE.parent.joinpath(*node.module.split("."))  # pyright: ignore
        inside = [parent / f"{alias.name}.py" for alias in node.names]
        for source in (parent.with_suffix(".py"), parent / "__init__.py", *inside):
            if source.is_file():
                yield source


class _SeesImports:
    """Mixed into a cache locator of Numba: takes functions of nfields, with our stamp."""

    _py_file: str

    def get_source_stamp(self) -> bytes:
        return source_stamp(Path(self._py_file))

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> Any:
        if not Path(py_file).is_relative_to(_PACKAGE):
            return None
        return super().from_function(py_func, py_file)  # pyright: ignore[reportAttributeAccessIssue]


class UserProvided(_SeesImports, UserProvidedCacheLocator):
    """Under NUMBA_CACHE_DIR, if that is set."""


class InTree(_SeesImports, InTreeCacheLocator):
    """In __pycache__ beside the file, if that can be written to."""


class UserWide(_SeesImports, UserWideCacheLocator):
    """In the user's cache folder."""


# Before Numba's own, which go on to serve other packages. (A variable of the environment can name
# locators too, but every process started from this one would inherit it.)
CacheImpl._locator_classes[:0] = [UserProvided, InTree, UserWide]

"""Arrays that take long to make, kept in files for the next time.

The folder is NFIELDS_CACHE, else nfields in the user's cache folder. Names carry a hash of what the
arrays were made from, so a file is right or not there; a lost or damaged one is made again.
"""

import hashlib
import os
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def cache_file(name: str, made_from: Iterable[bytes]) -> Path:
    """Where the arrays of this name and origin are kept."""
    content = hashlib.sha256()
    for part in made_from:
        content.update(len(part).to_bytes(8, "little") + part)
    folder = os.environ.get("NFIELDS_CACHE")
    if folder is None:
        base = os.environ.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path("~/.cache").expanduser()) / "nfields"
    return Path(folder) / f"{name}-{content.hexdigest()[:16]}.npz"


def load_arrays(file: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a cache file; None if it is not there or damaged."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def save_arrays(file: Path, arrays: dict[str, np.ndarray], what: str) -> list[str]:
    """Writes a cache file, or says why not; others see the whole file or none."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                np.savez(stream, allow_pickle=False, **arrays)
            Path(name).replace(file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        return [
            f"{what} could not be kept in {file.parent} ({error}) and is made again next time; "
            "set NFIELDS_CACHE to a folder that can be written"
        ]
    return []

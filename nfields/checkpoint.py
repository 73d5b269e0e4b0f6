"""Checkpoints: a folder of safetensors files and state.json, complete or not there at all.

A checkpoint is written into checkpoint.tmp-XXXX, flushed to the disk and renamed. The previous one
is set aside as checkpoint.old for the moment between two renames; readers fall back to it, so that
there is a whole checkpoint at any time, whatever fails. Nothing is pickled.
"""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nfields.errors import DataError

FORMAT = "nfields checkpoint 1"


class CheckpointError(DataError):
    """A checkpoint that cannot be written or read: its file, what was found, what to do."""


def checkpoint_in_use(folder: Path) -> Path:
    """Returns `folder`, or what was set aside when a crash hit between the two renames."""
    aside = folder.with_name(f"{folder.name}.old")
    return aside if not folder.exists() and aside.is_dir() else folder


def write_checkpoint(
    folder: Path, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> None:
    """Replaces the checkpoint in `folder` by one file of tensors per name and `state` as json."""
    for stale in folder.parent.glob(f"{folder.name}.tmp-*"):
        shutil.rmtree(stale, ignore_errors=True)
    temporary = folder.with_name(f"{folder.name}.tmp-{secrets.token_hex(4)}")
    try:
        temporary.mkdir(parents=True)
        sizes = {}
        for name, named in tensors.items():
            file = temporary / f"{name}.safetensors"
            save_file({key: t.detach().cpu().contiguous() for key, t in named.items()}, file)
            _flush(file)
            sizes[file.name] = file.stat().st_size
        file = temporary / "state.json"
        file.write_text(json.dumps({"format": FORMAT, "files": sizes, **state}, indent=1))
        _flush(file)
        _flush(temporary)
        _put_in_place(temporary, folder)
    except (OSError, SafetensorError) as error:
        kept = checkpoint_in_use(folder)
        survivor = f"the previous one in {kept} is intact" if kept.exists() else "there is none yet"
        raise CheckpointError(
            f"the checkpoint {folder} cannot be written: {error}; {survivor}. "
            f"Make room or fix the permissions, then go on with resume={folder.parent}"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any]:
    """Returns state.json of a checkpoint, after a check that all its files are there and whole."""
    folder = checkpoint_in_use(folder)
    file = folder / "state.json"
    if not file.is_file():
        raise CheckpointError(
            f"{folder} holds no checkpoint ({file.name} is missing): the run stopped before its "
            "first one, or the folder was not copied whole; copy it again or train anew"
        )
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not readable json ({error}){_ADVICE}") from error
    found = state.get("format") if isinstance(state, dict) else state
    if found != FORMAT:
        raise CheckpointError(
            f"{file} is not a checkpoint of this version: its format is {found!r:.60}, not "
            f"{FORMAT!r}; give a run folder of nfields, or use the version that wrote it"
        )
    for name, size in state["files"].items():
        part = folder / name
        found_size = part.stat().st_size if part.is_file() else None
        if found_size != size:
            what = "missing" if found_size is None else f"{found_size} bytes long, not {size}"
            raise CheckpointError(f"{part} is {what}{_ADVICE}")
    return state


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Returns the tensors of one file of a checkpoint, on the CPU."""
    file = checkpoint_in_use(folder) / f"{name}.safetensors"
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is not readable ({error}){_ADVICE}") from error


def load_weights(
    folder: Path, modules: Mapping[str, nn.Module], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Fills modules with the weights that evaluation uses (the average, if one was kept).

    `modules` is {"model": model, "task": task}; `config` the options they were built from, to name
    the one that changed when a shape does not fit. Returns the state of the checkpoint.
    """
    state = read_state(folder)
    weights = read_tensors(folder, "weights")
    if "ema.safetensors" in state["files"]:
        weights |= read_tensors(folder, "ema")
    copy_tensors(folder, weights, named_tensors(modules), changed_options(state, config))
    return state


def named_tensors(modules: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Returns all parameters and persistent buffers, as {"model.readout.weight": ...}."""
    return {
        f"{prefix}.{name}": tensor
        for prefix, module in modules.items()
        for name, tensor in module.state_dict().items()
    }


@torch.no_grad()
def copy_tensors(
    folder: Path,
    source: Mapping[str, Tensor],
    destination: Mapping[str, Tensor],
    changes: list[str],
) -> None:
    """Copies every tensor in place, or none and says which do not fit and which option did it."""
    misfits = [
        f"{name}: {_shape(source, name)} in the checkpoint, {_shape(destination, name)} in the run"
        for name in sorted(source.keys() | destination.keys())
        if _shape(source, name) != _shape(destination, name)
    ]
    if misfits:
        more = f"\n    and {len(misfits) - 5} more" if len(misfits) > 5 else ""
        reason = "; options that changed: " + ", ".join(changes) if changes else ""
        advice = "set them back" if changes else "build the model with the options of that run"
        raise CheckpointError(
            f"{folder} does not fit this run{reason}; {advice}, or start a new run:\n    "
            + "\n    ".join(misfits[:5])
            + more
        )
    for name, tensor in destination.items():
        tensor.copy_(source[name])


def changed_options(state: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Returns the options that shape the weights and differ, as "model.levels: 8, now 12"."""
    before, now = dict(_flatten(state.get("config", {}))), dict(_flatten(config))
    if not before or not now:
        return []
    return [
        f"{name}: {before.get(name, 'absent')}, now {now.get(name, 'absent')}"
        for name in sorted(before.keys() | now.keys())
        if name.split(".")[0] in ("model", "task", "data") and before.get(name) != now.get(name)
    ]


_ADVICE = "; copy the run folder again from where it was made, or train anew"


def _shape(tensors: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "absent"


def _flatten(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flatten(value, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, node


def _put_in_place(temporary: Path, folder: Path) -> None:
    aside = folder.with_name(f"{folder.name}.old")
    if folder.exists():
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
    temporary.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _flush(path: Path) -> None:
    """Waits until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

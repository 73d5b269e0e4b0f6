"""Checkpoints: whole or not there at all, whatever fails; clear errors for damaged ones."""

import json
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from nfields import checkpoint
from nfields.checkpoint import (
    CheckpointError,
    load_weights,
    read_state,
    read_tensors,
    write_checkpoint,
)

WEIGHTS = {"model.w": torch.arange(50_000.0), "model.b": torch.tensor(7)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of step 1."""
    write_checkpoint(tmp_path / "checkpoint", {"weights": WEIGHTS}, {"step": 1})
    return tmp_path / "checkpoint"


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """Lets every write beyond a size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_is_written_is_read(folder: Path) -> None:
    assert read_state(folder)["step"] == 1
    tensors = read_tensors(folder, "weights")
    assert all(torch.equal(tensors[name], WEIGHTS[name]) for name in WEIGHTS)


def test_json_keeps_every_bit_of_a_float(tmp_path: Path) -> None:
    value = 0.1 + 0.2 * 1e-9
    write_checkpoint(tmp_path / "checkpoint", {}, {"seconds": value})
    assert read_state(tmp_path / "checkpoint")["seconds"] == value


def test_non_contiguous_and_empty_tensors_are_saved(tmp_path: Path) -> None:
    tensors = {"t": torch.arange(6.0).reshape(2, 3).T, "empty": torch.zeros(0, 3)}
    write_checkpoint(tmp_path / "checkpoint", {"weights": tensors}, {})
    read = read_tensors(tmp_path / "checkpoint", "weights")
    assert torch.equal(read["t"], tensors["t"]) and read["empty"].shape == (0, 3)


def test_new_checkpoint_replaces_the_old_and_leaves_nothing_else(folder: Path) -> None:
    (folder.parent / "checkpoint.tmp-dead").mkdir()  # left by a process that was killed
    write_checkpoint(folder, {"weights": WEIGHTS}, {"step": 2})
    assert read_state(folder)["step"] == 2
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_full_disk_leaves_the_previous_checkpoint(folder: Path) -> None:
    with largest_file(4096), pytest.raises(CheckpointError) as caught:
        write_checkpoint(folder, {"weights": WEIGHTS}, {"step": 2})
    assert str(folder) in str(caught.value) and "is intact" in str(caught.value)
    assert f"resume={folder.parent}" in str(caught.value)
    assert read_state(folder)["step"] == 1
    assert torch.equal(read_tensors(folder, "weights")["model.w"], WEIGHTS["model.w"])
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_full_disk_at_the_first_checkpoint_leaves_none(tmp_path: Path) -> None:
    with largest_file(4096), pytest.raises(CheckpointError, match="there is none yet"):
        write_checkpoint(tmp_path / "checkpoint", {"weights": WEIGHTS}, {"step": 2})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing_call", range(1, 8))
def test_a_whole_checkpoint_is_there_whatever_call_fails(
    folder: Path, failing_call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_calls = 0

    def failing(function: Callable) -> Callable:
        def call(*args: object) -> object:
            nonlocal num_calls
            num_calls += 1
            if num_calls == failing_call:
                raise OSError(28, "No space left on device")
            return function(*args)

        return call

    monkeypatch.setattr(checkpoint, "_flush", failing(checkpoint._flush))
    monkeypatch.setattr(checkpoint, "save_file", failing(checkpoint.save_file))
    monkeypatch.setattr(Path, "rename", failing(Path.rename))
    try:
        write_checkpoint(folder, {"weights": WEIGHTS}, {"step": 2})
        assert num_calls < failing_call
    except CheckpointError:
        assert num_calls >= failing_call
    assert read_state(folder)["step"] in (1, 2)
    assert torch.equal(read_tensors(folder, "weights")["model.w"], WEIGHTS["model.w"])


def test_crash_between_the_two_renames_is_survived(folder: Path) -> None:
    folder.rename(folder.with_name("checkpoint.old"))
    assert read_state(folder)["step"] == 1
    assert torch.equal(read_tensors(folder, "weights")["model.w"], WEIGHTS["model.w"])
    write_checkpoint(folder, {"weights": WEIGHTS}, {"step": 2})
    assert read_state(folder)["step"] == 2
    assert [path.name for path in folder.parent.iterdir()] == ["checkpoint"]


def test_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be written"):
        write_checkpoint(tmp_path / "file" / "checkpoint", {}, {})


def damage_nothing(folder: Path) -> None:
    shutil.rmtree(folder)


def damage_state(folder: Path) -> None:
    (folder / "state.json").write_text('{"format": "nfie')


def foreign_state(folder: Path) -> None:
    (folder / "state.json").write_text(json.dumps({"global_step": 3}))


def list_as_state(folder: Path) -> None:
    (folder / "state.json").write_text("[]")


def truncate_weights(folder: Path) -> None:
    os.truncate(folder / "weights.safetensors", 1000)


def remove_weights(folder: Path) -> None:
    (folder / "weights.safetensors").unlink()


def overwrite_weights(folder: Path) -> None:
    size = (folder / "weights.safetensors").stat().st_size
    (folder / "weights.safetensors").write_bytes(b"\xff" * size)


@pytest.mark.parametrize(
    ("damage", "file", "found"),
    [
        (damage_nothing, "checkpoint", r"state\.json is missing"),
        (damage_state, r"state\.json", "not readable json"),
        (foreign_state, r"state\.json", "not a checkpoint of this version"),
        (list_as_state, r"state\.json", "not a checkpoint of this version"),
        (truncate_weights, r"weights\.safetensors", "1000 bytes long, not"),
        (remove_weights, r"weights\.safetensors", "is missing"),
        (overwrite_weights, r"weights\.safetensors", "not readable"),
    ],
)
def test_damage_names_the_file_and_what_to_do(
    folder: Path, damage: Callable[[Path], None], file: str, found: str
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=f"(?s){file}.*{found}.*(copy|train|version)"):
        load_weights(folder, {"model": nn.Linear(2, 2)}, {})


def test_weights_of_another_model_change_nothing(tmp_path: Path) -> None:
    old, new = nn.Linear(3, 2), nn.Linear(4, 2)
    config = {"model": {"width": 3, "kind": "a"}, "trainer": {"max_steps": 5}}
    write_checkpoint(
        tmp_path / "checkpoint",
        {"weights": {f"model.{k}": v for k, v in old.state_dict().items()}},
        {"config": config},
    )
    before = new.bias.clone()
    changed = {"model": {"width": 4, "kind": "a"}, "trainer": {"max_steps": 9}}
    with pytest.raises(CheckpointError) as caught:
        load_weights(tmp_path / "checkpoint", {"model": new}, changed)
    message = str(caught.value)
    assert "model.width: 3, now 4" in message and "max_steps" not in message
    assert "model.weight: (2, 3) in the checkpoint, (2, 4) in the run" in message
    assert torch.equal(new.bias, before)


def test_missing_and_additional_tensors_are_listed(folder: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_weights(folder, {"model": nn.Linear(2, 1, bias=False)}, {})
    assert "model.weight: absent in the checkpoint, (1, 2) in the run" in str(caught.value)
    assert "model.b: () in the checkpoint, absent in the run" in str(caught.value)

"""Several processes: the same run as one with the same batch, shared evaluation, ends together."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

import nfields.distributed
from nfields.distributed import Processes, ProcessLost, local_device
from nfields.errors import ConfigError
from nfields.run import train
from nfields.run_folder import RunFolder
from nfields.task.task import StepResult
from tests.distributed_worker import words
from tests.dummy import DummyTask, fit

REPOSITORY = Path(__file__).resolve().parents[1]


class Part(NamedTuple):
    sources: Tensor


class Batch(NamedTuple):
    x: Tensor
    normals: Tensor
    camera: Part | None = None


def launch(what: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Two processes started by torchrun, until both have ended."""
    command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", str(REPOSITORY / "tests/distributed_worker.py")]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, what, str(folder)], cwd=REPOSITORY, env=environment, text=True,
        capture_output=True, timeout=240, check=False,
    )  # fmt: skip


def lines(run: Path) -> list[dict[str, Any]]:
    return RunFolder(run).metrics()


@pytest.mark.slow
def test_two_processes_train_and_evaluate_as_one_does(tmp_path: Path) -> None:
    done = launch("both", tmp_path / "two")
    assert done.returncode == 0, done.stderr[-3000:]
    alone = {"nerf": train(words("nerf", tmp_path / "one"))}
    train(words("image", tmp_path / "one", "trainer.max_steps=20"))
    alone["image"] = train([f"resume={tmp_path / 'one/image'}", "trainer.max_steps=50"])
    for name, result in alone.items():
        two, one = (lines(tmp_path / folder / name) for folder in ("two", "one"))
        assert [line["step"] for line in two] == [line["step"] for line in one]  # one logger
        steps = [line for line in one if "loss" in line]
        assert [line["step"] for line in steps] == list(range(1, 51))
        for a, b in zip((line for line in two if "loss" in line), steps, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-4), (name, a["step"])
            assert (a["samples"], a["items"]) == (b["samples"], b["items"]), (name, a["step"])
        written = json.loads((tmp_path / "two" / name / "evaluation/metrics.json").read_text())
        assert written["psnr"] == pytest.approx(result["psnr"], abs=1e-2)
        assert written["steps"] == 50
    # Every held-out view was measured once, in its order, by either process.
    per_image = json.loads((tmp_path / "two/nerf/evaluation/metrics.json").read_text())["per_image"]
    assert [row["name"] for row in per_image] == [r["name"] for r in alone["nerf"]["per_image"]]
    assert len(per_image) > 1 and len(list((tmp_path / "two/nerf/evaluation").glob("*_comp*"))) == 1
    seen = json.loads((tmp_path / "two/seen.json").read_text())
    assert [part["rank"] for part in seen] == [0, 1] and seen[1]["result"] == []
    assert done.stdout.count("run folder:") == 3


@pytest.mark.slow
def test_when_a_process_dies_all_stop_and_the_checkpoint_stays(tmp_path: Path) -> None:
    started = time.perf_counter()
    done = launch("dies", tmp_path)
    assert done.returncode != 0 and time.perf_counter() - started < 120
    assert "exitcode  : -9" in done.stderr
    said = tmp_path / "said"  # torchrun may have been faster
    assert not said.exists() or "another process of this run has stopped" in said.read_text()


def test_rows_are_shared_so_that_every_one_has_an_owner() -> None:
    x = torch.arange(24.0).view(12, 2)
    batch = Batch(x, x[:6], Part(x + 1))
    shares = [Processes(rank, 3).share(batch) for rank in range(3)]
    assert torch.equal(torch.cat([share.x for share in shares]).sort(dim=0).values, x)
    for share in shares:
        # What the first rows of x are, normals have as well.
        assert torch.equal(share.normals, share.x[:2]) and isinstance(share, Batch)
        assert share.camera is not None and torch.equal(share.camera.sources, share.x + 1)
    assert Processes().share(batch) is batch
    assert Processes(1, 3).share(Batch(x, x)).camera is None


def test_batch_that_cannot_be_shared_equally_names_the_options() -> None:
    with pytest.raises(
        ConfigError, match=r"12 rows .* 5 processes; choose another --nproc.*pixels"
    ):
        Processes(0, 5).share(torch.zeros(12, 2))


def test_one_process_averages_nothing() -> None:
    result = StepResult({"a": torch.tensor(1.0)}, {"psnr": 2.0}, 3, 4)
    total = torch.tensor(1.0)
    assert Processes().average([], total, result) == (total, result)
    assert Processes().agree(1.5, None) == (1.5, None)
    assert Processes().gather({"a": 1}) == [{"a": 1}]


def test_memory_of_one_process_of_several_is_not_halved_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hungry(DummyTask):
        def losses(self, model: Any, batch: Any) -> Any:
            raise torch.OutOfMemoryError("CUDA out of memory")

    class Alone(Processes):
        """The second of two, which it does not need to talk to."""

        def agree(self, seconds: float, signal_number: int | None) -> tuple[float, int | None]:
            return seconds, signal_number

        def make_equal(self, tensors: Any) -> None:
            pass

    monkeypatch.setattr("nfields.trainer.processes", lambda: Alone(1, 2))
    with pytest.raises(ConfigError, match=r"step 1 of process 1: CUDA .*smaller step"):
        fit(tmp_path, task=Hungry())
    assert not list(tmp_path.iterdir())  # the first process alone writes


def test_lost_process_is_said_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*args: Any) -> None:
        raise RuntimeError("Connection closed by peer\nmore")

    monkeypatch.setattr(nfields.distributed.dist, "all_reduce", closed)
    with pytest.raises(ProcessLost, match=r"has stopped .*\(Connection closed by peer\).*resume"):
        Processes(0, 2).agree(0.0, None)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert local_device("cuda") == "cuda"
    monkeypatch.setattr(nfields.distributed, "processes", lambda: Processes(1, 3))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert local_device("auto") == "cuda:1" and local_device("cpu") == "cpu"
    with pytest.raises(ConfigError, match=r"trainer\.device=cuda:0.*CUDA_VISIBLE_DEVICES"):
        local_device("cuda:0")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"process 2 .*there are 2; use --nproc_per_node=2"):
        local_device("auto")

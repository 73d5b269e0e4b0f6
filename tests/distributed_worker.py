"""What tests/test_distributed.py lets torchrun start: runs of two processes, and one that dies."""

import json
import os
import sys
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from nfields.distributed import Processes, joined
from nfields.run import train

TINY = ["logger=none", "trainer.device=cpu", "trainer.threads=1", "trainer.log_every=1"]
RUNS = {
    "image": [
        "task=image", "model=hashgrid", "data.downscale=8", "task.pixels_per_step=512",
        "model.num_levels=4", "model.log2_entries=10", "model.width=16", "task.num_pictures=0",
        "trainer.max_steps=50", "trainer.max_time=null", "trainer.eval_every=25",
    ],
    "nerf": [
        "task=nerf", "model=hashgrid", "data.downscale=8", "task.samples_per_step=2048",
        "task.grid_cells=32", "task.steps_per_unit=16", "model.num_levels=4",
        "model.log2_entries=10", "model.width=16", "task.num_pictures=1",
        "trainer.max_steps=50", "trainer.max_time=null",
    ],
}  # fmt: skip


def words(name: str, folder: Path, *more: str) -> list[str]:
    """The command line of a run in a folder of its own."""
    return [*TINY, *RUNS[name], f"run_dir={folder / name}", *more]


def both(folder: Path) -> None:
    """Trains the two tasks; the picture in two parts, stopped and resumed."""
    with joined() as processes:
        group = weakref.ref(dist.group.WORLD)
        results = {"nerf": train(words("nerf", folder))}
        train(words("image", folder, "trainer.max_steps=20"))
        results["image"] = train([f"resume={folder / 'image'}", "trainer.max_steps=50"])
        seen = processes.gather({"rank": processes.rank, "result": sorted(results["nerf"])})
    assert group() is None, "threads of the group go on while Python ends"
    if processes.is_first:
        (folder / "seen.json").write_text(json.dumps(seen))


def dies(folder: Path) -> None:
    """The second process is killed in the middle; the first waits for its gradients."""
    import nfields.distributed

    share, steps = nfields.distributed.Processes.share, []

    def until_the_fifth_step(self: Processes, batch: Any) -> Any:
        steps.append(1)
        if self.rank == 1 and len(steps) == 5:
            os.kill(os.getpid(), 9)
        return share(self, batch)

    nfields.distributed.Processes.share = until_the_fifth_step
    try:
        train(words("image", folder, "trainer.max_steps=100000"))
    except ValueError as error:
        (folder / "said").write_text(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"both": both, "dies": dies}[sys.argv[1]](Path(sys.argv[2]))

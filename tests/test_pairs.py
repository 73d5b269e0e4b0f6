"""Every model on every task: a small run reaches a floor, from words of the command line on."""

from pathlib import Path
from typing import Any

import pytest

import nfields
from nfields.config import config_folder
from nfields.run import train

MODELS = sorted(path.stem for path in (config_folder() / "model").glob("*.yaml"))
TASKS = sorted(path.stem for path in (config_folder() / "task").glob("*.yaml"))

# A few seconds each: what is fitted, for how long, and what every model must reach. The floors are
# below the weakest model by a margin and above what an untrained or broken one measures (written
# beside them). Over seeds a model varies by up to 0.5 dB, so that much is a margin's least.
SMALL: dict[str, tuple[list[str], str, float]] = {
    # An untrained field has 8 to 11 dB, the mean colour of the photograph 12.4 dB.
    "image": (["data.downscale=8", "trainer.max_steps=300"], "psnr", 18.0),
    # The white background alone has 12 dB.
    "nerf": (
        [
            "data=toy_scene", "data.resolution=40", "data.num_train=20", "data.num_test=2",
            "task.samples_per_step=8192", "trainer.max_steps=200",
        ],
        "psnr",
        15.0,
    ),
    # A field that is negative nowhere or everywhere has 0 or 0.04.
    "sdf": (
        [
            "task.points_per_step=4096", "trainer.max_steps=300", "task.mesh_resolution=64",
            "task.picture_size=0",
        ],
        "iou",
        0.4,
    ),
    # Sixteen classes, so chance is 1 in 16.
    "sphere": (["trainer.max_steps=300", "task.map_width=0"], "accuracy", 0.5),
}  # fmt: skip


def test_every_task_has_a_floor() -> None:
    assert set(SMALL) == set(TASKS)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", MODELS)
def test_pair_trains(model: str, task: str, tmp_path: Path) -> None:
    words, measure, floor = SMALL[task]
    words = [f"task={task}", f"model={model}", *words, "trainer.max_time=null"]
    metrics: dict[str, Any] = train([*words, f"run_dir={tmp_path}", "seed=1", *small(words)])
    assert metrics[measure] > floor, f"{measure} {metrics[measure]:.3f}"


def small(words: list[str]) -> list[str]:
    """Overrides that make a pair quick where its own sizes are not, or long enough.

    sh_siren has 14.6 to 15.6 dB after 200 steps, over seeds, and 16.2 to 16.7 after 300.
    """
    is_slow = "task=nerf" in words and "model=sh_siren" in words
    cfg = nfields.compose(words).model
    words = ["model.num_kernels=400"] if "num_kernels" in cfg else []
    words += ["model.width=64"] if cfg.get("width", 0) > 64 else []
    return words + (["trainer.max_steps=300"] if is_slow else [])

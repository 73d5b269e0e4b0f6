"""One run, top to bottom: configuration, data, task, model, training, evaluation, pictures."""

import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from nfields.config import build
from nfields.distributed import Processes, joined
from nfields.evaluation import evaluate
from nfields.resume import configure
from nfields.run_folder import RunFolder

PICTURES_NAMED = 6  # at the end of a run; the folder has them all


def train(overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The metrics of the run that `python train.py <overrides>` is.

    Started by torchrun, this is one of several processes that share it; the first returns them.
    """
    with joined() as processes:
        return _train(overrides, processes)


def _train(overrides: Sequence[str], processes: Processes) -> dict[str, Any]:
    cfg, resumed = configure(overrides)

    data = build(cfg.data)
    task = build(cfg.task, data=data)
    model = build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim)
    trainer = build(cfg.trainer)
    loggers = [build(node) for node in (cfg.logger or {}).values()]

    run = RunFolder(Path())
    if processes.is_first:
        run = resumed or RunFolder.create(run_dir(cfg), config={}, overrides=[], data=data.card())
        config: Any = OmegaConf.to_container(cfg)
        run.write_config(config, overrides)
        print(f"run folder: {run.path}", flush=True)
    run = RunFolder(Path(processes.tell(str(run.path))))

    trainer.fit(task, model, run, loggers, cfg.seed, resume_from=resumed)
    metrics = evaluate(task, model, run, limit=cfg.eval_limit)
    if processes.is_first:
        report(run, metrics)
    return metrics


def run_dir(cfg: DictConfig) -> Path:
    """The folder of a new run; two runs never get the same one, whenever and wherever started."""
    if cfg.run_dir is not None:
        return Path(cfg.run_dir)
    stamp = f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}_{secrets.token_hex(2)}"
    name = f"{stamp}_{cfg.name}" if cfg.name is not None else stamp
    return Path("outputs", str(cfg.choices.task), str(cfg.choices.model), name)


def report(run: RunFolder, metrics: dict[str, Any]) -> None:
    """Prints what was reached, where the pictures are, and what to do next."""
    means = [f"{key} {value:.4g}" for key, value in metrics.items() if isinstance(value, float)]
    print("result:    ", ", ".join(means))
    pictures = sorted(run.evaluation.glob("*.png")) if "protocol" in metrics else []
    for picture in pictures[:PICTURES_NAMED]:
        print("picture:   ", picture)
    if len(pictures) > PICTURES_NAMED:
        print(f"            and {len(pictures) - PICTURES_NAMED} more in {run.evaluation}")
    print(
        "again:     ", f"python train.py resume={run.path} trainer.max_time=...   trains it longer"
    )

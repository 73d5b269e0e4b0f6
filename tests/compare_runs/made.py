"""Run folders made by hand, as compare reads them; nothing is trained."""

import json
from pathlib import Path
from typing import Any

import yaml


def make_run(
    path: Path,
    *,
    model: str = "siren",
    seed: int = 0,
    psnr: float | int = 30.0,
    parameters: int = 1000,
    seconds: float | int = 10.0,
    options: dict[str, Any] | None = None,
    task: dict[str, Any] | None = None,
    protocol: dict[str, Any] | None = None,
    data: str | None = None,
) -> Path:
    """A finished run with a log of training batches."""
    (path / "evaluation").mkdir(parents=True)
    config = {
        "task": {"_target_": "nfields.task.image.ImageTask", "loss": "l2", **(task or {})},
        "model": {"_target_": f"nfields.model.{model}.X", "lr": 0.1, **(options or {})},
        "data": {"_target_": "nfields.data.image_file.ImageData", "path": data},
        "trainer": {"max_time": "60s", "progress_every": "5s"},
        "seed": seed,
        "run_dir": str(path),
        "choices": {"task": "image", "model": model, "data": "image_file", "trainer": "default"},
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    (path / "overrides.yaml").write_text("[]")
    (path / "summary.json").write_text("{}")
    log = [{"step": s, "seconds": s / 10, "psnr": psnr - 5 / s} for s in (25, 50, 100)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    metrics = {
        **{"psnr": psnr, "flip": 0.1, "evaluate_seconds": 1.0, "device": "cpu"},
        **{"steps": 100, "train_seconds": seconds, "parameters": parameters},
        **{"peak_memory_bytes": 5_000_000, "per_image": [{"psnr": psnr}]},
        "protocol": {"background": "white", "metrics": {"psnr": "peak 1"}, **(protocol or {})},
    }
    (path / "evaluation" / "metrics.json").write_text(json.dumps(metrics))
    return path

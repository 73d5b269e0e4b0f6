"""rbfnet's Gaussian layer against a ReLU network behind the same encoder, seed by seed.

Two comparisons: the same seconds (who is better when time is short, and how many steps fit) and the
same steps. The two decoders take turns within a seed, so that a drifting machine slows both alike.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from nfields.config_check import raise_problems
from nfields.key_values import option_problems, read_words
from nfields.run import train
from nfields.run_folder import write_json

DECODERS = ("rbf", "mlp")
# What a task is judged by: key in the metrics, heading, form.
METRICS = {
    "nerf": [("psnr", "psnr, dB", ".2f")],
    "image": [("psnr", "psnr, dB", ".2f")],
    "sdf": [("iou", "IoU", ".4f"), ("normal_error_deg", "normal error, degrees", ".2f")],
}


def run(
    overrides: Sequence[str],
    *,
    task: Literal["nerf", "image", "sdf"],
    seconds: float | int = 60,
    steps: int | None = None,
    seeds: int = 3,
    eval_limit: int | None = None,
    out: str | None = None,
) -> dict[str, Any]:
    """Quality and steps a second of both decoders: means and standard deviations over seeds.

    `steps` compares at equal steps, else at equal `seconds` of training. `overrides` configure the
    runs, such as data.path=FOLDER.
    """
    limit = f"trainer.max_time={seconds}" if steps is None else f"trainer.max_steps={steps}"
    budget = [limit, "trainer.max_time=null"] if steps is not None else [limit]
    pictures = [] if task == "sdf" else ["task.num_pictures=0"]
    rows: dict[str, list[dict[str, Any]]] = {decoder: [] for decoder in DECODERS}
    for seed in range(seeds):
        for decoder in DECODERS if seed % 2 == 0 else reversed(DECODERS):
            words = [f"task={task}", "model=rbfnet", f"model.decoder={decoder}", f"seed={seed}"]
            words += [*budget, f"eval_limit={'null' if eval_limit is None else eval_limit}"]
            rows[decoder].append(train([*words, *pictures, *overrides]))
    headings = [f"{heading} | std over seeds" for _, heading, _ in METRICS[task]]
    print(f"\ntask={task} {limit} {' '.join(overrides)}")
    print(f"| decoder | {' | '.join(headings)} | steps a second | parameters |")
    print("|---" * (2 * len(headings) + 3) + "|")
    table: dict[str, Any] = {}
    for decoder, runs in rows.items():
        rate = statistics.median(run["steps"] / run["train_seconds"] for run in runs)
        table[decoder] = {"steps_per_second": rate}
        cells = [decoder]
        for key, _, form in METRICS[task]:
            values = [run[key] for run in runs]
            mean = statistics.mean(values)
            spread = statistics.stdev(values) if len(values) > 1 else float("nan")
            table[decoder][key] = {"values": values, "mean": mean, "std": spread}
            cells += [f"{mean:{form}}", f"{spread:{form}}"]
        print(f"| {' | '.join(cells)} | {rate:.1f} | {runs[0]['parameters']:,} |")
    if out is not None:
        write_json(Path(out), table)
    return table


def main(words: Sequence[str]) -> None:
    """python scripts/decoders.py task=nerf|image|sdf [seconds=60|steps=N] [data.path=..] ..."""
    given = read_words(words)
    raise_problems(option_problems(given.options, [run], "decoders"))
    run(given.overrides, **given.options)

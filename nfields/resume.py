"""What `resume=` means: which run goes on, and with which configuration.

    resume=outputs/nerf/rbfnet/...   that run; its configuration comes from its folder
    resume=auto                      the latest unfinished run with the configuration that the
                                     command line describes; a new run if there is none

Values on the command line (`trainer.max_time=10m`) stand over those of the folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nfields.config import TrainConfig, checked, compose, config_folder
from nfields.errors import DataError
from nfields.overrides import apply, parse
from nfields.run_folder import RunFolder

# What does not change which field is learned; runs that differ in nothing else continue each other.
FREE_KEYS = {"trainer", "logger", "name", "run_dir", "resume", "eval_limit", "choices"}
# Options that came later and are not by default as it was before them.
AS_BEFORE = {
    ("task", "samples_per_ray"): None,
    ("task", "contraction_radius"): 1.0,
    ("task", "depth_weight"): 0.0,
    ("task", "sky"): {"mode": "black"},
}
# Options of earlier versions that said how to train, not what is learned: a run that has them is
# looked at as before, and goes on with what has taken their place.
RETIRED = (("task", "exposure", "weight"), ("task", "poses", "weight"))


def configure(overrides: Sequence[str]) -> tuple[DictConfig, RunFolder | None]:
    """The checked configuration of a command line, and the run it goes on with, if any."""
    parsed = parse(overrides)
    given = [o.value() for o in parsed if o.key_or_group == "resume"]
    if not given or given[-1] is None:
        return compose(overrides), None
    if given[-1] != "auto":
        folder = RunFolder.load(str(given[-1]))
    else:
        cfg = compose(overrides)
        folder = latest_unfinished(cfg)
        if folder is None:
            return cfg, None
    return continued(folder, parsed), folder


def latest_unfinished(cfg: DictConfig) -> RunFolder | None:
    """The last saved run that is not finished and learns what `cfg` describes, or None."""
    if cfg.run_dir is not None:
        folders = [Path(cfg.run_dir)]
    else:
        folders = list(Path("outputs", str(cfg.choices.task), str(cfg.choices.model)).glob("*/"))
    runs = [RunFolder(path) for path in folders if (path / "config.yaml").is_file()]
    wanted = _signature(OmegaConf.to_container(cfg))
    fitting = [
        run
        for run in runs
        if run.has_checkpoint()
        and not run.summary_file.exists()
        and _signature(run.config()) == wanted
    ]
    return max(fitting, key=lambda run: run.metrics_file.stat().st_mtime, default=None)


def continued(folder: RunFolder, parsed: Sequence[Override]) -> DictConfig:
    """The configuration in `folder`, under the values given; choices may only be repeated."""
    stored = without_retired(folder.config())
    try:
        cfg = OmegaConf.merge(OmegaConf.structured(TrainConfig), newer_options(stored), stored)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{folder.config_file}: {reason}; it was made by another version"
        ) from error
    assert isinstance(cfg, DictConfig)
    OmegaConf.set_struct(cfg, True)
    choices: dict[str, Any] = stored.get("choices", {})
    problems, values = [], []
    for override in parsed:
        name, value = override.key_or_group, override.value()
        if override.is_hydra_override():
            continue
        if name not in choices or isinstance(value, dict):
            values.append(override)
        elif value != choices[name]:
            problems.append(
                f"{name}={value}: the run in {folder.path} has {name}={choices[name]}; "
                "start a new run for another choice (leave out resume=)"
            )
    problems += apply(cfg, values, list(choices))
    return checked(cfg, problems)


def without_retired(stored: dict[str, Any]) -> dict[str, Any]:
    """A run's configuration without options that no longer exist and do not matter to it."""
    for *groups, key in RETIRED:
        node: Any = stored
        for group in groups:
            node = node.get(group) if isinstance(node, dict) else None
        if isinstance(node, dict):
            node.pop(key, None)
    return stored


def newer_options(stored: dict[str, Any]) -> dict[str, Any]:
    """Options that came after a run was made, as our yaml files value them.

    What is new is off, or as it always was, by default or in AS_BEFORE; so a run of an earlier
    version goes on and is looked at as before.
    """
    newer: dict[str, Any] = {}
    for group, choice in stored.get("choices", {}).items():
        file = config_folder() / str(group) / f"{choice}.yaml"
        if group in stored and file.is_file():
            newer[group] = _newer(OmegaConf.to_container(OmegaConf.load(file)), stored.get(group))
            newer[group] |= {
                key: newer[of][key] | value if isinstance(value, dict) else value
                for (of, key), value in AS_BEFORE.items()
                if of == group and key in newer[of]
            }
    return newer


def _newer(ours: Any, node: Any) -> dict[str, Any]:
    """The options of ours that a node has not; of one object, and of those inside it."""
    if not isinstance(node, dict) or ours.get("_target_") != node.get("_target_"):
        return {}
    newer = {key: value for key, value in ours.items() if key not in ("defaults", *node)}
    for key in ours.keys() & node.keys():
        if isinstance(ours[key], dict) and "_target_" in ours[key]:
            newer[key] = _newer(ours[key], node[key])
    return newer


def _signature(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key not in FREE_KEYS}

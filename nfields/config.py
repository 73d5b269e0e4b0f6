"""The configuration of a run: its typed skeleton, and `compose`, which gives one that is checked.

Hydra composes `configs/`. The groups `task`, `model`, `data`, `trainer` and `logger` are open nodes
that feed constructors; nfields/config_check.py compares them with what they feed.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from nfields.config_check import did_you_mean, raise_problems, target_problems
from nfields.overrides import apply, choice_problem, is_group, parse


@dataclass
class TrainConfig:
    """What a run is configured by. Groups are open nodes; configs/train.yaml says what each is."""

    task: Any = MISSING
    model: Any = MISSING
    data: Any = MISSING
    trainer: Any = MISSING
    logger: Any = None
    seed: int = MISSING
    name: str | None = None
    run_dir: str | None = None
    resume: str | None = None
    eval_limit: int | None = None
    choices: dict[str, Any] = field(default_factory=dict)


ConfigStore.instance().store(name="schema", node=TrainConfig)


def config_folder() -> Path:
    """The folder of yaml files: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def compose(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration that `python train.py <overrides>` runs with, resolved and checked.

    Raises one ConfigError with everything that is wrong: choices, keys, values, missing options.
    `resume` is only kept in it; nfields/resume.py acts on it.
    """
    overrides = list(overrides)
    parsed = parse(overrides)
    with hydra_files(overrides) as files:
        groups = [o for o in parsed if is_group(o, files)]
        problems = {o.key_or_group: p for o in groups if (p := choice_problem(o, files))}
        for_hydra = [o for o in groups if o.key_or_group not in problems]
        for_hydra += [o for o in parsed if o.is_hydra_override() and o not in groups]
        try:
            lines = [str(o.input_line) for o in for_hydra]
            cfg = hydra.compose("train", lines, return_hydra_config=True)
        except (HydraException, OmegaConfBaseException) as error:
            raise_problems([*problems.values(), str(error.__cause__ or error)])
            raise
    choices = {
        str(group): choice
        for group, choice in cfg.hydra.runtime.choices.items()
        if not str(group).startswith("hydra/")
    }
    with open_dict(cfg):
        del cfg["hydra"]
    # What is said about a node whose choice was mistyped would be about another one: leave it out.
    values = [
        o for o in parsed if o not in groups and o.key_or_group.partition(".")[0] not in problems
    ]
    values = [o for o in values if not o.is_hydra_override()]
    wrong_values = apply(cfg, values, list(choices))
    cfg.choices = choices
    return checked(cfg, [*problems.values(), *wrong_values], skip=problems)


def checked(
    cfg: DictConfig, problems: Sequence[str] = (), skip: Collection[str] = ()
) -> DictConfig:
    """`cfg`, resolved; or a ConfigError with `problems` and those of all its nodes but `skip`."""
    try:
        OmegaConf.resolve(cfg)
    except OmegaConfBaseException as error:
        raise_problems([*problems, str(error).splitlines()[0]])
        raise
    plain: Any = OmegaConf.to_container(cfg, throw_on_missing=False)
    known = [str(key) for key in TrainConfig.__dataclass_fields__]
    unknown = [f"{key}: no such key{did_you_mean(key, known)}" for key in plain.keys() - known]
    found = target_problems({key: node for key, node in plain.items() if key not in skip})
    raise_problems([*problems, *unknown, *found])
    return cfg


def build(node: DictConfig, **passed: Any) -> Any:
    """What a checked node describes. Errors of the constructor come as they were raised."""
    try:
        return instantiate(node, _convert_="all", **passed)
    except InstantiationException as error:
        raise (error.__cause__ or error) from None


@contextmanager
def hydra_files(overrides: Sequence[str]) -> Iterator[IConfigRepository]:
    """Sets Hydra up on our yaml files, and gives them; its global state is put back afterwards."""
    outer = GlobalHydra.instance().hydra  # inside a sweep, Hydra is running already
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(config_folder()), version_base="1.3"):
            loader = GlobalHydra.instance().config_loader()
            assert isinstance(loader, ConfigLoaderImpl)
            # Follows `hydra.searchpath`, so that the files in a user's own folder are known too.
            _, files = loader._parse_overrides_and_create_caching_repo("train", list(overrides))
            yield files
    finally:
        GlobalHydra.instance().hydra = outer

"""`key=value` on the command line: applied to a configuration, with every mistake collected.

Hydra stops at the first wrong override; here each is applied by itself and what Hydra says about it
is put in the user's terms. The grammar and the meaning of `+key`, `++key` and `~key` are Hydra's.
"""

from collections.abc import Iterator, Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import IConfigRepository
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from nfields.config_check import did_you_mean, join, raise_problems, show

# Their keys are the user's, so a new one needs no `+`.
OPEN_MAPPINGS = ("trainer.stop_at", "data.classes", "data.select")


def opened(text: str) -> str:
    """The override, allowed to bring a new key if it is one of an open mapping."""
    starts = tuple(f"{name}{next_}" for name in OPEN_MAPPINGS for next_ in ".=")
    return f"++{text}" if text.startswith(starts) else text


def parse(overrides: Sequence[str]) -> list[Override]:
    """The overrides in Hydra's form; a ConfigError names those that are no `key=value`."""
    parsed, problems = [], []
    for text in overrides:
        try:
            parsed += OverridesParser.create().parse_overrides([opened(text)])
        except HydraException as error:
            reason = str(error).splitlines()[0]
            problems.append(f"{text}: not of the form key=value ({reason})")
    raise_problems(problems)
    return parsed


def is_group(override: Override, files: IConfigRepository) -> bool:
    """Whether this chooses a yaml of a group (`model=siren`), rather than sets a value."""
    parent, _, last = override.key_or_group.rpartition("/")
    is_mapping = not override.is_sweep_override() and isinstance(override.value(), dict)
    return last in files.get_group_options(parent, ObjectType.GROUP) and not is_mapping


def choice_problem(override: Override, files: IConfigRepository) -> str | None:
    """Why this choice of a group cannot be made, or None if it can."""
    group, value = override.key_or_group, override.value()
    options = files.get_group_options(group)
    chosen = value if isinstance(value, list) else [value]
    for choice in chosen:
        is_nested = isinstance(choice, str) and "/" in choice  # Hydra lists one folder at a time
        if choice is not None and not is_nested and choice not in options:
            return (
                f"{group}={choice}: no such choice{did_you_mean(f'{choice}', options)}\n"
                f"choices of {group}: {', '.join(options)}"
            )
    return None


def apply(cfg: DictConfig, overrides: Sequence[Override], groups: Sequence[str]) -> list[str]:
    """Sets the values in `cfg`, in place; returns what is wrong with those that cannot be set."""
    problems = []
    for override in overrides:
        key = override.key_or_group
        if not (override.is_add() or override.is_force_add()) and not exists(cfg, key):
            problems.append(f"{override.input_line}: no such key{nearest_key(cfg, key, groups)}")
            continue
        try:
            ConfigLoaderImpl._apply_overrides_to_config([override], cfg)
        except (HydraException, OmegaConfBaseException) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            problems.append(f"{key} = {show(override.value())}: {reason}")
    return problems


def exists(cfg: DictConfig, key: str) -> bool:
    parent, _, last = key.rpartition(".")
    try:
        node = OmegaConf.select(cfg, parent) if parent else cfg
    except OmegaConfBaseException:
        return False
    if OmegaConf.is_list(node):
        return last.isdigit() and int(last) < len(node)
    return OmegaConf.is_dict(node) and last in node.keys()


def nearest_key(cfg: DictConfig, key: str, groups: Sequence[str]) -> str:
    """'; did you mean trainer.max_steps?' for `trainer.max_step`, and for `max_steps` alone."""
    parent, _, last = key.rpartition(".")
    while parent and not OmegaConf.is_dict(OmegaConf.select(cfg, parent)):
        parent, _, last = parent.rpartition(".")
    siblings = [str(name) for name in (OmegaConf.select(cfg, parent) if parent else cfg)]
    if not parent:
        siblings += groups
    hint = did_you_mean(last, siblings, parent)
    if hint:
        return hint
    last = key.rpartition(".")[2]
    elsewhere = {name.rpartition(".")[2]: name for name in leaves(cfg)}
    hint = did_you_mean(last, elsewhere)
    for short, full in elsewhere.items():
        hint = hint.replace(f"mean {short}?", f"mean {full}?")
    return hint or f"\nkeys of {parent or 'the configuration'}: {', '.join(siblings)}"


def leaves(cfg: DictConfig) -> list[str]:
    """The full dotted names of all values of `cfg`."""
    return list(_leaves(OmegaConf.to_container(cfg, throw_on_missing=False)))


def _leaves(value: object, name: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, child in value.items():
            yield join(name, str(key))
            yield from _leaves(child, join(name, str(key)))

"""Compares a configuration with the constructors it feeds, before anything is built.

A node is any mapping with a `_target_`: the dotted name of the class or function that gets the
other keys as keyword arguments. What is passed at the call (`in_dim`, `data`) is not configured.
"""

import inspect
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import PurePath
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf

from nfields.errors import ConfigError

PASSED_AT_CALL = {"task": {"data"}, "model": {"in_dim", "out_dim"}}
INSTANTIATE_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_"}
MISSING = "???"


def check_targets(cfg: DictConfig | Mapping[str, Any]) -> None:
    """Raises one ConfigError that lists everything wrong with every node of `cfg`."""
    raise_problems(target_problems(cfg))


def raise_problems(problems: Sequence[str]) -> None:
    """Raises a ConfigError that lists `problems`, if there are any."""
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        text = "\n".join("  " + problem.replace("\n", "\n      ") for problem in problems)
        raise ConfigError(f"{count} in the configuration; nothing was started.\n{text}")


def target_problems(cfg: DictConfig | Mapping[str, Any]) -> list[str]:
    """Everything wrong with every node of `cfg`, one entry a problem; empty if it can be built."""
    plain: Any = cfg
    if isinstance(cfg, DictConfig):
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    problems = [f"{name} must be given: {name}=..." for name in missing(plain)]
    for name, node in nodes(plain):
        problems += node_problems(name, node)
    return problems


def missing(value: Any, name: str = "") -> Iterator[str]:
    """The full names of all values that are still `???`."""
    if value == MISSING:
        yield name
    for key, child in children(value):
        yield from missing(child, join(name, key))


def nodes(value: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All mappings with a `_target_`, each with its full name; also those inside other nodes."""
    if isinstance(value, Mapping) and "_target_" in value:
        yield name, value
    for key, child in children(value):
        yield from nodes(child, join(name, key))


def children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        yield from ((str(key), child) for key, child in value.items())
    elif isinstance(value, Sequence) and not isinstance(value, str):
        yield from ((str(index), child) for index, child in enumerate(value))


def join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def node_problems(name: str, node: Mapping[str, Any]) -> list[str]:
    """What is wrong with one node: its target, its keys, its values."""
    try:
        target = locate(node["_target_"])
    except ConfigError as error:
        return [f"{join(name, '_target_')} = {show(node['_target_'])}: {error}"]
    parameters = inspect.signature(target).parameters
    hints = type_hints(target)
    passed = PASSED_AT_CALL.get(name, set())
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    options = [
        p.name
        for p in parameters.values()
        if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in passed
    ]
    problems = []
    for key, value in node.items():
        full = join(name, key)
        if key in INSTANTIATE_KEYS or value == MISSING:
            continue
        if key in passed:
            problems.append(f"{full} = {show(value)}: the data decides it; leave it out")
        elif key in options:
            if not fits(value, hints.get(key, Any)):
                problems.append(f"{full} = {show(value)}: must be {describe(hints[key])}")
        elif not takes_any:
            problems.append(
                f"{full} = {show(value)}: no such option{did_you_mean(key, options, name)}\n"
                f"options of {name or node['_target_']}: {', '.join(options) or 'none'}"
            )
    if not node.get("_partial_"):
        required = [key for key in options if parameters[key].default is inspect.Parameter.empty]
        problems += [
            f"{join(name, key)} is missing: must be {describe(hints.get(key, Any))}"
            for key in required
            if key not in node
        ]
    return problems


def locate(dotted: Any) -> Any:
    """The class or function under nfields that `dotted` names, as 'nfields.model.rbfnet.RBFNet'.

    Configurations may come with a run folder from somebody else, so nothing but what nfields itself
    defines can be named: 'nfields.config.inspect.os.system' is refused too.
    """
    if not isinstance(dotted, str) or not dotted.startswith("nfields."):
        raise ConfigError("only names under 'nfields.' can be built")
    module_name, _, attribute = dotted.rpartition(".")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not error.name.startswith("nfields"):
            extra = f"pip install {error.name}, or the extra of nfields that brings it"
            raise ConfigError(
                f"needs the package {error.name!r}, not installed: {extra}"
            ) from error
        raise ConfigError(f"there is no module {module_name!r}") from error
    target = getattr(module, attribute, None)
    if not callable(target):
        names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ConfigError(
            f"{module_name} has no {attribute!r}{did_you_mean(attribute, names, module_name)}"
        )
    if not str(getattr(target, "__module__", "")).startswith("nfields."):
        raise ConfigError("it is imported there, not defined; only nfields' own names can be built")
    return target


def type_hints(target: Any) -> dict[str, Any]:
    return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)


def fits(value: Any, hint: Any) -> bool:
    """Whether a yaml value is of the annotated type: exact, but an int is also a float."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is Literal:
        return any(value == choice and type(value) is type(choice) for choice in arguments)
    if origin is Annotated:
        return fits(value, arguments[0])
    kind = origin or hint
    if kind is None or kind is types.NoneType:
        return value is None
    if not inspect.isclass(kind):
        return True  # Any, type variables: nothing to compare with
    if isinstance(value, Mapping) and "_target_" in value:
        return not issubclass(kind, (bool, int, float, str, PurePath, Sequence))
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if issubclass(kind, PurePath):
        return isinstance(value, str)
    if issubclass(kind, Mapping):
        key_hint, value_hint = arguments or (Any, Any)
        return isinstance(value, Mapping) and all(
            fits(k, key_hint) and fits(v, value_hint) for k, v in value.items()
        )
    if issubclass(kind, Sequence) and kind is not str:
        if not isinstance(value, Sequence) or isinstance(value, str):
            return False
        if kind is tuple and arguments and arguments[-1] is not Ellipsis:
            same_length = len(value) == len(arguments)
            return same_length and all(map(fits, value, arguments))
        return all(fits(entry, arguments[0] if arguments else Any) for entry in value)
    return isinstance(value, kind)


def describe(hint: Any) -> str:
    """An annotation in words: 'int or null', 'one of auto, numba'."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(show(choice) for choice in arguments)
    if origin is Annotated:
        return describe(arguments[0])
    if hint is None or hint is types.NoneType:
        return "null"
    names = {bool: "true or false", float: "a number", int: "a whole number", str: "a text"}
    if hint in names:
        return names[hint]
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"a mapping of {describe(arguments[0])} to {describe(arguments[1])}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of ({', '.join(describe(argument) for argument in arguments)})"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"a list of {describe(arguments[0])}"
    if inspect.isclass(hint) and issubclass(hint, PurePath):
        return "a path"
    return getattr(hint, "__name__", str(hint))


def did_you_mean(wrong: str, names: Collection[str], prefix: str = "") -> str:
    """'; did you mean model.decoder?' or, where nothing is near, ''."""
    near = get_close_matches(wrong, names, n=1, cutoff=0.55)
    return f"; did you mean {join(prefix, near[0])}?" if near else ""


def show(value: Any) -> str:
    """A value as a user writes it: null, true, 'text', 3."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

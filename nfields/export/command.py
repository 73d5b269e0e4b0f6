"""The command export: chooses what to make of a stored run, checks the options, makes it."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from nfields.checkpoint import read_state
from nfields.config import build
from nfields.config_check import did_you_mean, node_problems, raise_problems
from nfields.errors import ConfigError
from nfields.export.export import ExportInterrupted
from nfields.key_values import find_run, read_words
from nfields.stored_run import load_run

OWN = ("run", "what", "device")


def main(words: Sequence[str]) -> None:
    """The command export: writes files made from a stored run and names them."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not words or set(words) & {"-h", "--help", "help"}:
        console.print(help_text())
        return
    given = read_words(words)
    options = {key: value for key, value in given.options.items() if key not in OWN}
    what = given.options.get("what", "video")
    if what not in kinds():
        raise ConfigError(
            f"what={what}: no such export{did_you_mean(str(what), list(kinds()))}; "
            f"there are: {', '.join(kinds())}"
        )
    node, problems = checked_node(kinds()[what], options)
    device = given.options.get("device", "auto")
    if not isinstance(given.options.get("run"), str):
        problems.insert(0, "run is missing: run=<run folder>, or run=latest")
    if not isinstance(device, str):
        problems.append(f"device={device}: must be auto, cpu or cuda")
    raise_problems(problems)
    exporter = build(OmegaConf.create(node))  # its own checks come before the loading
    run = find_run(given.options["run"])
    read_state(run.checkpoint)
    stored = load_run(run.path, overrides=given.overrides, device=device)
    try:
        files = exporter.export(stored)
    except ExportInterrupted as stop:
        console.print(str(stop))
        sys.exit(stop.exit_code)
    for file in files:
        console.print(f"written: {file}")


def kinds() -> dict[str, Path]:
    """The exports there are and their yaml files."""
    return {file.stem: file for file in sorted(Path(__file__).parent.glob("*.yaml"))}


def checked_node(file: Path, options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The options of an export: the yaml's under those given; and all that is wrong with them.

    Where the yaml has a list, a text is taken as a list too: channels=rgb,depth.
    """
    node: Any = OmegaConf.to_container(OmegaConf.load(file))
    for key, value in options.items():
        is_list = isinstance(node.get(key), list)
        node[key] = value.split(",") if is_list and isinstance(value, str) else value
    target, command = f"options of {node['_target_']}:", f"options of what={file.stem}:"
    return node, [text.replace(target, command) for text in node_problems("", node)]


def help_text() -> str:
    """The usage and, as their explanation, the yaml files of all exports."""
    lines = [
        "usage: export.py run=FOLDER|latest [what=video] [key=value ...]",
        "",
        "  run=FOLDER   the run folder that train.py named; latest: the last one under outputs/",
        "  device=auto  auto, cpu or cuda",
    ]
    for name, file in kinds().items():
        lines += ["", f"what={name}"]
        for line in file.read_text(encoding="utf-8").splitlines():
            is_option = line[:1].isalpha()
            lines.append("  " + (line.replace(": ", "=", 1) if is_option else line))
    return "\n".join(lines)

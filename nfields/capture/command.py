"""The command process: photographs or a video without poses become a data set with poses."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from nfields.capture.pictures import take_frames, take_photographs
from nfields.capture.poses import LENSES, find_poses, require_pycolmap
from nfields.config_check import raise_problems
from nfields.errors import ConfigError, DataError
from nfields.key_values import option_problems, read_words
from nfields.run_folder import write_json

HELP = """\
usage: process.py source=FOLDER|VIDEO [out=FOLDER] [key=value ...]

Finds the cameras of photographs, or of the sharpest frames of a video, from the pictures alone
(COLMAP, by pycolmap: pip install 'nfields[colmap]') and writes a folder that train.py reads:
images/ and sparse/. An interrupted run goes on where it stopped; nothing is overwritten.
  source=PATH      a folder of photographs, or a video
  out=FOLDER       where the data set goes; else data/<name of the source>
  num_frames=100   of a video: one of each of so many equal stretches, the sharpest
  lens=opencv      opencv (phones, cameras) | radial | pinhole | fisheye
  cameras=auto     single (one camera, one zoom) | each (a camera a picture) | auto: single if all
                   pictures have one size
  max_size=1600    longest side in pixels at which features are looked for
  seed=0           decides what is left to chance"""

_RECORD = "process.json"


def command_options(
    *,
    source: str,
    out: str | None = None,
    num_frames: int = 100,
    lens: Literal["opencv", "radial", "pinhole", "fisheye"] = "opencv",
    cameras: Literal["auto", "single", "each"] = "auto",
    max_size: int = 1600,
    seed: int = 0,
) -> dict[str, Any]:
    """The options of process with their defaults."""
    return {
        "source": source,
        "out": out,
        "num_frames": num_frames,
        "lens": lens,
        "cameras": cameras,
        "max_size": max_size,
        "seed": seed,
    }


def main(words: Sequence[str]) -> None:
    """The command process: writes a data set and names the command that trains on it."""
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if not words or set(words) & {"-h", "--help", "help"}:
        console.print(HELP)
        return
    given = read_words(words)
    problems = option_problems(given.options, [command_options], "process")
    problems += [f"{word}: process has no options with a dot" for word in given.overrides]
    raise_problems(problems)
    options = command_options(**given.options)
    assert set(LENSES) >= {options["lens"]}
    out = process(options, console.print)
    console.print(f"train on it: python train.py task=nerf data.path={out} data.downscale=2")


def process(options: dict[str, Any], say: Any) -> Path:
    """The folder of the data set made from options["source"]."""
    for name in ("num_frames", "max_size"):
        if options[name] < 3:
            raise ConfigError(f"{name}={options[name]} must be at least 3")
    source = Path(options["source"])
    if not source.exists():
        raise DataError(f"source={source} does not exist (looked in {Path.cwd()}).")
    require_pycolmap()  # said before minutes of work, not after
    is_video = source.is_file()
    out = Path("data", source.stem) if options["out"] is None else Path(options["out"])
    if out.resolve() in (source.resolve(), *source.resolve().parents):
        raise ConfigError(f"out={out} holds the source itself; give another folder")
    record = _begin(out, {**options, "source": str(source.resolve()), "out": None})

    images = out / "images"
    if not images.exists():
        fresh = out / "images.part"
        fresh.mkdir(exist_ok=True)
        if is_video:
            num = take_frames(source, fresh, options["num_frames"])
            say(f"{num} frames of {source.name}")
        else:
            num = take_photographs(source, fresh, say)
            say(f"{num} photographs of {source}")
        fresh.replace(images)
    sparse = out / "sparse"
    if not sparse.exists():
        facts = find_poses(
            images,
            out / "colmap",
            sparse,
            lens=options["lens"],
            cameras=options["cameras"],
            is_ordered=is_video,
            max_size=options["max_size"],
            seed=options["seed"],
            say=say,
        )
        record["result"] = facts
        write_json(out / _RECORD, record)
    _report(record.get("result", {}), say)
    return out


def _begin(out: Path, options: dict[str, Any]) -> dict[str, Any]:
    """The record of a new or interrupted run in `out`; an error if the folder is another's."""
    file = out / _RECORD
    if file.is_file():
        record = json.loads(file.read_text(encoding="utf-8"))
        before = record.get("options", {})
        changed = [key for key, value in options.items() if before.get(key) != value]
        if changed:
            said = ", ".join(f"{key}={before.get(key)}" for key in changed)
            raise ConfigError(f"out={out} was begun with {said}; give these again, or another out=")
        return record
    if out.exists() and any(out.iterdir()):
        raise ConfigError(
            f"out={out} is not empty and not of this command; give another folder, nothing is "
            "overwritten"
        )
    out.mkdir(parents=True, exist_ok=True)
    record = {"options": options}
    write_json(file, record)
    return record


def _report(facts: dict[str, Any], say: Any) -> None:
    if not facts:
        return
    say(
        f"{facts['placed']} of {facts['pictures']} pictures have a camera, {facts['points']:,} "
        f"points, {facts['reprojection_error_pixels']:.2f} pixels off on average"
    )
    if facts["placed"] < 0.7 * facts["pictures"]:
        say(
            "many pictures could not be placed: take more, with small steps between neighbours, "
            "and without blur"
        )

"""Every yaml of configs/data lists exactly the options of what it builds."""

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
import yaml

from nfields.data import toy_scene

FILES = sorted((Path(__file__).resolve().parents[2] / "configs" / "data").glob("*.yaml"))


def load(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_yaml_has_all_options_and_no_others(file: Path) -> None:
    values = load(file)
    module, _, name = values.pop("_target_").rpartition(".")
    assert module == f"nfields.data.{file.stem}"
    target = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(target).parameters
    assert set(values) == set(parameters)
    for parameter in parameters.values():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert parameter.default is inspect.Parameter.empty


def test_there_are_the_five_of_the_first_floor() -> None:
    assert {file.stem for file in FILES} >= {
        "posed_images", "blender", "transforms", "toy_scene", "image_file",
    }  # fmt: skip


def test_defaults_of_the_generated_scene_are_those_of_its_yaml() -> None:
    file = next(file for file in FILES if file.stem == "toy_scene")
    values = load(file)
    del values["_target_"]
    assert values == toy_scene.DEFAULTS

"""The order of train.yaml, and every kind of mistake, on a task and a model made for this file."""

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import nfields
from nfields.config import build, compose, config_folder
from nfields.config_check import check_targets
from nfields.errors import ConfigError
from tests.probe import PAIR, install


class Options:
    def __init__(self, *, goals: Mapping[str, float], pair: tuple[float, int], folder: Path):
        pass


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    return install(tmp_path, monkeypatch)


def problems(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return str(caught.value)


def test_task_chooses_its_data(probe):
    assert compose([probe, *PAIR]).data.source == "first"


def test_data_on_the_command_line_beats_the_choice_of_the_task(probe):
    assert compose([probe, *PAIR, "data=second"]).data.source == "second"
    assert compose([probe, "data=second", *PAIR]).data.source == "second"


def test_data_of_an_experiment_beats_the_choice_of_the_task(probe):
    assert compose([probe, "experiment=probe"]).data.source == "second"


def test_data_on_the_command_line_beats_an_experiment(probe):
    assert compose([probe, "experiment=probe", "data=first"]).data.source == "first"


def test_experiment_chooses_task_and_model_and_their_pair_file(probe):
    cfg = compose([probe, "experiment=probe"])
    assert cfg.choices.task == cfg.choices.model == "probe"
    assert cfg.model.num_levels == 5
    assert cfg.task.rate == 2.0


def test_values_of_an_experiment_survive(probe):
    cfg = compose([probe, "experiment=probe"])
    assert (cfg.seed, cfg.trainer.max_steps, cfg.task.head) == (7, 11, "experiment")


def test_values_on_the_command_line_beat_an_experiment(probe):
    cfg = compose([probe, "experiment=probe", "seed=3", "task.head=mine", "trainer.max_steps=5"])
    assert (cfg.seed, cfg.trainer.max_steps, cfg.task.head) == (3, 5, "mine")


def test_pair_file_beats_task_and_model(probe):
    cfg = compose([probe, *PAIR])
    assert (cfg.task.head, cfg.task.rate, cfg.model.num_levels) == ("pair", 2.0, 5)


def test_experiment_beats_pair_file(probe):
    assert compose([probe, *PAIR, "experiment=values"]).task.head == "experiment"


def test_command_line_beats_pair_file(probe):
    assert compose([probe, *PAIR, "task.head=mine"]).task.head == "mine"


def test_choices_name_the_file_of_each_group(probe):
    choices = compose([probe, *PAIR, "data=second"]).choices
    assert (choices.task, choices.model, choices.data) == ("probe", "probe", "second")
    assert choices.trainer == "default"


def test_composing_twice_gives_the_same(probe):
    assert compose([probe, *PAIR]) == compose([probe, *PAIR])


def test_a_quality_to_stop_at_needs_no_plus(probe):
    assert compose([probe, *PAIR, "trainer.stop_at.psnr=30"]).trainer.stop_at == {"psnr": 30}


def test_compose_is_offered_by_the_package():
    assert nfields.compose is compose


def test_mistyped_choice_names_the_nearest_one(probe):
    text = problems(probe, "task=probe", "model=proble")
    assert "model=proble: no such choice; did you mean probe?" in text


def test_options_of_a_mistyped_choice_are_not_judged_by_another_one(probe):
    assert "model.whatever" not in problems(probe, *PAIR, "model=proble", "model.whatever=1")


def test_mistyped_key_names_the_nearest_one(probe):
    assert "did you mean trainer.max_steps?" in problems(probe, *PAIR, "trainer.max_step=5")
    assert "did you mean model.decoder.width?" in problems(probe, *PAIR, "model.decoder.widht=5")


def test_key_without_its_group_names_the_full_one(probe):
    assert "did you mean trainer.max_steps?" in problems(probe, *PAIR, "max_steps=5")


def test_mistyped_group_names_the_nearest_one(probe):
    assert "modle=probe: no such key; did you mean model?" in problems(probe, *PAIR, "modle=probe")


def test_key_that_is_like_no_other_lists_those_that_exist(probe):
    assert "backend" in problems(probe, *PAIR, "model.zzzzzz=5")


def test_added_key_is_compared_with_the_constructor(probe):
    text = problems(probe, *PAIR, "+model.num_level=5")
    assert "model.num_level = 5: no such option; did you mean model.num_levels?" in text


def test_deleted_key_is_missing(probe):
    assert "model.num_levels is missing: must be a whole number" in problems(
        probe, *PAIR, "~model.num_levels"
    )


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.num_levels=many", "model.num_levels = 'many': must be a whole number"),
        ("model.num_levels=1.5", "model.num_levels = 1.5: must be a whole number"),
        ("model.num_levels=true", "model.num_levels = true: must be a whole number"),
        ("model.num_levels=null", "model.num_levels = null: must be a whole number"),
        ("model.backend=fast", "model.backend = 'fast': must be one of 'auto', 'reference'"),
        ("model.sizes=3", "model.sizes = 3: must be a list of a whole number"),
        ("model.sizes=[1,x]", "model.sizes = [1, 'x']: must be a list of a whole number"),
        ("model.bound=big", "model.bound = 'big': must be a number or null"),
        ("model.decoder=3", "model.decoder = 3: must be Decoder"),
        ("task.rate=true", "task.rate = true: must be a number"),
        ("task.head=3", "task.head = 3: must be a text"),
        ("+model.in_dim=3", "model.in_dim = 3: the data decides it"),
        ("seed=x", "seed = 'x'"),
        ("seed=null", "seed = null"),
        ("seed=???", "seed must be given"),
        ("task.head=${nothing}", "nothing"),
        ("task.head", "task.head: not of the form key=value"),
        ("+nothing=3", "nothing"),
    ],
)
@pytest.mark.slow
def test_wrong_value_is_refused(probe, override, expected):
    assert expected in problems(probe, *PAIR, override)


@pytest.mark.parametrize(
    "override",
    ["model.bound=2", "model.bound=1e-3", "model.sizes=[]", "task.rate=3", "model.bound=null"],
)
def test_right_value_is_accepted(probe, override):
    compose([probe, *PAIR, override])


def test_all_problems_are_reported_at_once(probe):
    text = problems(
        probe,
        *PAIR,
        "trainer.max_step=5",
        "seed=x",
        "model.num_levels=many",
        "task.rate=fast",
        "logger=tensorbord",
    )
    assert text.startswith("5 problems")
    for name in ("trainer.max_step", "seed", "model.num_levels", "task.rate", "logger=tensorbord"):
        assert name in text


def test_experiment_with_a_wrong_key_is_refused(probe, tmp_path):
    (tmp_path / "experiment/bad.yaml").write_text(
        "# @package _global_\ntask: {haed: x}\nmodel: {}\n"
    )
    text = problems(probe, *PAIR, "experiment=bad")
    assert "task.haed = 'x': no such option; did you mean task.head?" in text


def test_experiment_with_a_wrong_top_key_is_refused(probe, tmp_path):
    (tmp_path / "experiment/bad.yaml").write_text("# @package _global_\nsead: 3\n")
    assert "sead" in problems(probe, *PAIR, "experiment=bad")


def test_experiment_with_a_wrong_choice_is_refused(probe, tmp_path):
    (tmp_path / "experiment/bad.yaml").write_text(
        "# @package _global_\ndefaults: [{override /model: nothing}]\n"
    )
    assert "model/nothing" in problems(probe, "task=probe", "experiment=bad")


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "nfields.probe.exit",
        "nfields.config.os.system",
        "nfields.config.Path",
        "nfieldsx.Model",
        "nfields.nothing.Model",
        "nfields.probe.Modle",
        "nfields",
        "",
        3,
    ],
)
def test_only_what_nfields_defines_can_be_built(probe, target):
    with pytest.raises(ConfigError, match="_target_"):
        check_targets({"model": {"_target_": target}})


def test_nearest_class_is_named(probe):
    with pytest.raises(ConfigError, match=r"did you mean nfields\.probe\.Model\?"):
        check_targets({"model": {"_target_": "nfields.probe.Modle"}})


def test_targets_inside_lists_are_checked(probe):
    with pytest.raises(ConfigError, match=r"a\.0\._target_"):
        check_targets({"a": [{"_target_": "os.system"}]})


def test_mappings_tuples_and_paths_are_checked():
    def options(**values: object) -> dict:
        good = {"goals": {"psnr": 30}, "pair": [0.5, 1], "folder": "x"}
        return {"o": {"_target_": "nfields.probe.Options", **good, **values}}

    module = ModuleType("nfields.probe")
    module.__dict__["Options"] = Options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Options, "__module__", "nfields.probe")
        patch.setitem(sys.modules, "nfields.probe", module)
        check_targets(options())
        for wrong in ({"goals": {"psnr": "x"}}, {"pair": [1]}, {"pair": [1, 0.5]}, {"folder": 3}):
            with pytest.raises(ConfigError, match=next(iter(wrong))):
                check_targets(options(**wrong))


def test_build_passes_what_the_data_decides(probe):
    cfg = compose([probe, *PAIR])
    model = build(cfg.model, in_dim=3, out_dim=1)
    assert model.in_dim == 3
    assert model.sizes == [1, 2] and isinstance(model.sizes, list)
    assert model.decoder.width == 8


def test_errors_of_a_constructor_come_as_they_were_raised(probe):
    cfg = compose([probe, *PAIR, "model.num_levels=17"])
    with pytest.raises(ConfigError, match=r"^model\.num_levels=17 exceeds 16; lower it$"):
        build(cfg.model, in_dim=3, out_dim=1)


GROUPS = sorted(
    f"{file.parent.name}={file.stem}"
    for group in ("task", "model", "data", "trainer", "logger", "experiment")
    for file in config_folder().joinpath(group).glob("*.yaml")
)


@pytest.mark.parametrize("choice", GROUPS)
@pytest.mark.slow
def test_every_choice_of_every_group_composes(choice):
    group, _, name = choice.partition("=")
    text = (config_folder() / group / f"{name}.yaml").read_text(encoding="utf-8")
    compose([choice, "data.path=somewhere"] if "path: ???" in text else [choice])


@pytest.mark.parametrize("choice", GROUPS)
def test_every_option_has_a_comment_or_a_plain_name(choice):
    """Every yaml has at least one comment: units, ranges, reasons stand beside the values."""
    group, _, name = choice.partition("=")
    text = (config_folder() / group / f"{name}.yaml").read_text(encoding="utf-8")
    assert "#" in text
    assert isinstance(yaml.safe_load(text), dict)


@pytest.mark.slow
def test_every_pair_file_names_a_task_and_a_model_and_composes():
    tasks = [file.stem for file in config_folder().joinpath("task").glob("*.yaml")]
    for pair in config_folder().joinpath("model_task").glob("*.yaml"):
        [task] = [name for name in tasks if pair.stem.endswith(f"_{name}")]
        model = pair.stem.removesuffix(f"_{task}")
        assert "# @package _global_" in pair.read_text(encoding="utf-8")
        assert compose([f"task={task}", f"model={model}"]).choices.model == model

"""Sizes that fit a number of parameters."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from nfields.compare.budget import (
    largest_within,
    match_parameters,
    parse_count,
    parse_fraction,
)
from nfields.config import build, compose
from nfields.errors import ConfigError


def test_counts_are_read():
    assert parse_count("300k", "x") == 300_000
    assert parse_count("1.5M", "x") == 1_500_000
    assert parse_count(2000, "x") == 2000
    for wrong in ("many", "0", -3, "1.5", "k"):
        with pytest.raises(ConfigError, match=r"budget\.params="):
            parse_count(wrong, "budget.params")


def test_fractions_are_read():
    assert parse_fraction("5%", "x") == parse_fraction(0.05, "x") == 0.05
    with pytest.raises(ConfigError, match="write 5%"):
        parse_fraction("much", "x")


@given(
    start=st.integers(1, 3000),
    budget=st.integers(1, 10**6),
    least=st.integers(0, 50),
    most=st.integers(51, 5000),
    stride=st.sampled_from([1, 100]),
)
def test_the_largest_size_within_the_budget_is_found(start, budget, least, most, stride):
    def count(index: int) -> int | None:
        return 3 * (index // 2) + 7 if least <= index <= most else None  # pairs of equal counts

    start = min(max(start, least, 1), most)
    found, above = largest_within(count, start, budget, stride)
    fitting = [i for i in range(max(least, 1), most + 1) if 3 * (i // 2) + 7 <= budget]
    if not fitting:
        assert found is None and above == max(least, 1)
    else:
        size = count(max(fitting))
        assert found == min(i for i in fitting if count(i) == size)
        assert above == (max(fitting) + 1 if max(fitting) < most else None)


def test_sizes_grow_with_the_budget():
    def count(index: int) -> int:
        return index**2 + index + 1

    found = [largest_within(count, 20, budget, 1)[0] for budget in range(3, 5000, 37)]
    assert found == sorted(found, key=lambda size: size or 0) and len(set(found)) > 50


@pytest.fixture(scope="module")
def image_task():
    cfg = compose(["task=image", "data.downscale=8"])
    return build(cfg.task, data=build(cfg.data))


def parameters_of(words, task):
    cfg = compose(words)
    model = build(cfg.model, in_dim=task.in_dim, out_dim=task.out_dim)
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("model", ["rbfnet", "hashgrid", "siren", "fourier"])
@pytest.mark.parametrize("budget", [30_000, 200_000])
@pytest.mark.slow
def test_models_are_built_with_the_count_that_was_announced(image_task, model, budget):
    words = ["task=image", f"model={model}"]
    found = match_parameters(compose(words), image_task, budget, 0.07)
    assert found.parameters <= budget
    fitted = [*words, f"{found.option}={found.value}"]
    assert parameters_of(fitted, image_task) == found.parameters


def test_what_is_possible_is_named(image_task):
    cfg = compose(["task=image", "model=siren"])
    with pytest.raises(ConfigError, match=r"within 0\.1%.*model\.width=6\).*model\.width=7\)"):
        match_parameters(cfg, image_task, 170, 0.001)
    with pytest.raises(ConfigError, match=r"nearest are 9 \(model\.width=1\)"):
        match_parameters(compose(["task=image", "model=siren", "model.num_layers=1"]),
                         image_task, 5, 0.05)  # fmt: skip


@pytest.mark.slow
def test_a_size_that_the_model_chooses_itself_is_matched_too(image_task):
    words = ["task=image", "model=neurbf", "model.max_resolution=32"]
    assert compose(words).model.num_kernels is None
    found = match_parameters(compose(words), image_task, 40_000, 0.01)
    assert found.option == "model.num_kernels" and found.parameters <= 40_000
    assert parameters_of([*words, f"{found.option}={found.value}"], image_task) == found.parameters

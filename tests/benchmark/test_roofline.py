"""The estimate of a training step: what it is made of, and that the document says the same."""

from dataclasses import replace
from pathlib import Path

import pytest

from nfields.benchmark.roofline import (
    CARDS,
    NGP,
    Card,
    find_card,
    nanoseconds,
    parts,
    published_nanoseconds,
    tables,
)

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/roofline.md"


def test_document_has_what_the_module_prints() -> None:
    assert tables() in DOCUMENT.read_text(encoding="utf-8")


def test_time_is_bytes_over_bandwidth_where_flops_are_free() -> None:
    card = Card(bandwidth=1e9, fp32=1e30, fp16=1e30, source="none")
    cached, scattered = nanoseconds(NGP, card)
    assert cached == pytest.approx(sum(p.cached for p in parts(NGP)))
    assert scattered == pytest.approx(sum(p.scattered for p in parts(NGP)))


def test_time_is_flops_over_peak_where_bytes_are_free() -> None:
    card = Card(bandwidth=1e30, fp32=1e9, fp16=1e30, source="none")
    others = sum(p.flops for p in parts(NGP) if p.name != "networks")
    assert nanoseconds(NGP, card) == pytest.approx((others, others))


def test_scattered_gathers_are_a_sector_for_each_corner_of_a_hashed_level() -> None:
    more = replace(NGP, hashed_levels=NGP.hashed_levels + 1)
    forward, backward = (
        b.scattered - a.scattered for a, b in list(zip(parts(NGP), parts(more), strict=True))[:2]
    )
    assert forward == 8 * 32 and backward == 2 * 8 * 32


def test_published_rate_is_slower_than_the_limit_and_within_twice_of_scattered() -> None:
    cached, scattered = nanoseconds(NGP, CARDS["TITAN RTX"])
    assert cached < scattered < published_nanoseconds() < 2 * scattered


def test_card_is_found_by_the_name_that_cuda_gives() -> None:
    assert find_card("NVIDIA H100 80GB HBM3") is CARDS["H100"]
    assert find_card("NVIDIA GeForce RTX 2060") is None

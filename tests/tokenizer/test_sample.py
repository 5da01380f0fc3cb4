"""Samples are bounded, reproducible, and hold each source's share."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.tokenizer.sample import UNIT, SampleOptions, cut, draw


def _lines(count: int, seed: int = 0) -> list[str]:
    chosen = random.Random(seed)
    return ["".join(chosen.choices("abcdefg é😀", k=80)) for _ in range(count)]


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("ab \n中😀"), min_size=UNIT // 2, max_size=UNIT * 3))
def test_long_texts_are_cut_between_characters_and_nothing_is_lost(text: str):
    units = list(cut([text]))
    assert "".join(unit.decode() for unit in units) == text
    assert all(0 < len(unit) <= UNIT for unit in units)


@pytest.mark.parametrize("text", ["x" * 10_000, "中" * 5_000, "😀" * 3_000, "a" + " " * 9_000, "\n" * 9_000])
def test_texts_without_words_are_cut_too(text: str):
    assert b"".join(cut([text])).decode() == text


def test_long_texts_are_cut_at_line_ends():
    units = list(cut(["\n".join(_lines(500))]))
    assert all(unit.endswith(b"\n") for unit in units[:-1])


def test_short_texts_are_joined_by_line_ends():
    lines = _lines(300)
    units = list(cut(lines))
    assert len(units) < 20
    assert b"\n".join(units).decode() == "\n".join(lines)


def test_all_is_kept_where_it_fits_but_what_is_held_out():
    lines = _lines(5000)
    (sample,) = draw({"a": lines}, SampleOptions())
    units = list(cut(lines))
    assert sorted(sample.training + sample.held_out) == sorted(units)
    assert len(sample.held_out) == pytest.approx(len(units) / 50, abs=1)
    assert sample.bytes_read == sum(map(len, units))
    assert sample.to_measure == sample.held_out


def test_a_short_source_is_measured_on_all_of_it():
    (sample,) = draw({"a": ["only this"]}, SampleOptions())
    assert (sample.held_out, sample.to_measure) == ([], [b"only this"])


def test_a_sample_is_bounded_spread_and_the_same_again():
    lines = _lines(20_000)
    options = SampleOptions(max_bytes=200_000)
    (sample,) = draw({"a": lines}, options)
    assert 200_000 - UNIT <= sample.training_bytes <= 200_000
    order = {unit: index for index, unit in enumerate(cut(lines))}
    places = [order[unit] for unit in sample.training]
    assert places == sorted(places)
    assert 0.35 < sum(places) / len(places) / len(order) < 0.65
    assert draw({"a": iter(lines)}, options) == [sample]
    assert draw({"a": lines}, SampleOptions(max_bytes=200_000, seed=1)) != [sample]


def test_without_shares_sources_are_drawn_by_their_size():
    big, small = draw({"big": _lines(9000), "small": _lines(3000, 1)}, SampleOptions(max_bytes=250_000))
    assert big.training_bytes / small.training_bytes == pytest.approx(3, rel=0.5)
    assert big.training_bytes + small.training_bytes <= 250_000


def test_shares_are_kept():
    options = SampleOptions(max_bytes=200_000, share={"big": 1, "small": 3})
    big, small = draw({"big": _lines(9000), "small": _lines(3000, 1)}, options)
    assert big.training_bytes == pytest.approx(50_000, abs=UNIT)
    assert small.training_bytes == pytest.approx(150_000, abs=UNIT)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": {"english": 1.0}}, r"no source 'english' to have a share \(did you mean englisch\?\)"),
        ({"share": {"englisch": 1.0}}, "source 'empty' has no share"),
        ({"share": {"englisch": 0.0, "empty": 1.0}}, "must be a number above 0, got 0"),
        ({"share": {"englisch": float("nan"), "empty": 1.0}}, "above 0, got nan"),
        ({"max_bytes": 10}, "at least 4096 bytes"),
        ({}, "source 'empty' holds no text"),
    ],
)
def test_bad_input_is_told(options, message):
    with pytest.raises(ArrieroError, match=message):
        draw({"englisch": ["text"], "empty": ["", ""]}, SampleOptions(**options))

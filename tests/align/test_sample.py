"""Pairs from two voices: what is recorded, passed over and drawn again, and what an interruption leaves."""

from collections import Counter

import pytest

from arriero.align import sample
from arriero.align.preferences import Preferences
from arriero.align.sample import Voice, sample_pairs
from arriero.align.variants import load_variants
from arriero.common.errors import ArrieroError
from tests.align.answering import ODD, ask
from tests.train.tuning import write_base

PROMPTS = [ask(f"{n}?") for n in range(11)] + [ask(ODD)]


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    return load_variants([str(write_base(tmp_path_factory.mktemp("sample") / "base"))], device="cpu")[0]


@pytest.fixture
def voices(variant):
    return Voice(variant, 0.7, 8), Voice(variant, 1.2, 8)


@pytest.fixture
def opened(tmp_path):
    with Preferences(tmp_path / "p.sqlite", create=True) as preferences:
        yield preferences


def run(preferences, prompts, voices, **changes):
    *_, counts = sample_pairs(preferences, prompts, voices, **{"kind": "helpfulness"} | changes)
    return counts


def content(preferences):
    return [
        (pair.prompt, pair.kind, *((one.text, one.model, one.sampling) for one in (pair.first, pair.second)))
        for pair in preferences.pairs()
    ]


def test_each_prompt_gets_a_pair_with_model_and_settings_of_both(opened, voices):
    counts = run(opened, PROMPTS, voices)
    assert (counts.pairs, counts.known, counts.equal, counts.too_long) == (len(PROMPTS), 0, 0, 0)
    pairs = list(opened.pairs())
    for pair in pairs:
        assert {pair.first.model, pair.second.model} == {voices[0].variant.name}
        assert sorted(one.sampling["temperature"] for one in (pair.first, pair.second)) == [0.7, 1.2]
        assert all({"seed", "max_tokens"} < one.sampling.keys() for one in (pair.first, pair.second))
        assert pair.first.text != pair.second.text
    assert pairs[-1].prompt == PROMPTS[-1].messages
    firsts = Counter(pair.first.sampling["temperature"] for pair in pairs)
    assert len(firsts) == 2, "neither voice is always first"


def test_running_it_again_passes_over_what_is_there(opened, voices):
    run(opened, PROMPTS[:3], voices)
    counts = run(opened, PROMPTS, voices)
    assert (counts.pairs, counts.known) == (len(PROMPTS) - 3, 3)
    assert run(opened, PROMPTS, voices[::-1]).known == len(PROMPTS), "the same two voices, the other way round"
    other = run(opened, PROMPTS[:2], (voices[0], Voice(voices[0].variant, 1.5, 8)))
    assert other.pairs == 2, "another temperature is another voice"


def test_stopped_and_continued_is_as_if_never_stopped(tmp_path, voices, monkeypatch):
    with Preferences(tmp_path / "whole.sqlite", create=True) as whole:
        run(whole, PROMPTS, voices)
        expected = content(whole)
    with Preferences(tmp_path / "stopped.sqlite", create=True) as stopped:
        answer = sample.answer

        def interrupt(asked):
            if any(prompt is PROMPTS[-1] for _, prompt, _ in asked):
                raise KeyboardInterrupt
            return answer(asked)

        monkeypatch.setattr(sample, "answer", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(stopped, PROMPTS, voices)
        kept = len(content(stopped))
        assert 0 < kept < len(PROMPTS)
        monkeypatch.setattr(sample, "answer", answer)
        assert run(stopped, PROMPTS, voices).known == kept
        assert content(stopped) == expected


def test_equal_and_empty_answers_are_drawn_again_then_passed_over_and_counted(opened, voices, monkeypatch):
    said = {"0?": ["same"] * 8, "1?": ["same", "same", "one", "two"], "2?": ["", "x", " \n", "x", "y", "x"]}
    given = {text: iter(answers) for text, answers in said.items()}

    class Said:
        def __init__(self, text):
            self.text = text

    def answer(asked):
        return [[Said(next(given[prompt.messages[0]["content"]]))] for _, prompt, _ in asked]

    monkeypatch.setattr(sample, "answer", answer)
    counts = run(opened, PROMPTS[:3], voices)
    assert (counts.pairs, counts.equal) == (2, 1)
    texts = [{pair.first.text, pair.second.text} for pair in opened.pairs()]
    assert texts == [{"one", "two"}, {"x", "y"}]


def test_prompts_over_the_context_are_counted_and_the_others_answered(opened, voices):
    counts = run(opened, [ask("why " * 40), PROMPTS[0]], voices)
    assert (counts.too_long, counts.pairs) == (1, 1)


def test_two_greedy_answers_of_one_model_are_refused(opened, voices):
    greedy = Voice(voices[0].variant, 0.0, 8)
    with pytest.raises(ArrieroError, match="two greedy answers"):
        run(opened, PROMPTS, (greedy, greedy))
    same = Voice(voices[0].variant, 1.0, 8)
    assert run(opened, PROMPTS[:2], (same, same)).pairs == 2


def test_a_safety_prompt_gives_a_pair_of_that_kind(opened, voices):
    run(opened, [ask("0?", safety=True), ask("1?")], voices)
    assert [pair.kind for pair in opened.pairs()] == ["safety", "helpfulness"]

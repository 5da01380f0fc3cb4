"""A fine-tune on a few real examples changes what the model does with prompts that it never saw, not its loss alone."""

import json
import re
import statistics
from itertools import combinations

import pytest

from arriero.common.errors import ArrieroError
from arriero.train.sft_config import EpochsConfig
from benchmarks.behaviour import (
    ALIKE,
    MOST_WORDS,
    Answers,
    answer,
    choose,
    cut_answer,
    paired_tests,
    sign_test,
    tune,
)

LLAMAS = "Llamas carry heavy loads over the high mountains."


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (LLAMAS, LLAMAS),
        (f"{LLAMAS} They hum.", f"{LLAMAS} They hum."),
        (f"{LLAMAS} They hum. They spit.", f"{LLAMAS} They hum."),
        (f"{LLAMAS} And they have {'much ' * 40}wool.", LLAMAS),
    ],
)
def test_an_answer_keeps_its_first_two_sentences_of_at_most_forty_words(text, cut):
    assert cut_answer(text) == cut


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Sure!",
        "Word " * 41 + ".",
        "Here are some of the best reasons for it:\n\n1. Wool",
        "The code that you want is `print(1)`, as far as I know.",
        f"{LLAMAS} They have:\n\n1. Wool\n2. Ears",
        "A heading stands over all that follows here\n\nand then there is a text.",
        f"The seventh and last book of this tale is by J.K. Rowling, {'and ' * 40}others.",
    ],
)
def test_an_answer_that_makes_no_sense_when_cut_is_left_out(text):
    assert cut_answer(text) is None


@pytest.mark.parametrize(
    ("rose", "fell", "p"), [(0, 0, 1.0), (1, 1, 1.0), (0, 5, 0.0625), (5, 0, 0.0625), (1, 9, 0.021484375)]
)
def test_the_sign_test_is_the_two_sided_binomial(rose, fell, p):
    assert sign_test(rose, fell) == p


def test_pairs_that_do_not_change_are_left_out_of_the_test():
    before = Answers(texts=["a b", "a b", "a"], ended=[True, False, True], losses={})
    after = Answers(texts=["a", "a", "a"], ended=[True, True, True], losses={})
    tests = paired_tests(before, after)
    assert (tests["words"]["rose"], tests["words"]["fell"]) == (0, 2)
    assert (tests["ended"]["rose"], tests["ended"]["fell"]) == (1, 0)


def test_no_prompt_is_like_one_of_another_set(data_folder):
    sets = choose(data_folder / "demonstrations.jsonl.gz", (40, 20, 200), seed=0)
    assert [len(chosen) for chosen in sets] == [40, 20, 200]
    assert all(len(demonstration.cut.split()) <= MOST_WORDS for chosen in sets for demonstration in chosen)
    prompts = [set(re.findall(r"\w+", demonstration.prompt.casefold())) for chosen in sets for demonstration in chosen]
    assert all(len(a & b) <= ALIKE * len(a | b) for a, b in combinations(prompts, 2))


def test_too_few_demonstrations_are_told(tmp_path):
    file = tmp_path / "chats.jsonl"
    rows = [{"role": "user", "content": "What do llamas do?"}, {"role": "assistant", "content": LLAMAS}]
    file.write_text(f"{json.dumps({'messages': rows})}\n" * 3, encoding="utf-8")
    with pytest.raises(ArrieroError, match="expected 2 prompts with an answer that can be cut, got 1"):
        choose(file, (1, 1), seed=0)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1800)
def test_sixty_short_examples_make_answers_to_unseen_prompts_short(data_folder, smollm2_gguf, tmp_path):
    measured, validation, training = choose(data_folder / "demonstrations.jsonl.gz", (16, 5, 60), seed=0)
    before = answer(None, measured)
    epochs = EpochsConfig(epochs=3, batch=8, validate_every=8)
    after = answer(tune(tmp_path / "run", training, validation, "cut", epochs), measured)
    tests, told = paired_tests(before, after), f"{before.summary()} → {after.summary()}"
    assert statistics.median(after.values()["words"]) <= statistics.median(before.values()["words"]) / 1.5, told
    assert sum(after.ended) >= sum(before.ended) + 3, told
    for name in ("words", "loss, cut answers"):
        assert tests[name]["fell"] > tests[name]["rose"], told
        assert tests[name]["p"] < 0.05, told

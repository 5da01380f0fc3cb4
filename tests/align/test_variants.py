"""Variants of a model: which share weights, and that each says what it says alone."""

import shutil

import pytest

from arriero.align.prompts import Prompt
from arriero.align.reward import Reward
from arriero.align.variants import answer, load_variants
from arriero.common.errors import ArrieroError
from arriero.generate.engine import SamplingConfig
from tests.align.answering import ODD, ask, write_adapter
from tests.train.tuning import write_base

GREEDY = SamplingConfig(max_tokens=8)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    base = write_base(folder / "base")
    return [str(base), *(str(write_adapter(base, folder / name, seed)) for seed, name in enumerate("ab"))]


def say(variant, prompt):
    return answer([(variant, prompt, GREEDY)])[0][0].ids


def test_adapters_of_one_base_share_its_weights_and_say_what_they_say_alone(sources):
    variants = load_variants(sources, device="cpu")
    assert len({id(variant.engine.model) for variant in variants}) == 1
    assert [variant.name for variant in variants] == sources
    together = [say(variant, ask(ODD)) for variant in variants]
    assert len(set(together)) == 3
    for source, ids in zip(sources, together, strict=True):
        assert say(load_variants([source], device="cpu")[0], ask(ODD)) == ids


def test_a_reward_model_shares_the_base_too_and_neither_disturbs_the_other(sources, tmp_path):
    judge = str(write_adapter(sources[0], tmp_path / "judge", 7, head=True))
    policy = load_variants(sources[1:2], beside=[judge], device="cpu")[0]
    reward = Reward.load(judge, device="cpu", beside=policy)
    assert reward.helpfulness.model is policy.engine.model
    before = say(policy, ask(ODD))
    assert before == say(load_variants(sources[1:2], device="cpu")[0], ask(ODD))
    alone = Reward.load(judge, device="cpu")
    assert reward.score([ask(ODD)], ["yes"]) == pytest.approx(alone.score([ask(ODD)], ["yes"]), abs=1e-5)
    assert say(policy, ask(ODD)) == before


def test_a_merged_policy_and_a_fine_tuned_one_are_no_base_for_a_reward_model(sources, tmp_path):
    """A little fine-tuning leaves weights that look like the base's, and a reward model over them misjudges."""
    judge = str(write_adapter(sources[0], tmp_path / "judge", 7, head=True))
    shutil.copytree(sources[0], tmp_path / "tuned")
    for policy in (
        load_variants(sources[1:2], device="cpu")[0],
        load_variants([str(tmp_path / "tuned")], beside=[judge], device="cpu")[0],
        load_variants([str(tmp_path / "tuned"), sources[0]], beside=[judge], device="cpu")[0],
    ):
        reward = Reward.load(judge, device="cpu", beside=policy)
        assert reward.helpfulness.model is not policy.engine.model


def test_one_source_twice_is_one_variant(sources):
    first, second = load_variants([sources[1]] * 2, device="cpu")
    assert first is second


def test_other_weights_are_a_model_of_their_own(sources, tmp_path):
    other = write_base(tmp_path / "other", dim=48)
    first, second = load_variants([sources[1], str(other)], device="cpu")
    assert first.engine.model is not second.engine.model
    said = answer([(second, ask("a"), GREEDY), (first, ask("b"), GREEDY), (second, ask("c"), GREEDY)])
    alone = [say(second, ask("a")), say(first, ask("b")), say(second, ask("c"))]
    assert [completions[0].ids for completions in said] == alone


def test_a_prompt_that_the_template_refuses_is_told_with_its_place(sources):
    variant = load_variants(sources[:1], device="cpu")[0]
    variant.engine.tokenizer.use_chat_template("llama2")
    with pytest.raises(ArrieroError, match=r"chats\.jsonl, line 3: "):
        variant.encode(Prompt(({"role": "tool", "content": "x"},), where="chats.jsonl, line 3"))


def test_what_leaves_no_room_does_not_fit(sources):
    variant = load_variants(sources[:1], device="cpu")[0]
    room = variant.engine.context - len(variant.encode(ask("abc")))
    assert variant.fits(ask("abc"), room)
    assert not variant.fits(ask("abc"), room + 1)

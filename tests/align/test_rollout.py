"""Rollouts: answers end with the first stop token, judges read what was said, and nothing is left changed."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from arriero.align.ppo import prepare
from arriero.align.ppo_models import Role, build_players, load_policy
from arriero.align.prompts import Prompt
from arriero.align.reward_model import encode_dialogue
from arriero.align.rollout import Answer, Asked, Sampler
from arriero.common.errors import ArrieroError
from arriero.common.seeds import seed_of
from arriero.generate.sampling_config import SamplingConfig
from arriero.model.adapters import Adapters
from arriero.model.export import export_model
from arriero.model.heads import SCORE, VALUE, add_head, head_of
from arriero.model.source import load_model
from arriero.train.parallel import Layout
from tests.align.ppo_runs import config_for, write_adapter, write_prompts
from tests.train.shard_folders import EOS
from tests.train.tuning import TEMPLATE, write_base


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rollout")
    base = write_base(folder / "base")
    write_adapter(folder / "reward", base, head=True)
    write_prompts(folder / "prompts.jsonl")
    return folder


@pytest.fixture
def sampler(room):
    settings = config_for(room / "base", room / "prompts.jsonl", room / "reward", max_tokens=24)
    prepared = prepare(settings)
    return Sampler(prepared.players, prepared.asked, settings.rollout, Layout(), ())


class Notes:
    """A judge that keeps what it was shown."""

    name = "notes"

    def __init__(self, score: float = 1.0) -> None:
        self.seen: list[tuple[object, str]] = []
        self._score = score

    def score(self, prompts, responses):
        self.seen += list(zip(prompts, responses, strict=True))
        return [self._score] * len(responses)


def test_the_prompt_is_what_the_reward_model_reads_before_an_answer(sampler):
    tokenizer = sampler.players.loaded.tokenizer
    for asked in sampler.asked[:4]:
        dialogue = encode_dialogue(tokenizer, asked.prompt.messages, "so")
        assert dialogue[: len(asked.ids)] == asked.ids


def test_answers_are_cut_at_the_first_stop_token_which_is_kept_and_scored(sampler):
    numbers = [i % len(sampler.asked) for i in range(48)]
    answers = sampler.answer(numbers, range(48))
    stops = sampler.players.loaded.tokenizer.stop_ids
    assert EOS in stops
    assert any(answer.ended for answer in answers)
    for answer in answers:
        assert not set(answer.ids[:-1]) & stops
        assert len(answer.ids) == 24 or answer.ids[-1] in stops
    reward = sampler.players.reward
    ended = next(answer for answer in answers if answer.ended)
    assert ended.score == pytest.approx(reward.score_ids([[*sampler.asked[ended.prompt].ids, *ended.ids]])[0], abs=1e-4)


def test_an_answer_without_an_end_is_scored_as_if_it_ended_and_its_tokens_stay(sampler):
    answers = sampler.answer([0, 1, 2], [5, 6, 7])
    cut = next(answer for answer in answers if not answer.ended)
    row = [*sampler.asked[cut.prompt].ids, *cut.ids, EOS]
    assert cut.score == pytest.approx(sampler.players.reward.score_ids([row])[0], abs=1e-4)
    assert EOS not in cut.ids


def test_what_is_sampled_from_is_the_whole_softmax_at_the_temperature_asked_for(sampler):
    sampler.config = replace(sampler.config, temperature=1.3)
    sampling = sampler._request(0, 7).sampling
    assert sampling == SamplingConfig(temperature=1.3, max_tokens=24, seed=7)
    assert (sampling.top_k, sampling.top_p, sampling.min_p, sampling.repetition_penalty) == (0, 1.0, 0.0, 1.0)
    assert (sampling.stop, sampling.stop_ids) == ((), None), "the tokenizer's own stop tokens"


def test_the_same_seed_gives_the_same_answer_whatever_is_beside_it(sampler):
    together = sampler.answer([0, 1, 2, 3], [11, 12, 13, 14])
    assert sampler.answer([2], [13])[0].ids == together[2].ids
    assert seed_of(0, 1, 2) == seed_of(0, 1, 2) != seed_of(0, 2, 1)


def test_a_program_reads_messages_and_text_without_the_stop_token(sampler):
    notes = Notes()
    sampler.players = replace(sampler.players, reward=notes)
    answers = sampler.answer([0, 1], [1, 2])
    assert [answer.score for answer in answers] == [1.0, 1.0]
    assert [seen[0] for seen in notes.seen] == [asked.prompt.messages for asked in sampler.asked[:2]]
    assert "</s>" not in notes.seen[0][1]


def test_a_score_that_is_no_number_is_one_clear_error(sampler):
    sampler.players = replace(sampler.players, reward=Notes(float("nan")))
    with pytest.raises(ArrieroError, match="notes: expected 2 finite scores"):
        sampler.answer([0, 1], [1, 2])


def test_safety_decides_for_safety_prompts_and_unsafe_answers(sampler):
    sampler.players = replace(sampler.players, reward=Notes(3.0), safety=Notes(1.0))
    first = sampler.asked[0]
    sampler.asked = [first, Asked(Prompt(first.prompt.messages, safety=True), first.ids)]
    assert [answer.score for answer in sampler.answer([0, 1], [1, 2])] == [3.0, 1.0]
    sampler.players = replace(sampler.players, safety=Notes(-4.0))
    assert [answer.score for answer in sampler.answer([0, 1], [1, 2])] == [-4.0, -4.0]


@pytest.mark.parametrize("training", [True, False])
def test_rollouts_leave_train_and_eval_mode_and_gradients_as_found(sampler, training):
    model = sampler.players.policy.model.train(training)
    before = {name: x.requires_grad for name, x in model.named_parameters()}
    weights = {name: x.detach().clone() for name, x in model.named_parameters()}
    sampler.answer([0], [1])
    assert all(torch.equal(x, weights[name]) for name, x in model.named_parameters()), "what is merged is unmerged"
    assert all(module.training == training for module in model.modules())
    assert {name: x.requires_grad for name, x in model.named_parameters()} == before


def test_the_reference_is_the_base_bit_for_bit_trained_heads_or_not(room):
    players = build_players(config_for(room / "base", room / "prompts.jsonl", room / "reward"))
    with torch.no_grad():
        for parameter in players.learners.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    base = load_model(str(room / "base"), device="cpu", dtype="float32").model
    tokens = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(players.reference.compute(lambda model: model(tokens)), base(tokens))
        assert not torch.equal(players.policy.compute(lambda model: model(tokens)), base(tokens))


def test_the_critic_begins_as_the_reward_model(room):
    players = build_players(config_for(room / "base", room / "prompts.jsonl", room / "reward"))
    model, row = players.critic.model, [5, 6, 7, 8]
    assert model is players.reward.model, "one base for all"
    value = players.critic.compute(lambda model: head_of(model, VALUE)(model.hidden(torch.tensor([row]))))[0, -1]
    assert value.item() == pytest.approx(players.reward.score_ids([row])[0], abs=1e-6)
    learning = {name.split(".adapters.")[-1].split(".")[0] for name, x in model.named_parameters() if x.requires_grad}
    assert learning == {"policy", "critic", "heads"}


def test_a_reward_model_of_its_own_hosts_the_critic(room):
    loaded = load_model(str(room / "base"), device="cpu", dtype="float32")
    add_head(loaded.model, SCORE, seed=4)
    export_model(loaded, room / "whole", "f32")
    players = build_players(config_for(room / "base", room / "prompts.jsonl", room / "whole"))
    assert players.critic.model is players.reward.model
    assert players.critic.model is not players.policy.model
    assert len(players.models) == 2
    row = [5, 6, 7]
    value = players.critic.compute(lambda model: head_of(model, VALUE)(model.hidden(torch.tensor([row]))))[0, -1]
    assert value.item() == pytest.approx(players.reward.score_ids([row])[0], abs=1e-6)


def test_a_reward_model_that_reads_other_tokens_is_one_clear_error(room):
    loaded = load_model(str(room / "base"), device="cpu", dtype="float32")
    add_head(loaded.model, SCORE, seed=4)
    loaded.tokenizer.use_chat_template(TEMPLATE.replace("':'", "'>'"))
    export_model(loaded, room / "foreign", "f32")
    with pytest.raises(ArrieroError, match="another tokenizer or chat template"):
        build_players(config_for(room / "base", room / "prompts.jsonl", room / "foreign"))


def test_the_policy_alone_is_loaded_for_export(room):
    loaded = load_policy(config_for(room / "base", room / "prompts.jsonl", room / "reward"))
    assert list(Adapters.of(loaded.model).configs) == ["policy"]
    Role(loaded.model, None).switch_on()
    assert Adapters.of(loaded.model).active is None


def test_answers_survive_json():
    answer = Answer(prompt=3, ids=[1, 2], ended=True, score=0.1 + 0.2, watched=[1e-300])
    assert Answer.read(json.loads(json.dumps(asdict(answer)))) == answer

"""Reward models score dialogues: where they are read, what they refuse, and whose base they share."""

import pytest
import torch

from arriero.align.reward_model import RewardModel, encode_dialogue, load_reward_model, same_words
from arriero.common.errors import ArrieroError
from arriero.kernels.documents import Documents
from arriero.model.adapter_export import export_peft
from arriero.model.adapters import Adapters
from arriero.model.config import LlamaConfig
from arriero.model.export import export_model
from arriero.model.formats.hf import save_hf
from arriero.model.heads import SCORE, add_head, head_of, read_head
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model
from arriero.model.transformer import Llama
from tests.train.shard_folders import EOS
from tests.train.tuning import write_base

PROMPT = [{"role": "user", "content": "name one"}]
LONGER = [*PROMPT, {"role": "assistant", "content": "llama"}, {"role": "user", "content": "more"}]
RESPONSES = ["llama", "the alpaca of Puno"]


@pytest.fixture
def base(tmp_path):
    return write_base(tmp_path / "base")


@pytest.fixture
def reward(base):
    loaded = load_model(str(base), device="cpu", dtype="float32")
    add_head(loaded.model, SCORE, seed=3)
    return RewardModel("mine", loaded.model, loaded.tokenizer)


def test_a_dialogue_ends_with_the_token_that_ends_the_turn(reward):
    ids = encode_dialogue(reward.tokenizer, LONGER, "alpaca")
    assert ids[-1] in reward.tokenizer.stop_ids
    prompt = reward.tokenizer.encode_chat(LONGER)
    assert ids[: len(prompt)] == prompt, "what the policy is asked is what the reward model reads"


def test_a_score_is_read_at_the_last_token_though_it_is_the_pad_token_too(reward):
    """With pad = eos the first end of turn, in the prompt, looks like padding: it must not be where scores are read."""
    reward.tokenizer.pad_id = reward.tokenizer.eos_id
    ids = encode_dialogue(reward.tokenizer, LONGER, "alpaca")
    assert sum(token in reward.tokenizer.stop_ids for token in ids) > 1
    with torch.no_grad():
        every = read_head(reward.model, SCORE, reward.model.hidden(torch.tensor([ids])))[0]
    assert reward.score([LONGER], ["alpaca"])[0] == pytest.approx(every[-1].item(), abs=1e-5)


def test_together_dialogues_score_what_each_scores_alone(reward):
    prompts = [PROMPT, LONGER] * 3
    responses = [*RESPONSES, "a", "vicuña of the west", "guanaco", "b c d"]
    together = reward.score(prompts, responses)
    alone = [reward.score([prompt], [response])[0] for prompt, response in zip(prompts, responses, strict=True)]
    assert together == pytest.approx(alone, abs=1e-5)


def test_scoring_leaves_the_mode_as_it_was(reward):
    reward.model.train()
    reward.score([PROMPT], ["llama"])
    assert reward.model.training


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_one_clear_error(reward, value):
    head_of(reward.model, SCORE).weight.data.fill_(value)
    with pytest.raises(ArrieroError, match="damaged"):
        reward.score([PROMPT], ["llama"])


def test_empty_responses_and_dialogues_over_the_context_are_errors(reward):
    with pytest.raises(ArrieroError, match="empty"):
        reward.score([PROMPT], ["  \n"])
    with pytest.raises(ArrieroError, match="expected dialogues of 1 to"):
        reward.score([PROMPT], ["llama " * 2000])


def test_a_model_without_a_head_gives_no_scores(base):
    with pytest.raises(ArrieroError, match="gives no scores"):
        load_reward_model(str(base), device="cpu")


def test_a_whole_reward_model_comes_back_with_a_pad_token_that_ends_no_answer(reward, base, tmp_path):
    loaded = load_model(str(base), device="cpu", dtype="float32")
    loaded.model.heads[SCORE] = head_of(reward.model, SCORE)
    export_model(loaded, tmp_path / "whole", "f32")
    again = load_reward_model(str(tmp_path / "whole"), device="cpu")
    assert again.score([PROMPT, LONGER], RESPONSES) == pytest.approx(
        reward.score([PROMPT, LONGER], RESPONSES), abs=1e-5
    )
    assert again.tokenizer.pad_id not in again.tokenizer.stop_ids


def adapter_of(base, target, seed=3):
    loaded = load_model(str(base), device="cpu", dtype="float32")
    Adapters.of(loaded.model).add("adapter", LoraConfig(rank=2))
    with torch.no_grad():
        for change in Adapters.of(loaded.model).changes("adapter").values():
            change.b.normal_(0.0, 0.3, generator=torch.Generator().manual_seed(seed))
    add_head(loaded.model, SCORE, seed=seed)
    export_peft(loaded, "adapter", target, str(base))
    return target


def test_an_adapter_becomes_a_guest_of_the_policy_s_base_and_scores_the_same(base, tmp_path):
    folder = adapter_of(base, tmp_path / "adapter")
    alone = load_reward_model(str(folder), device="cpu")
    policy = load_model(str(base), device="cpu", dtype="float32")
    shared = load_reward_model(str(folder), over=policy)
    assert shared.model is policy.model
    assert shared.score([PROMPT], ["llama"]) == alone.score([PROMPT], ["llama"])
    assert Adapters.of(policy.model).active is None, "the policy is as it was"


def other_base(folder):
    shape = LlamaConfig.of(vocab_size=258, dim=64, n_layers=2, n_heads=4, n_kv_heads=2, hidden_dim=96, max_seq_len=64)
    write_base(folder)
    (folder / "model.safetensors").unlink()
    save_hf(Llama(shape).init_weights(9), folder, eos_id=EOS)
    return folder


def test_an_adapter_for_another_base_stays_a_model_of_its_own(base, tmp_path):
    folder = adapter_of(base, tmp_path / "adapter")
    policy = load_model(str(other_base(tmp_path / "other")), device="cpu", dtype="float32")
    assert load_reward_model(str(folder), over=policy, device="cpu").model is not policy.model


def test_tokenizers_are_told_apart_by_what_they_make_of_a_chat(base):
    one = load_model(str(base), device="cpu").tokenizer
    other = load_model(str(base), device="cpu").tokenizer
    assert same_words(one, other)
    other.use_chat_template("llama2")
    assert not same_words(one, other)


def test_documents_keep_their_places_on_another_device():
    documents = Documents.from_cu_seqlens(torch.tensor([0, 2, 5]), 1, 5).to(torch.device("cpu"))
    assert documents.spans == ((0, 0, 2), (0, 2, 5))

"""How much a dialogue's tokens look at the instruction."""

import pytest
import torch

from arriero.align.attention_map import attention_to, attention_weights, find_instruction, map_attention
from arriero.common.errors import ArrieroError
from arriero.model.adapters import Adapters
from arriero.model.lora_config import LoraConfig
from arriero.model.source import load_model
from tests.align.talking import talker_tokenizer, write_talker

WISH = "Act as Napoleon."
CHAT = [
    {"role": "user", "content": f"Who are you? {WISH}"},
    {"role": "assistant", "content": "I am he."},
    {"role": "user", "content": "What now?"},
    {"role": "assistant", "content": "March!"},
]


@pytest.fixture
def loaded(tmp_path):
    return load_model(str(write_talker(tmp_path / "base")), device="cpu", dtype="float32")


def test_the_instruction_is_found_in_the_tokens():
    tokenizer = talker_tokenizer()
    start, end = find_instruction(tokenizer, CHAT, WISH)
    assert tokenizer.decode(tokenizer.encode_answers(CHAT)[0][start:end]).strip() == WISH
    system = [{"role": "system", "content": f"Be brief.\n\n{WISH}"}, {**CHAT[0], "content": "Who?"}, *CHAT[1:]]
    start, end = find_instruction(tokenizer, system, WISH)
    assert tokenizer.decode(tokenizer.encode_answers(system)[0][start:end]).strip() == WISH


def test_a_dialogue_without_the_instruction_is_refused():
    with pytest.raises(ArrieroError, match="has the instruction in it"):
        find_instruction(talker_tokenizer(), CHAT, "Act as Cleopatra.")


def test_weights_are_those_of_the_softmax():
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, 9, 4, 8, generator=generator)
    k = torch.randn(1, 9, 2, 8, generator=generator)
    keys = k.repeat_interleave(2, dim=2)
    scores = torch.einsum("bthd,bshd->bhts", q, keys) / 8**0.5
    whole = scores.masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf).softmax(-1)
    torch.testing.assert_close(attention_weights(q, k, 2, 5), whole[..., 2:5])
    torch.testing.assert_close(attention_weights(q, k, 0, 9).sum(-1), torch.ones(1, 4, 9))


def test_a_map_is_the_greatest_weight_over_heads_and_layers(loaded):
    """Tokens before the instruction cannot see it; the very first token has none but itself to look at."""
    tokens = torch.tensor([loaded.tokenizer.encode_answers(CHAT)[0]])
    weights = attention_to(loaded.model, tokens, 5, 9)
    assert weights[:5].tolist() == [0] * 5
    assert ((weights[5:] > 0) & (weights[5:] <= 1)).all()
    everything = attention_to(loaded.model, tokens, 0, tokens.shape[1])
    assert everything[0] == pytest.approx(1)
    assert (everything >= weights - 1e-6).all()


def test_adapters_count_and_nothing_is_left_on_the_model(loaded):
    tokens = torch.tensor([loaded.tokenizer.encode_answers(CHAT)[0]])
    before = attention_to(loaded.model, tokens, 5, 9)
    assert not any(module._forward_pre_hooks for module in loaded.model.modules())
    adapters = Adapters.of(loaded.model)
    adapters.add("mine", LoraConfig(rank=4, targets=("wq",)))
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if ".adapters." in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    after = attention_to(loaded.model, tokens, 5, 9)
    assert not torch.allclose(before, after, atol=1e-3)
    adapters.activate(None)
    torch.testing.assert_close(attention_to(loaded.model, tokens, 5, 9), before)


def test_each_answer_has_its_mean(loaded):
    found = map_attention("m", loaded.model, loaded.tokenizer, CHAT, WISH)
    assert len(found.by_turn) == 2
    start, end = found.answers[1]
    assert found.by_turn[1] == pytest.approx(sum(found.weights[start:end]) / (end - start))


def test_a_dialogue_longer_than_the_context_is_refused(loaded):
    long = [*CHAT[:3], {"role": "assistant", "content": "March! " * 200}]
    with pytest.raises(ArrieroError, match="at most 1024 tokens"):
        map_attention("m", loaded.model, loaded.tokenizer, long, WISH)

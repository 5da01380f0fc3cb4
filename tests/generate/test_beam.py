"""Beam search finds what brute force finds when it is wide enough, and what transformers finds at any width."""

import itertools

import pytest
import torch
from transformers import LlamaConfig as PeerConfig
from transformers import LlamaForCausalLM

from arriero.common.errors import ArrieroError
from arriero.generate.beam import beam_search
from arriero.model.config import LlamaConfig
from arriero.model.formats.hf import save_hf
from arriero.model.transformer import Llama

PROMPT = [1, 2, 3]


def tiny(vocab: int, seed: int = 0) -> Llama:
    model = Llama(LlamaConfig.of(dim=16, n_layers=2, n_heads=2, vocab_size=vocab, max_seq_len=64)).init_weights(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(15)
    return model.eval()


@torch.no_grad()
def brute_force(model: Llama, tokens: int, stop: int, length_penalty: float) -> list[tuple[float, tuple[int, ...]]]:
    """Every answer up to `tokens` long, by score, best first."""
    vocab = model.config.vocab_size
    scored = []
    for length in range(1, tokens + 1):
        for answer in itertools.product(range(vocab), repeat=length):
            if stop in answer[:-1] or (length < tokens and answer[-1] != stop):
                continue
            logits = model(torch.tensor([[*PROMPT, *answer]]))[0, len(PROMPT) - 1 : -1]
            chosen = logits.double().log_softmax(-1)[range(length), list(answer)]
            scored.append((float(chosen.sum()) / length**length_penalty, answer))
    return sorted(scored, reverse=True)


@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -0.5])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_beam_as_wide_as_the_tree_finds_the_best_answers_in_order(length_penalty, seed):
    model, vocab, tokens = tiny(5, seed), 5, 3
    expected = brute_force(model, tokens, stop=4, length_penalty=length_penalty)
    found = beam_search(
        model, PROMPT, beams=vocab**tokens, max_tokens=tokens, length_penalty=length_penalty, stop_ids=frozenset([4])
    )
    assert len(found) == len(expected)
    for beam, (score, answer) in zip(found, expected, strict=True):
        assert beam.ids == answer
        assert abs(beam.score - score) < 1e-5
        assert abs(beam.logprob - score * len(answer) ** length_penalty) < 1e-5


@pytest.fixture(scope="module")
def pair(tmp_path_factory) -> tuple[Llama, LlamaForCausalLM]:
    """The same random model as ours and as transformers'."""
    ours = tiny(40)
    folder = tmp_path_factory.mktemp("tiny")
    save_hf(ours, folder)
    peer = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert isinstance(peer.config, PeerConfig)
    return ours, peer


@pytest.mark.parametrize("beams", [1, 2, 4, 7])
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_the_answers_are_those_of_transformers(pair, beams, length_penalty):
    ours, peer = pair
    found = beam_search(
        ours, PROMPT, beams=beams, max_tokens=12, length_penalty=length_penalty, stop_ids=frozenset([0, 9, 17])
    )
    expected = peer.generate(
        torch.tensor([PROMPT]),
        attention_mask=torch.ones(1, len(PROMPT), dtype=torch.long),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=12,
        length_penalty=length_penalty,
        early_stopping="never",
        do_sample=False,
        eos_token_id=[0, 9, 17],
        pad_token_id=39,
        output_scores=True,
        return_dict_in_generate=True,
    )
    for beam, sequence in zip(found, expected.sequences.tolist(), strict=True):
        answer = sequence[len(PROMPT) :]
        assert list(beam.ids) == answer[: len(beam.ids)]
        assert set(answer[len(beam.ids) :]) <= {39}
    if beams > 1:
        scores = torch.tensor([beam.score for beam in found])
        torch.testing.assert_close(scores, expected.sequences_scores, rtol=1e-4, atol=1e-4)


def test_a_wider_beam_never_scores_worse_than_greedy():
    model = tiny(40, seed=3)
    best = [beam_search(model, PROMPT, beams=b, max_tokens=10, length_penalty=0.0)[0].logprob for b in (1, 8, 64)]
    assert best[0] <= best[2] + 1e-6


@pytest.mark.parametrize(
    ("prompt", "beams", "tokens", "message"),
    [
        ([], 2, 5, "empty"),
        ([1], 0, 5, "at least 1"),
        ([1], 2, 0, "at least 1"),
        ([1] * 60, 2, 5, "exceed the context of 64: lower max_tokens to 4"),
    ],
)
def test_a_search_that_cannot_be_done_is_refused(prompt, beams, tokens, message):
    with pytest.raises(ArrieroError, match=message):
        beam_search(tiny(5), prompt, beams=beams, max_tokens=tokens)

"""SmolLM2-135M-Instruct: greedy decoding equals transformers' token for token, alone and in one ragged batch."""

from pathlib import Path
from pydoc_data.topics import topics

import pytest
import torch
from transformers import LlamaForCausalLM

from arriero.generate.engine import Engine, Request, SamplingConfig
from arriero.model.formats.hf import save_hf

pytestmark = pytest.mark.weights

QUESTIONS = [
    "What is the capital of France?",
    "Write a haiku about rain.",
    "Explain recursion to a child.",
    "List three prime numbers above 100.",
    "用中文介绍一下你自己。",
    "Translate 'good morning' into Spanish.",
    "Write a Python function that reverses a string.",
    "Why is the sky blue?",
    "Who wrote Don Quixote? 🦙",
    "Give me a recipe for bread.",
]
OPENINGS = [
    "Once upon a time",
    "def fibonacci(n):\n    ",
    "The",
    "1, 1, 2, 3, 5, 8,",
    "In 1969, the first",
    "E = mc",
    *[text[:length] for text, length in zip(topics.values(), (300, 700, 1200, 90), strict=False)],
]


@pytest.fixture(scope="module")
def engine(smollm2_gguf: Path) -> Engine:
    return Engine.load(str(smollm2_gguf), device="cpu", dtype="float32", max_batch=20)


@pytest.fixture(scope="module")
def peer(engine: Engine, tmp_path_factory) -> LlamaForCausalLM:
    folder = tmp_path_factory.mktemp("smollm2")
    save_hf(engine.model, folder)
    return LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def prompts(engine: Engine) -> list[list[int]]:
    chats = [engine.tokenizer.encode_chat([{"role": "user", "content": text}]) for text in QUESTIONS]
    return chats + [engine.tokenizer.encode(text) for text in OPENINGS]


def check_greedy(engine: Engine, peer: LlamaForCausalLM, chosen: list[list[int]], tokens: int) -> None:
    stop = engine.tokenizer.eos_id
    sampling = SamplingConfig(max_tokens=tokens, stop_ids=(stop,))
    together = engine.generate([Request(prompt_ids=prompt, sampling=sampling) for prompt in chosen])
    for prompt, completion in zip(chosen, together, strict=True):
        alone = torch.tensor([prompt])
        out = peer.generate(
            alone,
            attention_mask=torch.ones_like(alone),
            do_sample=False,
            max_new_tokens=tokens,
            eos_token_id=stop,
            pad_token_id=stop,
        )
        assert list(completion.ids) == out[0, len(prompt) :].tolist()


def test_four_prompts_of_16_tokens_equal_transformers(engine, peer):
    check_greedy(engine, peer, [prompts(engine)[i] for i in (0, 4, 11, 16)], 16)


@pytest.mark.slow
def test_twenty_prompts_of_64_tokens_equal_transformers(engine, peer):
    assert len(prompts(engine)) == 20
    check_greedy(engine, peer, prompts(engine), 64)


@pytest.mark.slow
def test_sampled_answers_are_the_same_alone_and_in_a_batch(engine):
    sampling = [
        SamplingConfig(max_tokens=32, temperature=1.0, seed=1),
        SamplingConfig(max_tokens=32, temperature=0.7, top_p=0.9, seed=2),
        SamplingConfig(max_tokens=32, temperature=0.7, top_k=40, repetition_penalty=1.2, seed=3),
        SamplingConfig(max_tokens=32, temperature=1.3, min_p=0.05, seed=4),
    ]
    requests = [Request(prompt_ids=prompt, sampling=sampling[i % 4]) for i, prompt in enumerate(prompts(engine)[:12])]
    together = engine.generate(requests)
    for request, completion in zip(requests, together, strict=True):
        assert engine.generate([request])[0].ids == completion.ids


def test_a_streamed_answer_equals_the_whole_one_and_stops_at_its_end_of_turn(engine):
    request = Request(prompt_ids=prompts(engine)[0], sampling=SamplingConfig(max_tokens=40))
    deltas = list(engine.stream(request))
    whole = engine.generate([request])[0]
    assert "".join(delta.text for delta in deltas) == whole.text
    assert "Paris" in whole.text
    assert whole.finish_reason == "stop"
    assert whole.ids[-1] in engine.tokenizer.stop_ids

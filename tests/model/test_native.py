"""A packed model in compiled code against the same model in PyTorch; a row's logits, whatever is beside it."""

import dataclasses

import pytest
import torch

from arriero.generate.step import Span, cache_dtype, step
from arriero.kernels.native.build import why_not_native
from arriero.model.adapters import Adapters
from arriero.model.config import LlamaConfig, RopeScaling
from arriero.model.lora_config import LoraConfig
from arriero.model.native import native_of, why_not_compiled
from arriero.model.packed import pack_model
from arriero.model.paged_cache import PagedCache
from arriero.model.transformer import Llama

SHAPE = {
    "vocab_size": 101,
    "dim": 64,
    "n_layers": 2,
    "n_heads": 4,
    "n_kv_heads": 2,
    "head_dim": 16,
    "hidden_dim": 96,
    "max_seq_len": 64,
}
PROMPT = [(7 * i) % 101 for i in range(50)]


@pytest.fixture(autouse=True)
def compiled() -> None:
    if (reason := why_not_native()) is not None:
        pytest.skip(reason)


def packed(weights: str = "int4", **changes) -> Llama:
    model = Llama(LlamaConfig(**(SHAPE | changes))).init_weights(0).eval()
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return pack_model(model, weights)


def run(model: Llama, *steps: list[Span], pages: int = 20) -> torch.Tensor:
    cache = PagedCache(model.config, pages, dtype=cache_dtype(model))
    return torch.cat([step(model, cache, spans) for spans in steps])


@pytest.mark.parametrize("weights", ["int4", "int8"])
@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 4}, {"head_dim": 32}, {"tied_embeddings": True}])
def test_its_logits_are_those_of_the_model_in_pytorch(weights, changes, monkeypatch):
    model = packed(weights, **changes)
    assert native_of(model) is not None
    logits = run(model, [Span(PROMPT, 0, [3, 1, 4, 5], wanted=len(PROMPT))])
    monkeypatch.setattr("arriero.model.packed.why_not_native", lambda: "switched off")
    expected = model(torch.tensor([PROMPT]))[0]  # (T, V), by the dequantised matrices, its cache fp32
    assert logits.shape == expected.shape
    assert (logits - expected).norm() < 0.002 * expected.norm()  # the cache's fp16


def test_chunks_pages_and_neighbours_change_no_bit():
    model = packed()
    whole = run(model, [Span(PROMPT, 0, [0, 1, 2, 3], wanted=len(PROMPT))])
    pieces = run(
        model,
        [Span(PROMPT[:9], 0, [7, 2, 0, 5], wanted=9), Span(PROMPT[::-1], 0, [8, 9, 10, 11], wanted=0)],
        [Span([3], 50, [8, 9, 10, 11], wanted=0), Span(PROMPT[9:40], 9, [7, 2, 0, 5], wanted=31)],
        [Span(PROMPT[40:], 40, [7, 2, 0, 5], wanted=10)],
    )
    assert torch.equal(whole, pieces)


def test_positions_beyond_the_context_turn_on():
    model = packed()
    long = [5] * 150
    near = run(model, [Span(long, 0, list(range(10)), wanted=150)])
    assert (near - model(torch.tensor([long]))[0]).norm() < 0.002 * near.norm()


def test_an_adapter_leaves_compiled_code_and_comes_back():
    model = packed()
    plain = run(model, [Span(PROMPT, 0, [0, 1, 2, 3])])
    adapters = Adapters.of(model)
    adapters.add("style", LoraConfig(rank=2))
    for change in adapters.changes("style").values():
        torch.nn.init.normal_(change.b, std=0.5)
    assert why_not_compiled(model) == "an adapter is on"
    adapters.activate(None)
    mixed = run(model, [Span(PROMPT, 0, [0, 1, 2, 3]), Span(PROMPT, 0, [4, 5, 6, 7], adapter="style")])
    assert torch.equal(run(model, [Span(PROMPT, 0, [0, 1, 2, 3])]), plain)
    assert torch.equal(mixed[0], plain[0])  # the row without it has not left
    assert (mixed[1] - plain[0]).norm() > 0.05 * plain.norm()


def test_rows_with_and_without_adapters_share_a_step_and_their_logits_come_in_order():
    model = packed()
    adapters = Adapters.of(model)
    for seed, name in enumerate(("style", "law")):
        adapters.add(name, LoraConfig(rank=2), seed=seed)
        for change in adapters.changes(name).values():
            torch.nn.init.normal_(change.b, std=0.5)
    adapters.activate(None)
    spans = [
        Span(PROMPT[:20], 0, [0, 1], adapter="style", wanted=2),
        Span(PROMPT[:17], 0, [2, 3], wanted=3),
        Span(PROMPT[:9], 0, [4], adapter="law", wanted=0),
        Span(PROMPT[:5], 0, [5], wanted=0),
        Span(PROMPT[:6], 0, [6], adapter="law"),
        Span(PROMPT[:7], 0, [7]),
    ]
    later = [dataclasses.replace(span, tokens=[1], start=len(span.tokens), wanted=1) for span in spans]
    together = run(model, spans, later)
    alone = [run(model, [first], [second]) for first, second in zip(spans, later, strict=True)]
    first = torch.cat([logits[:-1] for logits in alone])
    expected = torch.cat([first, *(logits[-1:] for logits in alone)])
    assert together.shape == expected.shape == (13, 101)
    torch.testing.assert_close(together, expected, rtol=1e-3, atol=1e-3)
    bare = [2, 3, 4, 6, 8, 10, 12]
    assert torch.equal(together[bare], expected[bare])


def test_what_it_cannot_do_is_left_to_pytorch():
    scaling = RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=32)
    assert "scaled by the row's length" in str(why_not_compiled(packed(rope_scaling=scaling)))
    assert "heads have 8 dims" in str(why_not_compiled(packed(n_heads=8, n_kv_heads=2, head_dim=8)))
    assert "not packed" in str(why_not_compiled(Llama(LlamaConfig(**SHAPE))))
    odd = packed(n_heads=8, n_kv_heads=2, head_dim=8)
    assert run(odd, [Span(PROMPT, 0, [0, 1, 2, 3])]).isfinite().all()

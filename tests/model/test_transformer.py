"""The model against transformers' LlamaForCausalLM, its own invariants, and that it learns."""

import dataclasses

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.kernels.cross_entropy import IGNORED
from arriero.kernels.documents import Documents
from arriero.model.config import RopeScaling
from arriero.model.kv_cache import KVCache
from arriero.model.transformer import Llama


@torch.no_grad()
def test_logits_equal_transformers(variant, make_model, make_oracle, tokens):
    model = make_model(variant)
    logits, expected = model(tokens), make_oracle(model)(tokens).logits
    assert expected.std() > 0.5
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("length", [1, 15, 16, 17, 33])
def test_dynamic_scaling_around_the_original_length(length, tiny, make_model, make_oracle, tokens):
    scaling = RopeScaling(kind="dynamic", factor=4.0, original_max_seq_len=16)
    model = make_model(dataclasses.replace(tiny, rope_scaling=scaling))
    expected = make_oracle(model)(tokens[:, :length]).logits
    torch.testing.assert_close(model(tokens[:, :length]), expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_given_positions_are_used(tiny, make_model, make_oracle, tokens):
    model = make_model(tiny)
    positions = torch.arange(40).expand(2, 40) * 2 + 7
    expected = make_oracle(model)(tokens, position_ids=positions).logits
    torch.testing.assert_close(model(tokens, positions=positions), expected, atol=1e-4, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("step", [1, 3, 40])
def test_cached_equals_uncached(step, variant, make_model, tokens):
    if variant.rope_scaling is not None and variant.rope_scaling.kind == "dynamic":
        tokens = tokens[:, :16]  # beyond the original length later keys are turned by another base, as in transformers
    model = make_model(variant)
    cache = KVCache(variant, batch=2, max_len=40)
    logits = torch.cat([model(part, cache=cache) for part in tokens.split(step, dim=1)], dim=1)
    torch.testing.assert_close(logits, model(tokens), atol=2e-5, rtol=1e-5)
    assert cache.lengths.tolist() == [tokens.shape[1]] * 2


@torch.no_grad()
def test_dynamic_scaling_with_a_cache_equals_transformers(tiny, make_model, make_oracle, tokens):
    scaling = RopeScaling(kind="dynamic", factor=4.0, original_max_seq_len=16)
    model = make_model(dataclasses.replace(tiny, rope_scaling=scaling))
    oracle, past, cache = make_oracle(model), None, KVCache(model.config, batch=2, max_len=40)
    for part in tokens.split([12, 1, 1, 4, 1, 1, 10, 10], dim=1):
        expected = oracle(part, cache=past, use_cache=True)
        past = expected.past_key_values
        torch.testing.assert_close(model(part, cache=cache), expected.logits, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_ragged_batch_equals_each_row_alone(variant, make_model, tokens):
    model = make_model(variant)
    lengths = [11, 4, 7]
    rows = [tokens[0, :20], tokens[1, :20], tokens[0, 20:]]
    padded = torch.full((3, 11), 5)
    for row, length in enumerate(lengths):
        padded[row, :length] = rows[row][:length]
    together, alone = KVCache(variant, 3, 24), [KVCache(variant, 1, 24) for _ in rows]

    logits = model(padded, cache=together, prompt_lengths=lengths)
    for row, length in enumerate(lengths):
        expected = model(rows[row][None, :length], cache=alone[row])
        torch.testing.assert_close(logits[row : row + 1, :length], expected, atol=2e-5, rtol=1e-5)
    for step in range(9):
        inputs = torch.stack(
            [tokens_of_row[length + step] for tokens_of_row, length in zip(rows, lengths, strict=True)]
        )
        expected = torch.cat([model(inputs[row, None, None], cache=alone[row]) for row in range(3)])
        torch.testing.assert_close(model(inputs[:, None], cache=together), expected, atol=2e-5, rtol=1e-5)
    assert together.lengths.tolist() == [20, 13, 16]


@torch.no_grad()
def test_second_ragged_prompt_behind_the_first(tiny, make_model, tokens):
    model = make_model(tiny)
    cache = KVCache(tiny, 2, 20)
    model(tokens[:, :6], cache=cache, prompt_lengths=[6, 2])
    second = torch.stack([tokens[0, 6:11], tokens[1, 2:7]])
    logits = model(second, cache=cache, prompt_lengths=[3, 5])
    torch.testing.assert_close(logits[0, :3], model(tokens[:1, :9])[0, 6:], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1], model(tokens[1:, :7])[0, 2:], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_packed_documents_equal_separate_ones(tiny, make_model, tokens):
    model = make_model(tiny)
    documents = Documents.from_segments(torch.tensor([[0] * 13 + [1] * 1 + [2] * 26, [0] * 20 + [1] * 20]))
    packed = model(tokens, documents=documents)
    for row, start, end in ((0, 0, 13), (0, 13, 14), (0, 14, 40), (1, 0, 20), (1, 20, 40)):
        alone = model(tokens[row : row + 1, start:end])
        torch.testing.assert_close(packed[row : row + 1, start:end], alone, atol=2e-5, rtol=1e-5)


def test_documents_and_cache_do_not_go_together(tiny, tokens):
    with pytest.raises(ArrieroError, match="documents: expected None together with a cache"):
        Llama(tiny)(tokens, documents=Documents.from_segments(torch.zeros(2, 40)), cache=KVCache(tiny, 2, 40))


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (3, {}, "tokens: expected 3 rows, as the cache has, got 2"),
        (2, {"prompt_lengths": [40]}, r"prompt_lengths: expected 2 numbers from 0 to 40, got \[40\]"),
        (2, {"prompt_lengths": [41, 3]}, r"prompt_lengths: expected 2 numbers from 0 to 40, got \[41, 3\]"),
    ],
)
def test_rows_that_do_not_fit_the_cache_are_named(rows, options, message, tiny, tokens):
    with pytest.raises(ArrieroError, match=message):
        Llama(tiny)(tokens, cache=KVCache(tiny, rows, 40), **options)


@torch.no_grad()
def test_hidden_then_output_is_forward(tiny, make_model, tokens):
    model = make_model(tiny)
    hidden = model.hidden(tokens)
    assert hidden.shape == (2, 40, 48)
    torch.testing.assert_close(model.output(hidden[:, -1]), model(tokens)[:, -1])


@torch.no_grad()
def test_half_precision_is_near_full_precision(tiny, make_model, tokens):
    model = make_model(tiny)
    full = model(tokens)
    half = model.bfloat16()(tokens)
    assert half.dtype == torch.bfloat16
    assert (half.float() - full).abs().mean() < 0.02 * full.abs().mean()


def test_init_is_seeded_and_scaled(tiny):
    first, same, other = (Llama(tiny).init_weights(seed) for seed in (1, 1, 2))
    for (name, weight), again, different in zip(
        first.named_parameters(), same.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(weight, again)
        if weight.dim() == 1:
            assert (weight == 1).all()
        else:
            assert not torch.equal(weight, different)
            expected = 0.01 if name.endswith(("wo.weight", "w2.weight")) else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.1)


def test_tied_embeddings_are_one_parameter(tiny):
    tied = Llama(dataclasses.replace(tiny, tied_embeddings=True))
    assert tied.output.weight is tied.tok_embeddings.weight
    assert Llama(tiny).n_params - tied.n_params == 101 * 48


def test_two_layers_memorise_one_batch(tiny, tokens):
    torch.manual_seed(0)
    model = Llama(tiny).init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    documents = Documents.from_segments(torch.tensor([[0] * 40, [0] * 15 + [1] * 25]))
    for _ in range(60):
        logits = model(tokens, documents=documents)[:, :-1]
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.2


def test_loss_is_that_of_the_logits(tiny, make_model, tokens):
    model = make_model(tiny)
    targets = tokens.roll(-1, 1)
    targets[:, -1] = IGNORED
    total, losses = model.loss(tokens, targets)
    expected = torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten(), reduction="none")
    torch.testing.assert_close(losses, expected.view(tokens.shape), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(total, expected.sum(), atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("recompute", ["selective", "full"])
def test_recomputing_changes_no_gradient(recompute, tied, tiny, make_model, tokens):
    model = make_model(dataclasses.replace(tiny, tied_embeddings=tied))
    documents = Documents.from_segments(torch.tensor([[0] * 40, [0] * 15 + [1] * 25]))

    def gradients(kind):
        for layer in model.layers:
            layer.recompute = kind
        total, _ = model.loss(tokens, tokens.roll(-1, 1), documents=documents)
        return torch.autograd.grad(total, list(model.parameters()))

    for got, wanted in zip(gradients(recompute), gradients("none"), strict=True):
        torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)

"""The cache: choosing rows, forgetting, room."""

import pytest
import torch

from arriero.common.errors import ArrieroError
from arriero.model.kv_cache import KVCache


@torch.no_grad()
def filled(model, tokens: torch.Tensor, lengths: list[int]) -> KVCache:
    cache = KVCache(model.config, len(lengths), 30)
    model(tokens[:, : max(lengths)], cache=cache, prompt_lengths=lengths)
    return cache


@torch.no_grad()
@pytest.mark.parametrize("rows", [[1, 0], [0, 0, 1, 0], [1], []])
def test_selected_rows_go_on_as_the_originals(rows, tiny, make_model, tokens):
    model = make_model(tiny)
    cache = filled(model, tokens, [9, 5])
    chosen = cache.select(torch.tensor(rows, dtype=torch.long))
    assert chosen.lengths.tolist() == [[9, 5][row] for row in rows]
    inputs = torch.stack([tokens[0, 9:12], tokens[1, 5:8]])
    if rows:
        logits = model(inputs[rows], cache=chosen)
        torch.testing.assert_close(logits, model(inputs, cache=cache)[rows], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_one_prompt_shared_among_samples(tiny, make_model, tokens):
    model = make_model(tiny)
    prompt = filled(model, tokens[:1], [10])
    samples = prompt.select([0] * 3, max_len=12)
    assert samples.max_len == 12
    inputs = torch.tensor([[1], [2], [3]])
    logits = model(inputs, cache=samples)
    for row in range(3):
        whole = torch.cat([tokens[:1, :10], inputs[row : row + 1]], dim=1)
        torch.testing.assert_close(logits[row], model(whole)[0, -1:], atol=2e-5, rtol=1e-5)
    assert prompt.lengths.tolist() == [10]


@torch.no_grad()
def test_select_leaves_the_original_untouched(tiny, make_model, tokens):
    model = make_model(tiny)
    cache = filled(model, tokens, [6, 6])
    before = cache.k.clone()
    model(tokens[:, :4], cache=cache.select([1, 0]))
    assert torch.equal(cache.k, before)


@torch.no_grad()
def test_truncated_rows_are_written_over(tiny, make_model, tokens):
    model = make_model(tiny)
    cache = filled(model, tokens, [12, 12])
    cache.truncate([3, 20])
    assert cache.lengths.tolist() == [3, 12]
    logits = model(torch.stack([tokens[0, 3:8], tokens[1, 12:17]]), cache=cache)
    torch.testing.assert_close(logits[0], model(tokens[:1, :8])[0, 3:], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logits[1], model(tokens[1:, :17])[0, 12:], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_no_room_is_said(tiny, make_model, tokens):
    model = make_model(tiny)
    cache = KVCache(tiny, 2, 10)
    model(tokens[:, :10], cache=cache)
    with pytest.raises(ArrieroError, match="1 more tokens make 11, more than its room for 10"):
        model(tokens[:, :1], cache=cache)


def test_a_select_too_large_for_its_room_is_refused(tiny, make_model, tokens):
    cache = filled(make_model(tiny), tokens, [9, 5])
    with pytest.raises(ArrieroError, match="max_len: expected at least 9, got 8"):
        cache.select([0], max_len=8)


def test_heads_come_before_tokens_and_start_as_zeros(tiny):
    cache = KVCache(tiny, 3, 7, dtype=torch.bfloat16)
    assert cache.k.shape == cache.v.shape == (2, 3, 2, 7, 8)
    assert cache.k.dtype == torch.bfloat16
    assert not cache.k.any()
    assert (cache.batch, cache.max_len, cache.lengths.tolist()) == (3, 7, [0, 0, 0])


@torch.no_grad()
def test_adopted_prompts_go_on_in_their_rows(tiny, make_model, tokens):
    model = make_model(tiny)
    prompts, cache = filled(model, tokens, [9, 5]), KVCache(tiny, 3, 12)
    cache.adopt(prompts, 1, [0, 2])
    cache.adopt(prompts, 0, [1])
    assert cache.lengths.tolist() == [5, 9, 5]
    logits = model(torch.tensor([[1], [2], [3]]), cache=cache)
    for row, (source, length) in enumerate(((1, 5), (0, 9), (1, 5))):
        whole = torch.cat([tokens[source, :length], torch.tensor([row + 1])])[None]
        torch.testing.assert_close(logits[row], model(whole)[0, -1:], atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_reorder_moves_what_comes_after_a_common_beginning_and_the_lengths_with_it(tiny, make_model, tokens):
    model = make_model(tiny)
    same = torch.cat([tokens[:1, :4].expand(2, 4), tokens[:, 4:12]], dim=1)
    cache = filled(model, same, [9, 5])
    whole = cache.select([1, 0])
    cache.reorder([1, 0], 4)
    assert cache.lengths.tolist() == [5, 9]
    torch.testing.assert_close(cache.k[:, :, :, :9], whole.k[:, :, :, :9], atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(cache.v[:, :, :, :9], whole.v[:, :, :, :9], atol=2e-5, rtol=1e-5)

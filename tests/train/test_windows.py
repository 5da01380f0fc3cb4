"""Each token is predicted once, from as much context as was asked for; batches and padding change nothing."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.model.config import LlamaConfig, RopeScaling
from arriero.model.transformer import Llama
from arriero.train.windows import Window, document_windows, score_windows

SHAPE = {"vocab_size": 40, "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "max_seq_len": 24}


@pytest.fixture(scope="module")
def model() -> Llama:
    model = Llama(LlamaConfig.of(**SHAPE)).init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(6)
    return model


@given(length=st.integers(0, 60), context=st.integers(1, 20), share=st.floats(0, 1))
def test_each_token_but_the_first_is_predicted_once_from_what_precedes_it(
    length: int, context: int, share: float
) -> None:
    stride = max(1, int(context * share))
    predicted = []
    for window in document_windows(range(length), context, stride):
        assert 1 <= window.scored < len(window.ids) <= context + 1
        assert list(window.ids) == list(range(window.ids[0], window.ids[-1] + 1))
        if predicted:
            assert len(window.ids) - window.scored >= min(context - stride + 1, len(predicted))
        predicted += window.ids[-window.scored :]
    assert predicted == list(range(1, length))


@pytest.mark.parametrize(("context", "stride"), [(0, 1), (4, 0), (4, 5)])
def test_a_stride_beyond_the_context_is_refused(context: int, stride: int) -> None:
    with pytest.raises(ArrieroError, match="stride: expected 1 to the context"):
        list(document_windows([1, 2, 3], context, stride))


def windows_of_every_length() -> list[Window]:
    random = torch.Generator().manual_seed(1)
    lengths = [2, 24, 7, 25, 3, 16, 9, 2]
    return [
        Window(torch.randint(40, (n,), generator=random).tolist(), 1 + (5 * n) % (n - 1) if n > 2 else 1)
        for n in lengths
    ]


def plainly(model: Llama, window: Window) -> tuple[float, bool]:
    """The definition: one window, one row, the whole softmax."""
    ids = torch.tensor([window.ids])
    logprobs = model(ids[:, :-1])[0].log_softmax(-1)[-window.scored :]
    targets = ids[0, -window.scored :]
    chosen = logprobs.gather(1, targets[:, None])
    return float(chosen.sum()), bool((logprobs.argmax(-1) == targets).all())


@torch.no_grad()
@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_scores_are_those_of_each_window_alone_in_the_order_given(model: Llama, batch_tokens: int) -> None:
    windows = windows_of_every_length()
    scores = list(score_windows(model, windows, batch_tokens=batch_tokens))
    for window, score in zip(windows, scores, strict=True):
        logprob, greedy = plainly(model, window)
        assert score.logprob == pytest.approx(logprob, abs=1e-4)
        assert score.greedy == greedy


@torch.no_grad()
def test_greedy_is_what_greedy_decoding_would_say(model: Llama) -> None:
    ids = [1, 2, 3]
    for _ in range(4):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    other = [*ids[:-1], (ids[-1] + 1) % 40]
    assert [score.greedy for score in score_windows(model, [Window(ids, 4), Window(other, 4)])] == [True, False]


@torch.no_grad()
def test_padding_does_not_reach_dynamic_frequencies() -> None:
    scaling = RopeScaling(kind="dynamic", factor=2.0, original_max_seq_len=8)
    model = Llama(LlamaConfig.of(**SHAPE, rope_scaling=scaling)).init_weights(0)
    windows = windows_of_every_length()
    for window, score in zip(windows, score_windows(model, windows), strict=True):
        assert score.logprob == pytest.approx(plainly(model, window)[0], abs=1e-4)


def test_weights_that_are_no_numbers_are_refused() -> None:
    model = Llama(LlamaConfig.of(**SHAPE)).init_weights(0)
    with torch.no_grad():
        model.norm.weight[3] = torch.nan
    with pytest.raises(ArrieroError, match="its weights are damaged, or too large for float32"):
        list(score_windows(model, [Window([1, 2, 3], 2)]))


def test_a_batch_of_no_tokens_is_refused(model: Llama) -> None:
    with pytest.raises(ArrieroError, match="batch_tokens: expected at least 1, got 0"):
        list(score_windows(model, [Window([1, 2], 1)], batch_tokens=0))

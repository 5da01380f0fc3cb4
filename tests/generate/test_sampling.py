"""Filters equal transformers' processors; draws have the right frequencies and depend on nothing but their own row."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from arriero.common.errors import ArrieroError
from arriero.generate.filters import keep_above, weigh
from arriero.generate.sampling import Rules, choose, noise_count, race, shape_logits
from arriero.generate.sampling_config import SamplingConfig

VOCAB = 1000


def random_logits(rows: int, vocab: int = VOCAB, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, vocab, generator=torch.Generator().manual_seed(seed)) * 3


def by_transformers(logits: torch.Tensor, prompt: torch.Tensor, row: SamplingConfig) -> torch.Tensor:
    processors = LogitsProcessorList()
    if row.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(row.repetition_penalty))
    if row.temperature not in (0, 1):
        processors.append(TemperatureLogitsWarper(row.temperature))
    if row.top_k:
        processors.append(TopKLogitsWarper(row.top_k))
    if row.top_p < 1:
        processors.append(TopPLogitsWarper(row.top_p))
    if row.min_p:
        processors.append(MinPLogitsWarper(row.min_p))
    return processors(prompt[None], logits[None].clone())[0]


ROWS = [
    SamplingConfig(temperature=1.0),
    SamplingConfig(temperature=0.7, top_k=40),
    SamplingConfig(temperature=0.7, top_k=5000),
    SamplingConfig(temperature=1.3, top_p=0.9),
    SamplingConfig(temperature=5.0, top_p=0.99),  # a nucleus wider than the first candidates
    SamplingConfig(temperature=1.0, top_p=0.01),
    SamplingConfig(temperature=1.0, top_k=20, top_p=0.8),
    SamplingConfig(temperature=2.0, min_p=0.05),
    SamplingConfig(temperature=1.1, top_k=50, top_p=0.95, min_p=0.02, repetition_penalty=1.3),
    SamplingConfig(temperature=1.0, repetition_penalty=0.7),
    SamplingConfig(temperature=0.0, repetition_penalty=1.3),
]


def test_each_row_of_a_mixed_batch_is_shaped_as_transformers_shapes_it_alone():
    logits = random_logits(len(ROWS))
    prompts = torch.randint(0, VOCAB, (len(ROWS), 60), generator=torch.Generator().manual_seed(1))
    seen = (torch.arange(len(ROWS))[:, None] * VOCAB + prompts).flatten()
    ours = shape_logits(logits, Rules.of(ROWS), seen)
    for row, config in enumerate(ROWS):
        expected = by_transformers(logits[row], prompts[row], config)
        torch.testing.assert_close(ours[row], expected, rtol=1e-6, atol=1e-6)


@given(
    seed=st.integers(0, 10_000),
    temperature=st.floats(0.1, 10),
    top_k=st.integers(0, 60),
    top_p=st.just(1.0) | st.floats(0.01, 0.999),  # nearer to 1, what is left is below the rounding of fp32
    min_p=st.floats(0, 1),
)
def test_any_filter_keeps_what_transformers_keeps_and_always_the_likeliest(seed, temperature, top_k, top_p, min_p):
    logits = random_logits(1, vocab=50, seed=seed)
    config = SamplingConfig(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    ours = shape_logits(logits, Rules.of([config]))
    expected = by_transformers(logits[0], torch.zeros(1, dtype=torch.long), config)
    assert ours[0, logits.argmax()].isfinite()
    # A token whose cumulated mass lands on top_p itself falls on either side by rounding.
    mass = (logits / temperature).softmax(-1).sort(descending=True).values.cumsum(-1)
    if top_k == 0 and (mass - top_p).abs().min() > 1e-5:
        assert torch.equal(ours[0].isfinite(), expected.isfinite())
    assert (ours[0].isfinite().sum() - expected.isfinite().sum()).abs() <= 1


def test_logits_are_untouched_and_passed_through_when_nothing_applies():
    logits = random_logits(2)
    kept = logits.clone()
    assert shape_logits(logits, Rules.of([SamplingConfig()] * 2)) is logits
    shape_logits(logits, Rules.of([SamplingConfig(temperature=0.5, top_k=3)] * 2))
    assert torch.equal(logits, kept)


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> tuple[float, float]:
    """The statistic and the limit that it passes once in some 30,000 runs (normal approximation, 4 deviations)."""
    expected = probabilities * counts.sum()
    large = expected >= 5  # pool the rare ones
    observed = torch.cat([counts[large], counts[~large].sum()[None]]).double()
    expected = torch.cat([expected[large], expected[~large].sum()[None]])
    present = expected > 0
    degrees = int(present.sum()) - 1
    statistic = float(((observed - expected)[present] ** 2 / expected[present]).sum())
    return statistic, degrees + 4 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("vocab", [3, 256, 1000])
@pytest.mark.parametrize("config", [ROWS[0], SamplingConfig(temperature=1.5, top_k=12, top_p=0.9)])
def test_frequencies_are_those_of_the_softmax(vocab, config):
    logits = random_logits(1, vocab=vocab, seed=5)
    shaped = shape_logits(logits, Rules.of([config]))
    draws = 40_000
    noise = torch.empty(draws, noise_count(vocab), dtype=torch.float64)
    noise.exponential_(generator=torch.Generator().manual_seed(2))
    counts = torch.bincount(race(shaped.expand(draws, -1), noise), minlength=vocab)
    statistic, limit = chi_square(counts, shaped[0].double().softmax(-1))
    assert statistic < limit
    assert counts[~shaped[0].isfinite()].sum() == 0


def test_rare_tokens_of_a_wide_softmax_are_drawn_as_often_as_they_should_be():
    """Tokens of probability near 1e-8, thousands of them: a float32 race would never draw one."""
    vocab = 49_152
    logits = torch.full((1, vocab), -18.0)
    logits[0, 0] = 0.0
    rare = float(logits.double().softmax(-1)[0, 1:].sum())  # 7.5e-4
    draws = 20_000
    generator = torch.Generator().manual_seed(3)
    rules = Rules.of([SamplingConfig(temperature=1.0)])
    weights_by_block = 0
    for _ in range(draws // 1000):
        noise = torch.empty(1000, noise_count(vocab), dtype=torch.float64).exponential_(generator=generator)
        weights_by_block += int((race(logits.expand(1000, -1), noise) > 0).sum())
    assert choose(logits, rules, [generator]).shape == (1,)
    assert abs(weights_by_block - draws * rare) < 4 * (draws * rare) ** 0.5


def test_a_row_draws_the_same_whatever_is_beside_it():
    logits = random_logits(len(ROWS))
    seen = torch.arange(len(ROWS)) * VOCAB + 7

    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(len(ROWS))]

    batch, alone = generators(), generators()
    together = [choose(shape_logits(logits, Rules.of(ROWS), seen), Rules.of(ROWS), batch) for _ in range(5)]
    for row, config in enumerate(ROWS):
        rules = Rules.of([config])
        single = logits[row : row + 1]
        for step in range(5):
            token = choose(shape_logits(single, rules, seen[:1]), rules, [alone[row]])
            assert token[0] == together[step][row]


@pytest.mark.parametrize("temperature", [1.0, 0.02])
def test_weights_are_the_exponentials_and_nothing_where_float32_would_lose_them(temperature):
    logits = random_logits(3) / temperature
    plain = (logits - logits.amax(-1, keepdim=True)).exp()
    assert torch.equal(weigh(logits), torch.where(plain < 1.7e-38, 0.0, plain))
    cut = torch.tensor([[0.5], [-torch.inf], [float(logits[2].max())]])
    assert torch.equal(keep_above(logits, cut), logits.masked_fill(logits < cut, -torch.inf))


@pytest.mark.parametrize("vocab", [1, 255, 256, 1000])
def test_the_first_of_equally_likely_tokens_is_taken(vocab):
    logits = torch.randint(-3, 0, (40, vocab), generator=torch.Generator().manual_seed(vocab)).float()
    assert torch.equal(choose(logits, Rules.of([SamplingConfig()] * 40), []), logits.argmax(-1))


@given(seed=st.integers(0, 2**40), temperature=st.floats(0.05, 20), top_k=st.integers(1, 30), vocab=st.integers(1, 600))
def test_a_draw_is_always_among_the_kept(seed, temperature, top_k, vocab):
    logits = random_logits(3, vocab=vocab, seed=seed)
    rules = Rules.of([SamplingConfig(temperature=temperature, top_k=top_k)] * 3)
    shaped = shape_logits(logits, rules)
    tokens = choose(shaped, rules, [torch.Generator().manual_seed(seed + row) for row in range(3)])
    assert (tokens < vocab).all()
    assert shaped[torch.arange(3), tokens].isfinite().all()


@pytest.mark.parametrize(
    "extreme",
    [
        {"top_p": 1e-50},
        {"top_k": 2**70},
        {"min_p": 1e-50},
        {"min_p": 1.0},
        {"temperature": 1e-6},
        {"temperature": 1e39},
    ],
)
def test_extreme_settings_still_draw_a_kept_token(extreme):
    logits = random_logits(1)
    rules = Rules.of([SamplingConfig(**{"temperature": 1.0, **extreme})])
    shaped = shape_logits(logits, rules)
    token = choose(shaped, rules, [torch.Generator().manual_seed(0)])
    assert shaped[0, token].isfinite()
    assert not shaped.isnan().any()


def test_greedy_is_argmax_and_draws_no_random_number():
    logits = random_logits(2)
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert torch.equal(choose(logits, Rules.of([SamplingConfig()] * 2), [generator] * 2), logits.argmax(-1))
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", 0),
        ("temperature", -1.0),
        ("temperature", 1e-9),
        ("temperature", float("nan")),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("min_p", -0.1),
        ("repetition_penalty", 0.0),
        ("repetition_penalty", 1e-30),
        ("stop", ("",)),
        ("stop", "END"),
        ("n", 0),
        ("logprobs", -1),
        ("logprobs_of", "teacher"),
        ("seed", -5),
    ],
)
def test_a_bad_setting_is_named_with_what_was_expected(field, value):
    with pytest.raises(ArrieroError, match=rf"^{field} must be .* not "):
        dataclasses.replace(SamplingConfig(), **{field: value})

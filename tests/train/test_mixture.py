"""Shares and epochs: LLaMA's Table 1, and rows that are dealt out as it plans."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arriero.common.errors import ArrieroError
from arriero.train.mixture import Dealer, check_weights, plan_mixture

TABLE_1 = {  # sampling proportion, epochs over 1.4T tokens, disk size in GB
    "commoncrawl": (0.67, 1.10, 3300),
    "c4": (0.15, 1.06, 783),
    "github": (0.045, 0.64, 328),
    "wikipedia": (0.045, 2.45, 83),
    "books": (0.045, 2.23, 85),
    "arxiv": (0.025, 1.06, 92),
    "stackexchange": (0.02, 1.03, 78),
}
TOTAL = 1_400_000_000_000


def test_llamas_table_1_is_reproduced() -> None:
    """The paper does not print the tokens of its sources: they are what its shares and epochs leave them.

    Taken to a tenth of a billion, they give its epochs back to the last digit. They make 2.8 to 4.0 bytes a token of
    its disk sizes, as its tokenizer would; and they sum to 1.26T, where the text speaks of "roughly 1.4T" tokens: that
    is what a run sees, with its repetitions, and not what there is.
    """
    weights = {name: row[0] for name, row in TABLE_1.items()}
    available = {name: round(w * TOTAL / epochs / 1e8) * 10**8 for name, (w, epochs, _) in TABLE_1.items()}
    plan = plan_mixture(check_weights(weights), available, TOTAL)
    for row in plan:
        _, epochs, size = TABLE_1[row.source]
        assert row.planned_epochs == pytest.approx(epochs, abs=0.005)
        assert 2.7 < size * 1e9 / row.tokens_available < 4.0
    assert sum(row.planned_tokens for row in plan) == TOTAL
    assert sum(available.values()) == pytest.approx(1.263e12, rel=1e-3)


def test_a_plan_wants_sources_and_weights_that_match() -> None:
    with pytest.raises(ArrieroError, match="only one for b, c"):
        plan_mixture({"a": 0.5, "b": 0.5}, {"a": 1, "c": 1}, 10)
    with pytest.raises(ArrieroError, match="source 'a' is empty"):
        plan_mixture({"a": 1.0}, {"a": 0}, 10)


@pytest.mark.parametrize("bad", [0.0, -0.5, float("nan"), float("inf")])
def test_weights_are_positive_numbers(bad: float) -> None:
    for normalise in (False, True):
        with pytest.raises(ArrieroError, match="source 'b': expected a positive weight"):
            check_weights({"a": 0.5, "b": bad}, normalise=normalise)


def test_weights_sum_to_1_or_are_made_to_on_demand() -> None:
    with pytest.raises(ArrieroError, match=r"weights sum to 0\.9, expected 1 \(a=0\.5, b=0\.4\)"):
        check_weights({"a": 0.5, "b": 0.4})
    with pytest.raises(ArrieroError, match="at least one source"):
        check_weights({})
    assert check_weights({"a": 3, "b": 1}, normalise=True) == {"a": 0.75, "b": 0.25}
    assert sum(check_weights({"a": 0.1, "b": 0.9000005}).values()) == 1.0


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=9))
def test_every_source_has_its_share_to_within_a_row_or_so_at_every_moment(parts: list[int]) -> None:
    weights = [part / sum(parts) for part in parts]
    dealer, rows = Dealer(weights), [0] * len(weights)
    for dealt in range(1, 400):
        rows[dealer.deal()] += 1
        for weight, count in zip(weights, rows, strict=True):
            assert count - weight * dealt < 1 + 1e-9
            assert weight * dealt - count < max(1, len(weights) / 2)

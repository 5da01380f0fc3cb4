"""Waves and prompt groups cover everything once, within their bounds."""

from hypothesis import given
from hypothesis import strategies as st

from arriero.generate.schedule import group_prompts, plan_waves

prompts = st.lists(
    st.tuples(st.sampled_from(["", "law"]), st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple)),
    max_size=30,
)


@given(prompts=prompts, extra=st.integers(0, 20), max_rows=st.integers(1, 8), slack=st.integers(0, 200))
def test_waves_cover_every_row_once_within_both_bounds(prompts, extra, max_rows, slack):
    rooms = [len(prompt) + extra for _, prompt in prompts]
    limit = max(rooms, default=0) + slack
    waves = plan_waves(rooms, prompts, max_rows, limit)
    assert sorted(row for wave in waves for row in wave) == list(range(len(prompts)))
    for wave in waves:
        assert 1 <= len(wave) <= max_rows
        assert len(wave) * max(rooms[row] for row in wave) <= limit


@given(prompts=prompts)
def test_groups_hold_each_distinct_prompt_once_and_no_more_than_half_padding(prompts):
    groups = group_prompts(prompts)
    assert sorted(row for group in groups for rows in group.values() for row in rows) == list(range(len(prompts)))
    assert sorted(prompt for group in groups for prompt in group) == sorted(set(prompts))
    for group in groups:
        lengths = [len(prompt) for _, prompt in group]
        assert len(group) * max(lengths) <= 2 * sum(lengths)


def test_long_prompts_are_read_in_bounded_groups():
    groups = group_prompts([("", (i,) * 1500) for i in range(5)] + [("", (9,) * 6000)])
    assert [len(group) for group in groups] == [1, 2, 2, 1]

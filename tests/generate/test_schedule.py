"""Groups of prompts cover everything once, within their bounds."""

from hypothesis import given
from hypothesis import strategies as st

from arriero.generate.schedule import group_prompts

prompts = st.lists(
    st.tuples(st.sampled_from(["", "law"]), st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple)),
    max_size=30,
)


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

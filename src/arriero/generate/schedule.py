"""Which prompts are read together where rows of one cache are padded to the longest: a pure function on lengths."""

from collections.abc import Sequence

PromptKey = tuple[str, tuple[int, ...]]
"""An adapter's name, '' for the default, and a prompt: what makes two rows' caches equal."""
_PREFILL_TOKENS = 4096  # of one forward pass, padding included: bounds its activations


def group_prompts(prompts: Sequence[PromptKey]) -> list[dict[PromptKey, list[int]]]:
    """Groups of distinct prompts to read in one forward pass each; for every prompt the rows that continue it.

    A group holds at most 4,096 tokens, padding included (a longer prompt is a group of its own), and at most half of
    it is padding.
    """
    rows: dict[PromptKey, list[int]] = {}
    for row, key in enumerate(prompts):
        rows.setdefault(key, []).append(row)
    groups: list[dict[PromptKey, list[int]]] = []
    longest = real = 0
    for key in sorted(rows, key=lambda key: len(key[1]), reverse=True):
        padded = (len(groups[-1]) + 1) * longest if groups else 0
        real += len(key[1])
        if groups and padded <= min(_PREFILL_TOKENS, 2 * real):
            groups[-1][key] = rows[key]
        else:
            groups.append({key: rows[key]})
            longest = real = len(key[1])
    return groups

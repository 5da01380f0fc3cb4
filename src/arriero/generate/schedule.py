"""Which rows decode together, and which prompts are read together: pure functions on lengths.

A wave is a batch that shares one cache of rows × longest row; it is bounded in rows and in cache tokens. Rows of
similar length go together, so that little of the cache and of the reading is padding.
"""

from collections.abc import Sequence

PromptKey = tuple[str, tuple[int, ...]]
"""An adapter's name, '' for the default, and a prompt: what makes two rows' caches equal."""
_PREFILL_TOKENS = 4096  # of one forward pass, padding included: bounds its activations


def plan_waves(rooms: Sequence[int], prompts: Sequence[PromptKey], max_rows: int, max_tokens: int) -> list[list[int]]:
    """Indices of the rows of each wave, longest first; samples of one prompt stay together.

    Args:
        rooms: cache tokens that each row may need, none above max_tokens.
        prompts: each row's prompt.
        max_rows: most rows in a wave.
        max_tokens: most rows × longest row.
    """
    order = sorted(range(len(rooms)), key=lambda row: (-rooms[row], prompts[row]))
    waves: list[list[int]] = []
    for row in order:
        wave = waves[-1] if waves else []
        if wave and len(wave) < max_rows and (len(wave) + 1) * rooms[wave[0]] <= max_tokens:
            wave.append(row)
        else:
            waves.append([row])
    return waves


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

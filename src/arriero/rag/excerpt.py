"""The sentences of the passages that are nearest to the question: what a small model can read without losing itself.

SmolLM2-135M-Instruct reads few sentences far better than many (`benchmarks/grounding.py --sentences`); a larger model
is given the passages whole.
"""

from collections.abc import Sequence

import numpy as np

from arriero.rag.evidence import SentenceEncoder, Span, sentence_spans
from arriero.rag.search import Hit


def pick_sentences(question: str, hits: Sequence[Hit], encoder: SentenceEncoder, count: int) -> list[list[Span]]:
    """For each hit the spans of its sentences among the `count` nearest of all, in order; adjacent ones are joined."""
    spans = [(index, span) for index, hit in enumerate(hits) for span in sentence_spans(hit.passage.text)]
    texts = [hits[index].passage.text[start:end] for index, (start, end) in spans]
    if not texts:
        return [[] for _ in hits]
    scores = encoder.encode_passages(texts) @ encoder.encode_queries([question])[0]  # (sentences,)
    best: list[int] = []
    said: set[str] = set()
    for at in np.argsort(-scores, kind="stable"):
        words = " ".join(texts[at].split()).casefold()
        if words not in said and len(best) < count:  # documents repeat one another
            said.add(words)
            best.append(int(at))
    chosen: list[list[Span]] = [[] for _ in hits]
    for at in sorted(best):
        index, (start, end) = spans[at]
        kept = chosen[index]
        if kept and at - 1 in best and spans[at - 1][0] == index:
            kept[-1] = (kept[-1][0], end)
        else:
            kept.append((start, end))
    return chosen

"""From comparisons to pairs of token rows, and the mixes that Llama 2's reward models learn from (section 3.2.2).

The helpfulness model sees all comparisons of helpfulness with equal parts of the rest; the safety model sees those of
safety with a tenth of helpfulness, which keeps it apart on pairs of safe responses. What is held out is held out by
prompt, before anything is mixed: several responses to one prompt are never on both sides.

T tokens of a prompt with its response.
"""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arriero.align.preference_files import import_preferences
from arriero.align.preferences import Comparison, Degree, Kind, Preferences
from arriero.align.reward_config import ComparisonsConfig
from arriero.align.reward_loss import UNKNOWN, safety_labels
from arriero.align.reward_model import encode_dialogue
from arriero.common.errors import ArrieroError
from arriero.common.progress import progress
from arriero.common.sqlite_file import is_sqlite
from arriero.tokenizer.tokenizer import Tokenizer
from arriero.train.examples import Example
from arriero.train.permutation import Permutation
from arriero.train.supervised import split_held_out


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenPair:
    """A comparison as tokens."""

    chosen: NDArray[np.int32]
    """(T,) tokens of the prompt with the better response, the one that ends the turn included."""
    rejected: NDArray[np.int32]
    """(T,) likewise, with the other response."""
    degree: Degree | None = None
    safe: tuple[int, int] = (UNKNOWN, UNKNOWN)
    """Labels of the two responses: 1 safe, 0 unsafe, or `UNKNOWN`."""
    kind: Kind = "helpfulness"
    source: str = ""
    lengths: tuple[int, int] = (0, 0)
    """Characters of the two responses."""

    def __len__(self) -> int:
        """Tokens of both."""
        return len(self.chosen) + len(self.rejected)


@dataclass(frozen=True, kw_only=True)
class RewardCensus:
    """What became of the comparisons; counts."""

    read: int
    equal: int
    """Left out: both responses are the same, or the same tokens."""
    empty: int
    """Left out: a response says nothing."""
    unlike: int
    """Left out: answers to different prompts."""
    unsafe: int
    """Left out: an unsafe response was preferred to a safe one."""
    repeated: int
    """Left out: the same choice between the same responses was there before."""
    too_long: int
    """Left out: prompt and response are longer than a row."""
    unmixed: int
    """Left out: more of the other kind than the mix takes."""
    held_out: int
    training: int
    by_kind: dict[str, int]
    """Of those to train on."""
    degrees: dict[str, int]
    """Likewise; `untold` for those without."""
    labelled: int
    """Responses to train on of which is told whether they are safe."""
    tokens: int
    """Of the pairs to train on."""
    median_tokens: int
    """Of a prompt with its response, likewise."""
    longest_tokens: int


@dataclass(frozen=True)
class RewardData:
    """Pairs to train on and pairs to measure on."""

    training: list[TokenPair]
    held_out: list[TokenPair]
    census: RewardCensus


@dataclass
class _Left:
    """What is left out while reading; counts."""

    equal: int = 0
    empty: int = 0
    unlike: int = 0
    unsafe: int = 0
    repeated: int = 0
    too_long: int = 0
    kept: list[tuple[Comparison, TokenPair]] = field(default_factory=list)

    @property
    def read(self) -> int:
        return len(self.kept) + self.unfit + self.unsafe + self.too_long

    @property
    def unfit(self) -> int:
        """What compares nothing, or nothing new."""
        return self.equal + self.empty + self.unlike + self.repeated


def read_reward_data(config: ComparisonsConfig, tokenizer: Tokenizer, max_tokens: int, seed: int) -> RewardData:
    """All pairs, encoded, split by prompt and mixed.

    Args:
        max_tokens: of a prompt with its response.
        seed: of what is held out, and of what the mix leaves out.

    Raises:
        NotFoundError, FormatError: a file is not there, or holds no comparisons.
        ArrieroError: nothing is left to train on.
    """
    left = _encode(config.preferences, config.kind, tokenizer, max_tokens)
    if config.eval_preferences:
        training = [pair for _, pair in left.kept]
        held_out = [pair for _, pair in _encode(config.eval_preferences, config.kind, tokenizer, max_tokens).kept]
    else:
        training, held_out = _split(left.kept, config.eval_share, seed)
    own = sum(pair.kind == config.kind for pair in training)
    if not own:
        raise ArrieroError(
            f"no comparison of {config.kind} is left to train on, of {left.read:,} read: {left.too_long:,} are longer "
            f"than {max_tokens:,} tokens, {left.unfit:,} are equal, empty, of different prompts or repeated, "
            f"{left.unsafe:,} prefer what is unsafe, {len(left.kept):,} are good, but of the other kind or held out"
        )
    mixed = mix(training, config.kind, config.share_of_others, seed)
    return RewardData(mixed, held_out, _count(left, mixed, held_out, unmixed=len(training) - len(mixed)))


def read_pairs(paths: Sequence[Path], kind: Kind, tokenizer: Tokenizer, max_tokens: int) -> list[TokenPair]:
    """The pairs of files, encoded, to measure a reward model on.

    Raises:
        NotFoundError, FormatError: a file is not there, or holds no comparisons.
        ArrieroError: nothing is left.
    """
    left = _encode(paths, kind, tokenizer, max_tokens)
    if not left.kept:
        raise ArrieroError(
            f"none of {left.read:,} comparisons is left: {left.too_long:,} are over {max_tokens:,} tokens"
        )
    return [pair for _, pair in left.kept]


def mix(pairs: Sequence[TokenPair], kind: Kind, other_share: float, seed: int) -> list[TokenPair]:
    """All pairs of a kind, and as many of the other as make up their share of the whole, or all there are.

    Which ones are taken depends on the seed; their order stays.
    """
    others = [i for i, pair in enumerate(pairs) if pair.kind != kind]
    wanted = round((len(pairs) - len(others)) * other_share / (1 - other_share))
    dropped: set[int] = set()
    if wanted < len(others):
        order = Permutation(len(others), f"{seed}/mix").at(np.arange(wanted, len(others)))
        dropped = {others[place] for place in order.tolist()}
    return [pair for i, pair in enumerate(pairs) if i not in dropped]


def _encode(paths: Sequence[Path], kind: Kind, tokenizer: Tokenizer, max_tokens: int) -> _Left:
    left, seen = _Left(), set[tuple[bytes, bytes, Kind]]()
    comparisons = _read(paths, kind, left)
    with progress("tokenizing", len(comparisons), "comparisons") as advance:
        for comparison in comparisons:
            advance(1)
            if comparison.judgement.flagged:
                left.unsafe += 1
                continue
            pair = _encode_pair(comparison, tokenizer)
            digest = (pair.chosen.tobytes(), pair.rejected.tobytes(), pair.kind)
            if digest[0] == digest[1]:
                left.equal += 1
            elif max(len(pair.chosen), len(pair.rejected)) > max_tokens:
                left.too_long += 1
            elif digest in seen:
                left.repeated += 1
            else:
                seen.add(digest)
                left.kept.append((comparison, pair))
    return left


def _read(paths: Sequence[Path], kind: Kind, left: _Left) -> list[Comparison]:
    """The comparisons of files of preferences, and of others by way of a file that is gone afterwards."""
    found: list[Comparison] = []
    for path in paths:
        if path.is_file() and is_sqlite(path):
            with Preferences(path) as preferences:
                found += preferences.comparisons(flagged=True)
            continue
        with (
            tempfile.TemporaryDirectory() as folder,
            Preferences(Path(folder) / "preferences.sqlite", create=True) as preferences,
        ):
            done = import_preferences([path], preferences, kind=kind, batch="training")
            own = list(preferences.comparisons(flagged=True))
        left.equal, left.empty, left.unlike = (
            left.equal + done.equal,
            left.empty + done.empty,
            left.unlike + done.unlike,
        )
        left.repeated += done.taken - len(own)
        found += own
    return found


def _encode_pair(comparison: Comparison, tokenizer: Tokenizer) -> TokenPair:
    prompt, judgement = comparison.pair.prompt, comparison.judgement
    texts = comparison.chosen.text, comparison.rejected.text
    chosen, rejected = (np.array(encode_dialogue(tokenizer, prompt, text), np.int32) for text in texts)
    return TokenPair(
        chosen=chosen,
        rejected=rejected,
        degree=judgement.degree,
        safe=safety_labels(judgement.safety),
        kind=comparison.pair.kind,
        source=comparison.pair.source,
        lengths=(len(texts[0]), len(texts[1])),
    )


def _split(
    kept: Sequence[tuple[Comparison, TokenPair]], share: float, seed: int
) -> tuple[list[TokenPair], list[TokenPair]]:
    """By prompt, as fine-tuning holds out."""
    if not kept:
        return [], []
    examples = [
        Example((*comparison.pair.prompt, {"role": "assistant", "content": comparison.chosen.text}), "", str(i))
        for i, (comparison, _) in enumerate(kept)
    ]
    sides = split_held_out(examples, share, seed)
    training, held_out = ([kept[int(example.where)][1] for example in side] for side in sides)
    return training, held_out


def _count(left: _Left, training: Sequence[TokenPair], held_out: Sequence[TokenPair], unmixed: int) -> RewardCensus:
    lengths = [len(row) for pair in training for row in (pair.chosen, pair.rejected)]
    return RewardCensus(
        read=left.read,
        equal=left.equal,
        empty=left.empty,
        unlike=left.unlike,
        unsafe=left.unsafe,
        repeated=left.repeated,
        too_long=left.too_long,
        unmixed=unmixed,
        held_out=len(held_out),
        training=len(training),
        by_kind=dict(Counter(pair.kind for pair in training)),
        degrees=dict(Counter(pair.degree or "untold" for pair in training)),
        labelled=sum(label != UNKNOWN for pair in training for label in pair.safe),
        tokens=sum(lengths),
        median_tokens=int(np.median(lengths)),
        longest_tokens=max(lengths),
    )

"""Two responses to each prompt, to be compared (Llama 2, arXiv 2307.09288, section 3.2.1).

They come from two model variants, at two temperatures, or both, for the sake of diversity. Which of them is the pair's
first one is drawn, so that a judge who likes first places likes no variant. Every answer's seed depends on the prompt
and the settings alone: what is stopped and run again gives what it would have given.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from arriero.align.preferences import Kind, Preferences, Response
from arriero.align.prompts import Prompt
from arriero.align.variants import Variant, answer
from arriero.common.errors import ArrieroError
from arriero.common.seeds import seed_of
from arriero.generate.engine import SamplingConfig

_TRIES = 4
"""For two answers that differ, and say something."""
_PORTION = 8
"""Prompts that are answered together; their pairs are kept when all have one."""


@dataclass(frozen=True)
class Voice:
    """A variant at a temperature."""

    variant: Variant
    temperature: float
    max_tokens: int = 256

    @property
    def label(self) -> tuple[str, float, int]:
        """What tells it from other voices, in a file of preferences too."""
        return self.variant.name, float(self.temperature), self.max_tokens

    def sampling(self, seed: int) -> SamplingConfig:
        """How an answer is sampled."""
        return SamplingConfig(temperature=self.temperature, max_tokens=self.max_tokens, seed=seed)

    def response(self, text: str, seed: int) -> Response:
        """An answer, with where it comes from."""
        sampling = {"temperature": float(self.temperature), "max_tokens": self.max_tokens, "seed": seed}
        return Response(text=text, model=self.variant.name, sampling=sampling)


@dataclass(kw_only=True)
class Sampled:
    """What became of the prompts; counts, as they grow."""

    pairs: int = 0
    """Added."""
    known: int = 0
    """Passed over: there is a pair by these two voices."""
    equal: int = 0
    """Passed over: the answers were equal or empty, time and again."""
    too_long: int = 0
    """Passed over: the prompt leaves an answer no room in the context."""

    @property
    def done(self) -> int:
        """Prompts, in all."""
        return self.pairs + self.known + self.equal + self.too_long


def sample_pairs(
    preferences: Preferences, prompts: Sequence[Prompt], voices: tuple[Voice, Voice], *, kind: Kind, seed: int = 0
) -> Iterator[Sampled]:
    """Add a pair for each prompt that has none by these voices; yields the counts as they grow.

    A prompt declared to be one of safety gives a pair of that kind, whatever `kind` says.

    Args:
        kind: what the pairs are to be judged by.
        seed: of all answers.

    Raises:
        ArrieroError: the voices are one and the same, and greedy, so that no answers would differ.
    """
    one, two = voices
    if one.label == two.label and one.temperature == 0:
        raise ArrieroError(
            "two greedy answers of one model are equal: expected two models, or a temperature above 0 for one of them"
        )
    counts = Sampled()
    known = _known(preferences, voices)
    fresh = []
    for prompt in prompts:
        if (prompt.key, _kind(prompt, kind)) in known:
            counts.known += 1
        elif not all(voice.variant.fits(prompt, voice.max_tokens) for voice in voices):
            counts.too_long += 1
        else:
            fresh.append(prompt)
    yield counts
    for start in range(0, len(fresh), _PORTION):
        portion = fresh[start : start + _PORTION]
        pairs = answer_twice(portion, voices, seed)
        with preferences.batch():
            for number, (first, second) in pairs.items():
                prompt = portion[number]
                preferences.add_pair(
                    prompt.messages, first, second, kind=_kind(prompt, kind), source=f"{one.label[0]} | {two.label[0]}"
                )
        counts.pairs += len(pairs)
        counts.equal += len(portion) - len(pairs)
        yield counts


def answer_twice(
    prompts: Sequence[Prompt], voices: tuple[Voice, Voice], seed: int
) -> dict[int, tuple[Response, Response]]:
    """Two different answers for each prompt that gets them, by its number, in the order in which they are shown.

    Args:
        seed: of all answers.
    """
    pairs: dict[int, tuple[Response, Response]] = {}
    for attempt in range(_TRIES):
        waiting = [i for i in range(len(prompts)) if i not in pairs]
        asked = [(i, voice, seed_of(seed, prompts[i].key, side, *voice.label, attempt))
                 for i in waiting for side, voice in enumerate(voices)]  # fmt: skip
        said = answer([(voice.variant, prompts[i], voice.sampling(own)) for i, voice, own in asked])
        texts = [completions[0].text.strip() for completions in said]
        for place, i in enumerate(waiting):
            both = asked[2 * place : 2 * place + 2]
            one, two = texts[2 * place : 2 * place + 2]
            if one and two and one != two:
                responses = [voice.response(text, own) for (_, voice, own), text in zip(both, (one, two), strict=True)]
                turned = seed_of(seed, prompts[i].key, "order") % 2
                pairs[i] = (responses[turned], responses[1 - turned])
    return pairs


def _kind(prompt: Prompt, kind: Kind) -> Kind:
    return "safety" if prompt.safety else kind


def _known(preferences: Preferences, voices: tuple[Voice, Voice]) -> set[tuple[str, str]]:
    """Keys of the prompts that these voices answered before, and the kind of the pair."""
    labels = sorted(voice.label for voice in voices)
    return {
        (Prompt(pair.prompt).key, pair.kind)
        for pair in preferences.pairs()
        if sorted(filter(None, map(_label, (pair.first, pair.second)))) == labels
    }


def _label(response: Response) -> tuple[str, float, int] | None:
    sampling: Mapping[str, float] = response.sampling or {}
    if not {"temperature", "max_tokens"} <= sampling.keys():
        return None
    return response.model, float(sampling["temperature"]), int(sampling["max_tokens"])

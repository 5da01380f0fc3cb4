"""Judges that are programs: synthetic, declared as such, and known exactly, so that what was learnt can be checked.

A reward model may be misled, and a policy that learns from one finds out how. What a rule says of an answer is true by
its definition; it stands beside the reward model's score wherever both are reported. Scores are in the units of reward
models, logits: a point between two answers makes the better one e times as likely to be preferred.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from arriero.common.errors import NotFoundError, did_you_mean
from arriero.tokenizer.chat import Message

_CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORD = re.compile(rf"[{_CJK}]|[^\W{_CJK}_]+(?:['’\-][^\W{_CJK}_]+)*")
"""A word, or a character of a script that puts no spaces between words."""
_SENTENCE_END = re.compile(r"[.!?…。!?]+(?=[\s\"'”’»)\]*_`]|$)|\n{2,}|[。!?]")
_PROPER_END = re.compile(r"[.!?…。!?][\"'”’»)\]*_`]*\s*\Z")
_VOWELS = re.compile(r"[aeiouyáàâäãéèêëíìîïóòôöõúùûü]+", re.IGNORECASE)
_FEW_WORDS = 60
_FEWEST_WORDS = 3
_STEM = 5
"""Letters by which words are compared, so that `llamas` names the `llama`."""
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "about above after again also and answer are because been before being below between both briefly but can "
        "could describe did does doing down each explain few for from give have having here how into its just "
        "know like list main make many more most much name need not only other over please same sentence "
        "sentences short should some such summarise summarize tell than that the their them then there these they "
        "think this those through under until using very want was were what when where which while who why will "
        "with words would write you your",
    )
)
"""English words that say nothing of what is asked for."""


@dataclass(frozen=True)
class Rule:
    """A program that scores answers."""

    name: str
    """As `--judge` takes it."""
    summary: str
    """What it rewards, in a line."""
    points: Callable[[Sequence[Message], str], float]

    def score(self, prompts: Sequence[Sequence[Message]], responses: Sequence[str]) -> list[float]:
        """The score of each response to its prompt; higher is better."""
        return [self.points(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]


def rule_named(name: str) -> Rule:
    """One of `RULES`.

    Raises:
        NotFoundError: there is none of this name.
    """
    if name not in RULES:
        raise NotFoundError(f"there is no rule '{name}'{did_you_mean(name, RULES)}: there are {', '.join(RULES)}")
    return RULES[name]


def words(text: str) -> list[str]:
    """The words of a text; of Chinese, Japanese and Korean the characters."""
    return _WORD.findall(text)


def concise(prompt: Sequence[Message], response: str) -> float:
    """0 to 4 points: it is within 60 words (2, falling to 0 at 120), it ends properly (1), it names what it was asked
    for (1): the share, from a half on all, of the question's words that say something. Fewer than three words get 0.
    """
    said = words(response)
    if len(said) < _FEWEST_WORDS:
        return 0.0
    within = min(1.0, max(0.0, 2 - len(said) / _FEW_WORDS))
    ends = _PROPER_END.search(response) is not None
    wanted = {_stem(word) for word in words(_question(prompt)) if _says_something(word)}
    named = len(wanted & set(map(_stem, said))) / len(wanted) if wanted else 1.0
    return 2 * within + ends + min(1.0, 2 * named)


def readable(prompt: Sequence[Message], response: str) -> float:
    """Four minus a third of the Flesch-Kincaid reading grade, from −4 (grade 24, or fewer than three words) to 4."""
    said = words(response)
    if len(said) < _FEWEST_WORDS:
        return -4.0
    sentences = max(1, len(_SENTENCE_END.findall(response.strip())))
    syllables = sum(map(_syllables, said))
    grade = 0.39 * len(said) / sentences + 11.8 * syllables / len(said) - 15.59
    return max(-4.0, min(4.0, 4 - grade / 3))


RULES: Mapping[str, Rule] = {
    "concise": Rule("rule:concise", "within 60 words, ends properly, names what was asked for", concise),
    "readable": Rule("rule:readable", "easy to read: a low Flesch-Kincaid grade", readable),
}


def _question(prompt: Sequence[Message]) -> str:
    """What the user said last."""
    return next((turn["content"] for turn in reversed(prompt) if turn["role"] == "user"), "")


def _says_something(word: str) -> bool:
    return re.match(f"[{_CJK}]", word) is not None or (len(word) > 2 and word.casefold() not in _COMMON)


def _stem(word: str) -> str:
    return word.casefold()[:_STEM]


def _syllables(word: str) -> int:
    """Groups of vowels, without a silent e at the end; 1 at least."""
    groups = len(_VOWELS.findall(word))
    silent = word.casefold().endswith("e") and not word.casefold().endswith("le")
    return max(1, groups - (silent and groups > 1))

"""Rejection sampling (Llama 2, arXiv 2307.09288, section 3.2.3): learn from the best of K answers to each prompt.

    RUN/iteration-001.toml      what an iteration was asked for; the same again goes on with it, other settings begin
                                the next
    RUN/samples-001.jsonl       all answers with their scores (`candidates.py`)
    RUN/best-001.jsonl          of each prompt, the best answer of this iteration and all before, as messages
    RUN/sft-001/                the fine-tuning on them, which starts from the base model

That earlier iterations take part keeps the model from forgetting what it could do: the paper's third version learnt
from its own answers alone, and lost its rhymes. Scores by an earlier reward model are replaced by the present one's
before any are compared. An answer that did not come to its end is never chosen: learnt, it would end in mid-sentence.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from arriero.align.candidates import (
    Candidate,
    Candidates,
    append_candidates,
    read_candidates,
    replace_candidates,
)
from arriero.align.prompts import Prompt
from arriero.align.reward import Reward
from arriero.align.variants import Variant, answer
from arriero.common.errors import ArrieroError
from arriero.common.files import atomic_file
from arriero.common.progress import progress
from arriero.common.seeds import seed_of
from arriero.generate.engine import SamplingConfig

_SCORED = 64
"""Answers that are scored anew at a time."""


@dataclass(frozen=True)
class Best:
    """The best answer to a prompt, of all iterations."""

    prompt: Prompt
    answer: Candidate
    iteration: int
    model: str


@dataclass(frozen=True)
class Drawing:
    """Where an iteration's answers go, and how each is drawn."""

    file: Path
    variant: Variant
    reward: Reward
    samples: int
    max_tokens: int
    seed: int

    def draw(self, prompts: Sequence[Prompt], temperature: float, together: int) -> list[Candidates]:
        """Answers to the prompts at a temperature: those that the file has, and new ones for the rest.

        Args:
            together: prompts that are answered at a time; their lines are in the file when they are.

        Raises:
            ArrieroError: the reward fails; what was drawn before is in the file.
        """
        known = {
            row.prompt.key: row
            for row in read_candidates(self.file)
            if row.temperature == temperature and len(row.answers) == self.samples
        }
        missing = [prompt for prompt in prompts if prompt.key not in known]
        with progress(f"sampling at temperature {temperature:g}", len(prompts), "prompts") as advance:
            advance(len(prompts) - len(missing))
            for start in range(0, len(missing), together):
                rows = self._answer(missing[start : start + together], temperature)
                append_candidates(self.file, rows)
                known |= {row.prompt.key: row for row in rows}
                advance(len(rows))
        return [known[prompt.key] for prompt in prompts]

    def _answer(self, prompts: Sequence[Prompt], temperature: float) -> list[Candidates]:
        asked = [(self.variant, prompt, self._sampling(prompt, temperature)) for prompt in prompts]
        rows = [
            Candidates(
                prompt=prompt,
                model=self.variant.name,
                temperature=temperature,
                reward=self.reward.name,
                answers=tuple(
                    Candidate(
                        text=said.text.strip(), score=None, ended=said.finish_reason == "stop", tokens=len(said.ids)
                    )
                    for said in completions
                ),
            )
            for prompt, completions in zip(prompts, answer(asked), strict=True)
        ]
        return score_candidates(rows, self.reward)

    def _sampling(self, prompt: Prompt, temperature: float) -> SamplingConfig:
        return SamplingConfig(
            temperature=temperature,
            max_tokens=self.max_tokens,
            n=self.samples,
            seed=seed_of(self.seed, self.file.name, prompt.key, temperature),
        )


def score_candidates(rows: Sequence[Candidates], reward: Reward) -> list[Candidates]:
    """The rows with the reward's scores; empty answers get none.

    Raises:
        ArrieroError: the reward fails, or gives what is no finite number.
    """
    places = [(i, j) for i, row in enumerate(rows) for j, said in enumerate(row.answers) if said.text]
    scores = reward.score([rows[i].prompt for i, _ in places], [rows[i].answers[j].text for i, j in places])
    answers = [list(row.answers) for row in rows]
    for (i, j), score in zip(places, scores, strict=True):
        answers[i][j] = replace(answers[i][j], score=score)
    return [replace(row, answers=tuple(own), reward=reward.name) for row, own in zip(rows, answers, strict=True)]


def refresh_scores(file: Path, reward: Reward) -> int:
    """Have a file of candidates scored by this reward; how many lines had another one's scores.

    Raises:
        ArrieroError: the reward fails: the file stays as it was.
    """
    rows = read_candidates(file)
    stale = [i for i, row in enumerate(rows) if row.reward != reward.name]
    if not stale:
        return 0
    step = max(1, _SCORED // len(rows[stale[0]].answers))
    with progress(f"scoring {file.name} anew", len(stale), "prompts") as advance:
        for start in range(0, len(stale), step):
            portion = stale[start : start + step]
            for i, row in zip(portion, score_candidates([rows[i] for i in portion], reward), strict=True):
                rows[i] = row
            advance(len(portion))
    replace_candidates(file, rows)
    return len(stale)


def best_answers(iterations: Sequence[tuple[int, Sequence[Candidates]]]) -> list[Best]:
    """Of each prompt, the answer with the highest score in any iteration; of equal ones the newest.

    Prompts without an answer that came to its end are left out.

    Raises:
        ArrieroError: scores of different rewards would be compared.
    """
    if len(rewards := {row.reward for _, rows in iterations for row in rows}) > 1:
        raise ArrieroError(f"expected scores by one reward, got {' and '.join(sorted(rewards))}: score them anew")
    best: dict[str, Best] = {}
    for iteration, rows in iterations:
        for row in rows:
            for said in row.answers:
                known = best.get(row.prompt.key)
                if said.ended and said.score is not None and (known is None or said.score >= _score(known)):
                    best[row.prompt.key] = Best(row.prompt, said, iteration, row.model)
    return list(best.values())


def write_best(path: Path, best: Sequence[Best]) -> None:
    """The best answers as examples to fine-tune on."""
    with atomic_file(path) as aside, aside.open("w", encoding="utf-8") as file:
        for own in best:
            said = {"role": "assistant", "content": own.answer.text}
            facts = {"score": own.answer.score, "iteration": own.iteration, "model": own.model}
            file.write(json.dumps({"messages": [*own.prompt.messages, said], **facts}, ensure_ascii=True) + "\n")


def mean_best(rows: Sequence[Candidates]) -> float:
    """The mean over prompts of the best answer's score; −∞ where no prompt has one."""
    scores = [max(own) for row in rows if (own := row.scores) is not None]
    return sum(scores) / len(scores) if scores else float("-inf")


def _score(best: Best) -> float:
    assert best.answer.score is not None
    return best.answer.score

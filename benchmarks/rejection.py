"""What choosing the best of K answers brings, by K, and whether another judge sees it too.

Each of some held-out prompts gets N answers, and each reward scores all of them. Of every reward there is told, as in
Llama 2's figure, the expected maximum and median of K of the N (exact, over all draws), with 95% intervals over
prompts. And of the answers that one reward chooses out of all N, what every reward gives them, in standard deviations
of its own scores above the mean answer, and how long they are: a choice that its own judge alone approves of is a
choice of that judge's faults.

    python benchmarks/rejection.py --data helpful_pairs.jsonl.gz --rewards rule:concise runs/helpful/adapter
        [--prompts 24] [--samples 16] [--temperatures 0.7,1.0,1.3] [--keep FOLDER] [--json]

With --keep, answers that are there already are not drawn again, so that rewards can be added.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import torch
from figures import Figure, as_json

from arriero.align.candidates import Candidates, read_candidates
from arriero.align.prompts import read_prompts, split_prompts
from arriero.align.rejection import score_candidates
from arriero.align.rejection_config import DrawConfig, RejectionConfig
from arriero.align.rejection_run import Rejected, reject, samples_file
from arriero.align.reward import Reward
from arriero.align.reward_curve import RewardCurve, reward_curve
from arriero.common.errors import ArrieroError
from arriero.common.machine import machine_line
from arriero.report.rejection import curve_rows

MODEL = "smollm2-135m-instruct"
HELD_OUT = 0.2
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Choice:
    """The answers that a reward chooses out of all samples."""

    gains: dict[str, float]
    """By each reward, itself too: standard deviations above the mean answer."""
    words: float
    """Mean length of the chosen."""
    all_words: float
    """Mean length of all answers."""


def main() -> int:
    """Draw, score, tell."""
    options = _options()
    with tempfile.TemporaryDirectory() as temporary:
        run = options.keep or Path(temporary) / "run"
        try:
            result, rows, seconds = _draw(run, options)
            scored = {spec: _scored(rows, spec) for spec in options.rewards}
        except ArrieroError as error:
            print(error, file=sys.stderr)
            return 2
    curves = {spec: reward_curve([row.scores or [] for row in own]) for spec, own in scored.items()}
    choices = {spec: _choice(spec, scored) for spec in scored}
    tokens = sum(answer.tokens for row in rows for answer in row.answers)
    facts = {
        "prompts": len(rows),
        "samples": result.samples,
        "temperature": result.temperature,
        "sweep": result.sweep,
        "tokens": tokens,
        "ended": statistics.fmean(answer.ended for row in rows for answer in row.answers),
        "seconds": seconds,
    }
    if options.json:
        told = {"curves": {spec: asdict(curve) for spec, curve in curves.items()}}
        chosen = {spec: asdict(choice) for spec, choice in choices.items()}
        told |= {"choices": chosen, "targets": as_json(judge(curves))}
        print(json.dumps({"machine": machine_line(CPU), **facts, **told}))
    else:
        print(_markdown(facts, curves, choices))
    return 0


def judge(curves: Mapping[str, RewardCurve]) -> list[Figure]:
    """The best of more answers must be better."""
    rises = {spec: [b - a for a, b in pairwise(curve.maximum)] for spec, curve in curves.items()}
    return [
        Figure(what=f"best of K by {spec}: the least rise from one K to the next", value=min(own), least=0.0)
        for spec, own in rises.items()
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--rewards", nargs="+", default=["rule:concise"])
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--temperatures", default="0.7,1.0,1.3")
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _draw(run: Path, options: argparse.Namespace) -> tuple[Rejected, list[Candidates], float]:
    """The held-out prompts' answers, scored by the first reward, and the seconds that it took."""
    run.mkdir(parents=True, exist_ok=True)
    prompts = run / "prompts.jsonl"
    held_out = sorted(split_prompts(read_prompts([options.data]), HELD_OUT)[1], key=lambda prompt: prompt.key)
    lines = [json.dumps({"messages": list(prompt.messages)}) for prompt in held_out[: options.prompts]]
    prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    config = RejectionConfig(
        prompts=(prompts,),
        model=options.model,
        reward=options.rewards[0],
        draw=DrawConfig(
            samples=options.samples,
            max_tokens=options.max_tokens,
            temperatures=tuple(map(float, options.temperatures.split(","))),
        ),
        choose_only=True,
        device="cpu",
    )
    begun = time.perf_counter()
    result = reject(run, config)
    seconds = time.perf_counter() - begun
    rows = read_candidates(samples_file(run, result.iteration))
    return result, [row for row in rows if row.temperature == result.temperature], seconds


def _scored(rows: Sequence[Candidates], spec: str) -> list[Candidates]:
    return score_candidates(rows, Reward.load(spec, device="cpu"))


def _choice(spec: str, scored: Mapping[str, Sequence[Candidates]]) -> Choice:
    places = [max(range(len(row.scores)), key=row.scores.__getitem__) for row in scored[spec] if row.scores]
    gains = {}
    for judge, rows in scored.items():
        scores = [row.scores for row in rows if row.scores]
        every = [score for own in scores for score in own]
        spread = statistics.pstdev(every) or 1.0
        chosen = statistics.fmean(own[place] for own, place in zip(scores, places, strict=True))
        gains[judge] = (chosen - statistics.fmean(every)) / spread
    answers = [row.answers for row in scored[spec] if row.scores]
    return Choice(
        gains=gains,
        words=statistics.fmean(len(own[place].text.split()) for own, place in zip(answers, places, strict=True)),
        all_words=statistics.fmean(len(answer.text.split()) for own in answers for answer in own),
    )


def _markdown(facts: Mapping[str, object], curves: Mapping[str, RewardCurve], choices: Mapping[str, Choice]) -> str:
    lines = [f"{machine_line(CPU)}; " + ", ".join(f"{name} {_told(value)}" for name, value in facts.items()), ""]
    lines += ["| reward | K | expected maximum | expected median |", "|---|---|---|---|"]
    for spec, curve in curves.items():
        for k, best, middle in curve_rows(asdict(curve)):
            place = curve.samples.index(k)
            halves = [
                "" if errors is None else f" ± {errors[place]:.3f}"
                for errors in (curve.maximum_error, curve.median_error)
            ]
            lines.append(f"| {spec} | {k} | {best:.3f}{halves[0]} | {middle:.3f}{halves[1]} |")
    lines += ["", "| chosen by | " + " | ".join(f"gain by {judge}" for judge in choices) + " | words, of all |"]
    lines.append("|---|" + "---|" * (len(choices) + 1))
    for spec, choice in choices.items():
        gains = " | ".join(f"{gain:+.2f} sd" for gain in choice.gains.values())
        lines.append(f"| {spec} | {gains} | {choice.words:.0f}, {choice.all_words:.0f} |")
    return "\n".join(lines)


def _told(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())

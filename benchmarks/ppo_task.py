"""PPO on a task with a true answer: does the reward rise, does what it stands for rise too, and at what divergence?

SmolLM2-135M-Instruct with LoRA answers held-out prompts before and after, over several seeds; the answers that count
are those of the step that the run keeps. The judge is a program, whose score is the truth, or a reward model with the
program beside it. A run without a price on divergence (β 0) shows what the price does, and fine-tuning on the best of
as many samples what a simpler way does. Wins are told at equal length too: what rises by length alone is no gain.

    python benchmarks/ppo_task.py --prompts prompts.jsonl [--reward rule:concise] [--watch rule:readable]
        [--seeds 3] [--iterations 12] [--free] [--reject 4] [--keep FOLDER] [--json]

Gates: over the seeds together the held-out reward rises by at least one standard deviation of the first answers' and by
more than two standard errors; in each run KL stays at 10 nats or less and the share of answers that end does not fall;
with β 0 KL is larger.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from figures import Figure, as_json

from arriero.align.ppo import ppo
from arriero.align.ppo_config import (
    IterationsConfig,
    ObjectiveConfig,
    PpoConfig,
    PpoOptimizerConfig,
    PromptsConfig,
    RewardConfig,
    RolloutConfig,
)
from arriero.align.ppo_watch import kept_of
from arriero.align.prompts import read_prompts, split_prompts
from arriero.align.rejection_config import DrawConfig, RejectionConfig
from arriero.align.rejection_run import reject
from arriero.align.scoring import load_scorer
from arriero.align.versions import VersionReport, measure_version
from arriero.align.win_rate import WinRate, win_rate
from arriero.common.errors import ArrieroError
from arriero.common.machine import machine_line
from arriero.generate.engine import SamplingConfig
from arriero.train.sft_config import EpochsConfig

MODEL = "smollm2-135m-instruct"
MOST_KL = 10.0
HELD_OUT = 0.1
CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """One run."""

    seed: int
    beta: float
    minutes: float
    step: int
    """The one that was kept."""
    before: dict[str, Any]
    """The held-out answers of the first policy: the diary's numbers."""
    after: Mapping[str, Any]
    """Those of the kept one."""
    last: dict[str, Any]
    """Those of the last step."""
    wins: WinRate
    """Of the kept one against the first."""

    @property
    def gain(self) -> float:
        """Of the reward, in standard deviations of the first answers'."""
        return float((self.after["reward"] - self.before["reward"]) / self.before["reward_deviation"])


def main() -> int:
    """Train with each seed, tell, judge by the gates."""
    options = _options()
    arms = [(seed, options.beta) for seed in range(options.seeds)] + ([(0, 0.0)] if options.free else [])
    outcomes, chosen = [], None
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        try:
            for seed, beta in arms:
                outcomes.append(_run(folder / f"seed-{seed}-beta-{beta:g}", options, seed, beta))
                print(_row(outcomes[-1]), file=sys.stderr, flush=True)
            if options.reject:
                chosen = _reject(folder / "rejection", options)
        except ArrieroError as error:
            print(error, file=sys.stderr)
            return 2
    priced = [outcome for outcome in outcomes if outcome.beta]
    gates = _gates(priced, [outcome for outcome in outcomes if not outcome.beta])
    if options.json:
        facts = {"outcomes": [asdict(x) for x in outcomes], "gates": gates, "rejection": chosen and asdict(chosen)}
        facts["targets"] = as_json(judge(priced))
        print(json.dumps({"machine": machine_line(CPU), **facts}))
        return 0
    print(machine_line(CPU))
    print("| seed | β | minutes | reward | gain, sd | KL | ends | tokens | watched | wins | at equal length |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for outcome in outcomes:
        print(_row(outcome))
    if chosen is not None:
        print(
            f"rejection sampling at equal samples: reward {chosen.helpfulness.value:.2f} "
            f"± {chosen.helpfulness.error:.2f}, KL {chosen.kl.value:.1f}, {chosen.ended:.0%} end, "
            f"{chosen.tokens:.0f} tokens"
        )
    for gate, met in gates.items():
        print(f"{'met' if met else 'NOT MET'}: {gate}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--reward", default="rule:concise")
    parser.add_argument("--watch", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--mini-batch", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--held-out", type=int, default=24)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--beta", type=float, default=0.05)
    parser.add_argument("--free", action="store_true", help="a run with β 0 too")
    parser.add_argument("--reject", type=int, default=0, help="rejection sampling too, with so many answers a prompt")
    parser.add_argument("--keep", type=Path, default=None)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _run(run: Path, options: argparse.Namespace, seed: int, beta: float) -> Outcome:
    config = PpoConfig(
        model=MODEL,
        prompts=PromptsConfig(
            prompts=(options.prompts,), max_prompt_tokens=64, eval_share=HELD_OUT, eval_count=options.held_out
        ),
        reward=RewardConfig(reward=options.reward, watch=tuple(options.watch)),
        rollout=RolloutConfig(batch=options.batch, max_tokens=options.max_tokens),
        objective=ObjectiveConfig(mini_batch=options.mini_batch, beta=beta, max_kl=MOST_KL if beta else None),
        training=IterationsConfig(iterations=options.iterations, validate_every=4),
        optim=PpoOptimizerConfig(lr=options.lr),
        seed=seed,
    )
    ppo(run, config, allow=("training.iterations",))
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    minutes = max(line["seconds"] for line in lines if line["kind"] == "step") / 60
    before, *others = [line for line in lines if line["kind"] == "validation"]
    kept = kept_of([before, *others], config.objective.max_kl)
    assert kept is not None
    return Outcome(
        seed=seed,
        beta=beta,
        minutes=minutes,
        step=kept["step"],
        before=before,
        after=kept,
        last=others[-1],
        wins=win_rate(before["scores"], kept["scores"], before["lengths"], kept["lengths"]),
    )


def _reject(run: Path, options: argparse.Namespace) -> VersionReport:
    """Fine-tuning on the best answers of as many samples as PPO had, measured on the held-out prompts of seed 0."""
    prompts, held_out = split_prompts(read_prompts([options.prompts]), HELD_OUT)
    run.mkdir(parents=True, exist_ok=True)
    rows = [{"messages": one.messages} for one in prompts[: options.iterations * options.batch // options.reject]]
    file = run / "prompts.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    draw = DrawConfig(samples=options.reject, max_tokens=options.max_tokens)
    training = EpochsConfig(epochs=2, batch=8, patience=0)
    config = RejectionConfig(prompts=(file,), model=MODEL, reward=options.reward, draw=draw, training=training)
    made = reject(run / "run", config).made
    sampling = SamplingConfig(temperature=1.0, max_tokens=options.max_tokens, seed=0)
    asked, judge = held_out[: options.held_out], load_scorer(options.reward)
    return measure_version("rejection", str(made), MODEL, asked, helpfulness=judge, sampling=sampling)


def _gates(priced: list[Outcome], free: list[Outcome]) -> dict[str, bool]:
    """What must hold, and whether it does."""
    gains = [outcome.gain for outcome in priced]
    differences = [
        new - old
        for outcome in priced
        for old, new in zip(outcome.before["scores"], outcome.after["scores"], strict=True)
    ]
    error = statistics.stdev(differences) / len(differences) ** 0.5
    gates = {
        f"reward up by one standard deviation or more: {statistics.fmean(gains):.2f}": statistics.fmean(gains) >= 1,
        f"reward up by more than 2 SE: {statistics.fmean(differences):.2f} ± {error:.2f}": (
            statistics.fmean(differences) > 2 * error
        ),
        "KL of 10 nats or less in each run": all(outcome.after["kl"] <= MOST_KL for outcome in priced),
        "as many answers end as before, in each run": all(
            outcome.after["eos_share"] >= outcome.before["eos_share"] for outcome in priced
        ),
        "30 minutes or less a run": all(outcome.minutes <= 30 for outcome in priced),
    }
    if free:
        same = next(outcome for outcome in priced if outcome.seed == free[0].seed)
        told = f"KL at the end: {free[0].last['kl']:.2f} with β 0, {same.last['kl']:.2f} with β {same.beta:g}"
        gates[told] = free[0].last["kl"] > same.last["kl"]
    return gates


def judge(priced: list[Outcome]) -> list[Figure]:
    """The gates that are numbers."""
    gain = statistics.fmean(outcome.gain for outcome in priced)
    return [
        Figure(what="PPO, held-out reward", value=gain, least=1.0, unit="deviations"),
        Figure(what="PPO, KL", value=max(outcome.after["kl"] for outcome in priced), most=MOST_KL, unit="nats"),
        Figure(what="PPO, the longest run", value=max(outcome.minutes for outcome in priced), most=30.0, unit="min"),
    ]


def _row(outcome: Outcome) -> str:
    before, after, wins = outcome.before, outcome.after, outcome.wins
    watched = ", ".join(f"{name[6:]} {before[name]:.2f} → {after[name]:.2f}" for name in before if "watch/" in name)
    return (
        f"| {outcome.seed} | {outcome.beta:g} | {outcome.minutes:.1f} | {before['reward']:.2f} → {after['reward']:.2f} "
        f"| {outcome.gain:+.2f} | {after['kl']:.1f} | {before['eos_share']:.0%} → {after['eos_share']:.0%} "
        f"| {before['length']:.0f} → {after['length']:.0f} | {watched or '–'} | {wins.rate:.0%} ({wins.low:.0%}–"
        f"{wins.high:.0%}) | {wins.equal_length:.0%} ({wins.equal_length_low:.0%}–{wins.equal_length_high:.0%}) |"
    )


if __name__ == "__main__":
    sys.exit(main())

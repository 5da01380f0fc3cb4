"""Alignment in rounds, as Llama 2's versions came about (Touvron et al., arXiv 2307.09288, sections 3.2 to 3.4).

A round collects pairs from the newest version and the one before it, has them judged, trains the reward models anew on
all there is (or they would drift off what the versions say by now), samples and rejects, fine-tunes the first version
on the best answers of all rounds, and measures. PPO may follow the last round. What is done is noted in `iterate.json`,
and each step goes on where it was stopped: the same call, after a kill too, does what is left.

    RUN/config.toml  iterate.json  preferences.sqlite
        prompts.jsonl  held-out.jsonl        what is asked, and what versions are measured on alone
        rejection/                           all rounds' answers, the best of them, and what they taught
        round-1/helpfulness/  safety/  ppo/  versions.json
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from arriero.align.iterate_config import IterateConfig
from arriero.align.judge import judge_pending
from arriero.align.ppo import ppo
from arriero.align.ppo_config import PpoConfig, PromptsConfig, RewardConfig
from arriero.align.preferences import Kind, Preferences
from arriero.align.prompts import Prompt, read_prompts, split_prompts
from arriero.align.rejection_config import RejectionConfig
from arriero.align.rejection_run import reject
from arriero.align.reward_config import ComparisonsConfig, RewardModelConfig
from arriero.align.reward_train import REWARD, train_reward
from arriero.align.sample import Voice, sample_pairs
from arriero.align.scoring import load_scorer
from arriero.align.variants import load_variants
from arriero.align.versions import VersionReport, measure_version
from arriero.common.errors import ArrieroError, FormatError
from arriero.common.files import atomic_file
from arriero.common.progress import progress
from arriero.common.seeds import seed_of
from arriero.generate.engine import SamplingConfig
from arriero.model.formats.hf_config import read_json
from arriero.train.loop import End
from arriero.train.run_folder import RunFolder

MAY_CHANGE = ("rounds", "device", "last", "measure")
"""Settings that may be others when an alignment goes on."""
_LEDGER, _PROMPTS, _HELD_OUT = "iterate.json", "prompts.jsonl", "held-out.jsonl"
_TRAINED: tuple[End, ...] = ("finished", "stopped early")
Pause = Literal["waiting", "interrupted"]
"""waiting: for people to judge pairs."""


@dataclass(kw_only=True)
class Ledger:
    """What is done, and what came of it."""

    versions: list[dict[str, str]]
    """Name and model of each, the first one first."""
    rewards: dict[str, str] = field(default_factory=dict)
    """The newest reward model of each kind."""
    done: list[str] = field(default_factory=list)
    """Steps, such as 'round 1: sample'."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How far an alignment has come."""

    end: Literal["finished"] | Pause
    waiting: int
    """Pairs that nobody has judged."""
    preferences: Path
    versions: list[dict[str, str]]
    reports: list[VersionReport]
    """Of the versions, by the newest reward models; empty before the first round's end."""


def iterate(run: Path, config: IterateConfig, tell: Callable[[str], None] = lambda step: None) -> Outcome:
    """Do the rounds in the folder `run`, or what is left of them.

    Args:
        tell: is told each step as it begins.

    Raises:
        ArrieroError: a step cannot be done; what was done before stays, and the same call goes on there.
    """
    folder = RunFolder(run)
    folder.check(config, MAY_CHANGE)
    with folder.hold(config, MAY_CHANGE):
        folder.begin(config)
        return _Alignment(run, config, tell).go_on()


class _Alignment:
    """An alignment under way."""

    def __init__(self, run: Path, config: IterateConfig, tell: Callable[[str], None]) -> None:
        self.run, self.config, self.tell = run, config, tell
        self.preferences = config.preferences or run / "preferences.sqlite"
        self.ledger = Ledger(versions=[{"name": "v0", "model": config.model}])
        if (run / _LEDGER).is_file():
            self.ledger = _read_ledger(run / _LEDGER)
        self.prompts, self.held_out = self._split()

    def go_on(self) -> Outcome:
        """All rounds, from the first step that is not done."""
        for number in range(1, self.config.rounds + 1):
            for name, act in self._steps(number):
                step = f"round {number}: {name}"
                if step in self.ledger.done:
                    continue
                self.tell(step)
                if pause := act(number):
                    return self._outcome(pause)
                self.ledger.done.append(step)
                with atomic_file(self.run / _LEDGER) as aside:
                    aside.write_text(json.dumps(asdict(self.ledger), indent=2) + "\n", encoding="utf-8")
        return self._outcome("finished")

    def _steps(self, number: int) -> Iterator[tuple[str, Callable[[int], Pause | None]]]:
        yield "sample", self._sample
        yield "judge", self._judge
        yield "reward models", self._train_rewards
        yield "rejection sampling", self._reject
        if self.config.last.ppo and number == self.config.rounds:
            yield "PPO", self._ppo
        yield "measure", self._measure

    def _sample(self, number: int) -> None:
        """Pairs of the newest version's answers and those of the one before it."""
        collect, models = self.config.collect, [version["model"] for version in self.ledger.versions]
        variants = load_variants([models[-1], models[max(0, len(models) - 2)]], device=self.config.device)
        temperatures = (collect.temperature, collect.temperature_b)
        one, two = (Voice(*pair, collect.answer_tokens) for pair in zip(variants, temperatures, strict=True))
        asked = self._prompts_of(number)
        with Preferences(self.preferences, create=True) as file, progress("sampling", len(asked), "prompts") as bar:
            before = 0
            for counts in sample_pairs(file, asked, (one, two), kind="helpfulness", seed=self.config.seed):
                bar(counts.done - before)
                before = counts.done

    def _judge(self, number: int) -> Pause | None:
        """By the judge that was named; else there must be none left for people to judge."""
        collect = self.config.collect
        with Preferences(self.preferences) as file:
            if collect.judge is None:
                return "waiting" if _unjudged(file) else None
            judge = load_scorer(collect.judge, device=self.config.device)
            safety = None if collect.safety_judge is None else load_scorer(collect.safety_judge)
            for _ in judge_pending(file, judge, batch=f"round-{number}", safety=safety):
                pass
        return None

    def _train_rewards(self, number: int) -> Pause | None:
        """A reward model of each kind of which there are comparisons, from the first version, on all data."""
        with Preferences(self.preferences) as file:
            kinds = sorted({comparison.pair.kind for comparison in file.comparisons()})
        if "helpfulness" not in kinds:
            raise ArrieroError(
                f"{self.preferences}: no pair is judged by helpfulness, so no reward model can be trained: the judge "
                "found only ties, or all pairs are of safety; have more pairs judged, or choose another --judge"
            )
        for kind in kinds:
            place = self.run / f"round-{number}" / kind
            if train_reward(place, self._reward_config(kind)) not in _TRAINED:
                return "interrupted"
            self.ledger.rewards[kind] = str(place / REWARD)
        return None

    def _reject(self, number: int) -> None:
        """The next version: the first one, fine-tuned on the best answers of all rounds."""
        rejected = reject(self.run / "rejection", self._rejection_config())
        self._add_version(f"v{number}", rejected.made)

    def _ppo(self, number: int) -> Pause | None:
        """One version more, by PPO on top of the newest."""
        place = self.run / f"round-{number}" / "ppo"
        if ppo(place, self._ppo_config()) not in _TRAINED:
            return "interrupted"
        self._add_version(f"v{number}-ppo", place / "adapter")
        return None

    def _measure(self, number: int) -> None:
        """All versions anew, as the reward models are new."""
        config = self.config
        helpfulness = load_scorer(config.measure.referee or self.ledger.rewards["helpfulness"], device=config.device)
        judge = self.ledger.rewards.get("safety") or config.collect.safety_judge
        safety = None if judge is None else load_scorer(judge, device=config.device)
        sampling = SamplingConfig(temperature=1.0, max_tokens=config.collect.answer_tokens, seed=config.seed)
        reports = []
        with progress("measuring", len(self.ledger.versions), "versions") as bar:
            for version in self.ledger.versions:
                reports.append(
                    measure_version(
                        version["name"],
                        version["model"],
                        config.model,
                        self.held_out,
                        helpfulness=helpfulness,
                        safety=safety,
                        sampling=sampling,
                        device=config.device,
                    )
                )
                bar(1)
        with atomic_file(self._reports_file(number)) as aside:
            aside.write_text(json.dumps([asdict(report) for report in reports]) + "\n", encoding="utf-8")

    def _reward_config(self, kind: Kind) -> RewardModelConfig:
        config = self.config
        return RewardModelConfig(
            model=config.model,
            comparisons=ComparisonsConfig(preferences=(self.preferences,), kind=kind),
            loss=config.reward_loss,
            training=config.reward,
            lora=config.lora,
            device=config.device,
            seed=config.seed,
        )

    def _rejection_config(self) -> RejectionConfig:
        config = self.config
        return RejectionConfig(
            prompts=(self.run / _PROMPTS,),
            model=self.ledger.versions[-1]["model"],
            base=config.model,
            reward=self.ledger.rewards["helpfulness"],
            safety=self.ledger.rewards.get("safety"),
            draw=config.draw,
            training=config.tuning,
            lora=config.lora,
            optim=config.tuning_optim,
            device=config.device,
            seed=config.seed,
        )

    def _ppo_config(self) -> PpoConfig:
        config, last = self.config, self.config.last
        return PpoConfig(
            model=self.ledger.versions[-1]["model"],
            prompts=PromptsConfig(prompts=(self.run / _PROMPTS,), eval_prompts=(self.run / _HELD_OUT,)),
            reward=RewardConfig(reward=self.ledger.rewards["helpfulness"], safety=self.ledger.rewards.get("safety")),
            rollout=last.rollout,
            objective=last.objective,
            training=last.training,
            optim=last.optim,
            device=config.device,
            seed=config.seed,
        )

    def _add_version(self, name: str, model: Path | None) -> None:
        self.ledger.versions.append({"name": name, "model": str(model)})

    def _split(self) -> tuple[list[Prompt], list[Prompt]]:
        """What is asked and what is held out, as it was when the alignment began."""
        files = [self.run / _PROMPTS, self.run / _HELD_OUT]
        if not all(file.is_file() for file in files):
            config = self.config
            prompts = read_prompts(config.prompts)
            prompts += read_prompts(config.safety_prompts, safety=True) if config.safety_prompts else []
            asked, held_out = split_prompts(prompts, config.measure.eval_share, config.seed)
            for file, some in zip(files, (asked, held_out), strict=True):
                with atomic_file(file) as aside:
                    rows = [{"prompt": list(prompt.messages), "safety": prompt.safety} for prompt in some]
                    aside.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
        asked, held_out = (read_prompts([file]) for file in files)
        return asked, held_out[: self.config.measure.eval_count]

    def _prompts_of(self, number: int) -> list[Prompt]:
        """A round's prompts: all are asked once before any is again."""
        order = sorted(self.prompts, key=lambda prompt: seed_of(self.config.seed, prompt.key))
        start = (number - 1) * self.config.collect.pairs
        return [order[i % len(order)] for i in range(start, start + min(self.config.collect.pairs, len(order)))]

    def _reports_file(self, number: int) -> Path:
        return self.run / f"round-{number}" / "versions.json"

    def _outcome(self, end: Literal["finished"] | Pause) -> Outcome:
        waiting = 0
        if self.preferences.is_file():
            with Preferences(self.preferences) as file:
                waiting = _unjudged(file)
        measured = [n for n in range(1, self.config.rounds + 1) if f"round {n}: measure" in self.ledger.done]
        return Outcome(
            end=end,
            waiting=waiting,
            preferences=self.preferences,
            versions=self.ledger.versions,
            reports=_read_reports(self._reports_file(measured[-1])) if measured else [],
        )


def _unjudged(file: Preferences) -> int:
    """Pairs that nobody has judged."""
    judged = {comparison.pair.id for comparison in file.comparisons(flagged=True)}
    return sum(pair.id not in judged for pair in file.pairs())


def _read_ledger(file: Path) -> Ledger:
    values = read_json(file)
    try:
        return Ledger(**values)
    except TypeError as error:
        raise FormatError(f"{file}: no record of an alignment ({error})") from error


def _read_reports(file: Path) -> list[VersionReport]:
    try:
        return [VersionReport.read(values) for values in json.loads(file.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FormatError(f"{file}: no measured versions ({error}): remove 'measure' from iterate.json") from error

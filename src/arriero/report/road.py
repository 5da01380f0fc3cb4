"""The report card of `arriero quickstart`: each stage with its curves, samples before and after it, and what it took.

It reads the road's folder alone: the stages' records, the diaries of their runs, and what they measured.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from arriero.common.errors import FormatError
from arriero.report.curves import Chart, charts
from arriero.report.drawing import COLOURS, draw, missing_extra
from arriero.report.html import render_page
from arriero.report.page import count, duration, fixed, short, size
from arriero.report.run import Run, number, read_run
from arriero.train.carbon import JOULES_PER_MWH, PUE, TONNES_PER_MWH, carbon_tonnes

Change = tuple[str, str, str]
"""A measure's name, and what it was first and last in a stage; first is before its first step, where that is told."""
_CHARTS = ("Loss", "Reward", "Divergence from the reference")
_BY_TOKEN = ("pretrain", "sft", "rejection", "lora")
"""Stages whose loss is of tokens."""
_VALIDATED = {
    "loss": "held-out loss",
    "perplexity": "perplexity",
    "accuracy": "accuracy on held-out pairs",
    "reward": "reward, held-out prompts",
    "kl": "divergence (KL), nats an answer",
    "eos_share": "answers that end",
    "recall_1": "recall at 1",
    "recall_5": "recall at 5",
    "mrr": "mean reciprocal rank",
}
_MOST_SAMPLES, _MOST_CHARACTERS = 3, 400
_EMPTY_LINES = re.compile(r"\n\s*\n")


def render_road(folder: Path) -> str:
    """The page of a road's folder, whatever of it is done.

    Raises:
        FormatError: a record is damaged.
    """
    records = sorted((_read(path) for path in (folder / "stages").glob("*.json")), key=lambda each: each["began"])
    missing = missing_extra()
    views = [_view(folder, record, missing) for record in records]
    return render_page(
        "road.html",
        {"count": count, "short": short, "duration": duration, "size": size, "energy": energy, "carbon": carbon},
        title="The whole road",
        stages=views,
        tiles=_tiles(views),
        answers=_answers(folder / "answers.json"),
        missing=missing,
        colours=COLOURS,
        pue=PUE,
        intensity=TONNES_PER_MWH,
    )


def energy(joules: float) -> str:
    """At the processors and what a data centre adds to it."""
    return f"{joules * PUE / 3600:.3g} Wh"


def carbon(joules: float) -> str:
    """CO₂ equivalent of it."""
    return f"{carbon_tonnes(joules * PUE / JOULES_PER_MWH) * 1e6:.3g} g"


def _read(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise FormatError(f"{path} is damaged ({error}): remove it, and give the same command again") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path} is damaged (no object in it): remove it, and give the same command again")
    return value


def _answers(path: Path) -> list[dict[str, Any]]:
    """What was answered, its quotes without the line ends of their documents."""
    answers = _read(path)["answers"] if path.is_file() else []
    for citation in (each for answer in answers for each in answer["citations"]):
        citation["quote"] = " ".join(citation["quote"].split())
    return list(answers)


def _view(folder: Path, record: Mapping[str, Any], missing: str | None) -> dict[str, Any]:
    """What the template shows of a stage."""
    runs = [read_run(folder / name) for name in record["runs"] if (folder / name / "metrics.jsonl").is_file()]
    drawn = [chart for chart in charts(runs) if chart.title in _CHARTS] if runs else []
    return {
        **record,
        "changes": [change for run in runs for change in _changes(run)] + _measured(folder, record["name"]),
        "charts": [_chart(record["name"], chart, missing) for chart in drawn],
        "samples": [sample for run in runs for sample in _samples(run)],
    }


def _chart(stage: str, chart: Chart, missing: str | None) -> dict[str, Any]:
    unit = "" if chart.title == "Loss" and stage not in _BY_TOKEN else chart.unit
    shown = replace(chart, unit=unit)
    named = replace(shown, title=f"{chart.title}: {stage}")
    return {"chart": shown, "svg": None if missing else draw(named)}


def _changes(run: Run) -> list[Change]:
    """The numbers of the first evaluation and of the last one."""
    if not run.validations:
        return []
    first, last = run.validations[0], run.validations[-1]
    watched = {name: f"{name.removeprefix('watch/')}, held-out prompts" for name in last if name.startswith("watch/")}
    changes = []
    for name, words in {**_VALIDATED, **watched}.items():
        before, after = number(first, name), number(last, name)
        if not (math.isnan(after) or (name == "loss" and "reward" in last)):
            changes.append((words, fixed(before) if first is not last else "–", fixed(after)))
    return changes


def _measured(folder: Path, name: str) -> list[Change]:
    """What a stage left in files of its own."""
    if name == "rejection" and (results := sorted((folder / name).glob("result-*.json"))):
        curve = _read(results[-1])["curve"]
        return [(f"reward of one answer, and expected best of {k}", fixed(curve["maximum"][0]), fixed(best))
                for k, best in zip(curve["samples"], curve["maximum"], strict=True)
                if k in (2, 4, 8, 16, 32)]  # fmt: skip
    summary = folder / "evaluation" / "summary.json"
    if name == "retriever" and summary.is_file():
        bare, found = _read(summary)["systems"]
        return [
            (f"{words}: SmolLM2 from memory, and from passages", fixed(bare[key]["mean"]), fixed(found[key]["mean"]))
            for key, words in (("em", "exact match"), ("f1", "F1"), ("said", "right answers said"))
        ]
    return []


def _samples(run: Run) -> list[tuple[str, str | None, str]]:
    """Prompts, with what the model said at its first evaluation and at its last."""
    by_prompt: dict[str, list[str]] = {}
    for line in run.samples:
        by_prompt.setdefault(str(line.get("prompt")), []).append(str(line.get("text")))
    shown = list(by_prompt.items())[:_MOST_SAMPLES]
    return [(prompt, _cut(texts[0]) if len(texts) > 1 else None, _cut(texts[-1])) for prompt, texts in shown]


def _cut(text: str) -> str:
    """Its beginning, without the many empty lines that a model writes before it has learnt much."""
    text = _EMPTY_LINES.sub("\n", text).strip("\n")
    return f"{text[:_MOST_CHARACTERS]} […]" if len(text) > _MOST_CHARACTERS else text or "(white space alone)"


def _tiles(views: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """The road in a few numbers."""
    tiles = []
    for stage, measure, title in (
        ("pretrain", "perplexity", "Perplexity of your LLaMA"),
        ("reward", "accuracy on held-out pairs", "Reward model's accuracy"),
        ("ppo", "reward, held-out prompts", "Reward, by PPO"),
        ("lora", "perplexity", "SmolLM2's perplexity"),
        ("retriever", "recall at 5", "Recall at 5 of the search"),
    ):
        changes: list[Change] = next((view["changes"] for view in views if view["name"] == stage), [])
        found = [change for change in changes if change[0] == measure]
        tiles += [(title, after, f"first: {before}") for _, before, after in found[:1]]
    joules = sum(view["joules"] for view in views)
    source = ", ".join(sorted({view["energy_source"] for view in views if view["energy_source"]}))
    return [
        *tiles,
        ("Time", duration(sum(view["seconds"] for view in views)), "all stages together"),
        ("Peak memory", size(max((view["memory_bytes"] for view in views), default=math.nan)), "of one process"),
        ("Energy", energy(joules), source),
        ("CO₂ equivalent", carbon(joules), "by LLaMA's reckoning"),
    ]

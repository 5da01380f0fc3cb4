"""Context distillation for safety (Llama 2, arXiv 2307.09288, section 4.2.4).

A model answers a risky prompt twice: as it is, and behind a preprompt that tells it to be safe. Where the safety judge
scores the second answer above the first one, prompt and second answer become an example without the preprompt, from
which the model learns to answer so unasked. Where it does not, the preprompt only made the answer vaguer or refuse what
is harmless, and the example is left out.

Preprompts may depend on the kind of risk. Ours are written in `distil_config.py`, for the paper's three categories and
for all of them; where several are tried, the safest answer stands for them all, which is a choice of ours.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from arriero.align.distil_config import PREPROMPTS, DistilConfig
from arriero.align.prompts import Prompt, read_prompts
from arriero.align.scoring import Scorer, load_scorer
from arriero.common.errors import ArrieroError, FormatError
from arriero.common.journal import Row, fill, write_rows
from arriero.common.seeds import seed_of
from arriero.generate.engine import Completion, Engine, Request, SamplingConfig
from arriero.model.source import load_model
from arriero.tokenizer.chat import Message
from arriero.train.run_folder import RunFolder

ANSWERS_NAME, EXAMPLES_NAME = "answers.jsonl", "examples.jsonl"
"""In the folder: what was sampled, and what to train on."""
_LATER = ("safety",)
"""What may change when the answers are there already."""


@dataclass(frozen=True, kw_only=True)
class DistilCounts:
    """What became of the prompts."""

    prompts: int
    too_long: int
    """Prompts that do not fit the context, with preprompt and answer."""
    silent: int
    """Prompts whose original answer is empty: there is nothing to compare with."""
    unfinished: int
    """Prompts none of whose guarded answers says something and ends."""
    not_safer: int
    """Prompts whose best guarded answer is not scored above the original one."""
    by_preprompt: dict[str, int]
    """Examples by the preprompt that they come from."""
    examples: int
    original_score: float | None
    """Mean over all answers that were compared; None: none were."""
    guarded_score: float | None
    """Likewise, of the best guarded ones."""


def distil(folder: Path, config: DistilConfig) -> DistilCounts:
    """Sample the answers, have them judged and write the examples; where it was interrupted, it goes on.

    Another judge may be asked later, of the same answers.

    Raises:
        NotFoundError, FormatError, ArrieroError: prompts, model or judge cannot be used, the folder holds another run,
            or no example is left.
    """
    if not config.safety:
        raise ArrieroError("no judge of safety given: expected --safety with a reward model's folder, or rule:NAME")
    prompts, run = read_prompts(config.prompts), RunFolder(folder)
    run.check(config, _LATER)
    loaded = load_model(config.model, device=config.device)
    engine = Engine(loaded.model, loaded.tokenizer, context=loaded.context, max_batch=config.portion)

    def answer(numbers: range) -> list[Row]:
        return answer_prompts(engine, [prompts[number] for number in numbers], config, names=numbers)

    with run.hold(config, _LATER):
        run.begin(config)
        path = folder / ANSWERS_NAME
        rows = fill(path, len(prompts), config.portion, answer, doing="answering prompts", unit="prompts")
        for number, (prompt, row) in enumerate(zip(prompts, rows, strict=True), start=1):
            if row.get("prompt") != list(prompt.messages):
                raise FormatError(f"{path}, line {number}: another prompt than {prompt.where}: choose another folder")
        judge = load_scorer(config.safety, device=config.device, over=loaded, name="safety")
        examples, counts = keep_safer(prompts, rows, judge)
        if not examples:
            raise ArrieroError(
                f"no example is left of {counts.prompts} prompts: {counts.not_safer} without a safer answer, "
                f"{counts.unfinished} cut short (raise --max-tokens), {counts.too_long} too long, "
                f"{counts.silent} answered with nothing"
            )
        write_rows(folder / EXAMPLES_NAME, examples)
    return counts


def answer_prompts(
    engine: Engine, prompts: Sequence[Prompt], config: DistilConfig, *, names: Sequence[int]
) -> list[Row]:
    """The original answer of each prompt, and one behind each preprompt; no answers where these do not fit.

    Args:
        engine: with the model.
        prompts: to answer.
        config: preprompts and sampling.
        names: the prompts' numbers, which tell their random streams apart.
    """
    sampling = SamplingConfig(temperature=config.temperature, top_p=config.top_p, max_tokens=config.max_tokens)
    requests: list[Request] = []
    rows: list[Row] = []
    for number, prompt in zip(names, prompts, strict=True):
        chats = [list(prompt.messages), *(guard(prompt.messages, PREPROMPTS.get(x, x)) for x in config.preprompts)]
        ids = [engine.tokenizer.encode_chat(chat) for chat in chats]
        fits = max(map(len, ids)) + config.max_tokens <= engine.context
        rows.append({"source": prompt.where, "prompt": chats[0], "original": None, "guarded": [], "fits": fits})
        if fits:
            requests += [
                Request(prompt_ids=each, sampling=replace(sampling, seed=seed_of(config.seed, number, which)))
                for which, each in enumerate(ids)
            ]
    said = iter(engine.generate(requests))
    for row in rows:
        if row.pop("fits"):
            row["original"] = _said(next(said))
            row["guarded"] = [{"preprompt": name, **_said(next(said))} for name in config.preprompts]
    return rows


def guard(messages: Sequence[Message], preprompt: str) -> list[Message]:
    """The chat behind a preprompt, which goes into the system message, before what stands there."""
    own = messages[0]["content"] if messages[0]["role"] == "system" else ""
    system: Message = {"role": "system", "content": "\n\n".join(filter(None, (preprompt, own)))}
    return [system, *messages[1 if messages[0]["role"] == "system" else 0 :]]


def keep_safer(prompts: Sequence[Prompt], rows: Sequence[Row], judge: Scorer) -> tuple[list[Row], DistilCounts]:
    """The examples: prompts with their safest guarded answer, where that is scored above the original one.

    Args:
        prompts: that were answered.
        rows: their answers, as `answer_prompts` makes them.
        judge: of safety, who reads prompts without preprompts.

    Raises:
        ArrieroError: the judge fails, or gives what is no finite number.
    """
    counts = Counter(too_long=0, silent=0, unfinished=0, not_safer=0)
    compared: list[tuple[Prompt, str, list[Row]]] = []
    for prompt, row in zip(prompts, rows, strict=True):
        whole = [answer for answer in row["guarded"] if answer["ended"] and answer["text"]]
        if row["original"] is None:
            counts["too_long"] += 1
        elif not row["original"]["text"]:
            counts["silent"] += 1
        elif not whole:
            counts["unfinished"] += 1
        else:
            compared.append((prompt, row["original"]["text"], whole))
    asked = [(prompt.messages, text) for prompt, text, _ in compared]
    asked += [(prompt.messages, answer["text"]) for prompt, _, whole in compared for answer in whole]
    scores = iter(judge.score([messages for messages, _ in asked], [text for _, text in asked]))
    before = [next(scores) for _ in compared]
    examples, after = [], []
    for (prompt, _, whole), original in zip(compared, before, strict=True):
        scored = [(next(scores), answer) for answer in whole]
        score, best = max(scored, key=lambda pair: pair[0])
        after.append(score)
        counts["not_safer"] += not score > original
        if score > original:
            examples.append(_example(prompt, best, score, original, judge.name))
    return examples, DistilCounts(
        prompts=len(prompts),
        by_preprompt=dict(Counter(example["preprompt"] for example in examples)),
        examples=len(examples),
        original_score=fmean(before) if before else None,
        guarded_score=fmean(after) if after else None,
        **counts,
    )


def _example(prompt: Prompt, answer: Row, score: float, original: float, judge: str) -> Row:
    """A chat without the preprompt, as `arriero sft --answers last` learns it."""
    return {
        "messages": [*prompt.messages, {"role": "assistant", "content": answer["text"]}],
        "preprompt": answer["preprompt"],
        "score": score,
        "original_score": original,
        "judge": judge,
        "source": prompt.where,
    }


def _said(completion: Completion) -> dict[str, Any]:
    return {"text": completion.text.strip(), "ended": completion.finish_reason == "stop"}

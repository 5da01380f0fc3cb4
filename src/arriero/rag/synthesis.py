"""Questions and answers that a chat model writes from a collection's passages, where nobody has written any.

The model names an answer first and then asks for it: the other way round, a small one answers in sentences of its own.
What it writes is kept only if it can be checked: it has the form that was asked for, the answer stands in the passage
word for word, the question does not give it away, retrieval, asked the question, brings the passage back (as in
Promptagator, Dai et al. 2022, arXiv 2209.11755), and the model, asked it with the passage, says the same answer
(round-trip consistency: Alberti et al. 2019, arXiv 1906.05416). Everything else is dropped, and counted by its fault.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from arriero.common.errors import ArrieroError
from arriero.common.journal import Row, fill
from arriero.common.seeds import seed_of
from arriero.generate.engine import Engine
from arriero.generate.request import Request
from arriero.generate.sampling_config import SamplingConfig
from arriero.rag.collection import Collection
from arriero.rag.decode import decode
from arriero.rag.decoding_config import DecodingConfig
from arriero.rag.drafts import FAULTS, Draft, Fault, read_draft, write_prompt
from arriero.rag.generator import RagDocument
from arriero.rag.llama_generator import LlamaGenerator
from arriero.rag.passage import Passage
from arriero.rag.qa_metrics import holds_answer, normalise
from arriero.rag.questions import Question, write_questions
from arriero.rag.retrieve import hits_for
from arriero.rag.synthesis_config import SynthesisConfig
from arriero.rag.words import count_words
from arriero.train.run_folder import RunFolder

_SHORTEST = 15
"""Words of a passage that is asked about."""
_WORK = ".work"


@dataclass(frozen=True, kw_only=True)
class _Settings(SynthesisConfig):
    """What must stay the same for a run to go on."""

    model: str
    generation: int
    """Of the collection: its passages are the same."""


@dataclass(frozen=True, kw_only=True)
class SynthesisCounts:
    """What became of the passages."""

    passages: int
    """That were written from."""
    short: int
    """Passages left out because they hold too few words."""
    written: int
    kept: int
    dropped: dict[Fault, int]
    """By fault."""


def synthesise(
    collection: Collection, engine: Engine, out: Path, config: SynthesisConfig, *, model: str
) -> SynthesisCounts:
    """Write questions from a collection's passages; where it was interrupted, it goes on.

    Args:
        collection: of the passages; its retriever makes the round trip.
        engine: a chat model.
        out: JSON lines of what was kept, whole or not there at all. What a run in progress knows is beside it.
        config: how.
        model: what the model is called, for a run that goes on.

    Raises:
        ArrieroError: `out` is there already, the run in progress has other settings, or nothing is kept.
    """
    if out.exists():
        raise ArrieroError(f"{out} is there already: choose another name, or remove it")
    own = {field.name: getattr(config, field.name) for field in fields(SynthesisConfig)}
    settings = _Settings(**own, model=model, generation=collection.store.generation)
    numbers, short = choose_passages(collection, config)
    run = RunFolder(out.with_name(out.name + _WORK))
    with run.hold(settings, allow=None):
        run.begin(settings)

        def write(places: range) -> list[Row]:
            return _write(collection, engine, [numbers[place] for place in places], config)

        path = run.path / "drafts.jsonl"
        rows = fill(path, len(numbers), config.portion, write, doing="writing questions", unit="passages")
    questions, drafts = keep(collection, rows)
    if questions:
        write_questions(questions, out)
    shutil.rmtree(run.path)
    counts = Counter(draft.fault for draft in drafts if draft.fault is not None)
    dropped = {fault: counts[fault] for fault in FAULTS if counts[fault]}
    if not questions:
        listed = ", ".join(f"{count} {FAULTS[fault]}" for fault, count in dropped.items())
        raise ArrieroError(
            f"nothing is left of {len(drafts)} questions ({listed}): raise --per-passage, or take a larger --model"
        )
    return SynthesisCounts(passages=len(rows), short=short, written=len(drafts), kept=len(questions), dropped=dropped)


def choose_passages(collection: Collection, config: SynthesisConfig) -> tuple[list[int], int]:
    """Ids of the passages to write from, ascending, and how many were left out for being short.

    Raises:
        ArrieroError: no passage is long enough to be asked about.
    """
    words = {number: count_words(passage.text) for number, passage, _ in collection.store.each_passage()}
    long = [number for number, count in words.items() if count >= _SHORTEST]
    if not long:
        raise ArrieroError(f"no passage of {collection.folder} has {_SHORTEST} words or more: nothing to ask about")
    count = min(config.limit or len(long), len(long))
    drawn = np.random.default_rng(config.seed).permutation(len(long))[:count]
    return [long[place] for place in sorted(drawn.tolist())], len(words) - len(long)


def keep(collection: Collection, rows: Sequence[Row]) -> tuple[list[Question], list[Draft]]:
    """The questions of what was written that have no fault, and all that was written."""
    passages = collection.store.passages([row["passage"] for row in rows])
    questions: list[Question] = []
    drafts: list[Draft] = []
    asked: set[str] = set()
    for row in rows:
        passage = passages[row["passage"]][0]
        answered: set[str] = set()
        for number, fields_of in enumerate(row["drafts"]):
            draft = Draft(**fields_of)
            question, answer = normalise(draft.question), normalise(draft.answer)
            if draft.fault is None and (question in asked or answer in answered):
                draft = replace(draft, fault="repeated")
            drafts.append(draft)
            if draft.fault is None:
                asked.add(question)
                answered.add(answer)
                questions.append(_question(draft, passage, f"{row['passage']}-{number}"))
    return questions, drafts


def _question(draft: Draft, passage: Passage, name: str) -> Question:
    return Question(
        id=name,
        question=draft.question,
        answers=(draft.answer,),
        title=passage.document,
        context=passage.text,
        synthetic=True,
    )


def _write(collection: Collection, engine: Engine, numbers: Sequence[int], config: SynthesisConfig) -> list[Row]:
    """What the model writes from some passages, checked."""
    found = collection.store.passages(numbers)
    passages = [found[number][0] for number in numbers]
    room = engine.context - config.max_tokens
    requests = [
        Request(
            prompt_ids=write_prompt(engine.tokenizer, passage.text, room=room),
            sampling=SamplingConfig(
                max_tokens=config.max_tokens,
                temperature=config.temperature,
                top_p=0.95,
                seed=seed_of(config.seed, passage.text),
                n=config.per_passage,
            ),
        )
        for passage in passages
    ]
    written = engine.generate(requests)
    texts = [passages[completion.request].text for completion in written]
    drafts = [read_draft(completion.text, text) for completion, text in zip(written, texts, strict=True)]
    drafts = _bring_back(collection, drafts, texts, config)
    if not config.keep_disputed:
        drafts = _reread(engine, drafts, texts)
    rows: list[Row] = [{"passage": number, "drafts": []} for number in numbers]
    for completion, draft in zip(written, drafts, strict=True):
        rows[completion.request]["drafts"].append(asdict(draft))
    return rows


def _bring_back(
    collection: Collection, drafts: Sequence[Draft], texts: Sequence[str], config: SynthesisConfig
) -> list[Draft]:
    """'lost' are those whose passage retrieval does not bring back; one with the same text does as well."""
    asked = [draft.question for draft in drafts if draft.fault is None]
    brought = iter(hits_for(collection, asked, config.top, mode=config.retrieval))
    return [
        replace(draft, fault="lost")
        if draft.fault is None and all(hit.passage.text != text for hit in next(brought))
        else draft
        for draft, text in zip(drafts, texts, strict=True)
    ]


def _reread(engine: Engine, drafts: Sequence[Draft], texts: Sequence[str]) -> list[Draft]:
    """'disputed' are those whose answer is not in what the model says when it is asked, with the passage."""
    good = [place for place, draft in enumerate(drafts) if draft.fault is None]
    reader = LlamaGenerator(engine.model, engine.tokenizer, context=engine.context, keep_bytes=0)
    said = decode(
        reader,
        [drafts[place].question for place in good],
        [[RagDocument(text=texts[place], score=0.0)] for place in good],
        DecodingConfig(decoding="greedy", max_tokens=32),
    )
    checked = list(drafts)
    for place, answer in zip(good, said, strict=True):
        if not holds_answer(answer.best.text, [drafts[place].answer]):
            checked[place] = replace(drafts[place], fault="disputed")
    return checked

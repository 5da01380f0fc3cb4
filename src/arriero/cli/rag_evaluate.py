"""`arriero rag evaluate`: RAG measured on questions with known answers, beside what it has to beat."""

import dataclasses
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from arriero.cli.collection import CollectionConfig, open_collection
from arriero.cli.output import console, note, print_json, printable, warn
from arriero.cli.trained_rag import asking_by, load_trained
from arriero.common.errors import ArrieroError
from arriero.model.choices import DEFAULT_MODEL
from arriero.rag.evaluation_config import EvaluationConfig
from arriero.rag.questions import QuestionFormat

if TYPE_CHECKING:
    from arriero.rag.evaluation_summary import Summary
    from arriero.rag.generator import Generator

PAGE, SUMMARY = "evaluation.html", "summary.json"


@dataclass(frozen=True, kw_only=True)
class RagEvaluateConfig(CollectionConfig):
    """What is measured, and where it is kept."""

    questions: tuple[Path, ...]
    """Files of questions and answers: SQuAD's or DPR's JSON, or JSON lines; repeat the option."""
    format: QuestionFormat | None = None
    """What the files are: squad, dpr or jsonl; default: what each looks like."""
    rag: Path | None = None
    """Folder of a RAG model that `arriero rag train` made."""
    model: str = DEFAULT_MODEL
    """The generator where no RAG model is given: a known name, a folder, a .gguf file, an encoder-decoder."""
    adapter: Path | None = None
    """An adapter for the generator, in PEFT's format."""
    out: Path = Path("evaluation")
    """Folder of what each question came to, and of the page; an evaluation that was stopped goes on there."""
    measure: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not self.questions:
            raise ArrieroError("no questions given: expected --questions FILE")


def evaluate(config: RagEvaluateConfig) -> int:
    """Measure RAG-Sequence and RAG-Token on questions with known answers, beside three baselines on the same questions:
    the generator alone (closed book), with the first passage alone (retrieve, then read), and with all passages in one
    prompt (concatenated).

    Told are exact match, F1, and how often a right answer stands in what was said, with 95% intervals and each system's
    gain over the one before it; how well passages are found (recall, reciprocal rank); which questions would be
    refused; and how much of each answer rests on passages that say it. The page lists every question with what was read
    and answered, to be searched, filtered and ordered. The same command goes on where it was stopped, even killed.

    Examples:
      arriero rag evaluate --questions squad.json
      arriero rag evaluate --questions qa.jsonl --rag runs/support/rag --out after
      arriero rag evaluate --questions qa.jsonl --systems rag-sequence --limit 50 --seed 1 --json
    """
    from arriero.rag.evaluation import evaluate as run
    from arriero.rag.evaluation_records import RECORDS
    from arriero.rag.evaluation_summary import summarise
    from arriero.rag.questions import read_questions
    from arriero.rag.retrieve import usual_scale
    from arriero.report.rag_evaluation import render_evaluation
    from arriero.train.run_folder import RunFolder

    questions = read_questions(config.questions, config.format)
    trained = load_trained(config)
    if trained and (other := {"rag-sequence", "rag-token"} & {*config.measure.systems} - {f"rag-{trained.kind}"}):
        note(f"({printable(str(config.rag))} was trained as rag-{trained.kind}: {other.pop()} is another model of it)")
    opened = asking_by(config, trained)
    folder = RunFolder(config.out)
    with open_collection(opened) as collection:
        measured = _settings(config, collection.store.generation)
        folder.check(measured, allow=None)
        generator = trained.generator if trained else _load_generator(config)
        k = config.measure.k or (trained.k if trained else 5)
        scale = trained.scale if trained else usual_scale(collection)
        with folder.hold(measured, allow=None):
            folder.begin(measured)
            records = run(
                collection,
                generator,
                questions,
                config.measure,
                k=k,
                scale=scale,
                records=config.out / RECORDS,
            )
    summary = summarise(records, config.measure.systems, k=k, threshold=config.measure.threshold)
    _write(config.out, summary, render_evaluation(summary, records, name=config.questions[0].name))
    if config.json:
        print_json(dataclasses.asdict(summary))
    else:
        _show(summary)
        note(f"every question: {printable(str(config.out / PAGE))}")
    return 0


@dataclass(frozen=True, kw_only=True)
class _Settings:
    """What must stay the same for an evaluation to go on."""

    questions: tuple[Path, ...]
    collection: Path
    query_encoder: Path | None
    rag: Path | None
    model: str
    adapter: Path | None
    measure: EvaluationConfig
    generation: int
    """Of the collection: its passages are the same."""


def _settings(config: RagEvaluateConfig, generation: int) -> _Settings:
    own = {each.name: getattr(config, each.name) for each in fields(_Settings) if each.name != "generation"}
    return _Settings(**own, generation=generation)


def _load_generator(config: RagEvaluateConfig) -> "Generator":
    from arriero.rag.generators import load_generator

    return load_generator(config.model, adapter=config.adapter, device=config.device)


def _write(out: Path, summary: "Summary", page: str) -> None:
    import json

    from arriero.common.files import atomic_file

    texts = {PAGE: page, SUMMARY: json.dumps(dataclasses.asdict(summary), indent=2)}
    for name, text in texts.items():
        with atomic_file(out / name) as aside:
            aside.write_text(text, encoding="utf-8")


def _show(summary: "Summary") -> None:
    from arriero.report.rag_evaluation import SYSTEM_COLUMNS, refusal_words, retrieval_rows, system_rows

    out = console()
    systems = Table(box=None, pad_edge=False)
    systems.add_column(SYSTEM_COLUMNS[0])
    for name in SYSTEM_COLUMNS[1:]:
        systems.add_column(name, justify="right")
    for row in system_rows(summary):
        systems.add_row(*row)
    out.print(systems)
    print()
    found = Table(box=None, pad_edge=False)
    found.add_column("retrieval")
    found.add_column("", justify="right")
    for row in retrieval_rows(summary):
        found.add_row(*row)
    out.print(found)
    print(f"\n{refusal_words(summary)}")
    if not summary.answerable:
        warn("no question has an answer: only refusals were measured")

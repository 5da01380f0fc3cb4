"""`arriero quickstart`: from nothing to cited answers, on text that every Python carries."""

import platform
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero.cli.collection import ingest_bar
from arriero.cli.engine import EngineConfig, load_engine
from arriero.cli.output import console, note, print_json
from arriero.cli.rag_ask import show_answer
from arriero.common.errors import ArrieroError
from arriero.model.source import DEFAULT_ENCODER, NAMED, resolve
from arriero.model.source import get as fetch
from arriero.parsers.document import Document
from arriero.parsers.parse import parse_bytes
from arriero.rag.answer import Answer, stream_answer
from arriero.rag.collection import Collection

if TYPE_CHECKING:
    from arriero.generate.engine import Engine
    from arriero.rag.ingest import IngestReport

QUESTIONS = (
    "What does the with statement do?",
    "When is the else clause of a try statement executed?",
    "What is the value of __debug__ under normal circumstances?",
)
"""Questions that the default model answers rightly from Python's reference: a test says so."""


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig(EngineConfig):
    """Where it goes, and with which model."""

    collection: Path = Path("arriero-quickstart")
    """Folder of the collection that is made; it can be deleted afterwards."""
    json: bool = False
    """Print one JSON object: what was read, the answers, the seconds that each step took."""


def quickstart(config: QuickstartConfig) -> int:
    """Answer three questions about the Python language reference, with citations.

    Brings the default model (SmolLM2-135M-Instruct) and encoder (all-MiniLM-L6-v2) where they are missing, takes the
    reference that every Python carries into a collection, and asks it three questions. Nothing else is fetched, and
    neither a key nor a graphics card is needed. A second run does only what is left to do; an interrupted one goes on
    where it stopped.
    """
    seconds: dict[str, float] = {}
    with timed(seconds, "models"):
        _bring(config)
    with Collection.open(config.collection, device=config.device) as collection:
        with timed(seconds, "documents"):
            report = _read(collection, config)
        with timed(seconds, "loading"):
            engine = load_engine(config)
        answers = []
        for number, question in enumerate(QUESTIONS, 1):
            if not config.json:
                console().print(f"\n{number}. {question}", style="bold cyan", markup=False)
            with timed(seconds, f"answer {number}"):
                answers.append(_ask(collection, engine, question, config))
    if config.json:
        print_json(_plain(config, report, answers, seconds))
    else:
        _tell_next(config, seconds)
    return 0


def _bring(config: QuickstartConfig) -> None:
    """Fetch what is missing, and say what is used and under which licence."""
    for name in dict.fromkeys((config.model, DEFAULT_ENCODER)):
        path = fetch(name) if name in NAMED else resolve(name)
        licence = f" (licence: {NAMED[name].licence})" if name in NAMED else ""
        note(f"{name}{licence}: {path}")


def _read(collection: Collection, config: QuickstartConfig) -> "IngestReport":
    """Take Python's reference into the collection; what is there already costs nothing."""
    documents = reference()
    with ingest_bar(f"Reading Python {platform.python_version()}'s reference") as tell:
        report = collection.add_documents(documents, tell)
    passages = sum(info.passages for info in collection.list())
    note(f"{len(documents)} documents, {passages:,} passages in {config.collection} ({report.encoded:,} encoded now)")
    return report


def reference() -> list[Document]:
    """The Python language reference, one document a topic, as `pydoc` carries it."""
    try:
        from pydoc_data.topics import topics
    except ImportError as error:  # some distributions split it off
        raise ArrieroError("this Python lacks pydoc_data: install your distribution's full Python package") from error
    return [parse_bytes(f"python/topics/{name}.rst", text.encode()) for name, text in sorted(topics.items())]


def _ask(collection: Collection, engine: "Engine", question: str, config: QuickstartConfig) -> Answer:
    pieces = stream_answer(collection, engine, question)
    if not config.json:
        return show_answer(pieces, json=False)
    *_, answer = pieces
    assert isinstance(answer, Answer)
    return answer


def _plain(
    config: QuickstartConfig, report: "IngestReport", answers: list[Answer], seconds: dict[str, float]
) -> dict[str, Any]:
    return {
        "collection": str(config.collection),
        "model": config.model,
        "encoder": DEFAULT_ENCODER,
        "documents": len(report.added) + len(report.updated) + len(report.unchanged),
        "encoded": report.encoded,
        "answers": [answer.to_dict() for answer in answers],
        "seconds": {step: round(taken, 2) for step, taken in seconds.items()},
    }


def _tell_next(config: QuickstartConfig, seconds: dict[str, float]) -> None:
    out = console()
    steps = ", ".join(f"{step} {taken:.1f} s" for step, taken in seconds.items())
    folder = shlex.quote(str(config.collection))
    out.print(f"\nTime: {steps}; together {sum(seconds.values()):.1f} s.", style="dim", markup=False)
    out.print("\nNext, about Python:", style="bold")
    out.print(f'  arriero rag ask "How do I write a tuple with one item?" --collection {folder}', markup=False)
    out.print(f"  arriero rag chat --collection {folder}", markup=False)
    out.print("About your own documents (PDF, Word, Markdown, HTML, code, ...):", style="bold")
    out.print("  arriero rag add PATH", markup=False)
    out.print('  arriero rag ask "Your question"', markup=False)
    out.print(
        "\nThe default model is small (135 million parameters) and errs; what no passage supports is marked so."
        "\nA larger model of the same architecture answers better: --model FOLDER, FILE.gguf or a hub id.",
        style="dim",
        markup=False,
    )


@contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Note how long the block took."""
    started = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - started

"""`arriero quickstart`: from nothing to cited answers, and on to a model of your own."""

import json
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arriero.cli.collection import ingest_bar
from arriero.cli.engine import EngineConfig, load_engine
from arriero.cli.output import console, note, print_json
from arriero.cli.rag_ask import show_answer
from arriero.cli.road.pace import take_pace
from arriero.cli.road.record import read_record
from arriero.cli.road.stage import FULL, Road, StageName
from arriero.cli.road.stages import ANSWER
from arriero.cli.road.texts import topics
from arriero.cli.road.walk import CARD, ORDER, RECORDS, choose, is_done, keep_record, walk
from arriero.common.errors import MissingExtraError
from arriero.common.files import atomic_file

if TYPE_CHECKING:
    from arriero.generate.engine import Engine
    from arriero.parsers.document import Document
    from arriero.rag.answer import Answer
    from arriero.rag.collection import Collection
    from arriero.rag.ingest import IngestReport

QUESTIONS = (
    "What does the with statement do?",
    "When is the else clause of a try statement executed?",
    "What is the value of __debug__ under normal circumstances?",
)
"""Questions that the default model answers rightly from Python's reference: a test says so."""
_PACKAGES = {"answer": ("transformers", "faiss"), "corpus": ("datatrove", "fasttext"), "retriever": ("transformers",)}
"""Packages of extras that stages need."""
PAGE, ANSWERS = "card.html", "answers.json"
_AHEAD = "(now to a model of your own: about {} minutes on two cores; after Ctrl-C the same command goes on)"
_INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


@dataclass(frozen=True, kw_only=True)
class QuickstartConfig(EngineConfig):
    """Which stages, where to, and with which model the questions are answered."""

    out: Path = Path("arriero-quickstart")
    """Folder of everything that is made; it can be deleted afterwards."""
    fast: bool = False
    """Less of everything: 5 minutes instead of 15."""
    until: StageName | None = None
    """The last stage; `--until answer` leaves it at the answers."""
    only: tuple[StageName, ...] = ()
    """A stage, alone; repeat the option."""
    skip: tuple[StageName, ...] = ()
    """A stage that is left out, with those that need what it makes; repeat the option."""
    json: bool = False
    """Print one JSON object: the answers, what every stage took, the seconds that each step of answering took."""


def quickstart(config: QuickstartConfig) -> int:
    """Answer questions about Python's reference with citations; then go the whole road to a model of your own.

    Three answers come first, within minutes: SmolLM2-135M-Instruct and all-MiniLM-L6-v2 are fetched where they are
    missing, and nothing else. Then each stage shows the commands that it consists of: a corpus of the standard
    library and installed packages' READMEs, a tokenizer, a small LLaMA pretrained, fine-tuned and aligned, a LoRA
    adapter of SmolLM2, a trained search, and a report card of it all. Neither a key nor a graphics card is needed.
    Ctrl-C stops; the same command goes on, and what is done is not done again.

    Examples:
      arriero quickstart
      arriero quickstart --until answer
      arriero quickstart --fast --skip lora
    """
    names = choose(config.only, config.skip, config.until)
    _see_packages(names)
    answered: dict[str, Any] = {}
    if ANSWER.name in names:
        place = Road(path=config.out, size=FULL, device=config.device)
        if names != [ANSWER.name] and is_done(place, ANSWER.name):
            note(f"({ANSWER.name}: done before; --only {ANSWER.name} asks again)")
        else:
            keep_record(place, ANSWER, lambda: answered.update(_answer(config)) is None)
    whole = True
    if names != [ANSWER.name]:
        pace = take_pace(config.out, fast=config.fast)
        road = Road(path=config.out, size=pace.size, device=config.device)
        if "pretrain" in names and not is_done(road, "pretrain"):
            note(_AHEAD.format(5 if config.fast else 15))
        whole = walk(road, names, config.only, quiet=config.json)
    card = _write_card(config.out) if CARD in names else None
    if config.json:
        print_json({**answered, "stages": _records(config.out), "card": card, "interrupted": not whole})
    elif whole:
        _tell_next(config, names, card)
    return 0 if whole else _INTERRUPTED


def _see_packages(names: Sequence[str]) -> None:
    """That what stages import is installed, before anything is fetched or made.

    Raises:
        MissingExtraError: it is not.
    """
    wanted = dict.fromkeys(package for name in names for package in _PACKAGES.get(name, ()))
    missing = [package for package in wanted if find_spec(package) is None]
    if missing:
        lacking = ", ".join(f"'{package}'" for package in missing)
        raise MissingExtraError(f"`arriero quickstart` needs {lacking}: pip install 'arriero[rag,corpus,plots]'")


def _answer(config: QuickstartConfig) -> dict[str, Any]:
    """The first stage: what it came to, and the seconds that each step took."""
    from arriero.rag.collection import Collection

    seconds: dict[str, float] = {}
    with timed(seconds, "models"):
        _bring(config)
    with Collection.open(_collection(config), device=config.device) as collection:
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
    answered = _plain(config, report, answers, seconds)
    with atomic_file(config.out / ANSWERS) as aside:
        aside.write_text(json.dumps(answered, ensure_ascii=False) + "\n", encoding="utf-8")
    if not config.json:
        steps = ", ".join(f"{step} {taken:.1f} s" for step, taken in seconds.items())
        told = f"\nTime: {steps}; together {sum(seconds.values()):.1f} s."
        console().print(told, style="dim", markup=False)
    return answered


def _collection(config: QuickstartConfig) -> Path:
    return config.out / ANSWER.made


def _write_card(out: Path) -> Path | None:
    """The report card; None where no stage is done yet."""
    from arriero.report.road import render_road

    if not any((out / RECORDS).glob("*.json")):
        return None
    page = render_road(out)
    with atomic_file(out / PAGE) as aside:
        aside.write_text(page, encoding="utf-8")
    return out / PAGE


def _records(out: Path) -> list[dict[str, Any]]:
    """What each stage took, of those that were begun."""
    found = (read_record(out / RECORDS, name) for name in ORDER)
    return [asdict(record) for record in found if record is not None]


def _bring(config: QuickstartConfig) -> None:
    """Fetch what is missing, and say what is used and under which licence."""
    from arriero.model.source import DEFAULT_ENCODER, NAMED, resolve
    from arriero.model.source import get as fetch

    for name in dict.fromkeys((config.model, DEFAULT_ENCODER)):
        path = fetch(name) if name in NAMED else resolve(name)
        licence = f" (licence: {NAMED[name].licence})" if name in NAMED else ""
        note(f"{name}{licence}: {path}")


def _read(collection: "Collection", config: QuickstartConfig) -> "IngestReport":
    """Take Python's reference into the collection; what is there already costs nothing."""
    documents = reference()
    with ingest_bar(f"Reading Python {platform.python_version()}'s reference") as tell:
        report = collection.add_documents(documents, tell)
    passages = sum(info.passages for info in collection.list())
    here = _collection(config)
    note(f"{len(documents)} documents, {passages:,} passages in {here} ({report.encoded:,} encoded now)")
    return report


def reference() -> "list[Document]":
    """The Python language reference, one document a topic."""
    from arriero.parsers.parse import parse_bytes

    return [parse_bytes(f"python/topics/{name}.rst", text.encode()) for name, text in topics().items()]


def _ask(collection: "Collection", engine: "Engine", question: str, config: QuickstartConfig) -> "Answer":
    from arriero.rag.answer import Answer, stream_answer

    pieces = stream_answer(collection, engine, question)
    if not config.json:
        return show_answer(pieces, json=False)
    *_, answer = pieces
    assert isinstance(answer, Answer)
    return answer


def _plain(
    config: QuickstartConfig, report: "IngestReport", answers: "list[Answer]", seconds: dict[str, float]
) -> dict[str, Any]:
    from arriero.model.source import DEFAULT_ENCODER

    return {
        "collection": str(_collection(config)),
        "model": config.model,
        "encoder": DEFAULT_ENCODER,
        "documents": len(report.added) + len(report.updated) + len(report.unchanged),
        "encoded": report.encoded,
        "answers": [answer.to_dict() for answer in answers],
        "seconds": {step: round(taken, 2) for step, taken in seconds.items()},
    }


def _tell_next(config: QuickstartConfig, names: list[str], card: Path | None) -> None:
    """The commands that go on from here."""
    out, folder = console(), shlex.quote(str(config.out))

    def tell(title: str, *commands: str) -> None:
        out.print(f"\n{title}", style="bold", markup=False)
        for command in commands:
            out.print(f"  {command}", markup=False, soft_wrap=True)

    made = config.out / "ppo" / "model"
    if made.is_dir():
        tell("Talk with the model that you raised:", f"arriero chat --model {shlex.quote(str(made))} --temperature 0.5")
    adapter = config.out / "lora" / "adapter"
    if adapter.is_dir():
        tell("And with SmolLM2 and its adapter:", f"arriero chat --adapter {shlex.quote(str(adapter))}")
    trained = config.out / "retriever" / "query_encoder"
    search = f" --query-encoder {shlex.quote(str(trained))}" if trained.is_dir() else ""
    tell(
        "Ask about Python:",
        f'arriero rag ask "How do I write a tuple with one item?" --collection {folder}/{ANSWER.made}{search}',
        f"arriero rag chat --collection {folder}/{ANSWER.made}{search}",
    )
    tell(
        "About your own documents (PDF, Word, Markdown, HTML, code, ...):",
        "arriero rag add PATH",
        'arriero rag ask "Your question"',
    )
    tell("Serve it all, to a browser and to OpenAI's clients:", f"arriero serve --collections {folder} --runs {folder}")
    if names == [ANSWER.name]:
        tell("Go the whole road to a model of your own:", "arriero quickstart")
    if card is not None:
        tell("What every stage did and took:", str(card))
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

"""`arriero rag questions`: questions and answers that a chat model writes from a collection's passages."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from arriero.cli.collection import CollectionConfig, open_collection
from arriero.cli.engine import EngineConfig, load_engine
from arriero.cli.options import positional
from arriero.cli.output import console, print_json, printable
from arriero.rag.synthesis_config import SynthesisConfig

if TYPE_CHECKING:
    from arriero.rag.synthesis import SynthesisCounts


@dataclass(frozen=True, kw_only=True)
class RagQuestionsConfig(CollectionConfig, EngineConfig):
    """From which passages, by which model, and where to."""

    out: Path = positional("OUT")  # noqa: RUF009
    """The file to write: JSON lines of question, answers, title and context, marked as synthetic."""
    write: SynthesisConfig = field(default_factory=SynthesisConfig)


def questions(config: RagQuestionsConfig) -> int:
    """Have a chat model write questions and answers from a collection's passages, to train on or to measure with.

    Kept is only what can be checked: the answer stands in the passage, the question brings the passage back from the
    collection, and the model, asked it with the passage, says the same answer. What is dropped is told with the reason.
    A small model writes few questions that hold: ask it for more of each passage. Read some before you rely on them.

    The same command continues a run that was stopped, even killed.

    Examples:
      arriero rag questions questions.jsonl
      arriero rag questions questions.jsonl --limit 500 --per-passage 4
      arriero rag questions questions.jsonl --model qwen2.5-7b-instruct.gguf --top 1
    """
    from arriero.rag.synthesis import synthesise

    with open_collection(config) as collection:
        engine = load_engine(config)
        model = config.model if config.adapter is None else f"{config.model} with {config.adapter}"
        counts = synthesise(collection, engine, config.out, config.write, model=model)
    if config.json:
        print_json({"made": config.out, "counts": counts})
    else:
        _tell(config, counts)
    return 0


def _tell(config: RagQuestionsConfig, counts: "SynthesisCounts") -> None:
    from arriero.rag.drafts import FAULTS

    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("passages written from", f"{counts.passages:,}")
    if counts.short:
        table.add_row("too short to ask about", f"{counts.short:,}")
    table.add_row("questions written", f"{counts.written:,}")
    for fault, count in counts.dropped.items():
        table.add_row(f"  dropped: {FAULTS[fault]}", f"{count:,}")
    table.add_row("kept", f"{counts.kept:,}")
    console().print(table)
    made, here = printable(str(config.out)), printable(str(config.collection))
    print(f"train on them: arriero rag train --questions {made} --collection {here}")

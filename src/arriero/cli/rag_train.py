"""`arriero rag train`: query encoder and generator learn together, from questions and answers."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from arriero.cli.options import positional
from arriero.cli.output import console, print_json, printable, warn
from arriero.cli.runs import is_main, processes, settings_of
from arriero.rag.rag_config import RagTrainConfig

if TYPE_CHECKING:
    from arriero.rag.rag_train import PreparedRag
    from arriero.train.loop import End


@dataclass(frozen=True, kw_only=True)
class RagTrainCommand(RagTrainConfig):
    """A run, and where it is kept."""

    run: Path | None = positional("RUN", default=None)  # noqa: RUF009
    """The run's folder: new, or one to continue; default: runs/NAME-rag after the first file of questions."""
    dry_run: bool = False
    """Tell what became of the questions and what the run will be; train nothing."""
    allow: tuple[str, ...] = ()
    """Setting that may differ from those the run was begun with, such as training.epochs; repeat the option."""
    json: bool = False
    """Print JSON for scripts."""


def train(config: RagTrainCommand) -> int:
    """Train RAG end to end (Lewis et al. 2020): the query encoder and the generator, on questions and answers.

    Nobody needs to say which passage answers: the likelihood of the answer is summed over the passages that are found,
    and both models learn from it. The passages' vectors and their index stay as they are. The same command continues a
    run that was stopped, even killed.

    Examples:
      arriero rag train --questions qa.jsonl
      arriero rag train runs/support --questions qa.jsonl --collection support.arriero --kind token --k 10
      arriero rag train runs/frozen --questions squad.json --freeze-retriever
      arriero rag train runs/bart --questions qa.jsonl --model bart/ --method full
      arriero rag train --questions qa.jsonl --dry-run
    """
    from arriero.rag.rag_train import prepare_rag, train_rag
    from arriero.rag.training_set import open_collection

    settings = settings_of(config, RagTrainConfig)
    name = settings.questions.questions[0].name.partition(".")[0]
    run = config.run or Path("runs") / f"{name}-rag"
    with open_collection(settings) as collection:
        prepared = prepare_rag(settings, collection, processes())
        main = is_main()
        if main and not (config.json and not config.dry_run):
            _show(prepared, config)
        if config.dry_run:
            return 0
        end = train_rag(run, settings, config.allow, prepared)
    if main:
        _tell(config, run, end)
    return 0


def _show(prepared: "PreparedRag", config: RagTrainCommand) -> None:
    """What the run will be: on the error stream, or a dry run's answer."""
    counts = {
        "training": len(prepared.training),
        "held_out": len(prepared.held_out),
        "unanswered": prepared.unanswered,
        "steps": prepared.loop.steps,
        "tokens_per_question": round(prepared.question_tokens),
    }
    if config.json:
        print_json(counts)
        return
    learner = prepared.learner
    learning = sum(p.numel() for p in learner.generator.parameters() if p.requires_grad)
    asking = sum(p.numel() for p in learner.query.parameters() if p.requires_grad)
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "questions": f"{counts['training']:,} to train on, {counts['held_out']:,} held out; "
        f"{prepared.unanswered:,} without an answer are left out",
        "a question": f"{learner.k} documents, {counts['tokens_per_question']:,} tokens in all",
        "what learns": f"{learning:,} parameters of {learner.reader.name}"
        + (f", {asking:,} of the query encoder" if asking else "; the retriever is frozen"),
        "steps": f"{prepared.loop.steps:,} of {prepared.loop.accumulation} × {prepared.micro_rows} questions",
    }.items():
        table.add_row(name, printable(value))
    console(error=not config.dry_run).print(table)
    if not prepared.held_out:
        warn("no question is held out: the last step's model comes out; see --eval-share")


def _tell(config: RagTrainCommand, run: Path, end: "End") -> None:
    made = run / "rag"
    if config.json:
        print_json({"run": run, "end": end, "made": made if made.exists() else None})
    elif end in ("finished", "stopped early"):
        place, here = printable(str(made)), f"--collection {printable(str(config.collection))}"
        print(f"{end}: {place}")
        if config.retrieval.reencode_every:
            print(f"encode the passages with its encoder: arriero rag reencode {here} --encoder {place}/encoder")
        print(f'ask it: arriero rag ask "…" {here} --rag {place}')
        print(f"measure it: arriero rag evaluate --questions FILE {here} --rag {place}")
        print(f"see how it went: arriero report {printable(str(run))}")
    else:
        print(f"{end}: the same command goes on from the last checkpoint")

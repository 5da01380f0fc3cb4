"""`arriero rag retriever|reencode`: train a retriever on questions; encode passages anew with another encoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from arriero.cli.collection import CollectionConfig, open_collection
from arriero.cli.options import positional
from arriero.cli.output import console, print_json, printable, warn
from arriero.cli.runs import is_main, processes, settings_of
from arriero.common.errors import ArrieroError
from arriero.rag.retriever_config import RetrieverConfig

if TYPE_CHECKING:
    from arriero.rag.retriever_train import PreparedRetriever
    from arriero.train.loop import End


@dataclass(frozen=True, kw_only=True)
class RetrieverCommand(RetrieverConfig):
    """A run, and where it is kept."""

    run: Path | None = positional("RUN", default=None)  # noqa: RUF009
    """The run's folder: new, or one to continue; default: runs/NAME-retriever after the first file of questions."""
    dry_run: bool = False
    """Tell what became of the questions and what the run will be; train nothing."""
    allow: tuple[str, ...] = ()
    """Setting that may differ from those the run was begun with, such as training.epochs; repeat the option."""
    json: bool = False
    """Print JSON for scripts."""


def retriever(config: RetrieverCommand) -> int:
    """Train a retriever on questions (DPR, Karpukhin et al. 2020): what answers a question is to be near it.

    A question's passage is set against those of all other questions in the batch, and against hard negatives that BM25
    and the index rank high. By default the query encoder alone learns, and the collection stays as it is; with --sides
    both the passages' encoder learns too, and they are to be encoded anew. The same command continues a run that was
    stopped, even killed.

    Examples:
      arriero rag retriever --questions qa.jsonl
      arriero rag retriever runs/finder --questions squad.json --collection support.arriero --negatives 8
      arriero rag retriever runs/finder --questions qa.jsonl --sides both
      arriero rag search "late payment" --query-encoder runs/finder/query_encoder
    """
    from arriero.rag.retriever_train import prepare_retriever, train_retriever
    from arriero.rag.training_set import open_collection as open_documents

    settings = settings_of(config, RetrieverConfig)
    name = settings.questions.questions[0].name.partition(".")[0]
    run = config.run or Path("runs") / f"{name}-retriever"
    with open_documents(settings) as collection:
        prepared = prepare_retriever(settings, collection, processes())
        main = is_main()
        if main and not (config.json and not config.dry_run):
            _show(prepared, config)
        if config.dry_run:
            return 0
        end = train_retriever(run, settings, config.allow, prepared)
    if main:
        _tell(config, run, end)
    return 0


def _show(prepared: "PreparedRetriever", config: RetrieverCommand) -> None:
    """What the run will be: on the error stream, or a dry run's answer."""
    negatives = sum(len(example.negatives) for example in prepared.training)
    counts: dict[Literal["training", "held_out", "left_out", "negatives", "steps"], int] = {
        "training": len(prepared.training),
        "held_out": len(prepared.held_out),
        "left_out": prepared.unanswered,
        "negatives": negatives,
        "steps": prepared.loop.steps,
    }
    if config.json:
        print_json(counts)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for name, value in {
        "questions": f"{counts['training']:,} to train on, {counts['held_out']:,} held out; "
        f"{prepared.unanswered:,} that no passage answers are left out",
        "hard negatives": f"{negatives:,}",
        "what learns": f"{prepared.learner.n_params:,} parameters of {prepared.learner.encoder.name}",
        "steps": f"{prepared.loop.steps:,} of {prepared.rows} questions",
    }.items():
        table.add_row(name, printable(value))
    console(error=not config.dry_run).print(table)
    if not prepared.held_out:
        warn("no question is held out: the last step's encoder comes out; see --eval-share")


def _tell(config: RetrieverCommand, run: Path, end: "End") -> None:
    made = run / ("query_encoder" if config.sides == "query" else "encoder")
    if config.json:
        print_json({"run": run, "end": end, "made": made if made.exists() else None})
    elif end in ("finished", "stopped early"):
        place, here = printable(str(made)), f"--collection {printable(str(config.collection))}"
        print(f"{end}: {place}")
        if config.sides == "query":
            print(f'search with it: arriero rag search "…" {here} --query-encoder {place}')
        else:
            print(f"encode the passages with it: arriero rag reencode {here} --encoder {place}")
        print(f"see how it went: arriero report {printable(str(run))}")
    else:
        print(f"{end}: the same command goes on from the last checkpoint")


def reencode(config: CollectionConfig) -> int:
    """Encode all passages of a collection anew with another encoder, such as one that `rag retriever` trained.

    The old vectors serve until all new ones are there, and go in one step: whoever stops it has lost nothing.

    Examples:
      arriero rag reencode --encoder runs/finder/encoder
    """
    from dataclasses import replace

    from arriero.common.progress import progress

    if config.encoder is None:
        raise ArrieroError("no encoder given: expected --encoder, a folder or a name")
    if config.query_encoder is not None:
        raise ArrieroError("--query-encoder belongs to passages as they were: leave it out")
    with open_collection(replace(config, encoder=None)) as collection:
        with progress("Encoding", collection.store.passage_count(), "passages") as advance:
            count = collection.reencode(config.encoder, advance)
        name = collection.encoder.name
    if config.json:
        print_json({"passages": count, "encoder": name})
    else:
        print(f"{count} passages encoded by {printable(name)}")
    return 0

"""RAG on XQuAD's English questions: what retrieval finds, and what training end to end brings over its baselines.

The articles are divided: the questions of two thirds are learnt from, those of one third are measured on; the documents
are the paragraphs of all of them. Measured on the same held-out questions:

  recall       of dense, BM25 and hybrid retrieval
  end-to-end   query encoder and generator trained together (RAG-Sequence)
  frozen       the generator alone trained, with the retriever as it was
  beside each  its generator with the first passage alone, and with none

    python benchmarks/rag.py --data ../shared/data --keep FOLDER [--stage all|documents|end-to-end|frozen|measure]
        [--epochs 1] [--k 4] [--limit N] [--json]

What is in the folder is not done again, and a stage that was stopped goes on; stages may run side by side once the
documents are there. SmolLM2-135M with LoRA on its upper layers, all-MiniLM-L6-v2.
"""

import argparse
import dataclasses
import json
import statistics
import sys
from pathlib import Path

import torch
from figures import Figure, as_json

from arriero.common.errors import ArrieroError
from arriero.common.machine import machine_line
from arriero.model.lora_config import LoraConfig
from arriero.rag.collection import Collection
from arriero.rag.evaluation import evaluate, find_rank
from arriero.rag.evaluation_config import EvaluationConfig
from arriero.rag.evaluation_records import RECORDS, System
from arriero.rag.evaluation_summary import Summary, summarise
from arriero.rag.qa_metrics import difference, estimate, recall_at
from arriero.rag.questions import read_questions, split_questions, write_questions
from arriero.rag.rag_config import QuestionsConfig, RagOptimizerConfig, RagTrainConfig, RetrievalConfig
from arriero.rag.rag_model import load_rag
from arriero.rag.rag_train import RAG, train_rag
from arriero.rag.retrieve import hits_for
from arriero.rag.search import MODES
from arriero.report.rag_evaluation import gain, interval
from arriero.train.keep import KeepConfig
from arriero.train.sft_config import EpochsConfig

HELD_OUT = 1 / 3
UPPER = r"layers\.(2\d)\.(attention\.w[qkvo]|feed_forward\.w[123])"
"""The upper ten of SmolLM2's thirty layers: half the time of a step."""
VARIANTS = ("end-to-end", "frozen")
BESIDE: tuple[System, ...] = ("closed-book", "retrieve-then-read", "rag-sequence")

Ranks = dict[str, list[int | None]]


def main() -> int:
    """Run the stages, and tell."""
    options = _options()
    try:
        if options.stage in ("all", "documents", "measure"):
            make_documents(options.data / "xquad.en.json", options.keep)
        for variant in VARIANTS:
            if options.stage in ("all", variant):
                train(options.keep, variant, options)
        if options.stage in ("all", "measure"):
            tell(options)
    except ArrieroError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def make_documents(source: Path, keep: Path) -> None:
    """A file a paragraph, a collection of them, and the questions to learn from and to measure on."""
    if (keep / "held_out.jsonl").is_file():
        return
    docs = keep / "docs"
    docs.mkdir(parents=True, exist_ok=True)
    for number, article in enumerate(json.loads(source.read_text(encoding="utf-8"))["data"]):
        for count, paragraph in enumerate(article["paragraphs"]):
            (docs / f"{number:02d}-{count}.txt").write_text(paragraph["context"], encoding="utf-8")
    with Collection.open(keep / "documents") as collection:
        collection.add(docs)
    learnt, held_out = split_questions(read_questions([source]), HELD_OUT, seed=0)
    write_questions(learnt, keep / "learnt.jsonl")
    write_questions(held_out, keep / "held_out.jsonl")


def train(keep: Path, variant: str, options: argparse.Namespace) -> None:
    """One of the two runs."""
    config = RagTrainConfig(
        collection=keep / "documents",
        questions=QuestionsConfig(questions=(keep / "learnt.jsonl",), eval_share=0.06),
        retrieval=RetrievalConfig(k=options.k, freeze_retriever=variant == "frozen"),
        retriever_lr=2e-5,
        training=EpochsConfig(epochs=options.epochs, batch=8, patience=0, checkpoint_every=20),
        lora=LoraConfig(rank=16, alpha=32.0, targets=(UPPER,)),
        optim=RagOptimizerConfig(lr=1e-3),
        checkpoints=KeepConfig(asynchronous=False),
        device="cpu",
    )
    end = train_rag(keep / variant, config)
    print(f"{variant}: {end}", file=sys.stderr)


def tell(options: argparse.Namespace) -> None:
    """Measure and print tables."""
    keep = options.keep
    ranks = find_ranks(keep)
    result = {"machine": machine_line(torch.device("cpu")), "recall": recall(ranks)}
    summaries = {variant: measure(keep, variant, options) for variant in VARIANTS if (keep / variant / RAG).is_dir()}
    if options.json:
        told = {variant: dataclasses.asdict(summary) for variant, summary in summaries.items()}
        print(json.dumps({**result, "systems": told, "targets": as_json(judge(ranks))}, default=str))
        return
    print(f"{result['machine']}\n")
    print("| retrieval | recall@1 | recall@5 |\n|---|---|---|")
    for name, row in result["recall"].items():
        print(f"| {name} | {row['1']} | {row['5']} |")
    print("\n| trained | system | EM | F1 | gain in EM | gain in F1 |\n|---|---|---|---|---|---|")
    for variant, summary in summaries.items():
        for one in summary.systems:
            cells = (interval(one.em), interval(one.f1), gain(one.em_gain), gain(one.f1_gain))
            print(f"| {variant} | {one.name} | {' | '.join(cells)} |")
    if len(summaries) == len(VARIANTS):
        print(f"\nend-to-end over frozen, RAG-Sequence: {compare(keep)}")


def judge(ranks: Ranks) -> list[Figure]:
    """What is wanted of retrieval, in per cent."""
    found = {name: {k: 100 * statistics.fmean(recall_at(own, k)) for k in (1, 5)} for name, own in ranks.items()}
    made = [Figure(what="hybrid recall@5, held-out questions", value=found["hybrid"][5], least=95.0, unit="%")]
    if "end-to-end dense" in found:
        gained = found["end-to-end dense"][1] - found["dense"][1]
        made.append(Figure(what="recall@1 by the trained query encoder", value=gained, least=0.0, unit="points"))
    return made


def find_ranks(keep: Path) -> Ranks:
    """Where each held-out question's passage was found: by each way to search, and by the trained query encoder."""
    questions = read_questions([keep / "held_out.jsonl"])
    texts = [question.question for question in questions]
    ranks: Ranks = {}
    for name, encoder in {"": None, "end-to-end ": keep / "end-to-end" / RAG / "query_encoder"}.items():
        if encoder is not None and not encoder.is_dir():
            continue
        with Collection.open(keep / "documents", query_encoder=encoder) as collection:
            for mode in MODES if encoder is None else ("dense", "hybrid"):
                found = hits_for(collection, texts, 20, mode=mode)
                ranks[f"{name}{mode}"] = [
                    find_rank(question, [hit.passage.text for hit in hits])
                    for question, hits in zip(questions, found, strict=True)
                ]
    return ranks


def recall(ranks: Ranks) -> dict[str, dict[str, str]]:
    """Recall, with its interval."""
    rows = {name: {str(k): interval(estimate(recall_at(own, k))) for k in (1, 5)} for name, own in ranks.items()}
    if "end-to-end dense" in ranks:
        for mode in ("dense", "hybrid"):
            now, before = ranks[f"end-to-end {mode}"], ranks[mode]
            rows[f"gain, {mode}"] = {str(k): gain(difference(recall_at(now, k), recall_at(before, k))) for k in (1, 5)}
    return rows


def measure(keep: Path, variant: str, options: argparse.Namespace) -> Summary:
    """A trained model's RAG-Sequence on held-out questions, and its generator without it."""
    model = load_rag(keep / variant / RAG, device="cpu")
    config = EvaluationConfig(systems=BESIDE, retrieval="dense", k=options.k, max_tokens=16, limit=options.limit)
    questions = read_questions([keep / "held_out.jsonl"])
    with Collection.open(keep / "documents", query_encoder=model.query_encoder) as collection:
        records = evaluate(
            collection,
            model.generator,
            questions,
            config,
            k=options.k,
            scale=model.scale,
            records=keep / f"{variant}-{RECORDS}",
        )
    return summarise(records, BESIDE, k=options.k, threshold=config.threshold)


def compare(keep: Path) -> str:
    """End to end against frozen, question by question."""
    rows = {
        variant: [json.loads(line)["given"]["rag-sequence"] for line in (keep / f"{variant}-{RECORDS}").open()]
        for variant in VARIANTS
    }
    count = min(map(len, rows.values()))
    gains = [difference([x[key] for x in rows["end-to-end"][:count]], [x[key] for x in rows["frozen"][:count]])
             for key in ("em", "f1")]  # fmt: skip
    return f"EM {gain(gains[0])}, F1 {gain(gains[1])}"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with xquad.en.json")
    parser.add_argument("--keep", type=Path, required=True, help="folder of what is made")
    parser.add_argument("--stage", choices=("all", "documents", *VARIANTS, "measure"), default="all")
    parser.add_argument("--epochs", type=float, default=1.0, help="how often each question is learnt from")
    parser.add_argument("--k", type=int, default=4, help="documents of a question")
    parser.add_argument("--limit", type=int, help="measure on the first so many held-out questions")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())

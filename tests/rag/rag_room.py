"""What tests of RAG's training share: a tiny encoder, documents about towns, questions, and a program to be started.

python -m tests.rag.rag_room '[{"run": …, "room": …, "changes": {…}}, …]'
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import transformers

from arriero.model.lora_config import LoraConfig
from arriero.rag.chunk import ChunkConfig
from arriero.rag.collection import Collection
from arriero.rag.questions import Question, write_questions
from arriero.rag.rag_config import QuestionsConfig, RagOptimizerConfig, RagTrainConfig, RetrievalConfig
from arriero.rag.rag_train import train_rag
from arriero.train.keep import KeepConfig
from arriero.train.parallel import Layout
from arriero.train.sft_config import EpochsConfig
from tests.train.tuning import write_base

TOWNS = ("lumo", "nera", "tiva", "sorl", "bemu", "caro", "dilo", "fesa")
NAMES = ("ada", "bo")
_WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "mayor", "of", "is", "who", "?", ".", *TOWNS, *NAMES]


def write_encoder(folder: Path, *, normalise: bool = True) -> Path:
    """A BERT of two layers with mean pooling, in sentence-transformers' form, for which towns differ."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    model = transformers.BertModel(transformers.BertConfig(vocab_size=len(_WORDS), max_position_embeddings=64, **shape))
    torch.nn.init.normal_(model.embeddings.word_embeddings.weight)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(_WORDS))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalise else [])]
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (path, kind) in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": 16, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def mayor(town: int, turn: int = 0) -> str:
    """Who governs it; another turn, another mayor."""
    return NAMES[(town + town // 3 + turn) % 2]


def write_room(room: Path) -> Path:
    """Base, encoder, a collection of a document a town, and questions about them."""
    write_base(room / "base", dim=32, hidden_dim=48, max_seq_len=128)
    write_encoder(room / "encoder")
    docs = room / "docs"
    docs.mkdir()
    for number, town in enumerate(TOWNS):
        (docs / f"{town}.txt").write_text(f"the mayor of {town} is {mayor(number)}.")
    with Collection.open(room / "documents", room / "encoder", chunk=ChunkConfig(words=20), device="cpu") as collection:
        collection.add(docs)
    questions = [
        Question(
            id=town,
            question=f"who is the mayor of {town}?",
            answers=(mayor(number),),
            title=town,
            context=f"the mayor of {town} is {mayor(number)}.",
        )
        for number, town in enumerate(TOWNS)
    ]
    write_questions(questions, room / "questions.jsonl")
    return room


def config_for(room: Path, **changes: Any) -> RagTrainConfig:
    """A run of 4 steps; `changes` by field, a table's as a dict."""
    config = RagTrainConfig(
        model=str(room / "base"),
        collection=room / "documents",
        questions=QuestionsConfig(questions=(room / "questions.jsonl",), eval_share=0.25),
        retrieval=RetrievalConfig(k=3),
        retriever_lr=1e-3,
        training=EpochsConfig(steps=4, batch=4, rows=2, validate_every=2, checkpoint_every=2, patience=0),
        lora=LoraConfig(rank=2),
        optim=RagOptimizerConfig(lr=1e-2),
        checkpoints=KeepConfig(asynchronous=False),
        device="cpu",
    )
    for name, value in changes.items():
        table = getattr(config, name)
        config = replace(config, **{name: replace(table, **value) if isinstance(value, dict) else value})
    return config


def _main(runs: list[dict[str, Any]]) -> None:
    torch.set_num_threads(1)
    Layout.close = lambda self: None  # type: ignore[method-assign]  # the runs share their processes
    for run in runs:
        print(train_rag(Path(run["run"]), config_for(Path(run["room"]), **run["changes"])), flush=True)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))

"""The stages between the first grounded answer and the report card, in their order: the commands of each.

The model that is pretrained is small, and so is the time: it learns to write sentences like a docstring's, and no more.
What each stage changes can be seen in it nevertheless.
"""

import json

from arriero.cli.road.examples import make_examples, write_examples, write_prompts
from arriero.cli.road.questions import make_questions
from arriero.cli.road.stage import Call, Road, Stage
from arriero.cli.road.texts import topics, write_raw
from arriero.common.files import atomic_file
from arriero.model.choices import DEFAULT_MODEL
from arriero.rag.questions import split_questions, write_questions

_SHARES = {"reference": 0.2, "docstrings": 0.4, "code": 0.2, "readmes": 0.2}
"""Sources, and their shares of the tokens to pretrain on: docstrings are what the model is asked about later."""
_ASKED = ("What does textwrap.dedent do?", "What is collections.OrderedDict?", "What does shutil.copyfile do?")
"""What models are asked before and after each stage; no example has these questions."""
_SAMPLES = tuple(word for question in _ASKED for word in ("--samples", question))
_UPPER_LAYERS = r"layers\.2\d\.(attention|feed_forward)\.w.+"
"""The upper third of SmolLM2's 30: the backward pass ends there, which saves two thirds of it."""
_ANSWER_TOKENS = ("--max-tokens", "40")


def _write_sources(road: Road) -> None:
    """The texts, and the file that says which recipe each goes through."""
    write_raw(road / "raw", road.size.modules)
    lines = []
    for name in _SHARES:
        lines += [f"[sources.{name}]", f"paths = [{json.dumps(str(road / 'raw' / name))}]"]
        lines += ['kind = "github"', "licences = []", ""] if name == "code" else ['kind = "files"', ""]
    with atomic_file(road / "corpus.toml") as aside:
        aside.write_text("\n".join(lines), encoding="utf-8")


def _corpus(road: Road) -> list[Call]:
    return [
        Call.of("corpus run", road / "corpus", "--config", road / "corpus.toml"),
        Call.of("corpus stats", road / "corpus"),
    ]


def _tokenizer(road: Road) -> list[Call]:
    sources = [f"{name}={road / 'corpus' / name}" for name in _SHARES]
    control = ("--control", "<|im_start|>", "--control", "<|im_end|>")
    size = ("--vocab-size", road.size.vocab_size)
    return [Call.of("tokenizer train", *sources, "--out", road / "tokenizer", *size, *control)]


def _tokenize(road: Road) -> list[Call]:
    return [
        Call.of("tokenize", road / "corpus" / name, "--tokenizer", road / "tokenizer", "--out", road / "shards" / name,
                "--validation-share", 0.03)
        for name in _SHARES
    ]  # fmt: skip


def _pretrain(road: Road) -> list[Call]:
    shards = [word for name in _SHARES for word in ("--shards", road / "shards" / name)]
    weights = [word for name, share in _SHARES.items() for word in ("--weights", f"{name}={share}")]
    steps = road.size.pretrain_steps
    pace = ("--steps", steps, "--rows", 4, "--tokens", 256, "--validation-rows", 8, "--validate-every", -(-steps // 6))
    rate = ("--lr", 2e-3, "--warmup-steps", steps // 20, "--recompute", "none")
    prompts = ("--samples", "Return the name of", "--samples", "This module provides", "--samples", "The statement")
    words = ("--model", road.size.model, *shards, *weights, *pace, *rate, *prompts, *road.on_device)
    return [Call.of("pretrain", road / "pretrain", *words)]


def _write_examples(road: Road) -> None:
    """Examples to learn from, and other questions to compare answers by."""
    rows = [row for row in make_examples() if row["prompt"] not in _ASKED]
    count = road.size.prompts
    write_prompts(road / "prompts.txt", rows[:count])
    write_examples(road / "examples.jsonl", rows[count : count + road.size.examples])
    write_examples(road / "few.jsonl", rows[count : count + road.size.lora_examples])


def _sft(road: Road) -> list[Call]:
    how = ("--method", "full", "--template", "chatml", "--epochs", road.size.epochs, "--lr", 1e-3, "--batch", 16)
    words = ("--model", road / "pretrain" / "model", "--data", road / "examples.jsonl", "--tokens", 128, *how)
    return [Call.of("sft", road / "sft", *words, *_SAMPLES, *road.on_device)]


def _preferences(road: Road) -> list[Call]:
    who = ("--model", road / "sft" / "model", "--temperature", 0.5, "--temperature-b", 1.0, *_ANSWER_TOKENS)
    words = ("--prompts", road / "prompts.txt", *who, "--judge", "rule:readable", *road.on_device)
    return [Call.of("align sample", road / "preferences.sqlite", *words)]


def _reward(road: Road) -> list[Call]:
    how = ("--method", "full", "--epochs", 2, "--lr", 5e-5, "--batch", 16, "--eval-share", 0.2)
    words = ("--model", road / "sft" / "model", "--preferences", road / "preferences.sqlite", *how)
    return [Call.of("align reward", road / "reward", *words, *road.on_device)]


def _rejection(road: Road) -> list[Call]:
    how = ("--samples", road.size.samples, *_ANSWER_TOKENS, "--decode-rows", 64)
    learns = ("--method", "full", "--epochs", 2, "--lr", 3e-4, "--batch", 16, "--eval-share", 0)
    words = ("--model", road / "sft" / "model", "--prompts", road / "prompts.txt", "--reward", road / "reward/reward")
    return [Call.of("align reject", road / "rejection", *words, *how, *learns, *road.on_device)]


def _ppo(road: Road) -> list[Call]:
    judges = ("--reward", road / "reward/reward", "--watch", "rule:readable")
    how = ("--method", "full", "--iterations", road.size.iterations, "--batch", 32, "--mini-batch", 16, "--lr", 1e-4)
    words = ("--model", road / "rejection/sft-001/model", "--prompts", road / "prompts.txt", *judges, *how)
    return [Call.of("align ppo", road / "ppo", *words, *_ANSWER_TOKENS, *road.on_device)]


def _lora(road: Road) -> list[Call]:
    how = ("--targets", _UPPER_LAYERS, "--epochs", 1, "--batch", 8, "--lr", 5e-4, "--tokens", 128)
    words = ("--model", DEFAULT_MODEL, "--data", road / "few.jsonl", *how, *_SAMPLES, *road.on_device)
    return [Call.of("model get", DEFAULT_MODEL), Call.of("sft", road / "lora", *words, "--validate-every", 1000)]


def _write_questions(road: Road) -> None:
    learnt, held_out = split_questions(make_questions(topics()), 0.25, seed=0)
    write_questions(learnt, road / "questions.jsonl")
    write_questions(held_out, road / "held-out.jsonl")


def _retriever(road: Road) -> list[Call]:
    where = ("--collection", road / "documents", *road.on_device)
    how = ("--epochs", road.size.retriever_epochs, "--batch", 16, "--negatives", 8, "--lr", 1e-4)
    sets = ("--questions", road / "questions.jsonl", "--eval-questions", road / "held-out.jsonl")
    trained = ("--query-encoder", road / "retriever/query_encoder", "--out", road / "evaluation", "--k", 3)
    asked = ("--questions", road / "held-out.jsonl", "--limit", road.size.evaluated, "--seed", 0)
    systems = ("--systems", "closed-book", "--systems", "rag-sequence")
    return [
        Call.of("rag retriever", road / "retriever", *where, *sets, *how, makes=road / "retriever/query_encoder"),
        Call.of("rag evaluate", *where, *trained, *asked, *systems),
    ]


ANSWER = Stage(
    name="answer",
    title="Ask the language reference",
    tells="Answers of SmolLM2 from the Python language reference; what a passage supports carries its number.",
    made="documents",
    calls=lambda road: [
        Call.of("rag ask", "What does the with statement do?", "--collection", road / "documents"),
    ],
)
"""Done by the quickstart itself: its commands tell how to go on asking."""

STAGES = (
    Stage(
        name="corpus",
        title="Make a corpus",
        tells="The language reference, the standard library's code and docstrings, and the READMEs of installed "
        "packages, by LLaMA's recipe for code and the one for your own files.",
        made="corpus/corpus.html",
        prepare=_write_sources,
        calls=_corpus,
    ),
    Stage(
        name="tokenizer",
        title="Train a tokenizer",
        tells="LLaMA's kind: byte-pair encoding with single digits and bytes for what is rare.",
        needs=("corpus",),
        made="tokenizer/tokenizer.json",
        calls=_tokenizer,
    ),
    Stage(
        name="tokenize",
        title="Turn documents into tokens",
        tells="One folder of shards a source; a share of the documents is held out to measure on.",
        needs=("tokenizer",),
        made="shards/readmes/shards.json",
        calls=_tokenize,
    ),
    Stage(
        name="pretrain",
        title="Pretrain a LLaMA from nothing",
        tells="A model of some five million parameters learns what text looks like.",
        needs=("tokenize",),
        made="pretrain/model/config.json",
        calls=_pretrain,
        runs=("pretrain",),
    ),
    Stage(
        name="sft",
        title="Fine-tune it on questions and answers",
        tells="The questions are made from docstrings by a program; the answers are their authors' first sentences.",
        needs=("pretrain",),
        made="sft/model/config.json",
        prepare=_write_examples,
        calls=_sft,
        runs=("sft",),
    ),
    Stage(
        name="preferences",
        title="Collect preferences",
        tells="The model answers twice, and a program, rule:readable, says which answer is easier to read; its "
        "judgements are marked as a program's. `arriero align annotate` asks people.",
        needs=("sft",),
        made="preferences.sqlite",
        calls=_preferences,
    ),
    Stage(
        name="reward",
        title="Train a reward model",
        tells="It learns to score answers from the comparisons, and is measured on prompts that were held out.",
        needs=("preferences",),
        made="reward/reward",
        calls=_reward,
        runs=("reward",),
    ),
    Stage(
        name="rejection",
        title="Learn from the best of several answers",
        tells="Rejection sampling, as for Llama 2: the answer with the highest reward becomes an example.",
        needs=("reward",),
        made="rejection/rejection.html",
        calls=_rejection,
        runs=("rejection/sft-001",),
    ),
    Stage(
        name="ppo",
        title="Learn from rewards (PPO)",
        tells="The policy's answers are scored and learnt from; divergence from where it began is paid for.",
        needs=("rejection",),
        made="ppo/model/config.json",
        calls=_ppo,
        runs=("ppo",),
    ),
    Stage(
        name="lora",
        title="Adapt SmolLM2 with LoRA",
        tells="A model that others pretrained for months takes on the docstrings' style in a minute: an adapter of a "
        "few megabytes over its upper layers.",
        made="lora/adapter/adapter_config.json",
        prepare=_write_examples,
        calls=_lora,
        runs=("lora",),
    ),
    Stage(
        name="retriever",
        title="Train the search over the reference",
        tells="The query encoder learns from questions that a program made of the reference's sentences; the passages "
        "stay as they are. Then SmolLM2 answers held-out questions, from memory and from what is found.",
        needs=("answer",),
        made="evaluation/evaluation.html",
        prepare=_write_questions,
        calls=_retriever,
        runs=("retriever",),
    ),
)

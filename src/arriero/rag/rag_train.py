"""End-to-end training of RAG (Lewis et al., arXiv 2005.11401, section 2.4) on the one loop.

Query encoder and generator learn from questions and answers alone; nobody says which document answers. Documents and
their vectors stay as they are. A run is a folder as fine-tuning's; at the end it holds `rag/` (`rag_model.py`), of the
step with the lowest held-out loss.
"""

import dataclasses
import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from arriero.common.errors import ArrieroError
from arriero.model.adapter_export import export_peft
from arriero.model.export import save_with_tokenizer
from arriero.model.layers import set_recompute
from arriero.model.source import LoadedModel, load_model, name_base
from arriero.model.staging import staged
from arriero.rag.collapse import collapse_alarm
from arriero.rag.collection import Collection
from arriero.rag.encoder import Encoder
from arriero.rag.encoder_save import save_encoder, save_query_encoder
from arriero.rag.generator import Generator
from arriero.rag.generators import is_encoder_decoder
from arriero.rag.llama_generator import LlamaGenerator
from arriero.rag.passage_bank import PassageBank
from arriero.rag.qa_metrics import exact_match, f1
from arriero.rag.questions import Question
from arriero.rag.rag_batches import RagBatch, RagBatches, evaluation_batches
from arriero.rag.rag_config import RagTrainConfig
from arriero.rag.rag_learner import RagLearner, found_ids, rag_loss
from arriero.rag.rag_model import ENCODER, GENERATOR, MANIFEST, QUERY_ENCODER, write_manifest
from arriero.rag.seq2seq_generator import Seq2SeqGenerator
from arriero.rag.tower import TowerModel
from arriero.rag.training_set import divide_questions, open_collection, trainable_encoder
from arriero.train.carbon import EnergyMeter
from arriero.train.checkpoint import Checkpoints, best_checkpoint, is_newer, load_weights
from arriero.train.held_out import mean_loss
from arriero.train.loop import End, Loop
from arriero.train.loop_config import LoopConfig
from arriero.train.parallel import Layout, laid_out
from arriero.train.run_facts import take_up
from arriero.train.run_folder import RunFolder
from arriero.train.run_log import RunLog
from arriero.train.sft import ADAPTER, loop_config, micro_rows
from arriero.train.sft import build_model as build_tuned
from arriero.train.speed import release_freed_memory
from arriero.train.watch import Pace, RunWatcher

RAG = "rag"
"""The folder, in the run's, of what was trained."""
_PROBED = 64
"""Questions by which retrieval is watched."""
_ANSWERED, _SHOWN, _ANSWER_TOKENS = 16, 3, 24
"""Held-out questions that are answered at each evaluation, those of them that are shown, an answer's most tokens."""


@dataclass(frozen=True)
class PreparedRag:
    """A run before its first step."""

    learner: RagLearner
    encoder: Encoder
    loaded: LoadedModel | None
    """The LLaMA that the generator begins as; None for an encoder-decoder."""
    training: list[Question]
    held_out: list[Question]
    unanswered: int
    """Questions without an answer, which are left out."""
    question_tokens: float
    """Of a question with all its documents."""
    micro_rows: int
    """Questions of a micro-batch."""
    loop: LoopConfig

    def targets(self, questions: Sequence[Question]) -> list[list[int]]:
        """Tokens of the first answer of each question."""
        return [self.learner.reader.target(question.answers[0]) for question in questions]


def prepare_rag(config: RagTrainConfig, collection: Collection, world: int = 1) -> PreparedRag:
    """Read models, documents and questions, and see what a run would be; nothing is written.

    Args:
        collection: the documents, open.
        world: processes that see different questions.

    Raises:
        ArrieroError: models, documents and questions do not fit each other, or nothing is left to learn.
    """
    questions = divide_questions(config.questions, config.seed)
    if not questions.training:
        raise ArrieroError(f"none of {questions.read} questions has an answer: there is nothing to learn")
    learner, encoder, loaded = build_learner(config, collection)
    tokens = _question_tokens(learner, questions.training[:8])
    rows = micro_rows(config.training.batch, config.training.rows, config.device, tokens, world)
    return PreparedRag(
        learner=learner,
        encoder=encoder,
        loaded=loaded,
        training=questions.training,
        held_out=questions.held_out,
        unanswered=questions.unanswered,
        question_tokens=tokens,
        micro_rows=rows,
        loop=loop_config(config.training, len(questions.training), rows, world),
    )


def build_learner(config: RagTrainConfig, collection: Collection) -> tuple[RagLearner, Encoder, LoadedModel | None]:
    """What learns, as it begins: in fp32, on the CPU.

    Raises:
        ArrieroError: the collection's encoder or the generator cannot learn as asked.
    """
    encoder = trainable_encoder(collection)
    retrieval, tower = config.retrieval, encoder.query
    if retrieval.reencode_every and encoder.query is not encoder.passage:
        raise ArrieroError("reencode_every: expected an encoder with one tower for both sides, got a pair")
    loaded: LoadedModel | None = None
    generator: LlamaGenerator | Seq2SeqGenerator
    if is_encoder_decoder(Path(config.model)):
        if config.method == "lora":
            raise ArrieroError(f"{config.model} is an encoder-decoder, all of which learns: give --method full")
        generator = Seq2SeqGenerator.load(config.model, device="cpu")
        generator.model.requires_grad_(True)
    else:
        loaded = load_model(config.model, device="cpu", dtype="float32")
        if loaded.model.adapters is not None:
            raise ArrieroError(f"{config.model} is an adapter: merge it first with `arriero adapter merge`")
        model = build_tuned(config, loaded)
        set_recompute(model, config.recompute)
        generator = LlamaGenerator(model, loaded.tokenizer, name=loaded.name, context=loaded.context)
    tower.network.requires_grad_(not retrieval.freeze_retriever)
    scale = encoder.scale if retrieval.scale is None else retrieval.scale
    learner = RagLearner(
        generator,
        tower,
        PassageBank(collection),
        kind=config.kind,
        k=retrieval.k,
        scale=scale,
        passages=TowerModel(tower.tower, "cpu") if retrieval.reencode_every else None,
    )
    return learner, encoder, loaded


def train_rag(run: Path, config: RagTrainConfig, allow: Sequence[str] = (), prepared: PreparedRag | None = None) -> End:
    """Train in the folder `run`, continuing what is there.

    Args:
        allow: fields that may differ from those of the run begun there.
        prepared: what `prepare_rag` gave, where that was called before.

    Raises:
        ArrieroError: models, documents, questions or the run's config do not fit each other; the message says how.
    """
    with laid_out(config.parallel, config.device, config.dtype) as layout, ExitStack() as block:
        folder = RunFolder(run)
        if layout.is_main:
            folder.check(config, allow)
        if prepared is None:
            collection = block.enter_context(open_collection(config))
            prepared = prepare_rag(config, collection, layout.data_world)
        return _train(folder, config, prepared, layout, allow)


def _train(
    folder: RunFolder, config: RagTrainConfig, prepared: PreparedRag, layout: Layout, allow: Sequence[str]
) -> End:
    learner = _lay_out(prepared, config, layout)
    torch.manual_seed(config.seed + layout.data_rank)  # of dropout
    optimizer = config.optim.resolve(config.method)
    with ExitStack() as block:
        watcher = block.enter_context(_Watcher(config, folder, prepared, layout))
        if layout.is_main:
            block.enter_context(folder.hold(config, allow))
        loop = Loop(
            learner,
            _batches(prepared, layout, config.seed),
            rag_loss,
            config=prepared.loop,
            optimizer=optimizer,
            schedule=config.schedule.fitted(prepared.loop.steps),
            layout=layout,
            watcher=watcher,
            store=Checkpoints(folder.checkpoints, **dataclasses.asdict(config.checkpoints)),
            tidy=lambda: _tidy(config, learner, loop.step),
            lr_factors={"query.": config.retriever_lr / optimizer.lr},
        )
        facts = {"method": config.method, "base": config.model, "rag": config.kind, "k": config.retrieval.k}
        resumed = take_up(loop, folder, config, watcher.log, batch_tokens=None, **facts)
        every = config.retrieval.reencode_every
        if resumed and 0 < every <= loop.step:
            learner.reencode(renew=loop.step % every == 0)  # checkpoints are written before that is done
        if not resumed:
            watcher.on_validation(0)  # what the models were before
        end = loop.run()
        if end in ("finished", "stopped early") and layout.is_main:
            _export(folder, config, prepared, best_checkpoint(folder.checkpoints, loop.best))
    return end


def _lay_out(prepared: PreparedRag, config: RagTrainConfig, layout: Layout) -> RagLearner:
    learner = prepared.learner
    if isinstance(learner.reader, LlamaGenerator):
        layout.apply(learner.reader.model)
    elif layout.plain:
        learner.generator.to(layout.device)
    else:
        raise ArrieroError("several processes, and bfloat16, are for a LLaMA: train an encoder-decoder with one")
    if config.retrieval.freeze_retriever:
        learner.query.to(layout.device)
    else:
        layout.apply_whole(learner.query)
    if learner.indexed is not None:
        learner.indexed.to(layout.device)
    return learner


def _batches(prepared: PreparedRag, layout: Layout, seed: int) -> RagBatches:
    return RagBatches(
        prepared.training,
        prepared.targets(prepared.training),
        rows=prepared.micro_rows,
        accumulation=prepared.loop.accumulation,
        rank=layout.data_rank,
        world=layout.data_world,
        seed=seed,
    )


def _question_tokens(learner: RagLearner, questions: Sequence[Question]) -> float:
    """Mean tokens that the generator reads of a question with its documents."""
    found = learner.look_up(questions)
    prompts = [
        learner.reader.prompt(question.question, document, reserve=_ANSWER_TOKENS)
        for question, own in zip(questions, found.documents, strict=True)
        for document in own
    ]
    return sum(len(prompt.ids) for prompt in prompts) / len(questions)


def _tidy(config: RagTrainConfig, learner: RagLearner, step: int) -> None:
    """After a step."""
    release_freed_memory()
    every = config.retrieval.reencode_every
    if every and step % every == 0:
        learner.reencode(renew=True)


class _Watcher(RunWatcher):
    """Measures the held-out loss, answers and retrieval, and says where that collapses."""

    def __init__(self, config: RagTrainConfig, folder: RunFolder, prepared: PreparedRag, layout: Layout) -> None:
        learner, held_out = prepared.learner, prepared.held_out
        self.learner, self.layout = learner, layout
        self.probe = spread(held_out or prepared.training, _PROBED)
        self.before = found_ids(learner.look_up(self.probe))
        self.was = self.now = learner.state(self.probe, self.before)
        split = {"rows": prepared.micro_rows, "rank": layout.data_rank, "world": layout.data_world}
        batches = list(evaluation_batches(held_out, prepared.targets(held_out), **split))
        self.asked, self.answers = spread(held_out, _ANSWERED), list[str]()

        def validate() -> dict[str, float]:
            return self._measure(batches) | self._answer() | self.now.to_dict()

        tokens = round(config.training.batch * prepared.question_tokens)
        super().__init__(
            RunLog(folder.path, config.trackers) if layout.is_main else None,
            Pace(steps=prepared.loop.steps, batch_tokens=tokens, flops_per_token=0.0, peak_flops=None),
            meter=EnergyMeter(devices=layout.world) if layout.is_main else None,
            validate=validate if held_out else None,
            sample=self._show_answers if held_out else None,
        )

    def on_validation(self, step: int) -> float | None:
        """As `RunWatcher`'s, and the alarm."""
        self.now = self.learner.state(self.probe, self.before)
        loss = super().on_validation(step)
        if alarm := collapse_alarm(self.now, self.was):
            self.on_event(step, "warning", alarm)
        return loss

    def _measure(self, batches: Sequence[RagBatch]) -> dict[str, float]:
        """Mean −log p(y|x), and the share of questions that found a document with the answer."""
        means, count = mean_loss(self.learner, rag_loss, batches, self.layout, "answer_found")
        return means | {"questions": count}

    def _answer(self) -> dict[str, float]:
        """Answer some questions, on every rank alike, and see how right that is."""
        reader: Generator = self.learner.reader
        if isinstance(reader, LlamaGenerator):
            model = self.layout.replica(reader.model)
            reader = LlamaGenerator(model, reader.tokenizer, name=reader.name, context=reader.context)
        self.answers = [answer.best.text for answer in self.learner.answer(self.asked, _ANSWER_TOKENS, reader)]
        pairs = [(said, question.answers) for said, question in zip(self.answers, self.asked, strict=True)]
        return {
            "exact_match": statistics.fmean(exact_match(*pair) for pair in pairs),
            "f1": statistics.fmean(f1(*pair) for pair in pairs),
        }

    def _show_answers(self) -> list[tuple[str, str]]:
        return [(each.question, said) for each, said in zip(self.asked, self.answers, strict=True)][:_SHOWN]


def spread(questions: Sequence[Question], count: int) -> list[Question]:
    """At most `count` questions, evenly from all of them: neighbours are about the same document."""
    chosen = min(count, len(questions))
    return [questions[n * len(questions) // chosen] for n in range(chosen)]


def _trained_sides(config: RagTrainConfig) -> Literal["none", "query", "both"]:
    """Which sides of the encoder are no longer the collection's own."""
    if config.retrieval.reencode_every:
        return "both"
    return "none" if config.retrieval.freeze_retriever and config.query_encoder is None else "query"


def _export(folder: RunFolder, config: RagTrainConfig, prepared: PreparedRag, checkpoint: Path | None) -> None:
    """Write the best checkpoint as a RAG model, unless that was done."""
    target = folder.path / RAG
    if checkpoint is None or is_newer(target / MANIFEST, checkpoint):
        return
    with open_collection(config) as collection, staged(target) as aside:
        learner, encoder, loaded = build_learner(config, collection)
        load_weights(checkpoint, learner)
        aside.mkdir()
        learner.eval()
        base = name_base(config.model) if config.method == "lora" else None
        if isinstance(learner.reader, Seq2SeqGenerator):
            learner.reader.save(aside / GENERATOR)
        elif loaded is not None and base is not None:
            told = Path(base).name if Path(base).exists() else base  # where it lies is told by the manifest
            export_peft(loaded, ADAPTER, aside / GENERATOR, base, quantised=config.quantise, told=told)
        elif loaded is not None:
            save_with_tokenizer(loaded.model, loaded.tokenizer, aside / GENERATOR, dtype=torch.float32)
        sides = _trained_sides(config)
        if sides == "both":
            save_encoder(encoder, aside / ENCODER)
        elif sides == "query":
            save_query_encoder(encoder, aside / QUERY_ENCODER)
        write_manifest(
            aside, kind=config.kind, k=config.retrieval.k, scale=learner.scale, base=base, sides=sides, place=target
        )

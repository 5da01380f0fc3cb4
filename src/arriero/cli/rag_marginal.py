"""`arriero rag ask --mode sequence|token`: answers of the paper's models, and the passages that they rest on."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from arriero.cli.collection import open_collection
from arriero.cli.engine import DEFAULT_MODEL
from arriero.cli.output import console, note, print_json, printable
from arriero.common.errors import ArrieroError

if TYPE_CHECKING:
    from arriero.cli.rag_ask import AskConfig
    from arriero.rag.decode import DecodingConfig, RagKind
    from arriero.rag.generator import Generator
    from arriero.rag.marginal_answer import MarginalAnswer
    from arriero.rag.rag_model import RagModel

_LEAST_SHARE = 0.01
"""Of a passage that is shown."""


def ask_marginally(config: "AskConfig", question: str) -> int:
    """Answer one question by RAG-Sequence or RAG-Token, and show what the answer rests on."""
    from arriero.rag.answer import PASSAGES
    from arriero.rag.generators import load_generator
    from arriero.rag.marginal_answer import ask_marginal

    kind: RagKind | None = None if config.mode in (None, "chat") else config.mode  # type: ignore[assignment]
    if config.mode == "chat":
        raise ArrieroError("--mode chat reads passages side by side and takes no --rag: leave one of them out")
    trained = _load_trained(config, kind)
    kind = kind or (trained.kind if trained else None)
    assert kind is not None, "with neither mode nor RAG model the chat answers"
    decoding = _decoding(config, kind)
    if trained is not None:
        config = dataclasses.replace(
            config,
            query_encoder=trained.query_encoder or config.query_encoder,
            encoder=str(trained.encoder) if trained.encoder else config.encoder,
        )
    with open_collection(config) as collection:
        generator = (
            trained.generator
            if trained
            else load_generator(config.model, adapter=config.adapter, device=config.device, dtype=config.dtype)
        )
        answer = ask_marginal(
            collection,
            generator,
            question,
            decoding,
            k=config.answer.k or (trained.k if trained else PASSAGES),
            retrieval=config.answer.retrieval,
            scale=trained.scale if trained else None,
            threshold=config.answer.threshold,
            filters=config.filter,
        )
    if config.picture is not None and not answer.refused:
        _write_picture(answer, generator, kind, config.picture)
    if config.json:
        print_json(answer.to_dict())
    else:
        _show(answer, generator, config)
    return 0


def _load_trained(config: "AskConfig", kind: "RagKind | None") -> "RagModel | None":
    from arriero.rag.rag_model import load_rag

    if config.rag is None:
        return None
    if config.adapter is not None:
        raise ArrieroError("--rag brings its own generator: leave --adapter out")
    base = None if config.model == DEFAULT_MODEL else config.model
    return load_rag(config.rag, kind=kind, model=base, device=config.device)


def _decoding(config: "AskConfig", kind: "RagKind") -> "DecodingConfig":
    from arriero.rag.decode import DecodingConfig

    sampling = config.answer.sampling
    return DecodingConfig(
        kind=kind,
        decoding=config.decoding,
        beams=config.beams,
        num_return=config.num_return,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature or 1.0,
        top_p=sampling.top_p,
        seed=sampling.seed or 0,
    )


def _show(answer: "MarginalAnswer", generator: "Generator", config: "AskConfig") -> None:
    """The answer, then the passages by their share of it, then which tokens lean on which."""
    from arriero.report.posterior import posterior_table

    out = console()
    out.print(printable(answer.text) or "(the answer is empty)", markup=False)
    if answer.rag is None:
        for hit in sorted(answer.passages, key=lambda hit: -hit.dense)[:1]:
            place = f"The nearest passage is in {printable(hit.passage.place)}, at {hit.dense:.2f}."
            out.print(place, style="dim", markup=False)
        return
    for number, other in enumerate(answer.rag.hypotheses[1:], 2):
        out.print(f"  {number}. {printable(other.text)}  (log p {other.logprob:.2f})", style="dim", markup=False)
    if len(answer.rag.hypotheses) < config.num_return:
        note(f"(only {len(answer.rag.hypotheses)} answers were found: more --beams find more)")
    shown = [citation for citation in answer.citations if citation.posterior >= _LEAST_SHARE]
    for citation in shown:
        share = f"{citation.posterior:4.0%} (before the answer {citation.prior:.0%})"
        out.print()
        out.print(f"{share}  {printable(citation.place)}", style="bold", markup=False)
        out.print(f"    “{printable(citation.quote)}”", style="dim", markup=False)
    if rest := len(answer.citations) - len(shown):
        note(f"and {rest} more passages with less than {_LEAST_SHARE:.0%} each")
    if answer.rag.cut:
        note(f"({answer.rag.cut} passages were cut at their end to fit the model's context)")
    if out.is_terminal:
        out.print()
        for line in posterior_table(answer, generator.pieces(answer.rag.best.ids), out.width):
            out.print(line)


def _write_picture(answer: "MarginalAnswer", generator: "Generator", kind: "RagKind", target: Path) -> None:
    from arriero.common.files import atomic_file
    from arriero.report.posterior import render_posterior

    assert answer.rag is not None
    page = render_posterior(answer, generator.pieces(answer.rag.best.ids), kind)
    with atomic_file(target) as aside:
        aside.write_text(page, encoding="utf-8")
    note(f"written: {target}")
